"""Random draws: official's are replayed by kind, and what is said where they have no counterpart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from forks import check, fork
from single_blocks import blocks, differences, found, toy
from torch import Tensor

from parity.adapters.official import OfficialStack
from parity.results import Finding
from parity.teeth.edit import Edit, applied
from parity.trace.locate import OPERATION
from parity.trace.record import Operation, Recorder
from parity.trace.tape import Draws, Tape, drawn, is_draw, kind, relevant

_LIST = "port.models.block:_drop_add_residual_list"
_SCALES = "port.models.block:get_branges_scales"

REVERSED = Edit(_LIST, "for x in x_list]\n", "for x in reversed(x_list)][::-1]\n")
SORTED = Edit(_SCALES, "torch.randperm(b, device=x.device)", "torch.rand(b, device=x.device).argsort()")
TWICE = Edit(_SCALES, "b = x.shape[0]", "b = len(x) + 0 * len(torch.rand(3))")
FIRST = Edit(_SCALES, "torch.randperm(b, device=x.device)", "torch.randperm(b, device=x.device).sort().values")
TANH = Edit("port.models.ffn:Mlp.forward", "self.act(x)", 'functional.gelu(x, approximate="tanh")')


def of_block(official: OfficialStack, *edits: Edit) -> list[Finding]:
    """Return what is found of a block of `port` with edits, given two batches."""
    reference, subject = blocks(official)
    with applied(*edits):
        return found(differences(reference, subject, both=True), reference)


def recorded(*draws: Callable[[], Tensor]) -> list[Operation]:
    """Return the operations of some draws."""
    with Recorder() as recorder:
        for draw in draws:
            draw()
    operations: list[Operation] = recorder.operations
    return operations


def test_draws_in_another_order_are_said_to_be_that(official_stack: OfficialStack) -> None:
    """The subset of the second batch is drawn first; with official's draws everything agrees."""
    (finding,) = of_block(official_stack, REVERSED)
    assert (
        "same computation, other random draws: draw 1 is randperm(n=6), shape (6,), at port/models/block.py"
        in finding.sentence
    )
    assert re.search(
        r"on yours, official draws randperm\(n=4\), shape \(4,\), at dinov2/layers/block\.py:\d+ in get_branges_scales",
        finding.sentence,
    )
    assert finding.sentence.endswith("with official's draws, all else agrees")
    assert finding.id == OPERATION
    assert finding.official.startswith("dinov2/layers/block.py:")


def test_a_generator_that_stands_elsewhere_is_said_to_be_that(official_stack: OfficialStack) -> None:
    """Something else was drawn before: the same draw has another outcome."""
    (finding,) = of_block(official_stack, TWICE)
    assert "same computation, other random draws: draw 1 is randperm(n=4)" in finding.sentence
    assert ", with another outcome; with official's draws, all else agrees" in finding.sentence


def test_another_operation_has_no_counterpart(official_stack: OfficialStack) -> None:
    """A subset by sorting uniform numbers: which draws cannot be replayed is said, on both sides."""
    (finding,) = of_block(official_stack, SORTED)
    assert "draws random numbers without a counterpart: yours rand(), shape (4,)" in finding.sentence
    assert "rand(), shape (6,)" in finding.sentence
    assert "; official randperm(n=4), shape (4,)" in finding.sentence
    assert "cannot be replayed" in finding.sentence
    assert "agrees" not in finding.sentence


def test_a_bernoulli_number_per_sample_has_no_counterpart() -> None:
    """Drop path as many libraries have it, against a subset."""

    def theirs(x: Tensor) -> Tensor:
        rows = torch.randperm(len(x))[:3]
        return x.index_add(0, rows, x[rows].cos(), alpha=2)

    def mine(x: Tensor) -> Tensor:
        kept = x.new_empty(len(x), 1).bernoulli_(0.6)
        return x + x.cos() * kept * 2

    (finding,) = toy(theirs, mine)
    assert "yours bernoulli_(p=0.6), shape (6, 1), at" in finding.sentence
    assert "official randperm(n=6), shape (6,), at" in finding.sentence
    assert "cannot be compared" in finding.sentence


