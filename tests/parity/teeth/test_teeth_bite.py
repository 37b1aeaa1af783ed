"""What is made of the catalogue: caught, named, let pass, and said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parity.adapters.official import OfficialStack
from parity.results import CheckResult, Comparison, Finding, ReferenceInfo
from parity.teeth import __main__ as teeth
from parity.teeth.bite import Bite, Quiet, bite, climb, first_told, let_pass, summary
from parity.teeth.catalogue import Fault, Ladder, Rewrite
from parity.teeth.edit import Edit, applied
from parity.teeth.faults import FAULTS
from parity.teeth.rewrites import LADDERS, REWRITES

INFO = ReferenceInfo("pypi", "pypi", "", "dinov2 0.0.1.dev2", "verified", 44, 44)
SAMPLE = (
    "mask-random",
    "counts-rounded",
    "batch-indices",
    "ibot-by-tokens",
    "koleo-norm-eps",
    "sinkhorn-four",
    "center-momentum",
    "schedule-wd-constant",
    "groups-wd-first",
    "norm-eps",
    "head-l1",
)
QUIET = ("dino-einsum", "head-lengths", "mask-sum")


@pytest.mark.parametrize("id_", SAMPLE)
def test_a_fault_is_caught_and_named(official_stack: OfficialStack, id_: str) -> None:
    """One of each family; `nox -s teeth` makes all of them."""
    (fault,) = (f for f in FAULTS if f.id == id_)
    found = bite(fault, official_stack, INFO)
    assert found.caught, found.told
    assert found.named, found.told


@pytest.mark.parametrize("id_", QUIET)
def test_a_rewrite_raises_no_alarm(official_stack: OfficialStack, id_: str) -> None:
    """Everything is compared and passes."""
    (rewrite,) = (r for r in REWRITES if r.id == id_)
    cheap = Rewrite(rewrite.id, "", rewrite.edits, tuple(c for c in rewrite.checks if "gradients" not in c))
    found = let_pass(cheap, official_stack, INFO)
    assert found.alarms == ()
    assert found.compared > 10


def test_an_edit_without_effect_is_not_caught(official_stack: OfficialStack) -> None:
    """A fault that is none counts as missed: the suite is not praised for what it cannot see."""
    nothing = Edit("port.losses.dino:DINOLoss.forward", "dim=-1).mean()", "dim=-1).mean() * 1.0")
    found = bite(Fault("nothing", "", (nothing,), ("losses.dino",), "losses"), official_stack, INFO)
    assert (found.caught, found.named) == (False, False)
    assert "losses.dino passed" in found.told


def test_a_fault_named_for_another_cause_is_not_named(official_stack: OfficialStack) -> None:
    """Caught is not named."""
    (fault,) = (f for f in FAULTS if f.id == "ibot-by-tokens")
    found = bite(Fault("x", "", fault.edits, fault.checks, "^0007"), official_stack, INFO)
    assert (found.caught, found.named) == (True, False)
    assert found.told.startswith("0005 ")


def test_a_rewrite_that_is_none_raises_alarms(official_stack: OfficialStack) -> None:
    """A fault in the list of rewrites is told with the comparisons that failed."""
    edit = Edit("port.losses.koleo:KoLeoLoss.forward", "-torch.log", "torch.log")
    found = let_pass(Rewrite("x", "", (edit,), ("losses.koleo",)), official_stack, INFO)
    assert any("losses.koleo: koleo/generic/loss (T1)" in alarm for alarm in found.alarms)


def test_a_rewrite_that_raises_is_an_alarm(official_stack: OfficialStack) -> None:
    """An error is not a pass."""
    edit = Edit("port.losses.koleo:KoLeoLoss.forward", "-torch.log", "-torch.no_such_log")
    (alarm,) = let_pass(Rewrite("x", "", (edit,), ("losses.koleo",)), official_stack, INFO).alarms
    assert "losses.koleo: error" in alarm
    assert "no_such_log" in alarm


def test_a_ladder_ends_where_rounding_begins(official_stack: OfficialStack) -> None:
    """A temperature off by 1e-12 is seen in double precision; one off by less than its half epsilon cannot be."""
    (ladder,) = (one for one in LADDERS if one.id == "temperature")
    assert 1e-16 < climb(ladder, official_stack, INFO) <= 1e-11


def test_a_ladder_that_is_never_caught_is_said_to_be(official_stack: OfficialStack) -> None:
    """Infinity, not the largest size."""

    def nothing(size: float) -> tuple[Edit, ...]:
        return (Edit("port.losses.dino:DINOLoss.forward", "dim=-1).mean()", "dim=-1).mean() * 1.0"),)

    assert climb(Ladder("x", "", nothing, "losses.dino"), official_stack, INFO) == float("inf")


def _result(**given: Any) -> CheckResult:
    return CheckResult("losses.dino", "losses", "L1", given.pop("status", "diverged"), "", **given)


def test_what_is_told_first_is_the_most_known_cause() -> None:
    """A numbered difference before an operation; without either the first comparison; else the reason."""
    failed = Comparison("dino/loss", "T1", False, False, note="off")
    causes = [Finding("operation", "at mul"), Finding("0005", "by tokens", official="x.py:1")]
    assert first_told(_result(comparisons=[failed], findings=causes)) == "0005 by tokens [x.py:1]"
    assert first_told(_result(comparisons=[failed])) == "losses.dino: dino/loss (off)"
    assert first_told(_result(status="error", reason="boom")) == "losses.dino error: boom"


def test_the_numbers_are_those_of_the_definition() -> None:
    """No alarm in 3,000 comparisons bounds the rate below 1 - 0.05 ** (1 / 3000), about 1e-3."""
    fault, rewrite = FAULTS[0], REWRITES[0]
    bites = [Bite(fault, True, True, "", ""), Bite(fault, True, False, "", ""), Bite(fault, False, False, "", "")]
    found = summary(bites, [Quiet(rewrite, 1000, ()), Quiet(rewrite, 2000, ())])
    assert (found["faults"], found["caught"], found["named"], found["false_alarms"]) == (3, 2, 1, 0)
    assert found["false_alarm_bound"] == pytest.approx(3.0 / 3000, rel=2e-3)
    assert summary(bites, [Quiet(rewrite, 10, ("x",))])["false_alarm_bound"] is None


def _stubbed(monkeypatch: pytest.MonkeyPatch, bites: dict[str, Bite], alarms: tuple[str, ...] = ()) -> None:
    @contextmanager
    def opened(_: object) -> Iterator[tuple[Any, None]]:
        yield SimpleNamespace(info=INFO), None

    monkeypatch.setattr("parity.run.opened", opened)
    caught = {f.id: Bite(f, True, True, "c", "t") for f in FAULTS}
    monkeypatch.setattr("parity.teeth.bite.bite", lambda fault, *_: {**caught, **bites}[fault.id])
    monkeypatch.setattr("parity.teeth.bite.let_pass", lambda rewrite, *_: Quiet(rewrite, 200, alarms))
    monkeypatch.setattr("parity.teeth.bite.climb", lambda *_: 1e-9)


def test_the_command_says_that_the_suite_has_teeth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit 0, the four numbers, and the same as JSON."""
    _stubbed(monkeypatch, {})
    assert teeth.main(["--json", str(tmp_path / "teeth.json")]) == 0
    out = capsys.readouterr().out
    assert f"faults caught            {len(FAULTS)} of {len(FAULTS)}" in out
    assert "the suite has teeth" in out
    written = json.loads((tmp_path / "teeth.json").read_text())
    assert written["sound"] is True
    assert len(written["faults"]) == len(FAULTS)
    assert written["detection_limits"] == {ladder.id: 1e-9 for ladder in LADDERS}


