"""Tar shards as webdataset writes them, in any order rather than as a stream, so that a run resumes exactly.

webdataset itself expands the pattern and groups the members into samples. What differs is the reading: each shard's
headers are read once, at the start, and an image then from where it lies.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from port.data.datasets.base import BadImageError
from port.data.datasets.decode import is_image_name
from port.data.datasets.listed import UNLABELLED
from port.data.datasets.names import NameTable, part_order
from port.data.datasets.packed import Extent, read_extent
from port.data.datasets.tarballs import TarImages, tar_members

__all__ = ["expand_shards", "make_shards"]

logger = logging.getLogger("port")

# Members that webdataset's reader takes for its own notes (`webdataset/tariterators.py`).
NOTES = re.compile(r"__[^/]*__($|/)")
REMOTE = re.compile(r"(pipe:|[A-Za-z][A-Za-z0-9+.-]+://)")
# Above it, labels are no indices of classes but something else, and a list of classes would fill the memory.
MAX_LABEL = 1_000_000


class _Sample(NamedTuple):
    """One image of a shard, with what its label was read from: a class's index or its name."""

    name: str
    extent: Extent
    label: int | str | None


def make_shards(pattern: str) -> TarImages:
    """Return the images in tar shards, in the order of the shards and of the members in them.

    Members whose names differ only behind the first dot are one sample. Its image is the first member with an
    image's extension, a plain one (`.jpg`) before a compound one (`.mask.png`). Its label is the number in
    `.cls`, or `label` in `.json`: a number, or a class's name.

    Args:
        pattern: what webdataset understands (`shards-{0000..0009}.tar`, several joined by `::`), or with `*`
            and `?`.

    Raises:
        ImportError: webdataset is not installed.
        FileNotFoundError: a shard does not exist, or nothing matches.
        ValueError: a shard is remote, compressed or no tar archive, or no sample has an image.
    """
    shards = expand_shards(pattern)
    samples: list[_Sample] = []
    without_image = 0
    for number, shard in enumerate(shards):
        for sample in _samples(shard):
            image = _image_of(shard, number, sample)
            if image is None:
                without_image += 1
            else:
                samples.append(image)
    if not samples:
        raise ValueError(f"{pattern!r}: no image in {len(shards)} shards, {without_image} samples without one")
    classes, labels, notes = _classes([sample.label for sample in samples])
    if without_image:
        notes.append(f"ignored {without_image:,} samples without an image")
    origin = f"{len(shards):,} tar shard{'s' if len(shards) > 1 else ''} {pattern}"
    names = NameTable(sample.name for sample in samples)
    extents = (sample.extent for sample in samples)
    return TarImages(origin, shards, names, extents, classes=classes, labels=labels, notes=notes)


def expand_shards(pattern: str) -> list[str]:
    """Return the shards' paths that a pattern stands for.

    Raises:
        ImportError: webdataset is not installed.
        FileNotFoundError: a shard does not exist, or nothing matches.
        ValueError: a shard is not on a local disk.
    """
    shards: list[str] = []
    missing: list[str] = []
    for url in _webdataset("shardlists").expand_urls(pattern):
        if REMOTE.match(url):
            raise ValueError(
                f"{pattern!r}: {url!r} is a stream, in which no image can be reached directly, as exact resume needs; "
                "copy the shards to a local disk and give their paths"
            )
        path = str(Path(url.removeprefix("file:")).expanduser())
        if Path(path).is_file():
            shards.append(path)
        elif glob.has_magic(path) and (matches := glob.glob(path)):  # noqa: PTH207 - of absolute and relative paths
            shards.extend(sorted(matches, key=part_order))
        else:
            missing.append(path)
    if missing:
        names = ", ".join(repr(path) for path in missing[:3])
        raise FileNotFoundError(
            f"{pattern!r}: {len(missing)} of its shards do not exist: {names}{', …' if len(missing) > 3 else ''}; "
            "expected a form like 'shards-{0000..0009}.tar' or 'shards/*.tar'"
        )
    return shards


def _webdataset(module: str) -> Any:
    """Return one of webdataset's modules, or raise an ImportError that says how to get it."""
    try:
        return import_module(f"webdataset.{module}")
    except ImportError as error:
        raise ImportError(
            "tar shards need webdataset, which is not installed: pip install 'dinov2-parity[webdataset]'"
        ) from error


def _samples(shard: str) -> Iterator[Mapping[str, Any]]:
    """Yield webdataset's samples of a shard, with (offset, size, member's name) in the place of each member's data."""
    members = (
        {"fname": name, "data": (offset, size, name), "__url__": shard}
        for name, offset, size in tar_members(shard)
        if not NOTES.match(name)
    )

    def warn(error: Exception) -> bool:
        logger.warning("%s: a member is left out: %s", shard, error.args[0] if error.args else error)
        return True

    grouped: Iterator[Mapping[str, Any]] = _webdataset("tariterators").group_by_keys(members, handler=warn)
    return grouped


def _image_of(shard: str, number: int, sample: Mapping[str, Any]) -> _Sample | None:
    """Return a sample's image and label; None when it has no image."""
    suffixes = [suffix for suffix in sample if not suffix.startswith("__") and is_image_name(f"x.{suffix}")]
    if not suffixes:
        return None
    chosen = min(suffixes, key=lambda suffix: "." in suffix)
    offset, size, name = sample[chosen]
    return _Sample(name, Extent(number, offset, size), _label_of(shard, sample))


def _label_of(shard: str, sample: Mapping[str, Any]) -> int | str | None:
    """Return what `.cls` or `.json` says; None when there is none, or it says something else."""
    for suffix in ("cls", "json"):
        if suffix not in sample:
            continue
        offset, size, name = sample[suffix]
        try:
            text = read_extent(shard, offset, size, name).decode()
            label = int(text) if suffix == "cls" else json.loads(text)["label"]
        except (BadImageError, ValueError, KeyError, TypeError):
            return None
        valid = isinstance(label, str) or (type(label) is int and label >= 0)
        return label if valid else None
    return None


def _classes(found: Sequence[int | str | None]) -> tuple[list[str], NDArray[np.int32] | None, list[str]]:
    """Return the classes, each image's label, and notes.

    Numbers are kept, so that shards for training and for testing agree; names are sorted and numbered.
    """
    present = {label for label in found if label is not None}
    if not present:
        return [], None, []
    numbers = [label for label in present if isinstance(label, int)]
    names = sorted(label for label in present if isinstance(label, str))
    if numbers and (names or max(numbers) > MAX_LABEL):
        what = "numbers mixed with names" if names else f"numbers up to {max(numbers)}, expected at most {MAX_LABEL}"
        return [], None, [f"labels ignored: {what}"]
    classes = names or [str(number) for number in range(max(numbers) + 1)]
    index = {name: place for place, name in enumerate(classes)}
    labels = [UNLABELLED if label is None else index[str(label)] for label in found]
    missing = labels.count(UNLABELLED)
    notes = [f"{missing:,} without a label"] if missing else []
    return classes, np.array(labels, dtype=np.int32), notes
