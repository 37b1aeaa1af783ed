from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fabricated_results import EQUAL, FAR, VERIFIED

from parity.checks.base import Check, Context, Observation, run_check
from parity.errors import UsageError
from parity.results import CheckResult, Comparison, RunResult
from parity.waivers import Waiver, Waivers, load_waivers, matches

CHECKS = ("files.identity", "losses.koleo", "gradients.step[default]", "gradients.step[vitl14]")
TODAY = datetime.date(2026, 6, 1)
GOOD = '[[waiver]]\ncheck = "losses.koleo"\nname = "koleo/*"\nreason = "on purpose"\n'


def _file(folder: Path, text: str) -> Path:
    path = folder / "waivers.toml"
    path.write_text(text)
    return path


def _checked(waivers: Waivers, *comparisons: Comparison, check_id: str = "losses.koleo", ends: str = "") -> CheckResult:
    """Run a check that yields the comparisons, and then ends as told."""

    def run(_: Context) -> Iterator[Observation]:
        yield from comparisons
        if ends:
            raise ValueError(ends)

    check = Check(check_id, "L1", "", (), (), run)
    context = Context(None, VERIFIED, SimpleNamespace(), None, 1, True, waivers=waivers)
    return run_check(check, context)


def _run(waivers: Waivers, *checks: CheckResult) -> RunResult:
    return RunResult(VERIFIED, "mine", list(checks), [EQUAL], waivers=waivers.outcomes(checks))


def _waivers(*given: Waiver) -> Waivers:
    return Waivers(given, TODAY)


KOLEO = Waiver("losses.koleo", "koleo/*", "on purpose")
PASSES = replace(EQUAL, name="koleo/one crop/loss")
DIVERGES = replace(FAR, name="koleo/generic/loss")


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("a*c", "a/b/c", True),
        ("gradients.step[default]", "gradients.step[default]", True),
        ("gradients.step[default]", "gradients.stepd", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a.c", "abc", False),
        ("*", "", True),
    ],
)
def test_only_stars_and_question_marks_are_special(pattern: str, text: str, expected: bool) -> None:
    """Ids hold brackets and dots, which mean themselves."""
    assert matches(pattern, text) is expected


