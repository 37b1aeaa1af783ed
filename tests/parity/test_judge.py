from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.errors import SubjectError
from parity.judge import Inputs, Judge, in_float64, perturbed, promoted
from parity.results import Comparison


class Stack:
    """A loss of logits and targets, given as a function; counts its calls by type of the logits."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], *, bitwise: bool = False) -> None:
        self.claims_bitwise = bitwise
        self.calls: list[torch.dtype] = []
        self._loss = loss

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, recorded."""
        self.calls.append(logits.dtype)
        return self._loss(logits, targets)


def official(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy at temperature 0.1."""
    return -(targets * F.log_softmax(logits / 0.1, dim=-1)).sum(-1).mean()


def by_hand(logits: Tensor, targets: Tensor) -> Tensor:
    """The same, with log-softmax written out: other operations, the same function."""
    shifted = logits / 0.1 - (logits / 0.1).amax(-1, keepdim=True)
    log_probabilities = shifted - shifted.exp().sum(-1, keepdim=True).log()
    return (-targets * log_probabilities).sum() / len(logits)


def faulty(logits: Tensor, targets: Tensor) -> Tensor:
    """A temperature off by one part in a thousand."""
    return -(targets * F.log_softmax(logits / 0.1001, dim=-1)).sum(-1).mean()


def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
    """The loss and its gradient with respect to the logits."""
    logits = given["logits"].detach().clone().requires_grad_()
    loss = stack.loss(logits, given["targets"])
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"loss": loss.detach(), "gradient": gradient}


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Logits as heads give them and soft targets, float32."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 32, generator=generator) * 0.2
    return {"logits": logits, "targets": torch.softmax(torch.randn(6, 32, generator=generator), dim=-1)}


def _judged(subject: Stack, inputs: Inputs, reference: Stack | None = None, **options: Any) -> list[Comparison]:
    return list(Judge(reference or Stack(official), subject, **options)("loss", compute, inputs))


def test_the_same_computation_passes_every_tier(inputs: Inputs) -> None:
    """Two outputs, two rules each without a claim, three with it; all bitwise equal where types allow."""
    names = [(c.name, c.tier) for c in _judged(Stack(official), inputs)]
    assert sorted(names) == [(f"loss/{n}", t) for n in ("gradient", "loss") for t in ("T1", "T2")]
    claimed = _judged(Stack(official, bitwise=True), inputs)
    assert sorted(c.tier for c in claimed) == ["T0", "T0", "T1", "T1", "T2", "T2"]
    assert all(c.passed for c in claimed)
    assert all(c.bitwise for c in claimed if c.tier != "T2")


def test_a_rewrite_passes(inputs: Inputs) -> None:
    """Log-softmax by hand rounds otherwise but means the same."""
    assert [c.name for c in _judged(Stack(by_hand), inputs) if not c.passed] == []


def test_a_rewrite_that_claims_bitwise_equality_fails_only_there(inputs: Inputs) -> None:
    """Whoever claims official's operations in official's order is held to it."""
    failed = [c for c in _judged(Stack(by_hand, bitwise=True), inputs) if not c.passed]
    assert failed
    assert {c.tier for c in failed} == {"T0"}


def test_a_temperature_off_by_a_thousandth_fails(inputs: Inputs) -> None:
    """Fp64 sees what fp32 tolerances would hide: the error is at least 10^4 times what is allowed."""
    failed = [c for c in _judged(Stack(faulty), inputs) if not c.passed]
    assert {(c.name, c.tier) for c in failed} >= {("loss/loss", "T1"), ("loss/gradient", "T1")}
    assert all(c.error and c.allowed and c.error > 1e4 * c.allowed for c in failed if c.tier == "T1")


def test_single_precision_is_judged_on_its_own(inputs: Inputs) -> None:
    """A subject that rounds to bfloat16 in fp32 alone has the right algorithm and fails T2."""

    def rough(logits: Tensor, targets: Tensor) -> Tensor:
        narrow = logits.bfloat16().to(logits.dtype) if logits.dtype is torch.float32 else logits
        return official(narrow, targets)

    failed = [c.tier for c in _judged(Stack(rough), inputs) if not c.passed]
    assert set(failed) == {"T2"}


def test_more_accurate_than_official_passes(inputs: Inputs) -> None:
    """A subject that computes in fp64 and returns float32 is nearer the truth than official: no divergence."""

    def accurate(logits: Tensor, targets: Tensor) -> Tensor:
        return official(logits.double(), targets.double()).to(logits.dtype)

    assert all(c.passed for c in _judged(Stack(accurate), inputs))


def test_noise_is_measured_on_the_reference_alone(inputs: Inputs) -> None:
    """The subject runs once in each precision; the reference four more times in each, and only if they differ."""
    single, double = torch.float32, torch.float64
    reference, subject = Stack(official), Stack(by_hand)
    _judged(subject, inputs, reference)
    assert sorted(map(str, subject.calls)) == sorted(map(str, [single, double]))
    assert (reference.calls.count(single), reference.calls.count(double)) == (5, 5)
    reference, subject = Stack(official), Stack(official)
    _judged(subject, inputs, reference)
    assert (len(reference.calls), len(subject.calls)) == (2, 2)


def test_a_noisy_subject_does_not_widen_its_own_tolerance(inputs: Inputs) -> None:
    """A subject that amplifies round-off is judged by official's noise: the allowance does not depend on it."""

    def allowed(subject: Stack) -> list[float | None]:
        return [c.allowed for c in _judged(subject, inputs, tiers=("T1",))]

    assert allowed(Stack(faulty)) == allowed(Stack(lambda x, t: (official(x, t) + 1e8) - 1e8))


def test_missing_and_extra_outputs_fail(inputs: Inputs) -> None:
    """What only one side returns is a failure, and the rest is still judged."""

    def lopsided(stack: Any, given: Inputs) -> dict[str, Tensor]:
        found = compute(stack, given)
        found["mine" if stack.claims_bitwise else "theirs"] = torch.ones(1)
        return found

    results = list(Judge(Stack(official), Stack(official, bitwise=True))("p", lopsided, inputs))
    failed = {c.name: c.note for c in results if not c.passed}
    assert failed == {"p/theirs": "the subject lacks it", "p/mine": "only the subject has it"}
    assert sum(c.passed for c in results) == 6


def test_an_output_absent_in_double_precision_fails(inputs: Inputs) -> None:
    """A subject that returns something in fp32 alone cannot be judged, which is no pass."""

    def shy(stack: Any, given: Inputs) -> dict[str, Tensor]:
        found = compute(stack, given)
        if stack.claims_bitwise and given["logits"].dtype is torch.float64:
            del found["gradient"]
        return found

    results = list(Judge(Stack(official), Stack(official, bitwise=True), tiers=("T1",))("p", shy, inputs))
    assert [(c.name, c.passed) for c in results if c.note] == [("p/gradient", False)]


def test_integers_are_compared_exactly_whatever_is_claimed() -> None:
    """Nearest neighbours are decisions: equal or not, in T0 alone."""

    def neighbours(stack: Any, given: Inputs) -> dict[str, Tensor]:
        return {"index": given["x"].argmax(-1) + stack}

    x = {"x": torch.eye(3)}
    assert [(c.tier, c.passed) for c in Judge(0, 0)("p", neighbours, x)] == [("T0", True)]
    assert [(c.tier, c.passed) for c in Judge(0, 1)("p", neighbours, x)] == [("T0", False)]


def test_a_type_other_than_official_s_is_seen() -> None:
    """Integers where official returns floats are compared exactly, and so fail."""

    def cast(stack: Any, given: Inputs) -> dict[str, Tensor]:
        return {"x": given["x"].to(stack)}

    (comparison,) = Judge(torch.float32, torch.int64)("p", cast, {"x": torch.ones(2)})
    assert (comparison.tier, comparison.passed) == ("T0", False)


@pytest.mark.parametrize("tiers", [("T0",), ("T1",), ("T2",), ("T0", "T2")])
def test_tiers_can_be_chosen(tiers: tuple[str, ...], inputs: Inputs) -> None:
    """Only the rules asked for are applied to floats."""
    results = _judged(Stack(official, bitwise=True), inputs, tiers=tiers)
    assert {c.tier for c in results} == set(tiers)


def test_promotion_widens_float32_alone() -> None:
    """Masks, indices and halves stay as they are; values are kept."""
    given = {
        "f": torch.tensor([0.1]),
        "m": torch.tensor([True]),
        "i": torch.tensor([3]),
        "h": torch.ones(1, dtype=torch.float16),
    }
    wide = promoted(given)
    assert [wide[k].dtype for k in "fmih"] == [torch.float64, torch.bool, torch.int64, torch.float16]
    assert float(wide["f"]) == float(given["f"])


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-24), (torch.float64, 2.0**-53)])
def test_perturbation_moves_each_element_by_four_units(dtype: torch.dtype, unit: float) -> None:
    """Powers of two move by exactly 4 units of half an epsilon, up or down; zeros and integers stay."""
    given = {"x": torch.full((1000,), 2.0, dtype=dtype), "zero": torch.zeros(3), "i": torch.arange(3)}
    moved = perturbed(given, 0)
    relative = (moved["x"] / 2 - 1).double()
    assert sorted(set(relative.tolist())) == [-4 * unit, 4 * unit]
    assert 400 < int((relative > 0).sum()) < 600
    assert torch.equal(moved["zero"], given["zero"])
    assert torch.equal(moved["i"], given["i"])


