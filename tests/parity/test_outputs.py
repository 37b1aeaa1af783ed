from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from fabricated_reports import everything
from fabricated_results import diverged, passing
from html_reader import read

from parity.cli import main
from parity.errors import OutputError, ReferenceSourceError, UsageError
from parity.outputs import RUN_OUTPUTS, Render, require_possible, run_renderers, write_outputs
from parity.results import RunResult

ROOT = Path(__file__).parents[2]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunResult], None]:
    """Let `python -m parity run` have a result that was made by hand."""

    def set_result(result: RunResult) -> None:
        module: Any = ModuleType("parity.run")
        module.Options, module.run = SimpleNamespace, lambda *_: result
        monkeypatch.setitem(sys.modules, "parity.run", module)

    return set_result


def _lines(code: int) -> str:
    return f"exit {code}\n"


def _broken(_: int) -> str:
    raise ZeroDivisionError("a bug")


def test_every_format_is_written_and_reads_as_what_it_is(give: Callable[[RunResult], None], tmp_path: Path) -> None:
    """One run, four files, each with the run's exit code."""
    give(everything())
    paths = {name: tmp_path / f"r.{name}" for name in RUN_OUTPUTS}
    assert main(["run", *(word for name, path in paths.items() for word in (f"--{name}", str(path)))]) == 1
    text = {name: path.read_text("utf-8") for name, path in paths.items()}
    assert json.loads(text["json"])["exit_code"] == 1
    assert text["markdown"].splitlines()[0].endswith("exit 1")
    root = ET.fromstring(text["junit"])  # noqa: S314 -- our own document
    assert {p.get("value") for p in root.iter("property") if p.get("name") == "exit_code"} == {"1"}
    assert read(text["html"]).one("h1").attributes["data-exit-code"] == "1"
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())


def test_there_is_a_renderer_for_every_format() -> None:
    """An option without a renderer would fail after the run."""
    assert set(run_renderers(passing())) == set(RUN_OUTPUTS) == {"json", "markdown", "junit", "html"}


def test_nox_writes_every_format() -> None:
    """`nox -s parity` names a file for each, which git ignores and CI keeps."""
    named = re.findall(r'"--(\w+)": "(parity-report\.\w+)"', (ROOT / "noxfile.py").read_text("utf-8"))
    assert [name for name, _ in named] == list(RUN_OUTPUTS)
    assert len({file for _, file in named}) == len(named)
    assert "/parity-report*" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "parity-report.*" in (ROOT / ".github/workflows/parity.yml").read_text("utf-8")


@pytest.mark.parametrize("first", RUN_OUTPUTS)
@pytest.mark.parametrize("second", RUN_OUTPUTS)
def test_no_two_outputs_share_a_file(first: str, second: str, tmp_path: Path) -> None:
    """Whichever formats they are and however the path is spelled, the message names both options."""
    (tmp_path / "sub").mkdir()
    if first == second:
        require_possible({first: tmp_path / "r"})
        return
    with pytest.raises(UsageError, match=rf"--{first} and --{second} name the same file, .*; give each its own"):
        require_possible({first: tmp_path / "r", second: tmp_path / "sub" / ".." / "r"})


def test_an_input_is_not_replaced(tmp_path: Path) -> None:
    """Not through a link, either."""
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"--json names a file that is read, .*link; give it another"):
        require_possible({"json": tmp_path / "link"}, [tmp_path / "a.json"])


