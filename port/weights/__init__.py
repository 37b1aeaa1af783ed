"""Weights in and out: released and foreign checkpoints in, official's, transformers' and timm's layouts out."""

from __future__ import annotations

from port.weights.load import LoadReport, TrainingLoadReport, load_backbone, load_training_weights
from port.weights.position import fit_positions
from port.weights.source import ExportSource, find_teacher_checkpoint, open_source
from port.weights.targets import TARGETS, export_backbone

__all__ = [
    "TARGETS",
    "ExportSource",
    "LoadReport",
    "TrainingLoadReport",
    "export_backbone",
    "find_teacher_checkpoint",
    "fit_positions",
    "load_backbone",
    "load_training_weights",
    "open_source",
]
