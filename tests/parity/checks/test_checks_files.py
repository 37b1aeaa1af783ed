from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from forks import assert_no_alarm, assert_seen, check, port

from parity.adapters.official import OfficialStack

TRAINING_FILES = 44


def test_every_training_file_is_official(official_stack: OfficialStack) -> None:
    """The wheel's files are in official history, one row each, whatever the subject is."""
    result = check(official_stack, port(), "files.identity")
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared == TRAINING_FILES
    assert "blob/dinov2/train/ssl_meta_arch.py" in [c.name for c in result.comparisons]


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("dinov2/loss/koleo_loss.py", b"eps=1e-8", b"eps=1e-6"),
        ("dinov2/data/masking.py", b"range(10)", b"range(11)"),
        ("dinov2/configs/ssl_default_config.yaml", b"clip_grad: 3.0", b"clip_grad: 3.1"),
        ("dinov2/layers/attention.py", b"\n", b"\n\n"),
    ],
)
def test_one_edited_file_denies_parity(official_copy: Path, path: str, before: bytes, after: bytes) -> None:
    """That file alone fails, even where only a line end was added; a finding names it."""
    file = official_copy / path
    data = file.read_bytes()
    assert before in data
    file.write_bytes(data.replace(before, after, 1))
    result = check(SimpleNamespace(root=official_copy), port(), "files.identity")
    assert_seen(result, f"^blob/{path}$", "reference", path)
    assert [c.name for c in result.diverged] == [f"blob/{path}"]
    assert result.diverged[0].reference.startswith("official at ")


def test_a_file_of_another_official_commit_passes(official_copy: Path) -> None:
    """Each file is looked up in all of official history: the identity of the set is judged on opening it."""
    path = official_copy / "dinov2/__init__.py"
    path.write_bytes(path.read_bytes().replace(b'0.0.1.dev2"', b'0.0.1"\n'))
    assert_no_alarm(check(SimpleNamespace(root=official_copy), port(), "files.identity"))


def test_a_missing_training_file_is_an_error_that_names_it(official_copy: Path) -> None:
    """A folder that lacks training code is not compared at all; `open_reference` refuses it before."""
    shutil.rmtree(official_copy / "dinov2" / "loss")
    result = check(SimpleNamespace(root=official_copy), port(), "files.identity")
    assert (result.status, result.compared) == ("error", 0)
    assert "dinov2/loss/" in result.reason


def test_files_of_two_commits_are_not_official_code(official_copy: Path, files_at_commit: dict[str, bytes]) -> None:
    """Each file is official's, the set is no commit's: one row fails, and a finding names the file that is apart."""
    init = files_at_commit["dinov2/__init__.py"].replace(
        b"# All rights reserved.\n#\n# This source code is licensed under the license found in the\n"
        b"# LICENSE file in the root directory of this source tree.\n",
        b"#\n# This source code is licensed under the Apache License, Version 2.0\n"
        b"# found in the LICENSE file in the root directory of this source tree.\n",
    )
    (official_copy / "dinov2/__init__.py").write_bytes(init)
    result = check(SimpleNamespace(root=official_copy), port(), "files.identity")
    assert_seen(result, "^one commit$", "reference", "dinov2/__init__.py is official's of commit 81b2b64")
    assert [c.name for c in result.diverged] == ["one commit"]