@pytest.mark.parametrize("option", RUN_OUTPUTS)
@pytest.mark.parametrize("name", ["absent/r", ".", "/dev/full"])
def test_each_output_is_tried_before_the_run(
    option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing folder, a folder, a full device: refused, and nothing is run."""
    module: Any = ModuleType("parity.run")
    monkeypatch.setitem(sys.modules, "parity.run", module)  # has no Options: reaching it would raise
    assert main(["run", f"--{option}", str(tmp_path / name)]) == 2
    assert f"cannot write {tmp_path / name}: " in capsys.readouterr().err


def test_one_failure_turns_the_code_of_all_files(tmp_path: Path) -> None:
    """What was written before the failure and what comes after it tell the code that the process ends with."""
    paths = {name: tmp_path / name for name in ("a", "b", "c")}
    renderers: dict[str, Render] = {"a": _lines, "b": _broken, "c": _lines}
    failure = write_outputs(paths, renderers, 0)
    assert isinstance(failure, OutputError)
    assert (paths["a"].read_text(), paths["c"].read_text()) == ("exit 2\n", "exit 2\n")
    assert not paths["b"].exists()


def test_without_a_failure_the_code_stays(tmp_path: Path) -> None:
    """Each file is written once, with the given code."""
    told: list[int] = []

    def render(code: int) -> str:
        told.append(code)
        return _lines(code)

    assert write_outputs({"a": tmp_path / "a", "b": tmp_path / "b"}, {"a": render, "b": render}, 1) is None
    assert told == [1, 1]


def test_a_pipe_is_written_once(tmp_path: Path) -> None:
    """A reader of a pipe gets one report, not a second one behind it when another file fails."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_outputs({"a": tmp_path / "pipe", "b": tmp_path / "b"}, {"a": _lines, "b": _broken}, 0)
        assert os.read(reader, 100) == b"exit 0\n"
    finally:
        os.close(reader)


def test_an_error_of_a_renderer_loses_nothing(
    give: Callable[[RunResult], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug in one format costs the verdict (2), neither the other files nor the printed report, and no traceback."""
    give(diverged())
    monkeypatch.setattr("parity.report.as_html", lambda *_: _broken(0))
    assert main(["run", "--html", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith("exit 2")
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 2
    assert "making the html report raised ZeroDivisionError: a bug; this is an error of parity itself" in err
    assert "Traceback" not in err
    assert not (tmp_path / "r.html").exists()


def test_a_disk_that_fills_leaves_old_reports_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format is written atomically."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    paths = {name: tmp_path / name for name in RUN_OUTPUTS}
    for path in paths.values():
        path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in str(write_outputs(paths, run_renderers(passing()), 0))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"] * len(paths)


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        ([], None, False),
        ([], "true", True),
        ([], "false", False),
        ([], "", False),
        (["--github"], None, True),
        (["--no-github"], "true", False),
    ],
)
def test_annotations_are_for_github(
    give: Callable[[RunResult], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    variable: str | None,
    expected: bool,
) -> None:
    """By itself where GITHUB_ACTIONS is `true`, elsewhere with --github; on stderr, so that stdout stays the report."""
    give(diverged())
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    if variable is not None:
        monkeypatch.setenv("GITHUB_ACTIONS", variable)
    assert main(["run", *option]) == 1
    out, err = capsys.readouterr()
    assert ("::error " in err) == expected
    assert "::error" not in out
    assert out.splitlines()[0].startswith("reference: ")
    assert out.splitlines()[-1].startswith("DIVERGED: ")
    if expected:
        assert all(line.startswith("::error ") for line in err.splitlines())


def test_a_run_that_could_not_be_made_is_annotated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reference that cannot be reached leaves no result, and the workflow run says why it is red all the same."""

    def fail(*_: object) -> RunResult:
        raise ReferenceSourceError("neither GitHub\nnor PyPI: 100% gone")

    module: Any = ModuleType("parity.run")
    module.Options, module.run = SimpleNamespace, fail
    monkeypatch.setitem(sys.modules, "parity.run", module)
    assert main(["run", "--github"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "::error title=parity%3A no verdict::neither GitHub%0Anor PyPI: 100%25 gone",
        "error: neither GitHub nor PyPI: 100% gone",
    ]
    assert main(["run", "--no-github"]) == 2
    assert "::error" not in capsys.readouterr().err


def test_annotated_files_are_relative_to_the_workspace(
    give: Callable[[RunResult], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GitHub places an annotation by the path in the repository."""
    give(everything())
    monkeypatch.setenv("GITHUB_WORKSPACE", "/home/me/fork")
    assert main(["run", "--github"]) == 1
    assert "::error file=losses.py,line=12,title=parity%3A error in losses.koleo[default]::" in capsys.readouterr().err
