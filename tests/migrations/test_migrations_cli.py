"""The command line from outside: exit codes, streams, files, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import fake, fake_with

from migrations.cli import COMMANDS, Rules, main
from migrations.engine.model import Finding, Level, Migration
from migrations.engine.project import Project

ROOT = Path(__file__).parents[2]
RULES = (fake("0001", Level.UNSAFE), fake("0006"))


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """A small fork outside of git."""
    (tmp_path / "fork").mkdir()
    (tmp_path / "fork" / "a.py").write_text("old6()\nold1()\n", encoding="utf-8")
    return tmp_path / "fork"


def run(*arguments: object, migrations: Sequence[Migration] = RULES, advisories: Sequence[Migration] = ()) -> int:
    """Call the command line with fake migrations."""
    return main([str(argument) for argument in arguments], Rules(migrations, advisories))


def process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m migrations` as a process of its own."""
    command = [sys.executable, "-m", "migrations", *arguments]
    settings = {"capture_output": True, "cwd": ROOT, **options}
    return subprocess.run(command, text=True, check=False, **settings)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("text", "code"), [("new6()\nnew1()\n", 0), ("old6()\nnew1()\n", 1), ("x = 1\n", 1)], ids=["0", "1", "unknown"]
)
@pytest.mark.parametrize("form", ["text", "json", "sarif"])
@pytest.mark.parametrize("command", ["status", "plan", "apply"])
def test_the_exit_code_is_the_same_for_every_format(
    fork: Path, capsys: pytest.CaptureFixture[str], command: str, form: str, text: str, code: int
) -> None:
    """0 aligned, 1 work remains; a dry run changes nothing."""
    (fork / "a.py").write_text(text, encoding="utf-8")
    assert run(command, fork, "--format", form) == code
    assert (fork / "a.py").read_text(encoding="utf-8") == text
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given; expected one of status, plan, apply"),
        (["stats"], "unknown command 'stats', expected one of"),
        (["status"], "the following arguments are required: PATH; see `python -m migrations status --help`"),
        (["status", "nowhere"], "nowhere: there is no such file or folder; give the folder"),
        (["status", ".", "--jsn"], "unknown argument '--jsn'"),
        (["plan", ".", "--unsave"], "unknown argument '--unsave'; did you mean '--unsafe'?"),
        (["status", ".", "--format", "xml"], "invalid choice: 'xml'"),
        (["apply", ".", "--only", "12"], "unknown migration '0012', expected one of 0001, 0006"),
        (["apply", ".", "--only", ","], "--only names no migration"),
        (["explain", "0012"], "unknown migration '0012', expected one of 0001, 0006"),
        (["status", ".", "--output", ""], "the name of the file is empty"),
        (["plan", ".", "--output", "x", "--patch", "x"], "two outputs name the same file, x"),
        (["status", ".", "--output", "no/such/file"], "no/such does not exist; create it first"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_two(
    fork: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """Value, expectation and next step, on stderr, without a traceback."""
    monkeypatch.chdir(fork)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_apply_writes_only_when_told(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dry by default; --write refuses outside of git; --allow-dirty says that there is another copy."""
    before = (fork / "a.py").read_text(encoding="utf-8")
    assert run("apply", fork) == 1
    assert f"next: python -m migrations apply {fork} --write" in capsys.readouterr().out
    assert run("apply", fork, "--write") == 2
    captured = capsys.readouterr()
    assert "is in no git repository" in captured.err
    assert captured.out == ""
    assert (fork / "a.py").read_text(encoding="utf-8") == before
    assert run("apply", fork, "--write", "--allow-dirty") == 1
    assert (fork / "a.py").read_text(encoding="utf-8") == "new6()\nold1()\n"
    assert run("apply", fork, "--write", "--allow-dirty", "--unsafe") == 0
    assert (fork / "a.py").read_text(encoding="utf-8") == "new6()\nnew1()\n"
    assert run("apply", fork, "--write", "--allow-dirty", "--unsafe") == 0
    assert run("status", fork) == 0


@pytest.mark.parametrize("ids", [["1"], ["0001"], ["6,0001"]])
def test_only(fork: Path, ids: list[str]) -> None:
    """Ids with or without zeros, separated by blanks or commas."""
    run("apply", fork, "--write", "--allow-dirty", "--unsafe", "--only", *ids)
    expected = "new6()\nnew1()\n" if "6" in ids[0] else "old6()\nnew1()\n"
    assert (fork / "a.py").read_text(encoding="utf-8") == expected


def test_outputs_go_to_files(fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing on stdout, no colours, whole lines; the patch is what `git apply` takes."""
    assert run("plan", fork, "--output", tmp_path / "plan.txt", "--patch", tmp_path / "p.patch") == 1
    assert capsys.readouterr().out == ""
    assert "\x1b" not in (tmp_path / "plan.txt").read_text(encoding="utf-8")
    subprocess.run(["git", "apply", str(tmp_path / "p.patch")], cwd=fork, check=True)  # noqa: S607 - the user's git
    assert (fork / "a.py").read_text(encoding="utf-8") == "new6()\nold1()\n"


def test_a_failed_rule_writes_nothing(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its error is named; the others can still be applied with --only."""

    def broken(project: Project) -> list[Finding]:
        raise KeyError("x")

    rules = [fake("0006"), fake_with("0003", broken)]
    assert run("apply", fork, "--write", "--allow-dirty", migrations=rules) == 2
    assert "the rule of 0003 failed (KeyError: 'x'), please report it; nothing was written" in capsys.readouterr().err
    assert (fork / "a.py").read_text(encoding="utf-8") == "old6()\nold1()\n"
    assert run("status", fork, migrations=rules) == 2
    assert "its rule failed: KeyError: 'x'" in capsys.readouterr().out
    run("apply", fork, "--write", "--allow-dirty", "--only", "6", migrations=rules)
    assert (fork / "a.py").read_text(encoding="utf-8") == "new6()\nold1()\n"


def test_advisories_are_asked_for(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are printed in a part of their own and change no exit code."""
    (fork / "a.py").write_text("new6()\nold1()\n", encoding="utf-8")
    assert run("status", fork, migrations=[fake("0006")], advisories=[fake("0001")]) == 0
    assert "old1" not in capsys.readouterr().out
    assert run("status", fork, "--advisory", migrations=[fake("0006")], advisories=[fake("0001")]) == 0
    assert "advisory, changes no exit code:" in capsys.readouterr().out


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """`6` and `0006` are the same; without an id there is a list."""
    assert run("explain", "6") == 0
    first = capsys.readouterr().out
    assert run("explain", "0006") == 0
    assert capsys.readouterr().out == first
    assert run("explain") == 0
    assert capsys.readouterr().out.startswith("0001  Renaming 1\n0006  Renaming 6\n")


def test_an_error_of_ours_is_two(
    fork: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug looks neither like alignment nor like work that remains."""

    def bug(*_: object) -> int:
        raise RuntimeError("bug")

    monkeypatch.setattr(COMMANDS["status"], "run", bug)
    assert run("status", fork) == 2
    assert "migrations itself failed" in capsys.readouterr().err


def test_interrupted_is_130(fork: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no traceback."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["status"], "run", interrupted)
    assert run("status", fork) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"


def test_help_names_every_command() -> None:
    """And answers without importing LibCST or torch, which would take seconds."""
    done = process("--help")
    assert done.returncode == 0
    assert all(f"\n    {name}" in done.stdout for name in COMMANDS)
    code = "import sys\nfrom migrations.cli import main\nmain(['--help'])\nprint(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"libcst", "torch"} & set(loaded.stderr.split())


def test_a_closed_pipe_is_quiet(fork: Path) -> None:
    """`status | head -1` prints one line and nothing on stderr."""
    command = f"{sys.executable} -m migrations status {fork} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - any bash
    assert done.stderr == ""
    assert done.stdout == "1\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_plain_where_there_is_no_terminal(fork: Path, encoding: str) -> None:
    """No colours in a pipe, and a stream that knows only ASCII gets plain characters."""
    (fork / "é.py").write_text("x = 'é'\n", encoding="utf-8")
    done = process("status", str(fork), env={**os.environ, "PYTHONIOENCODING": encoding}, encoding=encoding)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
