"""Libraries that only some targets need, imported when they are."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["require"]


def require(module: str, purpose: str) -> Any:
    """Import a module of the extra `export`.

    Args:
        module: dotted name, such as `safetensors.torch`.
        purpose: what needs it, for the message.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {name}, which cannot be imported ({error}); pip install 'dinov2-parity[export]'"
        ) from error
