from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import survey
from bench.survey import Surveyed, main, markdown, unpacked

REPORT: dict[str, Any] = {
    "migrations": [
        {"id": "0001", "state": "aligned", "failure": ""},
        {"id": "0002", "state": "unknown", "failure": ""},
        {"id": "0003", "state": "aligned", "failure": ""},
        {"id": "0006", "state": "diverged", "failure": ""},
    ],
    "files": {"looked_at": 1234, "parsed": 56},
    "seconds": 7.891,
}


def test_the_table_names_each_migration_under_its_state() -> None:
    """A row for a package, thousands with a comma, a tenth of a second."""
    lines = markdown([Surveyed.of("pkg==1", REPORT)]).splitlines()
    assert (
        lines[0] == "| package | files | parsed | aligned | diverged | partial | unknown | not-applicable | seconds |"
    )
    assert lines[2] == "| pkg==1 | 1,234 | 56 | 0001 0003 | 0006 |  | 0002 |  | 7.9 |"


def test_a_folder_is_read_by_the_command_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DINO v1's loop has one decayed group, so nothing is wrong with it; numbers come from the real report."""
    loop = (
        "groups = [{'params': decayed}, {'params': others, 'weight_decay': 0.0}]\n"
        "optimizer = torch.optim.AdamW(groups)\n"
        "for i, group in enumerate(optimizer.param_groups):\n"
        "    group['lr'] = lr_schedule[it]\n"
        "    if i == 0:\n"
        "        group['weight_decay'] = wd_schedule[it]\n"
    )
    source = tmp_path / "v1"
    source.mkdir()
    (source / "main_dino.py").write_text(loop, "utf-8")
    assert main([str(source), "--json", str(tmp_path / "out.json")]) == 0
    (numbers,) = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert numbers["files"] == 1
    assert "0006" in numbers["states"]["aligned"]
    assert "| 0006" in capsys.readouterr().out


def test_a_wheel_is_unpacked_and_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip only downloads, without dependencies and without building."""
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        with zipfile.ZipFile(tmp_path / "pkg-1-py3-none-any.whl", "w") as archive:
            archive.writestr("pkg/a.py", "x = 1\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    source = unpacked("pkg==1", tmp_path)
    assert (source / "pkg" / "a.py").read_text("utf-8") == "x = 1\n"
    assert {"download", "--no-deps", "--only-binary", "pkg==1"} <= set(asked[0])


def test_a_package_that_pip_does_not_find_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, pip's own words, no table."""

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found for nosuch")

    monkeypatch.setattr(subprocess, "run", pip)
    assert main(["nosuch"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip download nosuch failed (exit 1)" in " ".join(err.split())
    assert "No matching distribution" in " ".join(err.split())


def test_a_rule_that_raises_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The table is printed all the same, and the rule is named."""
    broken = {**REPORT, "migrations": [{"id": "0004", "state": "unknown", "failure": "KeyError: 'x'"}]}
    monkeypatch.setattr(survey, "survey", lambda names, console: [Surveyed.of("pkg", broken)])
    assert main(["pkg"]) == 2
    out, err = capsys.readouterr()
    assert "| pkg |" in out
    assert "a rule raised, of pkg: 0004" in err


def test_a_status_that_cannot_do_the_job_is_an_error(tmp_path: Path) -> None:
    """A folder without Python files: the command's own line is passed on."""
    with pytest.raises(RuntimeError, match=r"ended with 2, expected 0 or 1: .*Python"):
        list(survey.survey([str(tmp_path)], Console(quiet=True)))
