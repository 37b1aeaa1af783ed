"""What a fresh run starts from: random values, or weights of an earlier training."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from port.ssl_meta_arch import SSLMetaArch
from port.weights import load_training_weights

__all__ = ["start_from_weights"]

logger = logging.getLogger("port")


def start_from_weights(model: SSLMetaArch, cfg: DictConfig) -> None:
    """Load `MODEL.WEIGHTS` where given, and let the teacher start from the student (Q44).

    Args:
        model: as built; `student.pretrained_weights` is already in the student's backbone.
        cfg: the configuration.

    Raises:
        ValueError: the weights do not fit.
        OSError: the file cannot be read.
    """
    if cfg.MODEL.WEIGHTS:
        report = load_training_weights(model.student, cfg.MODEL.WEIGHTS)
        logger.info("MODEL.WEIGHTS: %s", report)
        heads = report.missing
    elif cfg.student.pretrained_weights:
        heads = tuple(name for name in model.student if name != "backbone")
    else:
        heads = ()
    if heads and not cfg.finetune.freeze_backbone_iterations:
        logger.warning(
            "%s start from random values beside a trained backbone, which their first gradients can spoil; "
            "warm them up with finetune.freeze_backbone_iterations=N, N about an epoch",
            " and ".join(heads),
        )
    model.synchronise_teacher()
