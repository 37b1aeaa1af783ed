from __future__ import annotations

import argparse
import json
from types import SimpleNamespace
from typing import Any

import pytest
from verify_forks import migration_of

from migrations.commands import verify as command
from migrations.engine import verify as engine
from migrations.engine.verify import Outcome, Row, Verification, judge

PASSED, NOT_RUN, ERROR = Outcome("passed", 5), Outcome("not_run"), Outcome("error", reason="it raised")


def diverged(*causes: str) -> Outcome:
    """A divergence with the causes that parity names."""
    return Outcome("diverged", 5, 2, causes)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (diverged("0005"), PASSED, "mended"),
        (PASSED, PASSED, "passes"),
        (NOT_RUN, PASSED, "passes"),
        (diverged("0005"), diverged("0005"), "still diverges"),
        (diverged("0005"), diverged(), "still diverges"),
        (diverged("0005"), diverged("Q9"), "still diverges"),
        (diverged("0005", "0003"), diverged("0003"), "diverges for another reason"),
        (diverged("0005"), diverged("0003", "0005"), "still diverges"),
        (NOT_RUN, diverged("0005"), "still diverges"),
        (PASSED, diverged("0003"), "got worse"),
        (PASSED, NOT_RUN, "got worse"),
        (NOT_RUN, NOT_RUN, "not run"),
        (diverged("0005"), NOT_RUN, "not run"),
        (PASSED, ERROR, "error"),
        (ERROR, PASSED, "passes"),
    ],
)
def test_verdicts(before: Outcome, after: Outcome, verdict: str) -> None:
    """Each pair of outcomes has the verdict that a person would give it; not run is never passed."""
    assert judge("0005", before, after) == verdict


@pytest.mark.parametrize(
    ("afters", "code"),
    [
        ([PASSED], 0),
        ([PASSED, NOT_RUN], 0),
        ([NOT_RUN], 2),
        ([], 2),
        ([PASSED, ERROR], 2),
        ([PASSED, diverged("0005")], 1),
        ([PASSED, diverged("0003")], 1),
        ([ERROR, diverged("0005")], 1),
    ],
)
def test_exit_codes(afters: list[Outcome], code: int) -> None:
    """0 only if everything that ran passes and something ran; 1 where a difference remains; 2 without a verdict."""
    rows = tuple(Row("0005", "t", f"losses.{i}", diverged("0005"), after) for i, after in enumerate(afters))
    assert Verification(rows, "HEAD", "fork", "official").exit_code == code


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """The command's own parser."""
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    return parser


def test_the_table_and_its_json(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text shows migration, check, both outcomes and the verdict; JSON has the same; options reach parity."""
    rows = (
        Row("0005", "a difference", "losses.ibot", diverged("0005"), PASSED),
        Row("0005", "a difference", "losses.koleo", NOT_RUN, Outcome("not_run", reason="koleo_loss: not offered")),
    )
    asked: dict[str, Any] = {}

    def fake(path: object, adapter: object, migrations: list[object], **more: object) -> Verification:
        asked.update(more, migrations=migrations)
        return Verification(rows, "git HEAD", "fork", "official code")

    monkeypatch.setattr(engine, "verify", fake)
    rules = SimpleNamespace(migrations=[migration_of("0005", "losses.ibot"), migration_of("0006", "schedules")])
    words = ["verify", "fork", "--adapter", "a.py", "--only", "5", "--quick", "--recipe", "vitl14", "--at", "HEAD~2"]
    assert command.run(parser.parse_args(words), rules) == 0
    text = capsys.readouterr().out
    assert "2 of 5 diverge (0005)" in text
    assert "mended" in text
    assert "losses.koleo (after): koleo_loss: not offered" in text
    assert "VERIFY: 2 checks: 1 mended, 1 not run · exit 0" in text
    assert asked["options"] == ["--recipe", "vitl14", "--quick"]
    assert asked["revision"] == "HEAD~2"
    assert [one.id for one in asked["migrations"]] == ["0005"]
    assert command.run(parser.parse_args([*words, "--format", "json"]), rules) == 0
    document = json.loads(capsys.readouterr().out)
    assert [check["verdict"] for check in document["checks"]] == ["mended", "not run"]
    assert document["exit_code"] == 0


def test_an_unknown_migration_is_named(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    """--only with an id that does not exist: exit code 2 and the ids that do."""
    rules = SimpleNamespace(migrations=[migration_of("0005", "losses.ibot")])
    arguments = parser.parse_args(["verify", "fork", "--adapter", "a.py", "--only", "9"])
    assert command.run(arguments, rules) == 2
    assert "no migration '0009', expected some of 0005" in capsys.readouterr().err
