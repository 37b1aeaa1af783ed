"""Values put in: where, which of official's, and what autograd makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from parity.judge import Failed
from parity.trace.fingerprint import fingerprint
from parity.trace.record import Operation, Recorder
from parity.trace.replay import Forcer, Rule, fits, shared
from parity.trace.watch import Side, begins, differing, unknown, values_of, watched


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recorded(function: Callable[[], object]) -> list[Operation]:
    """Return the operations of a function."""
    with Recorder() as recorder:
        function()
    operations: list[Operation] = recorder.operations
    return operations


class _Putting(Recorder):
    """Puts a value in the place of the results of one operation."""

    def __init__(self, name: str, value: Tensor) -> None:
        super().__init__()
        self._name, self._value = name, value

    def altered(self, done: Operation, read: Sequence[Tensor], made: Sequence[Tensor]) -> Sequence[Tensor] | None:
        return [self._value] if done.name == self._name else None


def test_a_value_put_in_keeps_the_graph_and_is_what_is_saved() -> None:
    """The derivative of exp is its result: d/dx of 3 * exp(x) is 3 * value with the value in the place of exp(x)."""
    x, value = draw(4).requires_grad_(), draw(4, seed=1)
    with _Putting("exp", value) as recorder:
        (gradient,) = torch.autograd.grad((x.exp() * 3).sum(), x)
    assert torch.equal(gradient, 3 * value)
    (op,) = [op for op in recorder.operations if op.name == "exp"]
    assert op.outputs == (fingerprint(value),)


def test_a_value_put_in_in_place_is_seen_through_every_view() -> None:
    """Memory that two tensors share holds the value."""
    x, value = draw(4, 3), draw(2, 3, seed=1)
    with _Putting("mul_", value):
        x[1:3].mul_(2)
    assert torch.equal(x[1:3], value)
    assert torch.equal(x[[0, 3]], draw(4, 3)[[0, 3]])


def test_a_value_in_the_place_of_a_view_leaves_what_is_viewed() -> None:
    """The gradient goes where the operation that was executed puts it."""
    x, value = draw(4, 3).requires_grad_(), draw(3, seed=1)
    with _Putting("select", value):
        row = x[2]
        (gradient,) = torch.autograd.grad((row * row).sum(), x)
    assert torch.equal(row, value)
    assert torch.equal(x.detach(), draw(4, 3))
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected[2] = 2 * value
    assert torch.equal(gradient, expected)


def test_a_leaf_that_is_updated_without_a_graph_takes_a_value() -> None:
    """As an optimizer writes parameters; the parameter is the same object, and still asks for gradients."""
    parameter, value = torch.nn.Parameter(draw(3)), draw(3, seed=1)
    with _Putting("add_", value), torch.no_grad():
        parameter.add_(1.0)
    assert torch.equal(parameter.detach(), value)
    assert parameter.requires_grad
    assert parameter.is_leaf


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (lambda: draw(3, 4).exp(), lambda: draw(3, 4).cos(), True),
        (lambda: draw(3, 4).exp(), lambda: draw(1, 3, 4).cos(), True),
        (lambda: draw(3, 4).exp(), lambda: draw(4, 3).cos(), False),
        (lambda: draw(3, 4).exp(), lambda: draw(12).cos(), False),
        (lambda: draw(3, 4).exp(), lambda: draw(3, 4).float().cos(), False),
        (lambda: draw(3, 4).max(1), lambda: draw(3, 4, seed=1).max(1), True),
        (lambda: draw(3, 4).max(1), lambda: draw(3, 4).min(1), False),
        (lambda: draw(3, 4).max(1), lambda: draw(3, 4).amax(1), False),
    ],
    ids=[
        "shape",
        "axis of one",
        "transposed",
        "flat",
        "dtype",
        "several",
        "several of another name",
        "one for several",
    ],
)
def test_what_fits(mine: Callable[[], object], theirs: Callable[[], object], expected: bool) -> None:
    """One dtype and one shape but for axes of length 1; several results of operations of one name."""
    assert fits(recorded(mine)[-1], recorded(theirs)[-1]) is expected


def test_common_inputs_count_by_what_they_say() -> None:
    """A tensor that differs from element to element counts 1, a constant one nearly nothing."""
    x, w, one = draw(4, 4), draw(4, 4, seed=1), torch.ones(4, 4, dtype=torch.float64)
    product, other, constant = (recorded(f)[0] for f in (lambda: x @ w, lambda: x @ w.neg_().neg_(), lambda: x @ one))
    assert shared(product, product) == 2
    assert shared(product, constant) == 1
    assert 0 < shared(recorded(lambda: one @ one)[0], constant) < 1
    assert other.name == "neg_"


def _sides(
    theirs: Callable[[Tensor], Tensor], mine: Callable[[Tensor], Tensor]
) -> tuple[Failed, Callable[[Tensor], Tensor], Side, Side]:
    def compute(stack: Callable[[Tensor], Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": stack(given["x"])}

    failed = Failed("toy", mine, compute, {"x": draw(5, 5)}, ("y",))
    return failed, theirs, watched(failed, theirs), watched(failed, mine)


def _theirs(x: Tensor) -> Tensor:
    y = x.cos() * 2
    y = y.exp()
    return y + 1


def _mine(x: Tensor) -> Tensor:
    y = x.cos() * 3
    y = y.exp()
    return y + 1


def test_official_value_leads_back_to_official_result() -> None:
    """One run with the value of official's product: everything after it is official's."""
    failed, official, theirs, mine = _sides(_theirs, _mine)
    (first,), (counterpart,) = begins(mine, theirs, ["y"]), begins(theirs, mine, ["y"])
    assert (first.name, counterpart.name) == ("mul", "mul")
    values = values_of(failed, official, {counterpart.index})
    forcer = Forcer([Rule(first, frozenset(), (counterpart,))], theirs, values)
    side = watched(failed, _mine, forcer)
    assert list(forcer.forced) == [first.index]
    assert unknown(mine, theirs) != unknown(side, theirs) == [False] * len(side.operations)
    assert differing(mine, theirs, ["y"]) == ["y"]
    assert differing(side, theirs, ["y"]) == []


def test_a_rule_leaves_what_has_other_inputs_or_official_results() -> None:
    """Only where official has what goes in and not what comes out: elsewhere another fault would be hidden."""

    def mine(x: Tensor) -> Tensor:
        y = x
        for factor in (2, 3):
            y = y.cos() * factor
        return y

    failed, official, theirs, first = _sides(lambda x: (x.cos() * 2).cos() * 2, mine)
    products = [op for op in first.operations if op.name == "mul"]
    pool = tuple(op for op in theirs.operations if op.name == "mul")
    forcer = Forcer(
        [Rule(products[0], frozenset(), pool)], theirs, values_of(failed, official, {op.index for op in pool})
    )
    side = watched(failed, mine, forcer)
    assert list(forcer.forced) == [products[1].index]
    assert differing(side, theirs, ["y"]) == []


def test_values_are_those_of_the_operations_that_were_recorded() -> None:
    """Counted as the recorder counts, copied before anything writes over them; none are kept that nobody asked for."""

    def function(x: Tensor) -> Tensor:
        y = x.exp()
        y.mul_(2)
        with torch.profiler.record_function("mark"):
            return y.cos().sum(0)

    failed, official, theirs, _ = _sides(function, function)
    wanted = {op.index for op in theirs.operations if op.name in ("exp", "mul_", "sum")}
    values = values_of(failed, official, wanted)
    assert set(values) == wanted
    for index, tensors in values.items():
        assert tuple(fingerprint(t) for t in tensors) == theirs.operations[index].outputs
    assert values_of(failed, official, ()) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda y: y, []),
        (lambda y: y * (1 + 1e-13), []),
        (lambda y: y * (1 + 1e-6), ["y"]),
        (lambda y: y.t(), ["y"]),
        (lambda y: y[:4], ["y"]),
        (lambda y: y / 0, ["y"]),
    ],
    ids=["same", "rounding", "a fault", "another order", "another shape", "infinite"],
)
def test_results_that_differ(change: Callable[[Tensor], Tensor], expected: list[str]) -> None:
    """By more than rounding, element by element; a tensor of another shape always does."""
    _, _, theirs, mine = _sides(torch.exp, lambda x: change(x.exp()))
    assert differing(mine, theirs, ["y"]) == expected


def test_not_a_number_agrees_with_itself_alone() -> None:
    """As for fingerprints."""
    _, _, theirs, mine = _sides(torch.log, lambda x: x.log() * 1.0)
    assert theirs.results["y"].isnan().any()
    assert differing(mine, theirs, ["y"]) == []
    _, _, theirs, mine = _sides(torch.log, lambda x: x.abs().log())
    assert differing(mine, theirs, ["y"]) == ["y"]


def test_a_result_that_the_judge_let_pass_may_lie_as_far_as_before() -> None:
    """Noise of rounding has no bound here, and the judge's is not known: it must only not grow."""
    _, _, theirs, before = _sides(torch.exp, lambda x: x.exp() * (1 + 1e-7))
    assert differing(before, theirs, [], before) == []
    assert differing(before, theirs, ["y"], before) == ["y"]
    _, _, _, worse = _sides(torch.exp, lambda x: x.exp() * (1 + 1e-6))
    assert differing(worse, theirs, [], before) == ["y"]


def test_memory_that_was_not_written_is_never_lacking() -> None:
    """What lies in it is another thing in each run, and would decide by chance what is believed."""

    def mine(x: Tensor) -> Tensor:
        torch.empty(7, 11, dtype=torch.float64)
        return x.exp() * 2

    _, _, theirs, side = _sides(torch.exp, mine)
    assert [op.name for op, lacks in zip(side.operations, unknown(side, theirs), strict=True) if lacks] == ["mul"]
    assert "empty" in [op.name for op in side.operations]
