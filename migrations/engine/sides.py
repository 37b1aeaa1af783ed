"""A project before and after: two folders, and one parity run in each, which share no module.

Each side is run by a process of its own, in its own folder, with that folder first on the path. That neither executes
a line of the other is watched, not assumed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrations.errors import MigrationsError, UsageError

__all__ = ["Side", "both_sides", "run_parity"]

_PROJECT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.pop(0); from migrations.engine.parity_side import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Side:
    """One state of the project.

    Attributes:
        name: `before` or `after`.
        root: its folder.
        adapter: the file that shows it to parity.
        about: where it comes from, in words.
    """

    name: str
    root: Path
    adapter: Path
    about: str


@contextmanager
def both_sides(path: Path, adapter: Path, before: Path | None, revision: str) -> Iterator[tuple[Side, Side]]:
    """Give the project before and after; what had to be copied is removed at the end.

    An adapter inside of the project is each side's own; where a side lacks it, the one that is given is copied beside.

    Args:
        path: the project as it is now.
        adapter: the adapter's file.
        before: an untouched copy of the project; None for `revision` in git.
        revision: a commit.

    Raises:
        UsageError: a path does not exist.
        MigrationsError: git has no such state of the project.
    """
    for given, kind in ((path, "folder"), (before, "folder"), (adapter, "file")):
        if given is not None and not (given.is_dir() if kind == "folder" else given.is_file()):
            raise UsageError(f"{given} is no {kind} that exists")
    path, adapter = path.resolve(), adapter.resolve()
    with tempfile.TemporaryDirectory(prefix="migrations-") as stage:
        copies = Path(stage).resolve()
        if before is None:
            # Of the project's own name, for adapters that import it as a package.
            root = copies / "before" / path.name
            _check_out(path, revision, root)
            about = f"git {revision}"
        else:
            root, about = before.resolve(), str(before)
        if root == path:
            raise UsageError(f"{before} is the project itself, expected an untouched copy of it")
        yield (
            Side("before", root, _adapter_of(root, path, adapter, copies / "adapter_before"), about),
            Side("after", path, _adapter_of(path, path, adapter, copies / "adapter_after"), str(path)),
        )


def _adapter_of(root: Path, path: Path, adapter: Path, copies: Path) -> Path:
    if adapter.is_relative_to(path):
        own = root / adapter.relative_to(path)
        if own.is_file():
            return own
    elif not path.is_relative_to(adapter.parent):
        return adapter
    # Where it lies, its folder would offer the other side's modules.
    copies.mkdir()
    return Path(shutil.copy(adapter, copies))


def _check_out(path: Path, revision: str, target: Path) -> None:
    """Write a commit's state of a folder; the repository and its index are not touched."""
    top = Path(os.fsdecode(_git(path, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    prefix = os.fsdecode(_git(path, "rev-parse", "--show-prefix").rstrip(b"/\n"))
    named = _git(path, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", what=revision)
    archive = _git(top, "archive", "--format=tar", f"{named.decode().strip()}:{prefix}", what=f"{revision}:{prefix}")
    target.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter=_without_strange_links)  # noqa: S202 - the filter refuses what leads outside


def _without_strange_links(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    """Leave out links that lead outside, to data for instance, which would let a side write there."""
    try:
        return tarfile.data_filter(member, target)
    except tarfile.FilterError:
        return None


def _git(path: Path, *arguments: str, what: str = "") -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command; the revision was given by the user
            ["git", "-C", str(path), "-c", "core.fsmonitor=false", *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            check=False,
            env={**environment, "LC_ALL": "C"},
        )
    except OSError as error:
        raise MigrationsError(f"git cannot be run ({error.strerror}); give an untouched copy, --before DIR") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split()) or f"git knows no {what}"
        raise MigrationsError(f"{path}: {said[:200]}; give an untouched copy, --before DIR, or a commit, --at REVISION")
    return done.stdout


def run_parity(side: Side, other: Side, options: Sequence[str], folder: Path) -> Mapping[str, Any]:
    """Run parity on a side and return its JSON report.

    Raises:
        MigrationsError: there is no report, or the side executed files of the other.
    """
    report, foreign = folder / f"{side.name}.json", folder / f"{side.name}.foreign.json"
    arguments = [str(other.root), str(foreign), "run", "--subject", str(side.adapter), "--json", str(report), *options]
    done = subprocess.run(  # noqa: S603 - this interpreter, on the user's own adapter
        [sys.executable, "-c", _START, *arguments],
        cwd=side.root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path(side, other)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    strangers = json.loads(foreign.read_text(encoding="utf-8")) if foreign.exists() else []
    if strangers:
        raise MigrationsError(
            f"{side.name}: {side.adapter} imported {strangers[0]}, which belongs to the other side, so that "
            "it would be compared with itself; import the project relative to the adapter, or pip uninstall it"
        )
    if not report.exists():
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise MigrationsError(f"{side.name} ({side.about}): parity gave no report: {said[-400:]}")
    document: Mapping[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return document


def _search_path(side: Side, other: Side) -> list[str]:
    """Return where a side's process looks for modules: this project's packages, then the side's own."""
    inherited = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    kept = [str(entry) for entry in inherited if not entry.resolve().is_relative_to(other.root)]
    own = [side.root, side.root / "src", side.root.parent]
    return [str(_PROJECT), *(str(entry) for entry in own if entry.is_dir()), *kept]