def test_a_subject_that_draws_nothing_is_said_to() -> None:
    """All samples are kept: official's draws have no counterpart, and where yours begins to differ is told besides."""

    def theirs(x: Tensor) -> Tensor:
        rows = torch.randperm(len(x))[:3]
        return x.index_add(0, rows, x[rows].cos(), alpha=2)

    def mine(x: Tensor) -> Tensor:
        return x + x.cos()

    draws, *others = toy(theirs, mine)
    assert "yours nothing there; official randperm(n=6), shape (6,)" in draws.sentence
    assert len(others) <= 1
    assert all("agrees" not in f.sentence for f in others)


def test_a_fault_that_draws_as_official_does_says_nothing_of_draws(official_stack: OfficialStack) -> None:
    """Drop path draws on both sides, from one generator: the fault is the activation."""
    (finding,) = of_block(official_stack, TANH)
    assert "gelu(approximate=tanh)" in finding.sentence
    assert "draw" not in finding.sentence


def test_what_is_done_with_a_draw_is_not_the_draw(official_stack: OfficialStack) -> None:
    """Official's draw sorted afterwards, so that the first samples survive: the outcome of the draw is official's."""
    findings = of_block(official_stack, FIRST)
    assert all("other random draws" not in f.sentence for f in findings)
    assert "first differs at sort" in findings[0].sentence


def test_a_fault_behind_other_draws_is_told_too(official_stack: OfficialStack) -> None:
    """First the draws, then what still differs with official's."""
    draws, fault = of_block(official_stack, REVERSED, TANH)
    assert "other random draws: draw 1 is randperm(n=6)" in draws.sentence
    assert "same computation" not in draws.sentence
    assert "first differs with official's draws at gelu(approximate=tanh)" in fault.sentence
    assert fault.sentence.endswith("with official's value there, all else agrees")


def test_draws_that_lead_to_no_difference_are_not_told() -> None:
    """Weights that are drawn and then replaced, in another order, beside a fault."""

    def theirs(x: Tensor) -> Tensor:
        weight = torch.nn.init.normal_(torch.empty(8, 8, dtype=torch.float64))
        with torch.no_grad():
            weight.copy_(torch.arange(64.0).view(8, 8) / 50)
        y = x @ weight
        return y.exp() + 1

    def mine(x: Tensor) -> Tensor:
        torch.rand(4)
        weight = torch.nn.init.uniform_(torch.empty(8, 8, dtype=torch.float64))
        with torch.no_grad():
            weight.copy_(torch.arange(64.0).view(8, 8) / 50)
        y = x @ weight
        return y.exp() + 2

    (finding,) = toy(theirs, mine)
    assert "first differs at add(other=2)" in finding.sentence
    assert "draw" not in finding.sentence


def test_a_draw_from_another_distribution_is_a_fault_of_its_own() -> None:
    """Another share is kept: not another draw of the same, and official's outcome in its place explains all."""

    def run(share: float) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            kept = torch.zeros_like(x).bernoulli_(share)
            return (x * kept).cos()

        return function

    findings = toy(run(0.4), run(0.9))
    told = " ".join(f.sentence for f in findings)
    assert "same computation" not in told
    assert "bernoulli_(p=0.9)" in told
    assert "bernoulli_(p=0.4)" in told


