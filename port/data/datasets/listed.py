"""What data sets made of files have in common: names, labels, and what was left out."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from port.data.datasets.base import ImageSource
from port.data.datasets.decode import decode_image
from port.data.datasets.names import NameTable

__all__ = ["UNLABELLED", "ListedImages", "folder_classes", "labels_by_folder", "summarise_ignored"]

UNLABELLED = -1


class ListedImages(ImageSource):
    """Images that are files or members of archives, read whole and then decoded."""

    def __init__(
        self,
        origin: str,
        names: NameTable,
        *,
        classes: Sequence[str] = (),
        labels: NDArray[np.int32] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Set what is known of each image.

        Args:
            origin: what `describe` calls the place they come from.
            names: of the images, relative to that place.
            classes: the classes' names.
            labels: an index into `classes` for each image, `UNLABELLED` for none; None when no image has one.
            notes: what else `describe` has to say.
        """
        self.origin = origin
        self.names = names
        self.classes = list(classes)
        self.labels = labels
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> Image.Image:
        """Return the image in RGB; raises as `ImageSource.load` says."""
        return decode_image(self.read(index), self.name(index))

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the encoded image; raises as `load` does."""

    def label(self, index: int) -> int | None:
        """Return the image's index into `classes`; None when it has none."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        if self.labels is None or self.labels[index] == UNLABELLED:
            return None
        return int(self.labels[index])

    def describe(self) -> str:
        """Return one line: how many images and classes, from where, and what was left out."""
        labels = "unlabelled"
        if self.classes:
            labels = f"{len(self.classes):,} class{'es' if len(self.classes) > 1 else ''}"
        images = f"{len(self):,} image{'s' if len(self) > 1 else ''}"
        return "; ".join([f"{images}, {labels}, from {self.origin}", *self.notes])


def folder_classes(names: NameTable) -> tuple[list[str], NDArray[np.int32] | None]:
    """Return the classes that a tree of images stands for, and each image's.

    A class is a folder of the first level, provided that no image lies beside these folders. A lone folder that
    holds nothing but folders, as archives often have one, is looked through.

    Args:
        names: paths with forward slashes, sorted by component.
    """
    if not len(names):
        return [], None
    depth = min(name.count("/") for name in names)
    if depth == 0:
        return [], None
    first, last = names[0].split("/"), names[len(names) - 1].split("/")
    level = 0
    while level + 1 < depth and first[level] == last[level]:
        level += 1
    classes: dict[str, int] = {}
    labels = [classes.setdefault(name.split("/", level + 1)[level], len(classes)) for name in names]
    return list(classes), np.array(labels, dtype=np.int32)


def labels_by_folder(names: NameTable, classes: Sequence[str]) -> NDArray[np.int32]:
    """Return the index of each name's first folder in `classes`, `UNLABELLED` where it is not among them."""
    known = {name: index for index, name in enumerate(classes)}
    return np.array([known.get(name.partition("/")[0], UNLABELLED) for name in names], dtype=np.int32)


def summarise_ignored(ignored: Mapping[str, int]) -> list[str]:
    """Return the note on files that are no images, by extension; none when there were none."""
    if not ignored:
        return []
    total = sum(ignored.values())
    kinds = ", ".join(f"{count:,} {kind or 'without extension'}" for kind, count in Counter(ignored).most_common(4))
    return [f"ignored {total:,} other file{'s' if total > 1 else ''} ({kinds}{', …' if len(ignored) > 4 else ''})"]
