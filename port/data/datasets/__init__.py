"""Data sets: folders, official's ImageNet strings, zip archives, tar shards and scikit-image's bundled images."""

from __future__ import annotations

from port.data.datasets.base import BadImage, BadImageError, ImageSource
from port.data.datasets.check import check_readable
from port.data.datasets.factory import DATASET_FORMS, make_dataset

__all__ = ["DATASET_FORMS", "BadImage", "BadImageError", "ImageSource", "check_readable", "make_dataset"]