def test_perturbation_depends_on_the_seed_and_on_nothing_global() -> None:
    """The same seed gives the same signs, another gives others, and torch's own generator does not move."""
    given = {"x": torch.ones(64)}
    state = torch.get_rng_state()
    first, again, other = perturbed(given, 1)["x"], perturbed(given, 1)["x"], perturbed(given, 2)["x"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_double_precision_runs_under_the_oracle() -> None:
    """A computation that narrows its input still returns float64, from inputs of float32."""
    result = in_float64(lambda _, given: {"y": given["x"].float() / 3}, None, {"x": torch.ones(1)})
    assert result["y"].dtype is torch.float64
    assert float(result["y"]) == 1 / 3


def test_a_subject_that_spoils_its_inputs_spoils_nothing_else() -> None:
    """The reference's next run gets what it got before: an in-place operation is the subject's own affair."""
    seen: list[float] = []

    def compute(stack: str, given: Inputs) -> dict[str, Tensor]:
        if stack == "reference":
            seen.append(float(given["x"].double().sum()))
        else:
            given["x"].zero_()
        return {"y": given["x"] * 2.0}

    results = list(Judge("reference", "subject")("spoilt", compute, {"x": torch.ones(3)}))
    assert not any(c.passed for c in results)
    assert seen == pytest.approx([3.0] * len(seen), abs=1e-6)


def test_numbers_and_arrays_are_results_too() -> None:
    """A loss given as a Python number is compared as the tensor that it is."""

    def compute(stack: str, given: Inputs) -> dict[str, Any]:
        value = float(given["x"].sum())
        return {"y": given["x"].sum() if stack == "reference" else torch.tensor(value, dtype=given["x"].dtype).numpy()}

    assert all(c.passed for c in Judge("reference", "subject")("numbers", compute, {"x": torch.ones(3)}))


def test_another_type_of_result_is_named() -> None:
    """A list is no tensor; the message says whose it is and what was expected."""

    def compute(stack: str, given: Inputs) -> dict[str, Any]:
        return {"y": given["x"] if stack == "reference" else [1.0]}

    with pytest.raises(SubjectError, match="returned a list for y, expected a tensor"):
        list(Judge("reference", "subject")("lists", compute, {"x": torch.ones(3)}))


def test_a_python_number_is_judged_in_double_precision() -> None:
    """A loss returned by `.item()` keeps the 53 bits that it has: right by size, it passes T1."""

    def compute(stack: str, given: Inputs) -> dict[str, Any]:
        value = (given["x"] / 3).sum()
        return {"y": value if stack == "reference" else value.item()}

    results = list(Judge("reference", "subject")("numbers", compute, {"x": torch.tensor([0.1, 0.7, 1.9])}))
    assert [(c.tier, c.passed) for c in results] == [("T1", True), ("T2", True)]
