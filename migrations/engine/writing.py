"""Writing files to the disk: all of them or none, and only over what was read.

New contents are first written beside the old ones, complete and flushed; then each takes its file's place by a
rename. Where a rename fails, the files already replaced get their old bytes back.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from migrations.engine.discovery import Found, Tree
from migrations.engine.git import check_clean
from migrations.engine.planning import Plan
from migrations.errors import RefusedError

__all__ = ["contents", "write", "write_all"]

_NOTHING = "nothing was written"
_AS_BEFORE = "every file is as before"


@dataclass(frozen=True)
class _Replacement:
    found: Found
    new: bytes
    temporary: Path


def contents(plan: Plan, tree: Tree) -> Mapping[str, tuple[bytes, bytes]]:
    """Return old and new bytes of the files that change, in their own encodings, by path.

    Raises:
        RefusedError: a new text has characters that the file's encoding lacks.
    """
    found = {}
    for path in plan.changed:
        file = plan.end.files[path]
        try:
            new = file.text.encode(file.encoding)
        except UnicodeEncodeError as error:
            missing = error.object[error.start : error.end]
            raise RefusedError(
                f"{path}: its encoding {file.encoding} has no {missing!r}, which the new text holds; "
                f"convert the file to UTF-8 first; {_NOTHING}"
            ) from error
        found[path] = (tree.found[path].data, new)
    return found


def write(plan: Plan, tree: Tree, *, allow_dirty: bool = False) -> tuple[str, ...]:
    """Write the files that a plan changes, and return their paths.

    Raises:
        RefusedError: something stands in the way; nothing was written, or what was is as before.
    """
    return write_all(
        {path: (tree.found[path], new) for path, (_, new) in contents(plan, tree).items()}, allow_dirty=allow_dirty
    )


def write_all(files: Mapping[str, tuple[Found, bytes]], *, allow_dirty: bool = False) -> tuple[str, ...]:
    """Write new bytes over files as they were read, by the path that messages name, and return these paths.

    Raises:
        RefusedError: something stands in the way; nothing was written, or what was is as before.
    """
    for path, (found, _) in files.items():
        _check_writable(path, found)
    if not allow_dirty:
        check_clean(found.path for found, _ in files.values())
    ready: list[_Replacement] = []
    try:
        for path, (found, data) in files.items():
            ready.append(_prepare(path, found, data))
        _replace_all(ready)
    finally:
        for one in ready:
            with suppress(OSError):
                one.temporary.unlink(missing_ok=True)
    return tuple(files)


def _check_writable(path: str, found: Found) -> None:
    if found.is_link:
        target = os.path.realpath(found.path)
        raise RefusedError(f"{path} is a link to {target}; name the folder of that file instead; {_NOTHING}")
    try:
        status = found.path.lstat()
    except OSError as error:
        raise RefusedError(f"{path} is gone ({error.strerror}) since it was read, run again; {_NOTHING}") from error
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{path} is no regular file any more, run again; {_NOTHING}")
    # Root may write everything; the owner's bits still say what is meant.
    if not status.st_mode & 0o222 or not os.access(found.path, os.W_OK):
        raise RefusedError(f"{path} is read-only; `chmod u+w` it first; {_NOTHING}")
    if status.st_nlink > 1:
        raise RefusedError(
            f"{path} has {status.st_nlink} hard links, which a replaced file would part; copy it first; {_NOTHING}"
        )
    _check_unchanged(path, found)


def _check_unchanged(path: str, found: Found) -> None:
    try:
        same = Found(found.path, found.path.read_bytes()).digest == found.digest
    except OSError as error:
        raise RefusedError(f"{path} cannot be read any more ({error.strerror}); {_NOTHING}") from error
    if not same:
        raise RefusedError(f"{path} has changed since it was read, run again; {_NOTHING}")


def _prepare(path: str, found: Found, data: bytes) -> _Replacement:
    try:
        return _Replacement(found, data, _beside(found.path, data))
    except OSError as error:
        raise RefusedError(f"{path}: its folder cannot be written to ({error.strerror}); {_NOTHING}") from error


def _beside(path: Path, data: bytes) -> Path:
    """Write a complete file in a file's folder, with that file's access rights."""
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    status = path.stat()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if hasattr(os, "chown") and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(OSError):  # only root may give files away; the access rights count
                os.chown(temporary, status.st_uid, status.st_gid)
        temporary.chmod(stat.S_IMODE(status.st_mode))
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def _replace_all(ready: list[_Replacement]) -> None:
    done: list[_Replacement] = []
    try:
        for one in ready:
            _check_unchanged(str(one.found.path), one.found)
            done.append(one)
            one.temporary.replace(one.found.path)
    except BaseException as error:
        _restore(done, error)
        if isinstance(error, OSError):
            raise RefusedError(
                f"{done[-1].found.path} could not be replaced ({error.strerror}); {_AS_BEFORE}"
            ) from error
        raise


def _restore(done: list[_Replacement], cause: BaseException) -> None:
    """Give files their old bytes back where a replacement took place.

    Raises:
        RefusedError: one could not be restored; the message names it and where its old content is.
    """
    for one in done:
        try:
            if one.found.path.read_bytes() != one.new:  # not replaced yet, or already someone else's
                continue
            _beside(one.found.path, one.found.data).replace(one.found.path)
        except OSError as error:
            raise RefusedError(
                f"{one.found.path} holds its new content and could not be restored ({error.strerror}) after: {cause}; "
                "restore it with git"
            ) from cause