def test_other_draws_stay_a_divergence(official_stack: OfficialStack) -> None:
    """A tape attributes: the check's verdict is as without it, and its comparisons too."""
    with applied(REVERSED):
        result = check(official_stack, fork(), "modules.backbone", "default", to_first=True)
    assert result.status == "diverged"
    assert result.diverged
    result.findings.clear()
    assert result.status == "diverged"


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (lambda: torch.rand(3), lambda: torch.empty(3).uniform_(), True),
        (lambda: torch.randn(3), lambda: torch.empty(3).normal_(), True),
        (lambda: torch.randn(3), lambda: torch.randn_like(torch.empty(3)), True),
        (lambda: torch.randperm(3), lambda: torch.randperm(3), True),
        (lambda: torch.randperm(3), lambda: torch.randperm(4), False),
        (lambda: torch.rand(3), lambda: torch.rand(4), False),
        (lambda: torch.rand(3), lambda: torch.rand(3, dtype=torch.float64), False),
        (lambda: torch.rand(3), lambda: torch.empty(3).uniform_(-1, 1), False),
        (lambda: torch.randn(3), lambda: torch.empty(3).normal_(0, 0.02), False),
        (lambda: torch.empty(3).bernoulli_(0.3), lambda: torch.empty(3).bernoulli_(0.4), False),
        (lambda: torch.randint(0, 5, (3,)), lambda: torch.randint(0, 6, (3,)), False),
        (lambda: torch.rand(3), lambda: torch.randn(3), False),
    ],
)
def test_a_kind_is_distribution_shape_and_dtype(
    left: Callable[[], Tensor], right: Callable[[], Tensor], same: bool
) -> None:
    """Whichever way a draw is written."""
    kinds = [kind(op) for draw in (left, right) for op in recorded(draw) if is_draw(op)]
    assert len(kinds) == 2
    assert (kinds[0] == kinds[1]) is same


def test_what_computes_is_no_draw() -> None:
    """Neither is memory that is not written, nor a constant."""
    names = [op.name for op in recorded(lambda: torch.empty(3).zero_() + 1, lambda: torch.rand(2).cos()) if is_draw(op)]
    assert names == ["rand"]


def _draws(*shapes: int) -> tuple[Operation, ...]:
    torch.manual_seed(0)
    return tuple(recorded(*(lambda n=n: torch.randperm(n) for n in shapes)))


def test_a_tape_gives_draws_by_kind_in_order_until_there_are_no_more() -> None:
    """Official's first of 4 to the first of 4, whatever lies between; nothing to a third."""
    official, yours = _draws(4, 6, 4), _draws(6, 4, 4, 4)
    values: dict[int, Sequence[Tensor]] = {
        op.index: [torch.arange(op.forms[0][0][0]) + 100 * i] for i, op in enumerate(official)
    }
    tape = Tape(Draws(yours, official), values)
    given = [tape.next(op) for op in yours]
    assert [int(value[0]) for value in given if value is not None] == [100, 0, 200]
    assert given[3] is None


def test_a_tape_leaves_other_lines_and_other_operations() -> None:
    """What is drawn where no difference begins, as initial weights, keeps its outcome."""
    official = _draws(4)
    tape = Tape(Draws(official, official), {0: [torch.arange(4)]})
    elsewhere, computed = recorded(lambda: torch.randperm(4))[0], recorded(lambda: torch.ones(4).cos())[-1]
    assert elsewhere.place != official[0].place
    assert tape.next(elsewhere) is None
    assert tape.next(computed) is None
    assert tape.next(official[0]) is not None


def test_the_first_other_draw_and_the_ones_without_counterpart() -> None:
    """By position, by kind and by outcome; a draw in excess is other too."""
    assert Draws(_draws(4, 6), _draws(4, 6)).first_other() is None
    number, mine, theirs = Draws(_draws(4, 6), _draws(4, 5)).first_other() or (0, None, None)
    assert (number, mine and mine.forms[0][0], theirs and theirs.forms[0][0]) == (2, (6,), (5,))
    number, mine, theirs = Draws(_draws(4, 6), _draws(4)).first_other() or (0, None, None)
    assert (number, theirs) == (2, None)
    yours, official = Draws(_draws(4, 6, 6), _draws(6, 4, 5)).unmatched()
    assert ([op.forms[0][0] for op in yours], [op.forms[0][0] for op in official]) == ([(6,)], [(5,)])


def test_draws_are_told_once_with_how_often() -> None:
    """Twelve blocks draw the same kinds."""
    assert drawn(_draws(4, 6, 4)) == "randperm(n=4), shape (4,), 2 times, randperm(n=6), shape (6,)"


def test_no_draw_at_the_beginning_is_relevant_to_nothing() -> None:
    """Where a difference begins at no draw, none is looked at."""
    ops: Any = recorded(lambda: torch.rand(3), lambda: torch.ones(3).cos())
    assert relevant(ops, ops, [ops[-1]], [ops[-1]]) is None
    draws = relevant(ops, ops, [ops[0]], [])
    assert draws is not None
    assert [op.name for op in draws.official] == ["rand"]
