from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity.reference.cache import cache_folder, store


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DINOV2_PARITY_CACHE wins; else the platform's cache folder holds `dinov2-parity`."""
    monkeypatch.setenv("DINOV2_PARITY_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("DINOV2_PARITY_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "dinov2-parity"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "dinov2-parity"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "dinov2-parity"


def test_cache_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    """Where the cache is no folder, the files go to a temporary one, and a note says what that costs."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    root, note = store({"dinov2/__init__.py": b"x = 1\n"}, tmp_path / "cache" / "pypi")
    assert (root / "dinov2" / "__init__.py").read_bytes() == b"x = 1\n"
    assert not root.is_relative_to(tmp_path)
    assert "cannot be written" in note
    assert "DINOV2_PARITY_CACHE" in note


def test_store_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    """What was in the target before is gone, and nothing else is left behind."""
    target = tmp_path / "cache" / "pypi"
    assert store({"dinov2/old.py": b"1"}, target) == (target, "")
    assert store({"dinov2/new.py": b"2"}, target) == (target, "")
    assert [path.name for path in (target / "dinov2").iterdir()] == ["new.py"]
    assert [path.name for path in target.parent.iterdir()] == ["pypi"]
