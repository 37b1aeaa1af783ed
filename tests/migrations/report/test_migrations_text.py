"""The first screen, the plan and the explanation, as text."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from fakes import fake, fake_with
from rich.console import Console

from migrations.engine.discovery import discover
from migrations.engine.model import Finding, Level, Migration, Site, State
from migrations.engine.planning import plan
from migrations.engine.project import Project
from migrations.engine.survey import Result, look, survey
from migrations.report.explain_text import contents, explanation
from migrations.report.plan_text import plan_text
from migrations.report.status_text import status_text
from migrations.report.words import headline, next_steps


def console(width: int = 1000, *, colour: bool = False) -> Console:
    """A console that collects text."""
    return Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip


def screen(tmp_path: Path, text: str, *migrations: Migration, width: int = 1000) -> list[str]:
    """The lines that `status` prints for a project of one file, its path and the time taken out."""
    (tmp_path / "trainer.py").write_text(text, encoding="utf-8")
    found = survey(discover(str(tmp_path)), migrations)
    return status_text(found, console(width)).replace(str(tmp_path), "fork").splitlines()


def results(text: str, *migrations: Migration) -> list[Result]:
    """What migrations find in a text."""
    project = Project.of_texts({"a.py": text})
    return [look(one, project) for one in migrations]


def test_the_first_screen(tmp_path: Path) -> None:
    """State, rewrite, place and evidence of each difference; what a person does; the commands to type next."""
    lines = screen(
        tmp_path,
        "old6()\nold3()\nnew1()\n",
        fake("0001"),
        fake("0002"),
        fake("0003", Level.UNSAFE, person="choose the ratios"),
        fake("0006"),
    )
    assert lines[:13] == [
        "fork: 3 of 4 documented differences to official DINOv2 need attention (2 diverged, 1 unknown)",
        "",
        "id    state     rewrite   where         what was found",
        "0001  aligned             trainer.py:3  Renaming 1: new1 is called",
        "0002  unknown             -             Renaming 2: no call of old2 or new2 was found",
        "0003  diverged  --unsafe  trainer.py:2  Renaming 3: old3 is called, official calls new3",
        "0006  diverged  safe      trainer.py:1  Renaming 6: old6 is called, official calls new6",
        "",
        "left to you:",
        "  0003  trainer.py:2: choose the ratios",
        "",
        "next: python -m migrations plan fork",
        "      shows 1 change proven right from the source, writes nothing",
    ]
    assert lines[13:16] == [
        "then: python -m migrations apply fork --write",
        "      carries them out",
        "why:  python -m migrations explain 0002",
    ]
    assert lines[-1].startswith("1 file looked at, 1 of them parsed, 0 skipped, ")


def test_a_settled_project_is_sent_to_parity(tmp_path: Path) -> None:
    """What the source shows, numbers prove."""
    lines = screen(tmp_path, "new6()\n", fake("0006"))
    assert lines[0] == "fork: all 1 documented differences are settled"
    assert "next: python -m parity run --subject ADAPTER.py" in lines


def test_evidence_wraps_in_its_column(tmp_path: Path) -> None:
    """On a narrow terminal the table stays a table."""
    lines = screen(tmp_path, "old6()\n", fake("0006"), width=70)
    header, row = (next(n for n, line in enumerate(lines) if line.startswith(start)) for start in ("id ", "0006"))
    assert lines[row + 1].startswith(" " * lines[header].index("what was found") + "official")
    assert max(map(len, lines[header : row + 2])) <= 70


def test_many_sites_are_counted(tmp_path: Path) -> None:
    """Five are listed, the rest is a number."""
    lines = screen(tmp_path, "old6()\n" * 9, fake("0006"))
    assert sum("old6 is called" in line for line in lines) == 5
    assert any(line.strip() == "and 4 more; --format json lists all" for line in lines)


def test_names_from_files_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters in evidence are shown as escapes."""
    finding = Finding("0006", State.DIVERGED, "a\x1b[31mb\nc", Site("trainer.py", 1))
    lines = screen(tmp_path, "x\n", fake_with("0006", lambda project: [finding]))
    assert any("a\\x1b[31mb c" in line for line in lines)


def test_colour_only_repeats_what_words_say(tmp_path: Path) -> None:
    """The text without its colours is the same."""
    (tmp_path / "a.py").write_text("old6()\n", encoding="utf-8")
    found = survey(discover(str(tmp_path)), [fake("0006")])
    coloured = status_text(found, console(200, colour=True))
    assert "\x1b[1;31mdiverged" in coloured
    plain = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()]
    assert plain == [line.split() for line in status_text(found, console(200)).splitlines()]


@pytest.mark.parametrize(
    ("text", "migrations", "command"),
    [
        ("old6()\n", [fake("0006")], "python -m migrations plan 'my fork'"),
        ("old6()\n", [fake("0006", Level.UNSAFE)], "python -m migrations plan 'my fork' --unsafe"),
        ("old6()\n", [fake("0006", Level.SKELETON)], "python -m migrations plan 'my fork' --unsafe --skeleton"),
        ("old6()\n", [fake("0006", Level.MANUAL)], "python -m migrations explain 0006"),
        ("x\n", [fake("0003"), fake("0006")], "python -m migrations explain 0006"),
        (
            "old6()\nold3()\n",
            [fake("0003", depends_on=["0006"]), fake("0006", Level.UNSAFE)],
            "python -m migrations plan 'my fork' --unsafe",
        ),
        (
            "old6()\nold3()\n",
            [fake("0003", depends_on=["0006"]), fake("0006", Level.MANUAL)],
            "python -m migrations explain 0006",
        ),
        ("new6()\n", [fake("0006")], "python -m parity run --subject ADAPTER.py"),
        ("x\n", [], ""),
    ],
    ids=["safe", "unsafe", "skeleton", "manual", "not found", "after another", "blocked", "settled", "no rules"],
)
def test_the_next_command_is_one_that_gets_further(text: str, migrations: list[Migration], command: str) -> None:
    """The least daring option that changes something, in the order of application; else what to read."""
    assert next_steps(results(text, *migrations), "my fork")[0].command == command


