"""Whether files can be taken back with git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from migrations.errors import RefusedError

__all__ = ["check_clean"]

_HINT = "commit first, or pass --allow-dirty if you have another copy"


def check_clean(files: Iterable[Path]) -> None:
    """Make sure that each file is committed as it is.

    Raises:
        RefusedError: one has changes or is not tracked, or there is no git or no repository.
    """
    folders: dict[Path, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file.name)
    for folder, names in sorted(folders.items()):
        tracked = _git(folder, "ls-files", "-z", "--", *names)
        changed = _git(folder, "status", "--porcelain", "-z", "--no-renames", "--", *names)
        if untracked := sorted(set(names) - set(tracked)):
            raise RefusedError(f"{folder / untracked[0]} is not tracked by git, so it could not be taken back; {_HINT}")
        if changed:
            raise RefusedError(f"{folder / Path(changed[0][3:]).name} has uncommitted changes; {_HINT}")


def _git(folder: Path, *arguments: str) -> list[str]:
    """Run a reading git command; `:(literal)` keeps file names from being patterns, a hook is never run."""
    settings = ["-c", "core.fsmonitor=false", "--literal-pathspecs", "--no-optional-locks"]
    # Set by hooks and by editors; they would lead to another repository than the files'.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, names behind `--`
            ["git", "-C", str(folder), *settings, *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            check=False,
            env={**outside, "LC_ALL": "C"},
        )
    except OSError as error:
        raise RefusedError(
            f"git cannot be run ({error.strerror}), so changes could not be taken back; {_HINT}"
        ) from error
    if done.returncode:
        why = os.fsdecode(done.stderr).strip().splitlines()
        raise RefusedError(
            f"{folder} is in no git repository that can be read, so changes could not be taken back "
            f"({why[0] if why else 'git says nothing'}); {_HINT}"
        )
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
