"""Family `prototype`: a loss that official has not, judged by its definition and what follows from that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from parity import states
from parity.attribution.prototype import attribute_prototype
from parity.checks.base import Check, Context, Observation
from parity.compare import SEMANTIC_FACTOR, Noise, exact, judged
from parity.judge import Inputs, Judge, in_float64, noise_in_float64
from parity.prototype_definition import PrototypeDefinition, settings_of
from parity.results import Comparison, Finding

__all__ = ["CHECKS", "prototype_case"]

_PATCHES, _FEATURES = 12, 6
_COUNTS = (4, 1, 0, 8, 2)
"""Masked patches of each row. Powers of two, since a weight of 1 / n in float32, as official's are, is exact then."""
_REPLICATES = 2


def prototype_case(seed: int = 0) -> dict[str, Tensor]:
    """Return tokens of student and teacher (R, N, D) and masks (R, N), of which one row has none."""
    generator = torch.Generator().manual_seed(60_000 + seed)
    rows = len(_COUNTS)
    masks = torch.zeros(rows, _PATCHES, dtype=torch.bool)
    for row, count in enumerate(_COUNTS):
        masks[row, torch.randperm(_PATCHES, generator=generator)[:count]] = True
    student, teacher = (
        states.logits(rows * _PATCHES, _FEATURES, 2 * seed + i, scale=1.0).view(rows, _PATCHES, -1) for i in range(2)
    )
    return {"student": student, "teacher": teacher, "masks": masks}


