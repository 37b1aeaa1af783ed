"""Which files of a project may hold a student's masks, by their bytes: parsing all of a large project takes minutes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from migrations.engine.project import Project
from migrations.engine.source import SourceFile

__all__ = ["linked_paths"]

_NETWORKS = (b"teacher", b"ibot", b"momentum_encoder", b"momentum_model", b"momentum_net", b"distill")
_AVERAGE = re.compile(rb"\bema_|_ema\b")
_DRAWS = (
    b"bernoulli",
    b"rand(",
    b"rand_like(",
    b"random_sample",
    b"randperm",
    b"permutation(",
    b"shuffle(",
    b"multinomial",
    b"MaskingGenerator",
    b"draw_block_masks",
)
_DEFINITIONS = re.compile(rb"(?m)^[ \t]*(?=(?:async )?(?:def|class) )")
_NAME = re.compile(rb"(?:async )?(def|class) (\w+)")
_NAMED = re.compile(rb"([A-Za-z_]\w+)(?:\(| as )|=\s*([A-Za-z_]\w+)\s*[,)\r\n]")
"""Names that are called, imported under another name, or handed on."""

_RUN_BY_CLASS = re.compile(rb"__\w+__|forward|sample|collate_fn")


def linked_paths(project: Project) -> set[str]:
    """Return the paths of the files that train two networks, and of those whose drawing functions they name.

    A function that draws is followed to the files that name it, and further; a method that a class runs by itself
    counts as the class. Empty where nothing speaks of two networks, or nothing draws.
    """
    files = project.files.values()
    drawing = {file.path: file for file in files if _draws(file.data)}
    kept = [file for file in files if _trains_two(file.data.lower())]
    if not kept or not drawing:
        return set()
    paths = {file.path for file in kept}
    others = {path: (file, set(_drawing_names(file))) for path, file in drawing.items() if path not in paths}
    words: set[bytes] = set()
    while kept:
        words.update(name for file in kept for pair in _NAMED.findall(file.data) for name in pair)
        kept = [file for file, names in others.values() if names & words]
        for file in kept:
            paths.add(file.path)
            del others[file.path]
    return paths


def _draws(data: bytes) -> bool:
    return any(word in data for word in _DRAWS)


def _trains_two(lowered: bytes) -> bool:
    """Whether a file speaks of a teacher or of a moving average, and of masks or draws."""
    if not any(word in lowered for word in _NETWORKS) and not (b"ema" in lowered and _AVERAGE.search(lowered)):
        return False
    return b"mask" in lowered or _draws(lowered)


def _drawing_names(file: SourceFile) -> Iterator[bytes]:
    """Yield the names of functions, and of classes around them, in whose text something is drawn."""
    owner = b""
    for part in _DEFINITIONS.split(file.data):
        named = _NAME.match(part)
        if named is None:
            continue
        kind, name = named.groups()
        owner = name if kind == b"class" else owner
        if _draws(part):
            yield owner if _RUN_BY_CLASS.fullmatch(name) else name
