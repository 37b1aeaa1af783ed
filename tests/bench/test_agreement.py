from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from bench import agreement, arms
from bench.agreement import Disagreement, agree, compare, fingerprint
from bench.settings import Settings
from port.losses import DINOLoss

TINY = Settings(
    arch="vit_parity4", batch=2, prototypes=16, local_crops=2, global_size=64, local_size=32, reference="pypi"
)


@pytest.mark.filterwarnings("ignore")
def test_unified_separate_and_official_compute_the_same() -> None:
    """Official code itself is the judge of the other two, over every gradient, drop path included."""
    assert agree(TINY, ("official", "unified", "separate")) == []


def test_another_computation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate arm that forgets the masks is refused, and the line says by how much it is off."""
    whole = arms._Separate._student_backbone

    def unmasked(
        self: arms._Separate, crops: list[Tensor], masks: list[Tensor | None], rows: list[Tensor] | None = None
    ) -> object:
        return whole(self, crops, [None for _ in masks], rows)

    monkeypatch.setattr(arms._Separate, "_student_backbone", unmasked)
    (found,) = agree(TINY, ("unified", "separate"))
    assert (found.reference, found.arm) == ("unified", "separate")
    assert found.difference > found.allowed == 1e-3
    assert "nothing was timed" in str(found)


def test_another_temperature_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that changes for one arm only moves its losses and gradients."""
    built: list[int] = []

    def loss(out_dim: int, *, kernels: str) -> DINOLoss:
        built.append(out_dim)
        return DINOLoss(
            out_dim, 0.1 if len(built) < 3 else 0.2, kernels=kernels
        )  # the state, the first arm, the second arm

    monkeypatch.setattr("port.objective.DINOLoss", loss)
    assert len(agree(TINY, ("unified", "separate"))) == 1


def test_an_arm_that_cannot_run_is_left_out() -> None:
    """Variable-length attention needs CUDA: without it there is nothing to compare."""
    assert agree(TINY, ("packed",)) == []


def test_a_gradient_is_told_by_its_norm_and_projections() -> None:
    """(3, 4) has norm 5, and every projection on signs is one of 7, 1, -1 and -7."""
    module = nn.Linear(2, 1, bias=False)
    module.weight.grad = torch.tensor([[3.0, 4.0]])
    numbers = fingerprint({"loss": torch.tensor(2.5)}, module)
    assert numbers["loss"] == (2.5,)
    norm, *projections = numbers["weight"]
    assert norm == 5.0
    assert {abs(p) for p in projections} <= {1.0, 7.0}
    assert len(projections) == 3


PAIRS: list[tuple[Mapping[str, tuple[float, ...]], str, float]] = [
    ({"a": (10.0, 1.0), "b": (1.0, 0.5)}, "", 0.0),
    ({"a": (10.0, 1.5), "b": (1.0, 0.5)}, "a", 0.05),
    ({"a": (10.0, 1.0), "b": (1.0, 0.75)}, "b", 0.25),
    ({"a": (10.0, 1.0)}, "b", 1.0),
    ({"a": (10.0, 1.0), "b": (1.0, 0.5), "c": (0.0, 0.0)}, "c", 1.0),
]


@pytest.mark.parametrize(("actual", "where", "difference"), PAIRS)
def test_the_tensor_that_differs_most_is_named(
    actual: Mapping[str, tuple[float, ...]], where: str, difference: float
) -> None:
    """As a share of its norm; one that either side lacks differs wholly."""
    found = compare("r", {"a": (10.0, 1.0), "b": (1.0, 0.5)}, "s", actual, 0.01)
    assert found == (Disagreement("s", "r", where, difference, 0.01) if where else None)


def test_round_off_of_a_zero_gradient_is_no_difference() -> None:
    """A gradient of 1e-9 beside one of 1 is measured against 1e-3, not against itself."""
    assert compare("r", {"a": (1.0, 1.0), "k": (1e-9, 1e-9)}, "s", {"a": (1.0, 1.0), "k": (2e-9, -1e-9)}, 1e-3) is None


def test_nan_is_a_difference() -> None:
    """It compares as nothing, and so must not slip through."""
    found = compare("r", {"a": (1.0, 1.0)}, "s", {"a": (float("nan"), 1.0)}, 1e-3)
    assert found is not None
    assert found.tensor == "a"


def test_tolerances_cover_the_precisions() -> None:
    """Every precision that an option allows has one."""
    assert set(agreement.TOLERANCES) == {"fp32", "bf16"}
