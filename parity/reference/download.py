"""Get official training files from GitHub or PyPI, into memory: nothing is unpacked before it is verified."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from http.client import HTTPException
from importlib import metadata
from pathlib import Path

from parity.errors import ReferenceSourceError
from parity.reference.identity import read_files
from parity.reference.manifest import PYPI_VERSION, is_training_path

__all__ = ["GITHUB_URL", "from_github", "from_installed", "from_pypi", "from_wheel"]

GITHUB_URL = "https://github.com/facebookresearch/dinov2/archive/{commit}.tar.gz"

_MAX_ARCHIVE = 64 * 2**20
_MAX_FILE = 2 * 2**20
_MAX_FILES = 1000
_CHUNK = 2**16


def from_github(commit: str, url: str = GITHUB_URL, timeout: float = 10.0) -> dict[str, bytes]:
    """Download a commit's archive and return its training files, keyed by `dinov2/…` path.

    Args:
        commit: full commit id, put into `url` for `{commit}`.
        url: template of the archive's address; proxies of the environment are honoured.
        timeout: seconds without an answer after which the download is given up; six times that in all.

    Raises:
        ReferenceSourceError: no connection, an HTTP error, too large, too slow, or not such an archive.
    """
    address = url.format(commit=commit)
    deadline = time.monotonic() + 6 * timeout
    try:
        with urllib.request.build_opener().open(address, timeout=timeout) as response:
            data = b""
            while chunk := response.read(_CHUNK):
                data += chunk
                if len(data) > _MAX_ARCHIVE:
                    raise ReferenceSourceError(f"{address} is larger than {_MAX_ARCHIVE >> 20} MiB; not read")
                if time.monotonic() > deadline:
                    raise ReferenceSourceError(f"{address} took more than {6 * timeout:.0f} s; given up")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            return _from_tar(archive)
    except urllib.error.HTTPError as error:
        with error:
            raise ReferenceSourceError(f"{address} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise ReferenceSourceError(f"{address} cannot be reached: {error.reason}") from error
    except (tarfile.TarError, zlib.error, HTTPException, EOFError, OSError) as error:
        raise ReferenceSourceError(f"{address} sent no readable archive: {error}") from error


def _from_tar(archive: tarfile.TarFile) -> dict[str, bytes]:
    """Read the training files of an archive whose members lie in one top folder; links are not followed."""
    files: dict[str, bytes] = {}
    for member in archive:
        path = member.name.partition("/")[2]
        if not member.isfile() or not is_training_path(path):
            continue
        _check_size(path, member.size, len(files))
        content = archive.extractfile(member)
        if content is not None:
            files[path] = content.read()
    return files


def from_wheel(wheel: Path) -> dict[str, bytes]:
    """Return the training files of a wheel.

    Raises:
        ReferenceSourceError: the file is no wheel, or its members are too large.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            files: dict[str, bytes] = {}
            for info in archive.infolist():
                if is_training_path(info.filename):
                    _check_size(info.filename, info.file_size, len(files))
                    files[info.filename] = archive.read(info)
            return files
    except (zipfile.BadZipFile, OSError) as error:
        raise ReferenceSourceError(f"{wheel.name} is not a readable wheel: {error}") from error


def _check_size(path: str, size: int, count: int) -> None:
    """Refuse an archive that official code cannot be."""
    if size > _MAX_FILE or count >= _MAX_FILES:
        raise ReferenceSourceError(
            f"the archive is not official code: {path} has {size} bytes, after {count} files; "
            f"at most {_MAX_FILE} bytes and {_MAX_FILES} files are read"
        )


def from_installed() -> tuple[Path, dict[str, bytes]] | None:
    """Return the folder and training files of an installed `dinov2` of exactly the known version, or None."""
    try:
        distribution = metadata.distribution("dinov2")
    except metadata.PackageNotFoundError:
        return None
    root = Path(str(distribution.locate_file("")))
    if distribution.version != PYPI_VERSION or not (root / "dinov2").is_dir():
        return None
    return root, read_files(root)


def from_pypi(timeout: float = 10.0) -> dict[str, bytes]:
    """Download the wheel with pip and return its training files; pip's own configuration applies.

    Args:
        timeout: seconds that pip waits for an answer; twelve times that in all.

    Raises:
        ReferenceSourceError: pip is not installed, cannot reach an index, or finds no such wheel.
    """
    requirement = f"dinov2=={PYPI_VERSION}"
    with tempfile.TemporaryDirectory(prefix="dinov2-parity-") as folder:
        options = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet")
        patience = ("--timeout", f"{timeout:g}", "--retries", "1", "--dest", folder)
        _pip_download((*options, *patience, requirement), 12 * timeout)
        wheels = sorted(Path(folder).glob("dinov2-*.whl"))
        if len(wheels) != 1:
            raise ReferenceSourceError(f"pip download {requirement} left {len(wheels)} wheels, expected 1")
        return from_wheel(wheels[0])


def _pip_download(arguments: Iterable[str], limit: float) -> None:
    """Run `pip download` in this interpreter's environment."""
    command = [sys.executable, "-m", "pip", "download", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are this module's own
            command, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ReferenceSourceError(f"pip download took more than {limit:.0f} s; given up") from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise ReferenceSourceError(
            f"{sys.executable} has no pip to download dinov2 {PYPI_VERSION} with; run "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`), or `pip install --no-deps "
            f"dinov2=={PYPI_VERSION}`"
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    reason = errors[-1] if errors else (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise ReferenceSourceError(f"pip could not download dinov2=={PYPI_VERSION}: {reason}")
