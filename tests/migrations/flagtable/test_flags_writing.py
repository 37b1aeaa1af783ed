from __future__ import annotations

from pathlib import Path

import pytest
from flag_files import PARSER, run, write
from repositories import git


def test_files_outside_of_git_are_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As for `apply --write`: what could not be taken back needs --allow-dirty, which the message names."""
    (main,) = write(tmp_path, main_py=PARSER)
    before = main.read_bytes()
    assert run(tmp_path, "--write") == 2
    said = capsys.readouterr().err
    assert "is in no git repository that can be read" in said
    assert "--allow-dirty" in said
    assert main.read_bytes() == before


def test_committed_files_are_written(tmp_path: Path) -> None:
    """In a clean repository nothing more is asked for; a file with changes that are not committed is refused."""
    (main,) = write(tmp_path, main_py=PARSER)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        git(tmp_path, *command)
    assert run(tmp_path, "--write") == 0
    assert "token_mask_ratio" not in main.read_text("utf-8")
    main.write_text(PARSER + "# edited\n", "utf-8")
    assert run(tmp_path, "--write") == 2
    assert main.read_text("utf-8") == PARSER + "# edited\n"


def test_a_read_only_file_keeps_all_others_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files or none; the mode is what is meant, for root too."""
    main, launch = write(tmp_path, main_py=PARSER, launch_sh="python main.py --clustering_mode masked\n")
    before = {path: path.read_bytes() for path in (main, launch)}
    main.chmod(0o444)
    assert run(tmp_path, "--write", "--allow-dirty") == 2
    assert "main.py is read-only" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["launch.sh", "main.py"]


def test_a_link_is_not_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file that it leads to may be another project's; it is named."""
    target = tmp_path / "elsewhere" / "main.py"
    target.parent.mkdir()
    target.write_text(PARSER, "utf-8")
    link = tmp_path / "main.py"
    link.symlink_to(target)
    assert run(link, "--write", "--allow-dirty") == 2
    assert f"main.py is a link to {target}" in capsys.readouterr().err
    assert target.read_text("utf-8") == PARSER
    assert link.is_symlink()
