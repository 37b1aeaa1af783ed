from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fabricated_results import CLOSE, DOUBLE_NORMALISED, EQUAL, FAR, VERIFIED, masks

from parity.checks.base import FAMILIES, Check, Context, NotRunError, Observation, run_check
from parity.errors import NoVerdictError, SubjectError
from parity.recipes import RECIPES, Recipe
from parity.results import CheckResult

Run = Callable[[Context], Iterator[Observation]]


def _context(subject: Any = None, recipe: Recipe | None = None) -> Context:
    subject = subject or SimpleNamespace(name="fork", koleo_loss=len)
    return Context(None, VERIFIED, subject, recipe, seeds=1, quick=True)


def _run(run: Run, *, needs: tuple[str, ...] = (), subject: Any = None, recipe: Recipe | None = None) -> CheckResult:
    check = Check("losses.koleo", "L1", "KoLeo", ("dinov2/loss/koleo_loss.py:37",), needs, run)
    return run_check(check, _context(subject, recipe))


def _yielding(*observations: Observation) -> Run:
    return lambda context: iter(observations)


def test_a_result_carries_what_the_check_says_of_itself() -> None:
    """Id with the recipe, family from the id, level, title and official lines."""
    result = _run(_yielding(EQUAL), recipe=RECIPES[0])
    assert (result.id, result.family, result.level) == ("losses.koleo[default]", "losses", "L1")
    assert (result.title, result.official) == ("KoLeo", ("dinov2/loss/koleo_loss.py:37",))
    assert result.seconds >= 0
    assert _run(_yielding(EQUAL)).id == "losses.koleo"


def test_observations_are_sorted_by_kind() -> None:
    """Comparisons, findings and exhibits, in the order in which they come."""
    exhibit = masks(2, ("official",))
    result = _run(_yielding(EQUAL, DOUBLE_NORMALISED, CLOSE, exhibit))
    assert result.comparisons == [EQUAL, CLOSE]
    assert result.findings == [DOUBLE_NORMALISED]
    assert result.exhibits == [exhibit]
    assert result.status == "passed"


def test_one_failed_comparison_is_a_divergence() -> None:
    """However many others pass."""
    assert _run(_yielding(EQUAL, FAR, EQUAL)).status == "diverged"


@pytest.mark.parametrize("observations", [(), (DOUBLE_NORMALISED,)])
def test_nothing_compared_is_not_run(observations: tuple[Observation, ...]) -> None:
    """A check that yields no comparison has proved nothing."""
    result = _run(_yielding(*observations))
    assert (result.status, result.reason) == ("not_run", "nothing was compared")


def _never(context: Context) -> Iterator[Observation]:
    raise AssertionError("must not be called")


def test_a_lacking_capability_is_not_run() -> None:
    """The reason names the stack and what it lacks; the check is not called."""
    result = _run(_never, needs=("koleo_loss", "sinkhorn", "collate"))
    assert (result.status, result.reason) == ("not_run", "fork does not offer sinkhorn, collate")


def test_a_stack_may_say_why_it_does_not_offer_something() -> None:
    """Its own words in `not_offered` are shown instead."""
    subject = SimpleNamespace(name="fork", koleo_loss=len, not_offered={"sinkhorn": "only centering is used"})
    result = _run(_never, needs=("sinkhorn",), subject=subject)
    assert (result.status, result.reason) == ("not_run", "sinkhorn: only centering is used")


def test_a_check_may_not_apply() -> None:
    """NotRunError ends it with the reason that it gives."""

    def run(context: Context) -> Iterator[Observation]:
        raise NotRunError("official of April 2023 has no registers")

    result = _run(run)
    assert (result.status, result.reason) == ("not_run", "official of April 2023 has no registers")


def test_an_exception_is_an_error_with_its_place() -> None:
    """Kind, text, and file and line of the innermost frame, even where that is not the subject's."""

    def run(context: Context) -> Iterator[Observation]:
        yield EQUAL
        context.subject.koleo_loss([1, 2, 3])

    def broken(x: Any) -> None:
        raise ValueError(f"{len(x)} crops")

    result = _run(run, subject=SimpleNamespace(name="fork", koleo_loss=broken))
    line = broken.__code__.co_firstlineno + 1
    assert result.status == "error"
    assert result.reason == f"fork: ValueError: 3 crops at {__file__}:{line} in broken"
    assert result.comparisons == [EQUAL]

    def decoding(context: Context) -> Iterator[Observation]:
        json.loads("{")
        yield EQUAL

    elsewhere = _run(decoding)
    assert elsewhere.reason.startswith("fork: JSONDecodeError: ")
    assert "decoder.py:" in elsewhere.reason


