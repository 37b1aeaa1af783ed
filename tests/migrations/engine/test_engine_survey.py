from __future__ import annotations

import time
from pathlib import Path

import libcst as cst
import pytest
from fakes import fake, fake_with

from migrations.engine.discovery import discover
from migrations.engine.model import Edit, Finding, Level, Site, State
from migrations.engine.project import Project
from migrations.engine.survey import Result, Survey, look, survey


def look_at(tmp_path: Path, text: str, *migrations: str) -> Survey:
    """Survey a project of one file."""
    (tmp_path / "a.py").write_text(text, encoding="utf-8")
    return survey(discover(str(tmp_path)), [fake(id_) for id_ in migrations])


def test_results_are_in_the_order_of_the_document(tmp_path: Path) -> None:
    """Whatever the order in which migrations are applied."""
    found = look_at(tmp_path, "old6()\nnew1()\n", "0006", "0003", "0001")
    assert [(r.migration.id, r.state) for r in found.results] == [
        ("0001", State.ALIGNED),
        ("0003", State.UNKNOWN),
        ("0006", State.DIVERGED),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("new6()\n", 0),
        ("old6()  # parity: ignore[0006] why\n", 0),
        ("old6()\n", 1),
        ("new6()\nold6()\n", 1),
        ("x = 1\n", 1),
    ],
    ids=["aligned", "suppressed", "diverged", "partial", "unknown"],
)
def test_exit_code(tmp_path: Path, text: str, code: int) -> None:
    """0 only where every migration is settled: what was not found is not aligned."""
    assert look_at(tmp_path, text, "0006").exit_code == code


def test_no_migration_is_no_alignment(tmp_path: Path) -> None:
    """With no rule installed nothing was looked for, and the job was not done."""
    assert look_at(tmp_path, "x = 1\n").exit_code == 2


def test_a_rule_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    """The others' results stand; the exit code says that the job was not done."""

    def broken(project: Project) -> list[Finding]:
        raise KeyError("x")

    (tmp_path / "a.py").write_text("new6()\n", encoding="utf-8")
    found = survey(discover(str(tmp_path)), [fake_with("0001", broken), fake("0006")])
    assert [(r.state, r.failure) for r in found.results] == [(State.UNKNOWN, "KeyError: 'x'"), (State.ALIGNED, "")]
    assert found.exit_code == 2


def test_only_what_a_prefilter_lets_through_is_parsed(tmp_path: Path) -> None:
    """A broken file that matters to nobody is not even noticed; one that matters is a line."""
    (tmp_path / "broken.py").write_text("x = (\n", encoding="utf-8")
    (tmp_path / "matters.py").write_text("y = 1\nold6(\n", encoding="utf-8")
    found = look_at(tmp_path, "new6()\n", "0006")
    assert (len(found.tree.project.files), found.parsed, found.skipped) == (3, 1, 1)
    assert [(remark.path, remark.text[:26]) for remark in found.remarks] == [
        ("matters.py", "skipped, cannot be parsed:")
    ]


def test_each_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven migrations share the trees, and so do suppressions."""
    parsed = []
    parse = cst.parse_module

    def counted(text: str) -> cst.Module:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(cst, "parse_module", counted)
    text = "".join(f"old{n}()  # parity: ignore[000{n}] why\n" for n in range(1, 8))
    assert look_at(tmp_path, text, *(f"000{n}" for n in range(1, 8))).exit_code == 0
    assert parsed == [text]


def test_a_thousand_files_without_a_match_cost_no_parsing(tmp_path: Path) -> None:
    """A prefilter decides over bytes: a thousand files of 20 kB are through in well under a minute."""
    for number in range(1000):
        (tmp_path / f"m{number}.py").write_text("value = compute(1, 2)\n" * 900, encoding="utf-8")
    (tmp_path / "m7.py").write_text("old6()\n", encoding="utf-8")
    began = time.process_time()
    found = survey(discover(str(tmp_path)), [fake("0006")])
    assert (len(found.tree.project.files), found.parsed) == (1000, 1)
    assert time.process_time() - began < 20


def test_advisories_never_edit_and_never_decide(tmp_path: Path) -> None:
    """Even a rule that offers edits is reported without them, and the exit code is the migrations' own."""
    (tmp_path / "a.py").write_text("new6()\nold1()\n", encoding="utf-8")
    found = survey(discover(str(tmp_path)), [fake("0006")], [fake("0001")])
    assert found.exit_code == 0
    (finding,) = found.advisory[0].findings
    assert (finding.state, finding.level, finding.edits) == (State.DIVERGED, Level.MANUAL, ())


def test_progress_names_what_is_done(tmp_path: Path) -> None:
    """Each migration, and each file that it is about to look into."""
    told: list[tuple[str, int, int]] = []
    (tmp_path / "a.py").write_text("old6()\n", encoding="utf-8")
    survey(discover(str(tmp_path)), [fake("0006")], advance=lambda *step: told.append(step))
    assert told == [("0006 Renaming 6", 0, 1), ("0006 a.py", 0, 1)]


def test_the_worst_finding_stands_for_a_migration() -> None:
    """Aligned sites and what was not found step back behind a site that needs attention."""
    findings = [
        Finding("0006", State.UNKNOWN, "nothing"),
        Finding("0006", State.ALIGNED, "fine", Site("a.py", 1)),
        Finding("0006", State.DIVERGED, "wrong", Site("a.py", 9)),
        Finding("0006", State.DIVERGED, "first", Site("a.py", 2), Level.SAFE, (Edit("a.py", 0, 0, ""),)),
    ]
    result = look(fake_with("0006", lambda project: findings), Project.of_texts({}))
    assert result.main is not None
    assert result.main.evidence == "first"
    assert [finding.evidence for finding in result.open] == ["first", "wrong"]
    assert [finding.evidence for finding in result.offers(Level.SAFE)] == ["first"]
    assert result.offers(Level.UNSAFE) == ()


def test_a_settled_migration_offers_nothing() -> None:
    """Its aligned site stands for it."""
    result = Result(
        fake("0006"),
        (Finding("0006", State.ALIGNED, "fine", Site("a.py", 1)), Finding("0006", State.UNKNOWN, "nothing")),
    )
    assert result.open == ()
    assert result.main is not None
    assert result.main.evidence == "fine"