def test_one_fault_that_is_missed_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, and the fault by name with what the check said."""
    _stubbed(monkeypatch, {FAULTS[0].id: Bite(FAULTS[0], False, False, "c", "masks.bitwise passed: ")})
    assert teeth.main([]) == 1
    assert f"NOT CAUGHT  {FAULTS[0].id}" in capsys.readouterr().out


def test_a_false_alarm_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, and the comparison by name."""
    _stubbed(monkeypatch, {}, ("losses.dino: dino/loss (T1)",))
    assert teeth.main([]) == 1
    assert "FALSE ALARM  dino-logsumexp" in capsys.readouterr().out


def test_too_few_named_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At least nine of ten caught faults must be told by their cause."""
    many = {f.id: Bite(f, True, False, "c", "t") for f in FAULTS[: len(FAULTS) // 9]}
    _stubbed(monkeypatch, many)
    assert teeth.main([]) == 1
    assert "THE SUITE LACKS TEETH" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "no-such"], "no fault or rewrite is called no-such; --list shows their ids"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder"),
    ],
)
def test_bad_input_ends_with_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the value; nothing is run."""
    assert teeth.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_list_shows_every_id(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made, so that it answers at once."""
    assert teeth.main(["--list", "--only", "koleo-*"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == [id_ for id_ in [*(f.id for f in FAULTS), *(r.id for r in REWRITES)] if id_.startswith("koleo-")]


def test_edits_never_outlive_a_fault(official_stack: OfficialStack) -> None:
    """What one fault changed, the next does not see."""
    from port.losses import KoLeoLoss

    before = KoLeoLoss.forward
    (fault,) = (f for f in FAULTS if f.id == "koleo-sum")
    with applied(*fault.edits):
        assert KoLeoLoss.forward is not before
    assert KoLeoLoss.forward is before
