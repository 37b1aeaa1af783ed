"""What every data set offers: images by index, their names and labels, and one error for an image that is bad."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from PIL import Image

__all__ = ["BadImage", "BadImageError", "ImageSource"]


class BadImage(NamedTuple):
    """An image that could not be read: where it is, and why."""

    name: str
    reason: str


class BadImageError(ValueError):
    """One image of a data set cannot be read; the others may well be fine.

    Attributes:
        name: the file, or the member of an archive, as `ImageSource.name` gives it.
        reason: what is wrong with it, in words.
    """

    def __init__(self, name: str, reason: str) -> None:
        # Both go into `args`, so that the error survives the way back from a loader process.
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageSource(ABC):
    """Images by index, in an order that is the same on every machine and in every process.

    A source can be pickled, keeps no file open between calls and may be read by several threads or processes.

    Attributes:
        classes: the classes' names; a label is an index into it. Empty when the images have no labels.
    """

    classes: list[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Return the image in RGB.

        Raises:
            BadImageError: the image cannot be read.
            IndexError: `index` is negative, or not below the length.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return where the image comes from: a path, or an archive's path and the member's."""

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Return the image's index into `classes`; None when it has none."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line for a log: how many images and classes, from where, and what was left out."""
