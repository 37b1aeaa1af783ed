from __future__ import annotations

import ast
from pathlib import Path

import pytest
from draft_forks import SINGLE

from parity.cli import main
from parity.own_randomness import own_randomness
from parity.stack import CAPABILITIES
from parity.subjects import open_subject


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """A fork in one file, in a folder of its own."""
    folder = tmp_path / "fork"
    folder.mkdir()
    (folder / "fork.py").write_text(SINGLE)
    return folder


def test_a_draft_is_printed(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --output it is all that stdout gets: it can be piped into a file."""
    assert main(["adapter", str(fork)]) == 0
    out, err = capsys.readouterr()
    ast.parse(out)
    assert out.startswith('"""Adapter of fork for parity')
    assert err == ""


def test_a_draft_is_written_and_told(fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How much is wired, what is left to do, and the next step."""
    output = tmp_path / "adapter.py"
    assert main(["adapter", str(fork), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "5 capabilities wired (make_mask, dino_loss, ibot_loss, koleo_loss, schedules)" in out
    assert f"{len(CAPABILITIES) - 5} left to do (" in out
    assert out.endswith(f"next: python -m parity run --subject {output}\n")
    assert "TODO[parity adapter]: collate" in output.read_text()


def test_a_draft_shows_how_to_declare_its_own_generators(fork: Path, tmp_path: Path) -> None:
    """Empty until a person fills it in, with the names that it may hold; the draft is a subject with and without."""
    output = tmp_path / "adapter.py"
    assert main(["adapter", str(fork), "--output", str(output)]) == 0
    text = output.read_text()
    assert "\nown_randomness = ()\n" in text
    assert "# Of 'make_mask', 'mask_counts', 'collate'" in text.replace('"', "'")
    with open_subject(str(output)) as stack:
        assert own_randomness(stack) == ()
    output.write_text(text.replace("own_randomness = ()", 'own_randomness = ("make_mask",)'))
    with open_subject(str(output)) as stack:
        assert own_randomness(stack) == ("make_mask",)


def test_an_existing_file_is_kept(fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a person filled in is not lost; --force replaces it."""
    output = tmp_path / "adapter.py"
    output.write_text("mine")
    assert main(["adapter", str(fork), "--output", str(output)]) == 2
    assert f"{output} exists; give --force to replace it" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main(["adapter", str(fork), "--output", str(output), "--force"]) == 0
    assert "DinoCriterion" in output.read_text()


def test_an_unparsable_file_is_told_and_stops_nothing(fork: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr with its line, and in the draft."""
    (fork / "old.py").write_text("print 'two'\n")
    assert main(["adapter", str(fork)]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("left out, could not be parsed: old.py: line 1: ")
    assert "# Could not be parsed: old.py: line 1" in out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["none"], "none does not exist; give the folder of a fork"),
        (["."], ". holds no Python file"),
        (["fork", "--output", "no/where.py"], "does not exist; create it first"),
        (["fork", "--output", "fork"], "it is a folder"),
        ([], "the following arguments are required: PATH"),
        (["fork", "--forse"], "unknown argument '--forse'; did you mean '--force'?"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    fork: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    told: str,
) -> None:
    """Exit code 2, no traceback, nothing written."""
    monkeypatch.chdir(tmp_path)
    if line == ["."]:
        fork.rename(tmp_path / ".hidden")
    assert main(["adapter", *line]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err


def test_a_fork_is_never_executed(fork: Path) -> None:
    """Files that end the process, or write, when they are imported are only read."""
    (fork / "trap.py").write_text(f"open({str(fork / 'written')!r}, 'w')\nraise SystemExit(3)\n")
    assert main(["adapter", str(fork)]) == 0
    assert not (fork / "written").exists()
