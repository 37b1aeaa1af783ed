"""The ways to compute one training step that are timed against each other.

| arm | |
|---|---|
| `three-view` | the document's fork: unmasked global crops for DINO, a third view with a forward of its own for iBOT |
| `unified` | `port`: one student call on masked global and local crops, attention once per length |
| `packed` | `port`, with variable-length attention over the whole row in one kernel |
| `separate` | `port`, with a student call per resolution |
| `official` | official code, with real xformers on CUDA where it is installed, else parity's tested substitutes |

`unified`, `packed`, `separate` and `official` compute the same numbers, which `bench.agreement` checks. `three-view`
optimises another objective (official's global CLS tokens come from masked crops), so it is compared in time only. Its
third view is made of the crops that are masked, so that it predicts as many patches as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import port.models.block
from bench.inputs import Subsets
from bench.official import OfficialArm, opened_official
from bench.packed import use_varlen, varlen_missing
from bench.settings import ITERATION, Settings
from migrations.legacy.model import LegacyModel
from migrations.legacy.optimizer import apply_schedules, build_optimizer
from migrations.legacy.trainer import Views, forward_losses
from parity.recipes import SMALL_ARCHITECTURES
from port.data import Batch
from port.models.block import Block
from port.optim import build_optimizer as build_port_optimizer
from port.optim import build_schedulers
from port.outputs import Losses
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep
from port.training.precision import autocast

__all__ = ["AGREEING", "ARMS", "STAGES", "Arm", "PortArm", "missing", "open_arm"]

STAGES = ("forward", "forward+backward", "step")
"""Teacher, student and losses; gradients too; clipping, optimizer and teacher's moving average too."""


class Arm(Protocol):
    """What is timed.

    Attributes:
        model: student and teacher; `update_teacher` moves the latter.
        student: whose gradients are compared, and dropped between iterations.
        losses: official's displayed losses of the last iteration, detached.
    """

    model: Any
    student: nn.ModuleDict
    losses: Mapping[str, Tensor]

    def consume(self, batches: Iterable[Batch], stage: str) -> None:
        """Carry out one iteration per batch, up to a stage; the iterable notes the time when it is asked for more."""


class _Separate(SSLMetaArch):
    """`port` with a student call per resolution."""

    def _student_backbone(
        self, crops: list[Tensor], masks: list[Tensor | None], rows: list[Tensor] | None = None
    ) -> list[Any]:
        # Lists of one, as only lists draw drop-path subsets at every rate.
        backbone = self.student["backbone"]
        wanted = [None] * len(crops) if rows is None else [[part] for part in rows]
        return [
            out
            for crop, mask, part in zip(crops, masks, wanted, strict=True)
            for out in backbone([crop], masks=[mask], is_training=True, rows=part)
        ]


class PortArm:
    """`port`'s step.

    Args:
        settings: of the run.
        state: weights and centres.
        kind: `unified`, `packed` or `separate`.
    """

    def __init__(self, settings: Settings, state: Mapping[str, Tensor], kind: str) -> None:
        cfg = settings.config()
        build = _Separate if kind == "separate" else SSLMetaArch
        model = build(cfg, architectures=SMALL_ARCHITECTURES).to(settings.device).train()
        model.load_state_dict(dict(state))
        model.autocast = autocast(settings.precision, torch.device(settings.device))
        if kind == "packed":
            use_varlen(model.student["backbone"])
        optimizer = build_port_optimizer(cfg, model.get_params_groups())
        self._schedules = build_schedulers(cfg)
        self._step = TrainStep(model, optimizer, self._schedules, cfg)
        self.model = model
        self.student = model.student
        self.losses: Mapping[str, Tensor] = {}

    def consume(self, batches: Iterable[Batch], stage: str) -> None:
        """See `Arm`."""
        for batch in batches:
            self.losses = self._iterate(batch, stage).displayed

    def _iterate(self, batch: Batch, stage: str) -> Losses:
        if stage == "step":
            return self._step.run(batch, ITERATION).losses
        temperature = self._schedules.at(ITERATION).teacher_temp
        backward = _nothing if stage == "forward" else None
        return self.model.forward_backward(batch, temperature, backward)


