from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from draft_forks import renamed_official

from parity.certificate import Certificate
from parity.certify import certify
from parity.cli import main
from parity.commands.certify import as_json, as_text
from parity.errors import UsageError
from parity.reference.source import Source

KOLEO = "dinov2/loss/koleo_loss.py"


def _certified(root: Path, source: Source) -> Certificate:
    return certify(root, source.files, "the wheel")


def _of(made: Certificate, official: str) -> tuple[str, str]:
    (file,) = (f for f in made.files if f.official == official)
    return file.state, file.path


def _edit(root: Path, path: str, old: bytes, new: bytes) -> None:
    data = (root / path).read_bytes()
    assert old in data
    (root / path).write_bytes(data.replace(old, new))


@pytest.fixture
def copy(official_copy: Path) -> Path:
    """A folder that holds a copy of official `dinov2/`."""
    return official_copy


def test_an_untouched_copy_is_official(copy: Path, official_source: Source) -> None:
    """Every file is byte-identical and of one commit, with the commits that have it; the wheel has no recipes."""
    made = _certified(copy, official_source)
    assert made.exit_code == 0
    assert made.one_commit
    assert made.package == "dinov2"
    assert made.counts["identical"] == 44
    (koleo,) = (f for f in made.files if f.official == KOLEO)
    assert koleo.since.startswith("commit ")
    assert all(f.official.startswith("dinov2/configs/train/") for f in made.files if f.state == "missing")
    assert "f896929" in made.nearest


@pytest.mark.parametrize("place", ["dinov2", ".", "src/dinov2", "third_party/x/dinov2"])
def test_the_package_is_found_wherever_it_is(copy: Path, official_source: Source, tmp_path: Path, place: str) -> None:
    """The repository's root, the package's folder, and a fork that moved it."""
    root = tmp_path / "fork"
    shutil.copytree(copy / "dinov2", root / place)
    made = _certified(root, official_source)
    assert made.package == place
    assert (made.exit_code, made.counts["identical"]) == (0, 44)


def test_a_renamed_package_is_official_but_for_its_name(official_source: Source, tmp_path: Path) -> None:
    """Imports by the new name differ in no byte once it is read as official's."""
    made = _certified(renamed_official(official_source, tmp_path, "vitfork"), official_source)
    assert made.package == "vitfork"
    assert made.exit_code == 0
    assert _of(made, KOLEO) == ("identical", "vitfork/loss/koleo_loss.py")
    assert _of(made, "dinov2/train/train.py") == ("package name", "vitfork/train/train.py")


def test_line_endings_are_told(copy: Path, official_source: Source) -> None:
    """A checkout on Windows is official code."""
    _edit(copy, KOLEO, b"\n", b"\r\n")
    made = _certified(copy, official_source)
    assert _of(made, KOLEO)[0] == "line endings"
    assert made.exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"    def forward(", b"    # added\n    def forward(", "comments and formatting"),
        (b'"""Koz', b'"""Edited. Koz', "comments, formatting and docstrings"),
    ],
)
def test_formatting_is_told_and_passes(copy: Path, official_source: Source, old: bytes, new: bytes, words: str) -> None:
    """Against official text at hand; docstrings are told apart."""
    _edit(copy, KOLEO, old, new)
    made = _certified(copy, official_source)
    (koleo,) = (f for f in made.files if f.official == KOLEO)
    assert (koleo.state, koleo.note) == ("formatting", f"differs in {words} only")
    assert made.exit_code == 0


def test_without_official_text_formatting_counts_as_different(copy: Path) -> None:
    """Blob ids alone cannot tell; parity does not guess."""
    _edit(copy, KOLEO, b"    def forward(", b"    # added\n    def forward(")
    made = certify(copy, {})
    assert _of(made, KOLEO)[0] == "differs"
    assert made.exit_code == 1


def test_a_tree_without_licence_headers_is_official_but_for_formatting(copy: Path, official_source: Source) -> None:
    """Not one file is byte-identical; syntax trees are, those of files that held nothing else included."""
    for file in (copy / "dinov2").rglob("*.py"):
        lines = file.read_text().split("\n")
        code = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
        file.write_text("\n".join(lines[code:]))
    made = _certified(copy, official_source)
    assert made.counts["formatting"] >= 40
    assert made.counts["differs"] == 0
    assert made.exit_code == 0
    assert "f896929" in made.nearest