def test_the_headline_counts_states() -> None:
    """Settled ones are not listed."""
    found = results("old6()\nnew3()\n", fake("0006"), fake("0003"), fake("0001"))
    assert headline(found) == (
        "2 of 3 documented differences to official DINOv2 need attention (1 diverged, 1 unknown)"
    )


def test_plan_shows_a_diff_for_each_migration() -> None:
    """In the order of application, each against what the one before left; the rest with its reason."""
    project = Project.of_texts({"a.py": "old3()\nold6()\nold1()\n"})
    rules = [fake("0001", Level.UNSAFE, person="fill the losses"), fake("0003"), fake("0006"), fake("0007")]
    text = plan_text(plan(project, rules, (Level.SAFE,)), console(), "APPLY")
    assert text.splitlines() == [
        "0006  diverged → aligned: Renaming 6",
        "  safe: a.py:2 old6 is called, official calls new6",
        *("--- a/a.py", "+++ b/a.py", "@@ -1,3 +1,3 @@", " old3()", "-old6()", "+new6()", " old1()"),
        "",
        "0003  diverged → aligned: Renaming 3",
        "  safe: a.py:1 old3 is called, official calls new3",
        *("--- a/a.py", "+++ b/a.py", "@@ -1,3 +1,3 @@", "-old3()", "+new3()", " new6()", " old1()"),
        "",
        "0001  diverged: Renaming 1",
        "  not taken, needs --unsafe: a.py:3 old1 is called, official calls new1",
        "    fill the losses",
        "",
        "0007  unknown: Renaming 7",
        "  not taken, nothing was found to change: no call of old7 or new7 was found",
        "",
        "2 changes in 1 file; nothing was written. After them: 2 of 4 documented differences to official DINOv2 "
        "need attention (1 diverged, 1 unknown)",
        "next: APPLY",
    ]


def test_a_written_plan_has_no_diff() -> None:
    """What was done is in git; the files are named."""
    made = plan(Project.of_texts({"a.py": "old6()\n"}), [fake("0006")], (Level.SAFE,))
    assert plan_text(made, console(), "APPLY", ["a.py"]).splitlines() == [
        "0006  diverged → aligned: Renaming 6",
        "  safe: a.py:1 old6 is called, official calls new6",
        "",
        "written: 1 change in 1 file",
        "  a.py",
        "all 1 documented differences are settled",
    ]


def test_nothing_to_change_is_said() -> None:
    """An aligned project's plan is a line for each migration."""
    made = plan(Project.of_texts({"a.py": "new6()\n"}), [fake("0006")], (Level.SAFE,))
    assert plan_text(made, console(), "APPLY").splitlines() == [
        "0006  aligned: Renaming 6",
        "no change at the levels allowed; nothing was written",
    ]


def test_an_explanation_has_everything() -> None:
    """Official's lines, why, algebra, before and after, what stays, checks, dependencies, and how to keep one's way."""
    text = explanation(fake("0003", depends_on=["0006"]))
    for part in (
        "# 0003: Renaming 3",
        "Official: `dinov2/train/train.py:1-2` at b8931f7",
        "Why 3 matters.",
        "old3 != new3",
        "```python\nold3()\n```",
        "```python\nnew3()\n```",
        "What 3 leaves to you.",
        "`losses.koleo`",
        "Applied after: 0006.",
        "# parity: ignore[0003] why this is meant to differ",
        "`ignore-project[0003]`",
    ):
        assert part in text


def test_contents_list_ids_and_order() -> None:
    """The document's order for reading, the order of application beside it."""
    text = contents([fake("0006"), fake("0001"), fake("0003")], [fake_with("A01", lambda project: [])])
    assert text.splitlines()[:4] == [
        "0001  Renaming 1",
        "0003  Renaming 3",
        "0006  Renaming 6",
        "A01  Renaming A01 (advisory)",
    ]
    assert "applied in this order: 0006, 0003, 0001" in text


def test_advisories_that_found_something_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    """Below the seven, with the same columns; what found nothing takes one line for all."""
    (tmp_path / "trainer.py").write_text("new6()\nold1()\n", encoding="utf-8")
    silent = [fake_with(id_, lambda project: []) for id_ in ("A02", "A03")]
    found = survey(discover(str(tmp_path)), [fake("0006")], [fake("0001"), *silent])
    lines = status_text(found, console()).splitlines()
    start = lines.index("advisory, changes no exit code:")
    assert lines[start + 1 : start + 4] == [
        "id    state     rewrite  where         what was found",
        "0001  diverged  by hand  trainer.py:2  Renaming 1: old1 is called, official calls new1",
        "2 advisory rules looked and found nothing",
    ]
