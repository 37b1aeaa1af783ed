"""Checkpoints that survive kill -9, and load on any number of processes."""

from __future__ import annotations

from port.checkpoint.checkpointer import Checkpointer
from port.checkpoint.metadata import Metadata, as_container, check_compatible
from port.checkpoint.state import training_state
from port.checkpoint.storage import find_checkpoints
from port.checkpoint.teacher import save_teacher

__all__ = [
    "Checkpointer",
    "Metadata",
    "as_container",
    "check_compatible",
    "find_checkpoints",
    "save_teacher",
    "training_state",
]
