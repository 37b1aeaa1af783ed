"""KoLeo loss: keeps the CLS tokens of a batch apart."""

from port.losses import KoLeoLoss

__all__ = ["KoLeoLoss"]
