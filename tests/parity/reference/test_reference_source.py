from __future__ import annotations

import shutil
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from parity.errors import ReferenceSourceError
from parity.reference.cache import store
from parity.reference.download import from_pypi, from_wheel
from parity.reference.source import Source, resolve

MASKING = "dinov2/data/masking.py"
NOWHERE = "http://127.0.0.1:9/{commit}.tar.gz"


@pytest.fixture
def no_pypi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pip that can reach no index, and finds nothing."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def _wheel(files: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dinov2-0.0.1.dev2-py3-none-any.whl"
    info = "dinov2-0.0.1.dev2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: dinov2\nVersion: 0.0.1.dev2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_auto_falls_back_to_pypi_loudly(
    official_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where GitHub cannot be reached, the wheel is used, and the first note says so and what it lacks."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cache = tmp_path / "cache"
    store(official_source.files, cache / "pypi-0.0.1.dev2")
    found = resolve("auto", cache=cache, github_url=NOWHERE, timeout=1)
    assert (found.source, found.requested) == ("pypi", "auto")
    assert found.notes[0].startswith("GITHUB COULD NOT BE REACHED (http://127.0.0.1:9/")
    assert "byte-identical to the April 2023 code" in found.notes[0]
    assert "no register tokens" in found.notes[0]


@pytest.mark.usefixtures("no_pypi")
def test_auto_without_any_source_names_both_causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither source, one error names both causes and the way out."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ReferenceSourceError) as caught:
        resolve("auto", cache=tmp_path, github_url=NOWHERE, timeout=1)
    message = str(caught.value)
    assert "GitHub: http://127.0.0.1:9/" in message
    assert "PyPI: pip could not download dinov2==0.0.1.dev2: ERROR: No matching distribution" in message
    assert "--reference PATH" in message
    assert "\n" not in message


@pytest.mark.usefixtures("no_pypi")
def test_pypi_wheel_is_fetched_by_pip_and_kept(official_source: Source, tmp_path: Path) -> None:
    """The wheel is downloaded by pip once; afterwards the cache serves, without pip."""
    wheel = _wheel(official_source.files, tmp_path)
    found = resolve("pypi", cache=tmp_path / "cache", timeout=5)
    assert found.source == "pypi"
    assert dict(found.files) == dict(official_source.files)
    assert "0.0.1.dev2 on PyPI" in found.identity.version
    wheel.unlink()
    assert resolve("pypi", cache=tmp_path / "cache", timeout=5) == found


@pytest.mark.usefixtures("no_pypi")
def test_altered_wheel_is_refused(official_source: Source, tmp_path: Path) -> None:
    """A wheel of that name and version with other content is not taken for official."""
    _wheel({**official_source.files, MASKING: b"x = 1\n"}, tmp_path)
    with pytest.raises(ReferenceSourceError, match=r"is not what it was: .*`x = 1`"):
        resolve("pypi", cache=tmp_path / "cache", timeout=5)


@pytest.mark.usefixtures("no_pypi")
def test_installed_distribution_is_used_where_it_is(
    official_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed dinov2 of the known version needs no download, and no copy."""
    site = tmp_path / "site"
    shutil.unpack_archive(_wheel(official_source.files, tmp_path / "built"), site, "zip")
    monkeypatch.syspath_prepend(str(site))
    found = resolve("pypi", cache=tmp_path / "cache", timeout=5)
    assert found.root == site
    assert found.identity.identity == "verified"
    assert not (tmp_path / "cache").exists()
    (site / MASKING).write_text("x = 1\n")
    _wheel(official_source.files, tmp_path)
    found = resolve("pypi", cache=tmp_path / "cache", timeout=5)
    assert found.root == tmp_path / "cache" / "pypi-0.0.1.dev2"
    assert any("is modified" in note and MASKING in note for note in found.notes)


def test_missing_pip_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without pip is told how to get it."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ReferenceSourceError, match=r"has no pip .* -m ensurepip"):
        from_pypi(timeout=5)


def test_broken_wheel_is_one_line(tmp_path: Path) -> None:
    """A file that is no wheel is named."""
    path = tmp_path / "dinov2-0.0.1.dev2-py3-none-any.whl"
    path.write_bytes(b"nothing")
    with pytest.raises(ReferenceSourceError, match=r"dinov2-0\.0\.1\.dev2.* is not a readable wheel"):
        from_wheel(path)


def test_path_to_the_folder_or_to_dinov2_itself(official_copy: Path) -> None:
    """Both the folder that holds `dinov2/` and `dinov2/` itself lead to the same code."""
    outer = resolve(str(official_copy))
    inner = resolve(str(official_copy / "dinov2"))
    assert outer.root == inner.root == official_copy.resolve()
    assert outer.files == inner.files
    assert (outer.source, outer.identity.identity, outer.notes) == ("path", "verified", ())


def test_keyword_wins_over_a_folder_of_that_name(official_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`github` is the keyword even where a folder is called so; `./github` is the folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    official_copy.rename(official_copy.with_name("github"))
    monkeypatch.chdir(official_copy.parent)
    assert resolve("./github").source == "path"
    with pytest.raises(ReferenceSourceError, match="cannot be reached"):
        resolve("github", cache=official_copy.parent / "cache", github_url=NOWHERE, timeout=1)


def test_wrong_paths_are_explained(official_copy: Path, tmp_path: Path) -> None:
    """A missing folder, a file, a folder without dinov2 and an incomplete fork each get their own words."""
    with pytest.raises(ReferenceSourceError, match="gihub does not exist; expected auto, github, pypi, or"):
        resolve("gihub")
    file = tmp_path / "file.whl"
    file.write_bytes(b"")
    with pytest.raises(ReferenceSourceError, match=r"file\.whl is a file; .*unpack"):
        resolve(str(file))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceSourceError, match=r"empty holds no dinov2/"):
        resolve(str(tmp_path / "empty"))
    (official_copy / "dinov2/fsdp/__init__.py").unlink()
    with pytest.raises(ReferenceSourceError, match=r"lacks dinov2/fsdp/__init__\.py"):
        resolve(str(official_copy))
