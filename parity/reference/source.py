"""Find official code where the user says: `auto`, `github`, `pypi`, or a folder.

Whatever is found is read once, and these bytes are what is verified and what is later compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from parity.errors import ReferenceSourceError
from parity.reference.cache import cache_folder, store
from parity.reference.download import GITHUB_URL, from_github, from_installed, from_pypi
from parity.reference.identity import Identity, identify, read_files
from parity.reference.manifest import PINNED_COMMIT, PYPI_VERSION

__all__ = ["KEYWORDS", "Source", "resolve"]

KEYWORDS = ("auto", "github", "pypi")

_PYPI_NOTE = (
    f"using PyPI's dinov2 {PYPI_VERSION}, byte-identical to the April 2023 code but for __version__; "
    "it has no register tokens"
)


@dataclass(frozen=True)
class Source:
    """Official code, found.

    Attributes:
        source: where it came from.
        requested: what the user asked for.
        root: folder that holds `dinov2/`.
        files: the training files, read once, keyed by POSIX path from `root`.
        identity: what official history says about these bytes.
        notes: fall-backs and what they mean, loudest first.
    """

    source: Literal["github", "pypi", "path"]
    requested: str
    root: Path
    files: Mapping[str, bytes] = field(repr=False)
    identity: Identity
    notes: tuple[str, ...] = ()


def resolve(
    requested: str = "auto",
    *,
    cache: Path | None = None,
    github_url: str = GITHUB_URL,
    commit: str = PINNED_COMMIT,
    timeout: float = 10.0,
) -> Source:
    """Find official code.

    Args:
        requested: `auto` (the pinned GitHub commit, else the PyPI wheel), `github`, `pypi`, or a folder. A
            folder that has one of these names is written `./github`.
        cache: folder for verified copies; `parity.reference.cache.cache_folder()` by default.
        github_url: address of a commit's archive, with `{commit}`.
        commit: the commit wanted from GitHub.
        timeout: seconds to wait for an answer from the network.

    Raises:
        ReferenceSourceError: no official code can be had from there; the message names causes and next steps.
    """
    folder = cache or cache_folder()

    def github() -> Source:
        return _github(requested, folder, commit, github_url, timeout)

    def pypi() -> Source:
        return _pypi(requested, folder, timeout)

    if requested == "auto":
        return _auto(github, pypi)
    if requested in ("github", "pypi"):
        try:
            return github() if requested == "github" else pypi()
        except ReferenceSourceError as error:
            raise ReferenceSourceError(f"{error}; {_next_step(requested)}") from error
    return _path(requested)


def _next_step(requested: str) -> str:
    """Say what to do where the network does not give what was asked for."""
    other = "pypi" if requested == "github" else "github"
    return f"check the connection, or use --reference {other} or --reference PATH (a folder that holds dinov2/)"


def _auto(github: Callable[[], Source], pypi: Callable[[], Source]) -> Source:
    """Return the pinned commit, else the wheel with a note that says so first."""
    try:
        return github()
    except ReferenceSourceError as error:
        unreachable = error
    try:
        found = pypi()
    except ReferenceSourceError as error:
        raise ReferenceSourceError(
            f"no official code can be reached. GitHub: {unreachable}. PyPI: {error}. "
            "Connect once, or give --reference PATH, a folder that holds official dinov2/"
        ) from error
    notes = (f"GITHUB COULD NOT BE REACHED ({unreachable}): {_PYPI_NOTE}", *found.notes[1:])
    return Source(found.source, "auto", found.root, found.files, found.identity, notes)


def _github(requested: str, cache: Path, commit: str, url: str, timeout: float) -> Source:
    """Return the cached copy of the commit if it is intact, else download, verify and keep it."""

    def official(identity: Identity) -> bool:
        return commit in identity.commits

    target = cache / f"github-{commit[:12]}"
    cached, notes = _cached(target, official)
    if cached is not None:
        return Source("github", requested, target, *cached)
    files = from_github(commit, url, timeout)
    identity = _expect(files, official, f"what {url.format(commit=commit)} sent is not commit {commit[:7]}")
    root, note = store(files, target)
    return Source("github", requested, root, files, identity, (*notes, note) if note else notes)


def _pypi(requested: str, cache: Path, timeout: float) -> Source:
    """Return the cached wheel if it is intact, else an installed one, else download, verify and keep it."""

    def official(identity: Identity) -> bool:
        return identity.identity == "verified" and PYPI_VERSION in identity.version

    target = cache / f"pypi-{PYPI_VERSION}"
    loud = (_PYPI_NOTE[0].upper() + _PYPI_NOTE[1:],)
    cached, notes = _cached(target, official)
    if cached is not None:
        return Source("pypi", requested, target, *cached, loud)
    installed = from_installed()
    if installed is not None:
        try:
            identity = _expect(installed[1], official, f"the dinov2 installed in {installed[0]} is modified")
        except ReferenceSourceError as error:
            notes = (*notes, f"{error}; a fresh copy was downloaded")
        else:
            return Source("pypi", requested, *installed, identity, loud + notes)
    files = from_pypi(timeout)
    identity = _expect(files, official, f"PyPI's dinov2 {PYPI_VERSION} is not what it was")
    root, note = store(files, target)
    return Source("pypi", requested, root, files, identity, (*loud, *notes, *((note,) if note else ())))


def _cached(
    target: Path, official: Callable[[Identity], bool]
) -> tuple[tuple[dict[str, bytes], Identity] | None, tuple[str, ...]]:
    """Return a cached copy and its identity, or None with a note where there is a damaged one."""
    if not target.is_dir():
        return None, ()
    try:
        files = read_files(target)
        return (files, _expect(files, official, "it is not what was stored")), ()
    except ReferenceSourceError as error:
        return None, (f"the cached copy {target} was damaged ({error}) and fetched anew",)


def _expect(files: Mapping[str, bytes], official: Callable[[Identity], bool], otherwise: str) -> Identity:
    """Return the files' identity.

    Raises:
        ReferenceSourceError: it is not the one expected.
    """
    try:
        identity = identify(files)
    except ReferenceSourceError as error:
        raise ReferenceSourceError(f"{otherwise}: {error}") from error
    if official(identity):
        return identity
    found = [changed.text() for changed in identity.modified[:3]] or [identity.version]
    raise ReferenceSourceError(f"{otherwise}: {'; '.join(found)}")


def _path(requested: str) -> Source:
    """Return the code in a folder that holds `dinov2/`, or that is `dinov2/`."""
    folder = Path(requested).expanduser()
    choices = f"expected {', '.join(KEYWORDS)}, or a folder that holds dinov2/"
    if not folder.exists():
        raise ReferenceSourceError(f"--reference {requested} does not exist; {choices}")
    if not folder.is_dir():
        raise ReferenceSourceError(f"--reference {requested} is a file; {choices} (unpack an archive first)")
    folder = folder.resolve()
    if (folder / "dinov2").is_dir():
        root = folder
    elif folder.name == "dinov2" and (folder / "train").is_dir():
        root = folder.parent
    else:
        raise ReferenceSourceError(f"--reference {requested} holds no dinov2/; {choices}")
    files = read_files(root)
    return Source("path", requested, root, files, identify(files))
