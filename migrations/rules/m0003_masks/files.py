"""Which files of a project may hold a student's masks, by their bytes: parsing all of a large project takes minutes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from migrations.engine.project import Project
from migrations.engine.source import SourceFile

__all__ = ["linked_paths"]

_NETWORKS = re.compile(rb"(?i)teacher|ibot|ema_|_ema|momentum_(?:encoder|model|net)|distill")
_DRAWS = re.compile(
    rb"(?i)bernoulli|\brand(?:_like)?\(|random_sample|randperm|permutation\(|shuffle\(|argsort|topk\(|multinomial"
    rb"|MaskingGenerator|draw_block_masks|linspace"
)
_DEFINITIONS = re.compile(rb"(?m)^[ \t]*(?=(?:async )?(?:def|class) )")
_NAME = re.compile(rb"(?:async )?(def|class) (\w+)")
_WORD = re.compile(rb"[A-Za-z_]\w+")
_RUN_BY_CLASS = re.compile(rb"__\w+__|forward|sample|collate_fn")


def linked_paths(project: Project) -> set[str]:
    """Return the paths of the files that train two networks, and of those whose drawing functions they name.

    A function that draws is followed to the files that name it, and further; a method that a class runs by itself
    counts as the class. Empty where nothing speaks of two networks, or nothing draws.
    """
    files = project.files.values()
    drawing = {file.path: file for file in files if _DRAWS.search(file.data)}
    kept = [f for f in files if _NETWORKS.search(f.data) and (f.path in drawing or b"mask" in f.data.lower())]
    if not kept or not drawing:
        return set()
    paths = {file.path for file in kept}
    others = {path: (file, set(_drawing_names(file))) for path, file in drawing.items() if path not in paths}
    words: set[bytes] = set()
    while kept:
        words.update(word for file in kept for word in _WORD.findall(file.data))
        kept = [file for file, names in others.values() if names & words]
        for file in kept:
            paths.add(file.path)
            del others[file.path]
    return paths


def _drawing_names(file: SourceFile) -> Iterator[bytes]:
    """Yield the names of functions, and of classes around them, in whose text something is drawn."""
    owner = b""
    for part in _DEFINITIONS.split(file.data):
        named = _NAME.match(part)
        if named is None:
            continue
        kind, name = named.groups()
        owner = name if kind == b"class" else owner
        if _DRAWS.search(part):
            yield owner if _RUN_BY_CLASS.fullmatch(name) else name