def test_a_file_of_waivers_is_read(tmp_path: Path) -> None:
    """Every key; the optional ones may be left out; an empty file waives nothing."""
    text = (
        GOOD
        + '[[waiver]]\ncheck = "gradients.step[default]"\nname = "x"\nreason = "y"\nissue = "z"\nexpires = 2027-03-31\n'
    )
    assert load_waivers(_file(tmp_path, text), CHECKS) == (
        KOLEO,
        Waiver("gradients.step[default]", "x", "y", "z", datetime.date(2027, 3, 31)),
    )
    assert load_waivers(_file(tmp_path, ""), CHECKS) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace('reason = "on purpose"\n', ""), "waiver 1: it has no reason, expected a text; say why"),
        (GOOD.replace("on purpose", "  "), "reason is '  '"),
        (GOOD.replace('name = "koleo/*"\n', ""), "it has no name"),
        (GOOD.replace('"koleo/*"', "3"), "name is 3, expected a text"),
        (GOOD.replace("reason", "raeson"), "unknown key 'raeson', expected check, name, reason, issue, expires"),
        (GOOD + 'expires = "2027-03-31"\n', "expected a date, written 2027-03-31 without quotes"),
        (GOOD + "expires = 2027-03-31T10:00:00\n", "expected a date"),
        (GOOD.replace("losses.koleo", "losses.kole"), "no check is called 'losses.kole'; did you mean 'losses.koleo'?"),
        (GOOD.replace("losses.koleo", "files.identity"), "cannot be waived"),
        (GOOD.replace("losses.koleo", "*"), "cannot be waived"),
        ("[[waivers]]\n", "['waivers'], expected [[waiver]] tables alone"),
        ("waiver = 3\n", "expected [[waiver]] tables alone"),
        ("[[waiver]\n", "are no TOML: "),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    """With the file, the waiver's number, what was given and what is expected."""
    with pytest.raises(UsageError) as refused:
        load_waivers(_file(tmp_path, text), CHECKS)
    assert told in str(refused.value)
    assert "waivers.toml" in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Not waiving what was to be waived must not go unnoticed."""
    with pytest.raises(UsageError, match="cannot be read"):
        load_waivers(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="are no TOML"):
        load_waivers(tmp_path / "bad.toml")


def test_an_expected_divergence_is_waived_and_never_passed() -> None:
    """The check is neither passed nor diverged, the comparison keeps its failure and has the reason; exit 0."""
    waivers = _waivers(KOLEO)
    check = _checked(waivers, PASSES, DIVERGES)
    assert check.status == "waived"
    assert check.diverged == []
    (waived,) = check.waived
    assert (waived.passed, waived.waived) == (False, "on purpose")
    run = _run(waivers, check)
    assert run.exit_code == 0
    assert (run.waivers[0].matched, run.waivers[0].waived, run.waivers[0].problem) == (2, 1, "")


def test_what_is_not_expected_still_diverges() -> None:
    """One waived and one other divergence: exit 1, and only the other is a divergence."""
    waivers = _waivers(KOLEO)
    check = _checked(waivers, DIVERGES, replace(FAR, name="other/loss"))
    assert check.status == "diverged"
    assert [c.name for c in check.diverged] == ["other/loss"]
    assert _run(waivers, check).exit_code == 1


def test_a_waiver_that_is_no_longer_needed_fails() -> None:
    """All that it matches pass again."""
    waivers = _waivers(KOLEO)
    run = _run(waivers, _checked(waivers, PASSES))
    assert run.waivers[0].problem == "no longer needed"
    assert run.exit_code == 1


def test_a_waiver_that_matches_nothing_is_a_mistake() -> None:
    """The check was run and has no such comparison: exit 2, unless something diverged."""
    waivers = _waivers(replace(KOLEO, name="keleo/*"))
    run = _run(waivers, _checked(waivers, PASSES))
    assert run.waivers[0].problem == "matches nothing"
    assert run.exit_code == 2
    waivers = _waivers(replace(KOLEO, name="keleo/*"))
    assert _run(waivers, _checked(waivers, DIVERGES)).exit_code == 1


def test_an_expired_waiver_fails_and_waives_nothing() -> None:
    """Its last day still holds."""
    last = replace(KOLEO, expires=TODAY)
    waivers = _waivers(last)
    assert _run(waivers, _checked(waivers, DIVERGES)).exit_code == 0
    waivers = _waivers(replace(last, expires=TODAY - datetime.timedelta(days=1)))
    check = _checked(waivers, DIVERGES)
    assert check.status == "diverged"
    run = _run(waivers, check)
    assert (run.waivers[0].problem, run.exit_code) == ("expired", 1)


def test_an_expired_waiver_fails_where_all_pass() -> None:
    """It is to be deleted or renewed either way."""
    waivers = _waivers(replace(KOLEO, expires=TODAY - datetime.timedelta(days=1)))
    assert _run(waivers, _checked(waivers, PASSES)).exit_code == 1


@pytest.mark.parametrize("checks", [(), ("masks.bitwise",)])
def test_a_check_that_was_not_run_judges_no_waiver(checks: tuple[str, ...]) -> None:
    """`--only` other families says nothing about it: neither needed nor not."""
    waivers = _waivers(KOLEO)
    others = [_checked(waivers, EQUAL, check_id=check) for check in checks]
    assert [outcome.problem for outcome in waivers.outcomes(others)] == [""]


def test_a_check_that_raised_is_an_error_whatever_is_waived() -> None:
    """What was waived before it ended does not make the rest of it unimportant; nor is the waiver judged."""
    waivers = _waivers(KOLEO)
    check = _checked(waivers, DIVERGES, ends="boom")
    assert check.status == "error"
    assert _run(waivers, check).exit_code == 2
    waivers = _waivers(KOLEO)
    check = _checked(waivers, PASSES, ends="boom")
    assert waivers.outcomes([check])[0].problem == ""


def test_a_recipe_in_brackets_is_that_recipe_alone() -> None:
    """Without brackets, every recipe."""
    one = Waiver("gradients.step[default]", "*", "r")
    assert one.about("gradients.step[default]")
    assert not one.about("gradients.step[vitl14]")
    assert Waiver("gradients.step", "*", "r").about("gradients.step[vitl14]")


def test_the_first_of_two_waivers_gives_the_reason() -> None:
    """Both are needed as long as what they match diverges."""
    waivers = _waivers(KOLEO, replace(KOLEO, name="*", reason="everything"))
    check = _checked(waivers, DIVERGES)
    assert [c.waived for c in check.waived] == ["on purpose"]
    assert [o.problem for o in waivers.outcomes([check])] == ["", ""]


def test_an_expired_waiver_does_not_hide_the_next() -> None:
    """A broader one that holds still waives."""
    old = replace(KOLEO, expires=TODAY - datetime.timedelta(days=1))
    check = _checked(_waivers(old, replace(KOLEO, reason="renewed")), DIVERGES)
    assert [c.waived for c in check.waived] == ["renewed"]
