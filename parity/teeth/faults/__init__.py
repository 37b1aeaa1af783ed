"""The catalogue of faults."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.faults import data, heads, losses, models, objective, optim, views

__all__ = ["FAULTS"]

FAULTS: tuple[Fault, ...] = (
    *data.FAULTS,
    *views.FAULTS,
    *losses.FAULTS,
    *optim.FAULTS,
    *models.FAULTS,
    *heads.FAULTS,
    *objective.FAULTS,
)
