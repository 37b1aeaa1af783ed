"""What building, loading and switching official's `SSLMetaArch` does."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from parity.quirks.evidence.tools import Observation, raised, small_config, small_model
from parity.reference import Reference

__all__ = ["eval_mode", "ibot_alone", "pretrained_weights", "teacher_start"]


def _kind(error: Exception | None) -> str:
    return "no error" if error is None else type(error).__name__


def ibot_alone(reference: Reference) -> Observation:
    """Build the model with a DINO weight of 0."""
    error = raised(lambda: small_model(reference, small_config(dino__loss_weight=0.0)), UnboundLocalError)
    confirmed = "dino_head" in str(error)
    return Observation(confirmed, f"dino.loss_weight=0: {_kind(error)}{f' ({error})' if error else ''}")


def teacher_start(reference: Reference) -> Observation:
    """Compare a new model's teacher with its student, and update a teacher that FSDP has not wrapped."""
    model = small_model(reference, small_config())
    student, teacher = model.student.state_dict(), model.teacher.state_dict()
    different = [name for name in student if not torch.equal(student[name], teacher[name])]
    module = reference.module("train.ssl_meta_arch")
    # Official's own list of FSDP modules, in the place of parity's substitute for it.
    with mock.patch.object(module, "get_fsdp_modules", reference.module("fsdp").get_fsdp_modules):
        error = raised(lambda: model.update_teacher(0.9), RuntimeError)
    seen = f"{len(different)} of {len(student)} tensors differ; update_teacher without FSDP: {_kind(error)}"
    return Observation(bool(different) and error is not None, seen)


def eval_mode(reference: Reference) -> Observation:
    """Ask a model for evaluation mode, and for what `train` returns."""
    model = small_model(reference, small_config())
    error = raised(model.eval, TypeError)
    returned = model.train()
    answer = "None" if returned is None else type(returned).__name__
    return Observation(error is not None and returned is None, f"eval(): {_kind(error)}; train() returns {answer}")


def pretrained_weights(reference: Reference) -> Observation:
    """Load a backbone's bare state dict, and one under `model` of which a shape does not fit."""
    model = small_model(reference, small_config())
    state = model.student.backbone.state_dict()
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        for name, content in (
            ("bare", state),
            ("other shape", {"model": {**state, "pos_embed": torch.zeros(1, 2, 48)}}),
            ("under model", {"model": state}),
        ):
            torch.save(content, path)
            config = small_config(student__pretrained_weights=str(path))
            errors[name] = raised(partial(small_model, reference, config), KeyError, RuntimeError)
    confirmed = isinstance(errors["bare"], KeyError) and isinstance(errors["other shape"], RuntimeError)
    confirmed &= errors["under model"] is None
    return Observation(confirmed, "; ".join(f"{name}: {_kind(error)}" for name, error in errors.items()))