class ThreeViewArm:
    """The document's fork, step by step as `migrations.legacy.trainer.run_step` does it.

    Args:
        settings: of the run.
        state: weights and centres.
    """

    def __init__(self, settings: Settings, state: Mapping[str, Tensor]) -> None:
        self._cfg = settings.config()
        self.model = LegacyModel(self._cfg, SMALL_ARCHITECTURES).to(settings.device)
        self.model.load_state_dict(dict(state))
        self._autocast = autocast(settings.precision, torch.device(settings.device))
        self._optimizer = build_optimizer(self.model.student.values(), self._cfg)
        self._now = build_schedulers(self._cfg).at(ITERATION)
        self.student = self.model.student
        self.losses: Mapping[str, Tensor] = {}

    def consume(self, batches: Iterable[Batch], stage: str) -> None:
        """See `Arm`."""
        for batch in batches:
            if stage == "step":
                apply_schedules(self._optimizer, self._now.lr, self._now.wd)
                self._optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                total, losses = forward_losses(self.model, third_view(batch), self._cfg, self._now.teacher_temp)
            if stage != "forward":
                torch.autograd.backward(total)
            if stage == "step":
                for module in self.student.values():
                    nn.utils.clip_grad_norm_(module.parameters(), self._cfg.optim.clip_grad)
                self._optimizer.step()
                self.model.update_teacher(self._now.momentum)
            self.losses = {name: value.detach() for name, value in losses.items()}
            del total, losses  # else the graph of a forward pass would live on during the next one


def third_view(batch: Batch) -> Views:
    """Return the fork's views of official's batch: the crops that are masked, and their masks, make the third."""
    masked = batch["collated_masks"].any(-1)
    crops = batch["collated_global_crops"]
    return Views(crops, batch["collated_local_crops"], crops[masked], batch["collated_masks"][masked])


def _nothing(loss: Tensor) -> None:
    """Differentiate nothing: the loss is computed and dropped."""


Builder = Callable[[Settings, Mapping[str, Tensor]], AbstractContextManager[Arm]]


def _port(kind: str) -> Builder:
    @contextmanager
    def build(settings: Settings, state: Mapping[str, Tensor]) -> Iterator[Arm]:
        yield PortArm(settings, state, kind)

    return build


@contextmanager
def _three_view(settings: Settings, state: Mapping[str, Tensor]) -> Iterator[Arm]:
    yield ThreeViewArm(settings, state)


@contextmanager
def _official(settings: Settings, state: Mapping[str, Tensor]) -> Iterator[Arm]:
    with opened_official(settings) as reference:
        yield OfficialArm(reference, settings, state)


ARMS: Mapping[str, Builder] = {
    "three-view": _three_view,
    "unified": _port("unified"),
    "packed": _port("packed"),
    "separate": _port("separate"),
    "official": _official,
}
AGREEING = ("unified", "packed", "separate", "official")


def missing(name: str, settings: Settings) -> str:
    """Return why an arm cannot run with these settings; empty where it can."""
    return varlen_missing(settings) if name == "packed" else ""


@contextmanager
def open_arm(name: str, settings: Settings, state: Mapping[str, Tensor], subsets: Subsets) -> Iterator[Arm]:
    """Build an arm and let it draw its drop-path subsets from `subsets`; undone at the end.

    Compiled blocks draw their own, since a dictionary cannot be compiled: of the same sizes, so at the same cost.

    Args:
        name: one of `ARMS`.
        settings: of the run.
        state: weights and centres; copied.
        subsets: shared by arms that are to agree.
    """
    with ExitStack() as stack:
        arm = stack.enter_context(ARMS[name](settings, state))
        if not settings.compile or name == "official":
            module = arm.blocks if isinstance(arm, OfficialArm) else port.models.block
            stack.enter_context(subsets.installed(module))
        else:
            for block in [m for m in arm.student["backbone"].modules() if isinstance(m, Block)]:
                block.compile()
        yield arm
