from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from parity import arguments
from parity.errors import UsageError


def test_nearest_ignores_case_and_strangers() -> None:
    """A near name is suggested in its own spelling; where none is near, nothing is."""
    assert arguments.nearest("q3", ["Q3", "masks"]) == "; did you mean 'Q3'?"
    assert arguments.nearest("zzz", ["Q3", "masks"]) == ""


@pytest.mark.parametrize(("given", "expected"), [("L0", "L0"), ("l5", "L5")])
def test_levels(given: str, expected: str) -> None:
    """Levels are accepted in either case."""
    assert arguments.level(given) == expected


def test_families_are_split_at_commas() -> None:
    """Blanks and empty parts do no harm, and the order is kept."""
    assert arguments.families(" masks, losses,,files") == ["masks", "losses", "files"]


@pytest.mark.parametrize("given", ["auto", "github", "pypi"])
def test_reference_sources(given: str) -> None:
    """The three names are always accepted."""
    assert arguments.reference_source(given) == given


def test_a_reference_folder_must_exist(tmp_path: Path) -> None:
    """A folder is accepted, a file in it is not."""
    (tmp_path / "file").touch()
    assert arguments.reference_source(str(tmp_path)) == str(tmp_path)
    with pytest.raises(argparse.ArgumentTypeError, match="or a folder that exists"):
        arguments.reference_source(str(tmp_path / "file"))


@pytest.mark.parametrize("given", ["port", "legacy", "document", "my_fork.stack:Stack", "stack:make.stack"])
def test_subjects(given: str) -> None:
    """Names and importable objects; whether these exist is for the loader to say."""
    assert arguments.subject_name(given) == given


@pytest.mark.parametrize("given", ["ports", "a b:c", ":x", "x:", ""])
def test_other_subjects_are_refused(given: str) -> None:
    """The message lists every form."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected port, legacy, document, FILE\.py or MODULE:ATTR"):
        arguments.subject_name(given)


@pytest.mark.parametrize(("given", "expected"), [("1", 1), ("+20", 20), ("007", 7)])
def test_positive_numbers(given: str, expected: int) -> None:
    """Whole numbers from 1."""
    assert arguments.positive(given) == expected


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "", "1e3", "²", "9999999999"])
def test_other_numbers_are_refused(given: str) -> None:
    """Zero seeds would compare nothing; a superscript is a digit to `str.isdigit` and no number to `int`."""
    with pytest.raises(argparse.ArgumentTypeError, match="whole number of at least 1"):
        arguments.positive(given)


def test_output_files_need_a_name() -> None:
    """An empty name is most likely an unset variable of the shell."""
    assert arguments.output_file("r.json") == Path("r.json")
    with pytest.raises(argparse.ArgumentTypeError, match="empty"):
        arguments.output_file(" ")


def test_commands() -> None:
    """Options pass: argparse knows them better."""
    arguments.known_command("--help", ["run"])
    with pytest.raises(UsageError, match=r"did you mean 'run'\?"):
        arguments.known_command("runn", ["run"])


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves the tilde of `--reference=~/x` alone, so the folder is looked for below HOME."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert arguments.reference_source("~/x") == "~/x"
    with pytest.raises(argparse.ArgumentTypeError, match="or a folder that exists"):
        arguments.reference_source("~/y")
