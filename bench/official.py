"""The arm that runs official code, unmodified: `do_train`'s own loop for whole steps, `forward_backward` for parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.settings import ITERATION, Settings
from parity.adapters.official import OfficialStack
from parity.adapters.official_step import files_replaced, prepared_model
from parity.recipes import SMALL_ARCHITECTURES
from parity.reference import Reference, open_reference
from port.data import Batch
from port.optim import build_schedulers
from port.training.precision import autocast

__all__ = ["OfficialArm", "opened_official"]


@contextmanager
def opened_official(settings: Settings) -> Iterator[Reference]:
    """Open official code on the device of a run, with the architectures of `port` beside its own.

    Raises:
        parity.errors.ReferenceSourceError: the code cannot be found.
    """
    with open_reference(settings.reference, device=settings.device) as reference:
        torch.set_num_threads(settings.threads)
        OfficialStack(reference, SMALL_ARCHITECTURES)  # registers them
        yield reference


class OfficialArm:
    """Official's step.

    Args:
        reference: official code, open for as long as the arm is used.
        settings: of the run. bf16 is torch's autocast around `forward_backward`, in place of FSDP's casts.
        state: weights and centres.
    """

    def __init__(self, reference: Reference, settings: Settings, state: Mapping[str, Tensor]) -> None:
        self._reference = reference
        self._cfg = settings.config()
        self.model, _ = prepared_model(reference, self._cfg, state)
        self.model.to(settings.device).train()
        self._temperature = build_schedulers(self._cfg).at(ITERATION).teacher_temp
        self.blocks: ModuleType = reference.module("layers.block")
        self.student: nn.ModuleDict = self.model.student
        self.losses: Mapping[str, Tensor] = {}
        self._watch(autocast(settings.precision, torch.device(settings.device)))

    def _watch(self, precision: Any) -> None:
        """Enter the precision around official's own method, and keep its losses without their graph."""
        inner = self.model.forward_backward

        def forward_backward(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            with precision():
                losses: dict[str, Tensor] = inner(*args, **kwargs)
            losses = {name: value.detach() for name, value in losses.items()}
            self.losses = losses
            return losses

        self.model.forward_backward = forward_backward

    def consume(self, batches: Iterable[Batch], stage: str) -> None:
        """See `bench.arms.Arm`."""
        if stage == "step":
            self._train(batches)
        elif stage == "forward":
            with mock.patch.object(self.model, "backprop_loss", _nothing):
                self._forward_backward(batches)
        else:
            self._forward_backward(batches)

    def _forward_backward(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self.model.forward_backward(batch, teacher_temp=self._temperature)

    def _train(self, batches: Iterable[Batch]) -> None:
        """Let `do_train` take its batches from here; it logs into a temporary folder, as it would anywhere."""

        def loader(**_: Any) -> Iterator[Batch]:
            yield from batches

        with files_replaced(self._reference, self._cfg, loader, start=ITERATION, on_optimizer=lambda _: None):
            self._reference.module("train.train").do_train(self._cfg, self.model, resume=True)


def _nothing(loss: Tensor) -> None:
    """Take the place of the backward pass; a mock would keep the loss, and with it the graph."""