def test_an_edit_is_named_by_its_line(copy: Path, official_source: Source) -> None:
    """The line's number and text, against the commit that the other files are of."""
    _edit(copy, KOLEO, b"fill_(-1)", b"fill_(-2)")
    made = _certified(copy, official_source)
    (koleo,) = (f for f in made.files if f.official == KOLEO)
    assert koleo.state == "differs"
    assert "fill_(-2)" in koleo.note
    assert "line " in koleo.note
    assert made.exit_code == 1
    assert "DIFFERENT: 44 official files: 43 byte-identical, 1 different" in as_text(made)


def test_an_edit_of_a_renamed_copy_is_named_without_the_rename(official_source: Source, tmp_path: Path) -> None:
    """Only what differs besides the package's name is a difference."""
    root = renamed_official(official_source, tmp_path, "vitfork")
    _edit(root, "vitfork/train/ssl_meta_arch.py", b"loss_scales = 2", b"loss_scales = 3")
    (arch,) = (f for f in _certified(root, official_source).files if f.official == "dinov2/train/ssl_meta_arch.py")
    assert arch.state == "differs"
    assert "loss_scales = 3" in arch.note
    assert arch.note.count("line ") == 1


def test_a_moved_file_is_found_by_its_content(copy: Path, official_source: Source) -> None:
    """Byte-identical under another name, and edited under another name by the lines that it shares."""
    (copy / "losses").mkdir()
    shutil.move(copy / KOLEO, copy / "losses" / "spread.py")
    shutil.move(copy / "dinov2/loss/ibot_patch_loss.py", copy / "losses" / "patches.py")
    _edit(copy, "losses/patches.py", b"student_temp=0.1", b"student_temp=0.2")
    made = _certified(copy, official_source)
    assert _of(made, KOLEO) == ("identical", "losses/spread.py")
    assert _of(made, "dinov2/loss/ibot_patch_loss.py") == ("differs", "losses/patches.py")
    assert "losses/spread.py = dinov2/loss/koleo_loss.py" in as_text(made)


def test_missing_and_extra_files_are_differences(copy: Path, official_source: Source) -> None:
    """Of the training code; other files of the fork are counted and not judged."""
    (copy / KOLEO).unlink()
    made = _certified(copy, official_source)
    assert _of(made, KOLEO) == ("missing", "")
    assert made.exit_code == 1
    (copy / "dinov2" / "loss" / "mine.py").write_text("x = 1\n")
    (copy / "tools.py").write_text("x = 1\n")
    made = _certified(copy, official_source)
    assert [f.path for f in made.files if f.state == "extra"] == ["dinov2/loss/mine.py"]
    assert made.others == 1
    assert "1 other Python and YAML files are none of official's training code" in as_text(made)


def test_an_extra_file_alone_is_a_difference(copy: Path, official_source: Source) -> None:
    """It could be imported by what an `__init__` pulls in."""
    (copy / "dinov2" / "layers" / "mine.py").write_text("x = 1\n")
    assert _certified(copy, official_source).exit_code == 1


@pytest.mark.parametrize("content", ["", "x = 1\n"])
def test_a_tree_without_official_files_gives_no_verdict(official_source: Source, tmp_path: Path, content: str) -> None:
    """Also where its files are empty, as official's `__init__` of some packages nearly are."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vision_transformer.py").write_text(content)
    made = _certified(tmp_path, official_source)
    assert made.exit_code == 2
    assert "NO VERDICT" in as_text(made)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A path that is missing or a file."""
    with pytest.raises(UsageError, match="does not exist"):
        certify(tmp_path / "none", {})
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        certify(tmp_path / "file", {})


def test_json_says_what_the_text_says(copy: Path, official_source: Source) -> None:
    """One entry per file, counts by state, and the exit code."""
    _edit(copy, KOLEO, b"fill_(-1)", b"fill_(-2)")
    made = _certified(copy, official_source)
    document = json.loads(as_json(made))
    assert document["schema"] == 1
    assert document["counts"]["identical"] == 43
    assert document["counts"]["differs"] == 1
    assert document["exit_code"] == 1
    assert len(document["files"]) == len(made.files)
    assert {f["official"] for f in document["files"] if f["state"] == "differs"} == {KOLEO}


def test_the_command_prints_writes_and_exits(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for official code, 1 after an edit, 2 where there is nothing to read; the JSON file each time."""
    report = tmp_path / "certificate.json"
    line = ["certify", str(copy), "--reference", "pypi", "--json", str(report)]
    assert main(line) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("OFFICIAL: 44 official files: 44 byte-identical")
    _edit(copy, KOLEO, b"fill_(-1)", b"fill_(-2)")
    assert main(line) == 1
    assert json.loads(report.read_text())["exit_code"] == 1
    assert main(["certify", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