def _with_gradients(stack: Any, mode: str, given: Inputs) -> dict[str, Tensor]:
    """The loss and what it asks of either side's tokens; a side that it does not reach has gradient zero."""
    leaves = {name: given[name].detach().clone().requires_grad_() for name in ("student", "teacher")}
    loss = stack.prototype_loss(mode, leaves["student"], leaves["teacher"], given["masks"])
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {
        f"gradient of {name}": torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return {"loss": loss.detach(), **found}


def _support(context: Context) -> Iterator[Observation]:
    """The support of the prototype loss: its gradient falls on masked student tokens alone, in every mode offered."""
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(4, 36, generator=generator) < 0.3
    student = states.logits(4 * 36, 48, 1, scale=1.0).reshape(4, 36, 48).requires_grad_()
    teacher = states.logits(4 * 36, 48, 2, scale=1.0).reshape(4, 36, 48)
    modes = tuple(context.subject.prototype_modes)
    yield exact("modes", 1, len(modes), note=f"offered: {', '.join(modes)}; a masked-only loss needs one")
    for mode in modes:
        (gradient,) = torch.autograd.grad(context.subject.prototype_loss(mode, student, teacher, masks), student)
        reached = gradient.abs().sum(-1) > 0
        yield exact(f"{mode}/tokens reached", masks, reached)
        outside = float(gradient[~masks].abs().sum() / gradient.abs().sum())
        if outside > 0:
            yield Finding(
                "0004",
                f"prototype mode {mode!r} puts {outside:.0%} of its gradient on unmasked tokens; the masked-only loss "
                f"puts none there ({len(modes)} modes are offered: {', '.join(modes)})",
                "migration 0004 (keep the masked mode alone): python -m parity explain 0004",
                "none: official has no prototype loss; judged by its definition",
            )


def _definition(context: Context) -> Iterator[Observation]:
    """Value and gradients against the slow form, and the identities that hold whatever prototypes a stack uses."""
    definition, inputs = PrototypeDefinition(settings_of(context.subject)), prototype_case()
    for mode in tuple(context.subject.prototype_modes):
        made: list[Comparison] = []
        for comparison in _of_mode(context.subject, definition, mode, inputs):
            made.append(comparison)
            yield comparison
        if not all(comparison.passed for comparison in made):
            yield from _explained(context.subject, definition, mode, inputs)


def _of_mode(subject: Any, definition: PrototypeDefinition, mode: str, inputs: Inputs) -> Iterator[Comparison]:
    def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
        return _with_gradients(stack, mode, given)

    yield from Judge(definition, subject, _REPLICATES, tiers=("T1", "T2"))(f"{mode}/definition", compute, inputs)
    base = in_float64(compute, definition, inputs)
    noise = noise_in_float64(compute, definition, inputs, base, _REPLICATES)
    yield from _Identities(subject, mode, inputs, noise).all()


class _Identities:
    """What follows from the definition, asked of the subject's own values in float64."""

    def __init__(self, subject: Any, mode: str, inputs: Inputs, noise: dict[str, Noise]) -> None:
        self._subject, self._mode, self._inputs, self._noise = subject, mode, inputs, noise
        self._whole = self._at()

    def all(self) -> Iterator[Comparison]:
        """Yield the identities in the order of what each presupposes."""
        loss, gradient = self._whole["loss"], self._whole["gradient of student"]
        masks = self._inputs["masks"]
        generator = torch.Generator().manual_seed(1)
        rows = torch.randperm(len(masks), generator=generator)
        tokens = torch.randperm(masks.shape[1], generator=generator)
        moved = {name: value[rows][:, tokens] for name, value in self._inputs.items()}
        yield from self._same("rows and tokens in another order", moved, gradient[rows][:, tokens])
        twice = {name: torch.cat((value, value)) for name, value in self._inputs.items()}
        yield from self._same("every row twice", twice, torch.cat((gradient, gradient)) / 2)
        others = states.logits(masks.numel(), _FEATURES, 9, scale=1.0).view_as(self._inputs["student"])
        student = torch.where(masks.unsqueeze(-1), self._inputs["student"], others)
        yield from self._same("other unmasked student tokens", {"student": student}, gradient)
        yield from self._rows_and_tokens(loss)
        empty = self._at(masks=torch.zeros_like(masks))
        zeros = {"loss": torch.zeros_like(loss), "gradient of student": torch.zeros_like(gradient)}
        for name, expected in zeros.items():
            yield exact(f"{self._mode}/nothing masked/{name}", expected, empty[name] + 0.0)  # -0.0 is as good

    def _rows_and_tokens(self, loss: Tensor) -> Iterator[Comparison]:
        """Rows add up, and a row is the mean of its tokens: each row weighs alike, however many it has."""
        masks = self._inputs["masks"]
        alone = {row: self._loss_of(_only(masks, [row])) for row in masks.any(-1).nonzero().flatten().tolist()}
        yield self._judged("rows add up", torch.stack(list(alone.values())).sum(), loss)
        for row, value in alone.items():
            places = masks[row].nonzero().flatten().tolist()
            singles = [self._loss_of(_only(masks, [row], place)) for place in places]
            yield self._judged(f"row {row} is the mean of its {len(places)} tokens", torch.stack(singles).mean(), value)

    def _same(self, name: str, changed: Inputs, gradient: Tensor) -> Iterator[Comparison]:
        mine = self._at(**changed)
        yield self._judged(f"{name}/loss", self._whole["loss"], mine["loss"])
        yield self._judged(f"{name}/gradient of student", gradient, mine["gradient of student"])

    def _judged(self, name: str, expected: Tensor, mine: Tensor) -> Comparison:
        noise = self._noise["gradient of student" if name.endswith("student") else "loss"]
        return judged(f"{self._mode}/{name}", "T1", expected, mine, noise, SEMANTIC_FACTOR)

    def _loss_of(self, masks: Tensor) -> Tensor:
        return self._at(masks=masks)["loss"]

    def _at(self, **changed: Tensor) -> dict[str, Tensor]:
        return in_float64(
            lambda stack, given: _with_gradients(stack, self._mode, given), self._subject, {**self._inputs, **changed}
        )


def _only(masks: Tensor, rows: list[int], place: int | None = None) -> Tensor:
    """The masks of some rows, or of one place in each."""
    kept = torch.zeros_like(masks)
    for row in rows:
        if place is None:
            kept[row] = masks[row]
        else:
            kept[row, place] = True
    return kept


def _explained(subject: Any, definition: PrototypeDefinition, mode: str, inputs: Inputs) -> Iterator[Finding]:
    given = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    masks = given["masks"]

    def value(where: Tensor) -> Tensor:
        found = in_float64(lambda stack, g: _with_gradients(stack, mode, g), subject, {**given, "masks": where})
        return found["loss"]

    singles = [value(_only(masks, [row], place)) for row, place in masks.nonzero().tolist()]
    yield from attribute_prototype(mode, float(value(masks)), definition, given, torch.stack(singles))


CHECKS = (
    Check(
        "prototype.support",
        "L1",
        "which tokens the prototype loss trains (no official counterpart; judged by its definition)",
        (),
        ("prototype_loss",),
        _support,
    ),
    Check(
        "prototype.definition",
        "L1",
        "the prototype loss and its gradients against its definition and what follows from it",
        (),
        ("prototype_loss",),
        _definition,
    ),
)
