from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from parity.reference.manifest import (
    PINNED_COMMIT,
    Blob,
    blob_id,
    is_training_path,
    line_hashes,
    load_manifest,
)


def test_blob_id_is_gits() -> None:
    """Ids of the empty file and of `hello` are the ones that `git hash-object` prints."""
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_history_has_42_commits_and_ends_at_the_pinned_one() -> None:
    """The public history has 42 commits, from 2023-04-17 to the pinned one of 2025-08-14."""
    commits = load_manifest().commits
    assert len(commits) == 42
    assert str(commits[0]) == "commit fc49f49 (2023-04-17)"
    assert commits[-1].sha == PINNED_COMMIT
    assert str(commits[-1]) == "commit b8931f7 (2025-08-14)"


def test_every_commit_has_one_blob_of_each_of_47_files() -> None:
    """Official history never removed or renamed a training file, so each commit has each file once."""
    manifest = load_manifest()
    assert len(manifest.files) == 47
    for path, blobs in manifest.files.items():
        indices = sorted(index for blob in blobs if not blob.released for index in blob.commits)
        assert indices == list(range(42)), path


def test_known_blobs_of_the_pinned_commit() -> None:
    """Blob ids that `git ls-tree b8931f7` prints are the manifest's at its last commit."""
    manifest = load_manifest()
    known = {"dinov2/data/masking.py": "ab12aa", "dinov2/layers/block.py": "7e83b7"}
    for path, start in known.items():
        blob = manifest.blob_at(path, 41)
        assert blob is not None
        assert blob.id.startswith(start)


def test_only_the_wheels_version_is_its_own() -> None:
    """The PyPI wheel differs from history in `dinov2/__init__.py` alone, and that blob names its commit."""
    manifest = load_manifest()
    released = {path: blob for path, blobs in manifest.files.items() for blob in blobs if blob.released}
    assert list(released) == ["dinov2/__init__.py"]
    (index,) = released["dinov2/__init__.py"].commits
    assert str(manifest.commits[index]) == "commit f896929 (2023-04-20)"
    at_commit = manifest.blob_at("dinov2/__init__.py", index)
    assert at_commit is not None
    assert at_commit.id != released["dinov2/__init__.py"].id


def test_manifest_holds_no_official_text() -> None:
    """The file has hexadecimal hashes, dates and paths only, and stays below 400 KB."""
    path = Path(str(files("parity.reference"))) / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 400_000
    for entries in raw["files"].values():
        for entry in entries:
            assert set(entry) <= {"blob", "commits", "lines", "released"}
            assert set(entry["blob"] + entry["lines"]) <= set("0123456789abcdef")
            assert len(entry["lines"]) % 6 == 0


def test_line_hashes_ignore_line_endings_and_the_last_newline() -> None:
    """CRLF, trailing blanks and a missing last newline leave the hashes as they are; content does not."""
    plain = line_hashes(b"a = 1\n\nb = 2\n")
    assert len(plain) == 3
    assert plain == line_hashes(b"a = 1\r\n\r\nb = 2  ")
    assert plain[0] != line_hashes(b"a = 2\n")[0]


def test_blob_looks_a_file_up_by_its_content() -> None:
    """A known content is found under its own path only."""
    manifest = load_manifest()
    known = manifest.files["dinov2/loss/__init__.py"][0]
    assert isinstance(known, Blob)
    assert manifest.blob("dinov2/loss/__init__.py", b"unknown") is None
    assert manifest.blob("dinov2/no_such_file.py", b"unknown") is None
    assert manifest.blob_at("dinov2/no_such_file.py", 0) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("dinov2/__init__.py", True),
        ("dinov2/loss/koleo_loss.py", True),
        ("dinov2/data/datasets/image_net.py", True),
        ("dinov2/configs/train/vitl14.yaml", True),
        ("dinov2/configs/eval/vitl14_pretrain.yaml", False),
        ("dinov2/eval/knn.py", False),
        ("dinov2/hub/backbones.py", False),
        ("dinov2/other.py", False),
        ("dinov2/loss/__pycache__/koleo_loss.py", False),
        ("dinov2/loss/notes.txt", False),
        ("dinov2/loss/../../outside.py", False),
        ("dinov2/loss//koleo_loss.py", False),
        ("dinov2/loss\\..\\outside.py", False),
        ("dinov2/loss/..\\outside.py", False),
        ("/dinov2/loss/koleo_loss.py", False),
        ("other/loss/koleo_loss.py", False),
    ],
)
def test_training_paths(path: str, expected: bool) -> None:
    """Training packages' Python and YAML files count; evaluation, hub and unsafe paths do not."""
    assert is_training_path(path) is expected


def test_wheel_lacks_only_the_training_configurations() -> None:
    """Every file but `configs/train/*.yaml` is required."""
    manifest = load_manifest()
    optional = set(manifest.files) - set(manifest.required)
    assert optional == {f"dinov2/configs/train/{name}.yaml" for name in ("vitg14", "vitl14", "vitl16_short")}
