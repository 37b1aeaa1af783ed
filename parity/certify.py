"""File by file, how much of official's training code a fork still has, and of which commit.

Decided by git blob ids of official history wherever the file lies; where bytes differ, by official text at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from parity.certificate import Certificate, FileState, State, read_tree
from parity.normalised import renamed, same_code
from parity.reference.identity import modified_file
from parity.reference.manifest import Blob, Manifest, blob_id, is_training_path, line_hashes, load_manifest

__all__ = ["certify"]

OFFICIAL = "dinov2"
_ALIKE, _ALIKE_OF_ITS_NAME = 0.5, 0.3


def certify(
    root: Path, texts: Mapping[str, bytes], compared_with: str = "", manifest: Manifest | None = None
) -> Certificate:
    """Compare a tree with official history.

    Args:
        root: of a repository, of the package, or of a fork that renamed or moved it.
        texts: official files at hand, by official's path, for what is not byte-identical; may be empty.
        compared_with: whose files these are, in words.
        manifest: official history; the one that ships with parity by default.

    Raises:
        UsageError: the tree cannot be read.
    """
    return _Certifier(root.resolve(), read_tree(root), texts, compared_with, manifest or load_manifest()).certificate()


class _Certifier:
    """The state of one certification: which file of the tree stands for which official one."""

    def __init__(
        self, root: Path, files: Mapping[str, bytes], texts: Mapping[str, bytes], compared_with: str, history: Manifest
    ) -> None:
        self._root = root
        self._files = files
        self._texts = texts
        self._compared_with = compared_with
        self._history = history
        self._blobs: dict[str, list[str]] = {}
        for path, blobs in history.files.items():
            for blob in blobs:
                self._blobs.setdefault(blob.id, []).append(path)
        self._package = self._find_package()
        self._name = root.name if self._package == "." else PurePosixPath(self._package).name

    def certificate(self) -> Certificate:
        """Match, judge every pair, and add what is missing and extra."""
        pairs = self._pairs()
        states = {official: self._judged(official, path) for official, path in pairs.items()}
        nearest, shared = self._nearest(states)
        for official, path in pairs.items():
            if states[official][0].state == "differs":
                states[official] = self._differing(official, path, nearest), None
        wanted = [path for path in self._history.files if self._history.blob_at(path, nearest) is not None]
        found = [
            states[path][0] if path in states else FileState("missing", "", path)
            for path in self._history.files
            if path in states or path in wanted
        ]
        taken = set(pairs.values())
        extra = [FileState("extra", path, "") for path in self._files if path not in taken and self._inside(path)]
        others = len(self._files) - len(taken) - len(extra)
        named = str(self._history.commits[nearest])
        return Certificate(self._root, self._package, named, shared, (*found, *extra), others, self._compared_with)

    def _find_package(self) -> str:
        """Return the folder that most official files lie in as they lie in `dinov2/`."""
        votes: Counter[str] = Counter()
        for path, data in self._files.items():
            exact = self._blobs.get(blob_id(data)) or self._blobs.get(blob_id(data.replace(b"\r\n", b"\n"))) or []
            for official in self._history.files:
                inner = official.removeprefix(f"{OFFICIAL}/")
                if path == inner or path.endswith(f"/{inner}"):
                    # An `__init__.py` lies everywhere; a file with official's very content counts for more.
                    weight = 3 if official in exact else 0 if inner.endswith("__init__.py") else 1
                    votes[path.removesuffix(inner).rstrip("/") or "."] += weight
        best = max(votes.items(), key=lambda item: (item[1], -len(item[0])), default=(OFFICIAL, 0))
        return best[0] if best[1] else OFFICIAL

    def _inside(self, path: str) -> bool:
        """Whether a file lies where official's training code would."""
        return is_training_path(self._as_official(path))

    def _as_official(self, path: str) -> str:
        if self._package == ".":
            return f"{OFFICIAL}/{path}"
        return f"{OFFICIAL}/{path.removeprefix(self._package + '/')}" if path.startswith(f"{self._package}/") else ""

    def _pairs(self) -> dict[str, str]:
        """Return the fork's file for each official one: by content anywhere, by place, then by likeness."""
        here = {self._as_official(path): path for path in self._files}
        ids = {path: blob_id(data) for path, data in self._files.items()}
        pairs = {official: path for official, path in here.items() if official in self._blobs.get(ids[path], ())}
        for path in self._files:
            for official in self._blobs.get(ids[path], ()) if path not in pairs.values() else ():
                if official not in pairs and not official.endswith("__init__.py"):
                    pairs[official] = path
                    break
        taken = set(pairs.values())
        free = {o: here[o] for o in self._history.files if o not in pairs and here.get(o, "") not in ("", *taken)}
        # A place alone says something only where some file is official's, or was once: every fork has a `models/`.
        if pairs or any(self._alike(official, path) for official, path in free.items()):
            pairs |= free
        self._add_alike(pairs)
        return pairs

    def _alike(self, official: str, path: str) -> bool:
        lines = set(line_hashes(self._files[path]))
        return max(_likeness(lines, blob) for blob in self._history.files[official]) >= _ALIKE_OF_ITS_NAME

    def _add_alike(self, pairs: dict[str, str]) -> None:
        """Add files elsewhere that share most of their lines with an official file that has no counterpart."""
        free = {path: set(line_hashes(data)) for path, data in self._files.items() if path not in pairs.values()}
        for official, blobs in self._history.files.items():
            if official in pairs or official.endswith("__init__.py"):
                continue
            name = PurePosixPath(official).name
            scored = [
                (max(_likeness(lines, blob) for blob in blobs) + 0.01 * (PurePosixPath(path).name == name), path)
                for path, lines in free.items()
                if PurePosixPath(path).suffix == PurePosixPath(official).suffix
            ]
            score, path = max(scored, default=(0.0, ""))
            if score >= (_ALIKE_OF_ITS_NAME if PurePosixPath(path).name == name else _ALIKE):
                pairs[official] = path
                del free[path]

    def _judged(self, official: str, path: str) -> tuple[FileState, Blob | None]:
        """Return how a file stands to official's, and the official blob that it is; `differs` without lines."""
        data = self._files[path]
        unix = data.replace(b"\r\n", b"\n")
        for state, content in (
            ("identical", data),
            ("line endings", unix),
            ("package name", renamed(unix, self._name)),
        ):
            blob = self._history.blob(official, content)
            if blob is not None:
                first, last = (str(self._history.commits[pick(blob.commits)]) for pick in (min, max))
                judged: State = state  # type: ignore[assignment] # one of the three above
                return FileState(judged, path, official, first, last), blob
        text = self._texts.get(official)
        sameness = same_code(official, renamed(unix, self._name), text) if text is not None else ""
        if sameness and text is not None:
            blob = self._history.blob(official, text)
            return FileState("formatting", path, official, note=f"differs in {sameness} only"), blob
        return FileState("differs", path, official), None

    def _nearest(self, states: Mapping[str, tuple[FileState, Blob | None]]) -> tuple[int, bool]:
        """Return the commit that has most of the files, and whether one commit has all that are official's."""
        blobs = [blob for _, blob in states.values() if blob is not None]
        counts = Counter(index for blob in blobs for index in blob.commits)
        nearest = max(range(len(self._history.commits)), key=lambda index: (counts[index], index))
        return nearest, counts[nearest] == len(blobs)

    def _differing(self, official: str, path: str, nearest: int) -> FileState:
        """Name the first lines that differ from the nearest commit's, or else from the newest that has the file."""
        at = nearest
        if self._history.blob_at(official, nearest) is None:
            at = max(index for blob in self._history.files[official] for index in blob.commits)
        data = renamed(self._files[path].replace(b"\r\n", b"\n"), self._name)
        changed = modified_file(official, data, self._history, at)
        note = changed.text().removeprefix(f"{official} ")
        return replace(FileState("differs", path, official), note=note)


def _likeness(lines: Iterable[str], blob: Blob) -> float:
    """Return which share of the distinct lines of both files they have in common."""
    left, right = set(lines), set(blob.lines)
    return len(left & right) / max(len(left | right), 1)
