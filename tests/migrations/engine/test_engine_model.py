from __future__ import annotations

import pytest

from migrations.engine.model import ORDER, Edit, Finding, Level, Site, State, overall

SITE = Site("a.py", 3)


def finding(state: State, site: Site | None = SITE) -> Finding:
    """A finding without edits."""
    return Finding("0005", state, "evidence", site)


def test_only_a_decision_or_positive_evidence_is_settled() -> None:
    """Suppressed, aligned and not-applicable leave nothing to do; unknown, partial and diverged do."""
    assert {state for state in State if state.settled} == {State.SUPPRESSED, State.ALIGNED, State.NOT_APPLICABLE}


def test_order_has_each_of_the_seven_once() -> None:
    """The document has seven differences; 0006 goes first and 0007 last."""
    assert sorted(ORDER) == [f"000{number}" for number in range(1, 8)]
    assert (ORDER[0], ORDER[-1]) == ("0006", "0007")


@pytest.mark.parametrize("level", [Level.SAFE, Level.UNSAFE, Level.SKELETON])
def test_a_level_that_promises_edits_needs_some(level: Level) -> None:
    """A finding that claims a rewrite without edits is an error of its rule."""
    with pytest.raises(ValueError, match=f"level {level.value} with 0 edits"):
        Finding("0005", State.DIVERGED, "evidence", SITE, level)


@pytest.mark.parametrize("level", [Level.MANUAL, Level.BLOCKED])
def test_a_level_without_edits_may_have_none(level: Level) -> None:
    """Edits at manual or blocked would never be applied, so they are an error."""
    with pytest.raises(ValueError, match="with 1 edits"):
        Finding("0005", State.DIVERGED, "evidence", SITE, level, (Edit("a.py", 0, 1, ""),))


def test_site_prints_as_path_and_line() -> None:
    """The form that editors and terminals turn into a link."""
    assert str(Site("training/trainer.py", 331, 5, 340)) == "training/trainer.py:331"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], State.UNKNOWN),
        ([State.ALIGNED], State.ALIGNED),
        ([State.ALIGNED, State.UNKNOWN], State.UNKNOWN),
        ([State.ALIGNED, State.DIVERGED], State.PARTIAL),
        ([State.DIVERGED, State.UNKNOWN], State.DIVERGED),
        ([State.SUPPRESSED, State.DIVERGED], State.DIVERGED),
        ([State.SUPPRESSED, State.ALIGNED], State.SUPPRESSED),
        ([State.NOT_APPLICABLE, State.ALIGNED], State.ALIGNED),
        ([State.PARTIAL, State.ALIGNED], State.PARTIAL),
    ],
)
def test_overall_is_the_worst_site(states: list[State], expected: State) -> None:
    """One diverged site among aligned ones is partial; an unknown site is never outvoted."""
    assert overall([finding(state) for state in states]) is expected


def test_nothing_found_says_nothing_where_something_was_found() -> None:
    """An unknown without a site does not make an aligned project unknown."""
    assert overall([finding(State.UNKNOWN, None), finding(State.ALIGNED)]) is State.ALIGNED
    assert overall([finding(State.UNKNOWN, None)]) is State.UNKNOWN
