"""Report files: refused before a long run rather than after it, and never half-written."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from parity.errors import OutputError

__all__ = ["check_writable", "write_atomically"]


def check_writable(path: Path) -> None:
    """Make sure that a report can be created at `path`, and leave nothing behind.

    Raises:
        OutputError: the folder is missing, the path is a folder, or writing there fails.
    """
    try:
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder; name a file in it")
        if _is_special(path):
            _probe_special(path)
            return
        target = _target(path)
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {target.parent} does not exist; create it first")
        if target.exists() and not os.access(target, os.W_OK):
            raise OutputError(f"cannot write {path}: the file exists and is read-only")
        probe = _write_beside(target, b"\n")
        probe.unlink()
    except OSError as error:
        raise _refused(path, error) from error


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write bytes, or a text as UTF-8, so that `path` holds either its old content or all of the new.

    A file beside it is written, flushed to the disk and renamed. A device or a pipe (`/dev/stdout`, a process
    substitution) cannot be renamed onto, and is written directly.

    Raises:
        OutputError: writing fails; the old content, if any, is untouched and no temporary file remains.
    """
    # A lone surrogate (a file name that is not UTF-8) becomes an escape, which is also valid inside JSON.
    content = text if isinstance(text, bytes) else text.encode("utf-8", errors="backslashreplace")
    try:
        if _is_special(path):
            path.write_bytes(content)
            return
        target = _target(path)
        temporary = _write_beside(target, content)
        try:
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _refused(path, error) from error


def _write_beside(target: Path, content: bytes) -> Path:
    """Write a complete new file in the folder of `target`, with the access rights that `target` has or would get."""
    temporary = target.parent / f".parity-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def _target(path: Path) -> Path:
    """Follow links, so that the file that a link names is replaced and not the link."""
    return Path(os.path.realpath(path))


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _probe_special(path: Path) -> None:
    """Write an empty line to a device, which is harmless before JSON and before Markdown."""
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission")
    # Opening and closing a pipe would tell its reader that the report has ended.
    if path.is_char_device():
        path.write_bytes(b"\n")


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or error}")