def test_a_subject_error_is_told_in_its_own_words() -> None:
    """It is already a sentence: no kind before it."""

    def run(context: Context) -> Iterator[Observation]:
        raise SubjectError("two tensors called 'x'")

    result = _run(run)
    assert result.status == "error"
    assert result.reason.startswith("fork: two tensors called 'x' at ")


def test_a_subject_that_exits_does_not_end_the_run() -> None:
    """`sys.exit(0)` inside a capability would otherwise look like parity to a shell."""

    def run(context: Context) -> Iterator[Observation]:
        sys.exit(0)

    result = _run(run)
    assert result.status == "error"
    assert result.reason.startswith("fork: SystemExit: 0 at ")


@pytest.mark.parametrize(
    ("module", "owner"), [("dinov2.loss.koleo_loss", "the reference"), ("fork.loss", "fork"), ("dinov2_fork", "fork")]
)
def test_the_owner_of_an_error_is_told_by_whose_code_raised_it(module: str, owner: str) -> None:
    """Official code that fails is the reference's error, also inside a check of the subject; lines are joined."""
    code: dict[str, Any] = {"__name__": module}
    exec("def koleo_loss(x):\n    raise RuntimeError('first\\n  second')\n", code)  # noqa: S102 # official by name

    def run(context: Context) -> Iterator[Observation]:
        yield code["koleo_loss"](None)

    assert _run(run).reason == f"{owner}: RuntimeError: first second at <string>:2 in koleo_loss"


@pytest.mark.parametrize("error", [NoVerdictError("unsound"), KeyboardInterrupt()])
def test_what_ends_the_whole_run_is_not_swallowed(error: BaseException) -> None:
    """An unsound instrument and the user's Ctrl-C are no result of one check."""

    def run(context: Context) -> Iterator[Observation]:
        raise error

    with pytest.raises(type(error)):
        _run(run)


def test_a_check_that_needs_a_recipe_gets_it() -> None:
    """The context's recipe, or an assertion where the table of checks is wrong."""
    assert _context(recipe=RECIPES[1]).required_recipe() is RECIPES[1]
    with pytest.raises(AssertionError):
        _context().required_recipe()


def test_families_are_distinct_and_in_order_of_cost() -> None:
    """Files first, whole steps last."""
    assert len(set(FAMILIES)) == len(FAMILIES)
    assert (FAMILIES[0], FAMILIES[-1]) == ("files", "distributed")


@pytest.mark.parametrize(("yielded", "status"), [((), "error"), ((FAR,), "diverged"), ((EQUAL,), "error")])
def test_an_exit_after_some_comparisons_keeps_what_they_showed(yielded: tuple[Observation, ...], status: str) -> None:
    """What had diverged stays a divergence, what had passed is no pass, and the reason is the exit."""

    def run(context: Context) -> Iterator[Observation]:
        yield from yielded
        raise SystemExit(0)

    result = _run(run)
    assert result.status == status
    assert result.reason.startswith("fork: SystemExit: 0 at ")


def _one_of(*either: str, subject: Any) -> CheckResult:
    return run_check(Check("masks.x", "L1", "x", (), (), _yielding(EQUAL), either=either), _context(subject))


def test_one_of_several_capabilities_will_do() -> None:
    """Whichever is offered; with none the reason names all, or why the stack has none of them."""
    assert _one_of("collate", "koleo_loss", subject=SimpleNamespace(koleo_loss=len)).status == "passed"
    lacking = _one_of("collate", "make_mask", subject=SimpleNamespace(name="fork", koleo_loss=len))
    assert (lacking.status, lacking.reason) == ("not_run", "fork does not offer collate or make_mask")
    told = _one_of("collate", "make_mask", subject=SimpleNamespace(not_offered={"make_mask": "no masks here"}))
    assert (told.status, told.reason) == ("not_run", "make_mask: no masks here")


def test_draws_of_the_subject_s_own_are_not_compared() -> None:
    """The check that compares them is not called; one that compares other draws is."""
    subject = SimpleNamespace(name="fork", make_mask=len, own_randomness=("make_mask",))
    own = run_check(Check("masks.x", "L1", "x", (), ("make_mask",), _never, draws=("make_mask",)), _context(subject))
    assert own.status == "not_run"
    assert own.reason.endswith("masks.statistical judges the distribution")
    other = Check("augment.x", "L1", "x", (), ("make_mask",), _yielding(EQUAL), draws=("augment",))
    assert run_check(other, _context(subject)).status == "passed"
