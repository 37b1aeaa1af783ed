"""Before anything is timed: arms that should compute the same numbers do.

Every arm makes one forward and backward pass from the same weights, crops, masks and drop-path subsets, at the run's
network and precision but with few images and prototypes. Gradients are compared by their norms and three random
projections, so that two networks need not be in memory at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.arms import AGREEING, missing, open_arm
from bench.inputs import Subsets, make_batches, make_state
from bench.settings import Settings
from parity.names import canonical

__all__ = ["Disagreement", "agree", "compare", "fingerprint"]

TOLERANCES = {"fp32": 1e-3, "bf16": 1e-1}
"""Largest difference as a share of a tensor's norm: bit for bit is parity's claim; this finds another formula."""
SMALLEST_NORM = 1e-3
"""Share of the largest norm below which a gradient is taken to be round-off, and measured against that share."""
PROJECTIONS = 3

Fingerprint = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Disagreement:
    """Two arms that compute different numbers.

    Attributes:
        arm: against `reference`.
        reference: the first arm.
        tensor: a loss, or the parameter whose gradient it is, that differs most.
        difference: as a share of its norm.
        allowed: likewise.
    """

    arm: str
    reference: str
    tensor: str
    difference: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"arms {self.reference} and {self.arm} should compute the same: {self.tensor} differs by "
            f"{self.difference:.2g} of its norm, at most {self.allowed:g} is rounding; nothing was timed"
        )


def agree(settings: Settings, arms: Sequence[str] = AGREEING) -> list[Disagreement]:
    """Return the arms that disagree with the first that can run, none where all is well.

    Args:
        settings: of the run; sizes are made small.
        arms: names; those that cannot run are left out.
    """
    small = settings.small()
    state, batches = make_state(small), make_batches(small, 1)
    first: tuple[str, Fingerprint] | None = None
    found = []
    for name in [arm for arm in arms if not missing(arm, small)]:
        subsets = Subsets()
        with open_arm(name, small, state, subsets) as arm:
            subsets.begin(0)
            arm.consume(batches, "forward+backward")
            mine = fingerprint(arm.losses, arm.student)
        if first is None:
            first = name, mine
        elif (found_one := compare(first[0], first[1], name, mine, TOLERANCES[settings.precision])) is not None:
            found.append(found_one)
    return found


def fingerprint(losses: Mapping[str, Tensor], student: nn.Module) -> Fingerprint:
    """Return a few numbers in fp64 per loss and per gradient: the norm, then random projections of unit spread."""
    numbers: dict[str, tuple[float, ...]] = {name: (float(value),) for name, value in losses.items()}
    for name, parameter in student.named_parameters():
        if parameter.grad is None:
            continue
        gradient = parameter.grad.detach().double().flatten().cpu()
        generator = torch.Generator().manual_seed(zlib.crc32(canonical(name).encode()))
        projections = []
        for _ in range(PROJECTIONS):
            signs = torch.randint(0, 2, gradient.shape, generator=generator, dtype=torch.int8)
            projections.append(float(gradient.dot(signs.double().mul_(2).sub_(1))))
        numbers[canonical(name)] = (float(gradient.norm()), *projections)
    return numbers


def compare(
    reference: str, expected: Fingerprint, arm: str, actual: Fingerprint, allowed: float
) -> Disagreement | None:
    """Return what differs most, or None where all is within `allowed`; a tensor that one side lacks differs wholly."""
    largest = max((abs(numbers[0]) for numbers in expected.values() if len(numbers) > 1), default=0.0)
    worst, where = 0.0, ""
    for name in sorted({*expected, *actual}):
        if name not in expected or name not in actual:
            return Disagreement(arm, reference, name, 1.0, allowed)
        size = max(abs(expected[name][0]), SMALLEST_NORM * largest)
        apart = max(abs(a - b) for a, b in zip(expected[name], actual[name], strict=True))
        share = apart / size if size else apart
        if not share <= worst:  # NaN is worst of all
            worst, where = share, name
    return None if worst <= allowed else Disagreement(arm, reference, where, worst, allowed)
