"""What the features are worth while a run goes on: k-NN accuracy against raw pixels, and pictures of patches."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from port.data.datasets import BadImageError, ImageSource, make_dataset
from port.evaluation import (
    eval_views,
    extract_features,
    knn_accuracy,
    patch_components,
    raw_pixel_features,
    save_columns,
    shown,
)

__all__ = ["KNN_FILE", "PCA_FILE", "KnnRecord", "LabelledPair", "Monitor", "open_labelled_pair"]

logger = logging.getLogger("port")
KNN_FILE = "knn.json"
PCA_FILE = "patch_pca.png"
N_PICTURES = 6
LabelledPair = tuple[ImageSource, ImageSource]
"""Images that vote, and images that are classified."""

RAW_SIZES = (8, 16, 32)
"""Sides in pixels to which images are made small; the best of them is what raw pixels can do."""


@dataclass
class KnnRecord:
    """What `OUTPUT/knn.json` holds.

    Attributes:
        n_train: images that vote.
        n_test: images that are classified.
        n_classes: among the images that vote.
        raw_pixels: accuracy of the images themselves, the best over `RAW_SIZES`.
        curve: iterations done, and the accuracy after them.
    """

    n_train: int = 0
    n_test: int = 0
    n_classes: int = 0
    raw_pixels: float = 0.0
    curve: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, until: int) -> KnnRecord:
        """Return what a run has measured up to an iteration; nothing where there is no sound file."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            curve = {int(done): float(accuracy) for done, accuracy in fields.pop("curve").items()}
            return cls(**fields, curve={done: accuracy for done, accuracy in curve.items() if done <= until})
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            logger.warning("%s cannot be read (%r): its measurements are lost", path, error)
            return cls()

    def write(self, path: Path) -> None:
        """Replace the file."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


class Monitor:
    """Evaluates the teacher's backbone by k-NN; without labelled images it only makes pictures."""

    def __init__(
        self,
        cfg: DictConfig,
        source: ImageSource,
        labelled: LabelledPair | None,
        output: Path,
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        start_iteration: int = 0,
    ) -> None:
        """Read what an earlier session measured.

        Args:
            cfg: `knn`, `crops`, `train.batch_size_per_gpu` are read.
            source: the training images, for pictures where there are no labelled ones.
            labelled: from `open_labelled_pair`.
            output: the run's folder.
            device: of the model.
            autocast: entered around forward passes.
            start_iteration: measurements of later iterations are forgotten; 0 forgets all.
        """
        self.period = int(cfg.knn.period_iterations)
        self.k, self.temperature = int(cfg.knn.k), float(cfg.knn.temperature)
        self.crop_size = int(cfg.knn.crop_size or cfg.crops.global_crops_size)
        self.resize_size = int(cfg.knn.resize_size)
        self.batch_size = 2 * int(cfg.train.batch_size_per_gpu)
        self.output, self.device, self.autocast = output, device, autocast
        self.sources = labelled
        self.record = KnnRecord.read(output / KNN_FILE, start_iteration) if start_iteration else KnnRecord()
        self.shown = _evenly_spread(self.sources[1] if self.sources else source)
        self._columns: dict[str, list[Image.Image]] = {}

    def due(self, iteration: int) -> bool:
        """Whether to measure after so many iterations; the first and the last are always due."""
        return bool(self.sources) and self.period > 0 and iteration % self.period == 0

    def measure(self, backbone: nn.Module, iteration: int, *, write: bool = True) -> float | None:
        """Return k-NN accuracy in [0, 1], and note it in `knn.json`; None where no data sets are named.

        Args:
            backbone: the teacher's. A sharded one must be called by all ranks alike.
            iteration: iterations done.
            write: false on ranks that only take part.
        """
        if self.sources is None:
            return None
        votes, asked = (
            extract_features(
                backbone,
                source,
                crop_size=self.crop_size,
                resize_size=self.resize_size,
                batch_size=self.batch_size,
                device=self.device,
                autocast=self.autocast,
            )
            for source in self.sources
        )
        accuracy = knn_accuracy(votes.features, votes.labels, asked.features, asked.labels, self.k, self.temperature)
        if write:
            if not self.record.n_train:
                self._measure_raw_pixels(votes.labels, asked.labels)
            self.record.curve[iteration] = accuracy
            self._attempt(KNN_FILE, lambda: self.record.write(self.output / KNN_FILE))
            logger.info("k-NN accuracy after %d iterations: %.3f", iteration, accuracy)
        return accuracy

    def picture(self, backbone: nn.Module, iteration: int, *, write: bool = True) -> None:
        """Write `patch_pca.png`: images, and the principal components of their patches as colours.

        Beside the latest state it shows the one before training, where this process has seen it. Arguments are those
        of `measure`.
        """
        if not self.shown:
            return
        views = eval_views(backbone, self.shown, self.crop_size, self.resize_size)
        title = "untrained" if iteration == 0 else f"after {iteration} iterations"
        components = patch_components(backbone, views, device=self.device, autocast=self.autocast)
        kept = {name: column for name, column in self._columns.items() if name in ("image", "untrained")}
        self._columns = {"image": shown(views), **kept, title: components}
        if write:
            self._attempt(PCA_FILE, lambda: save_columns(self._columns, self.output / PCA_FILE))

    def _attempt(self, name: str, write: Callable[[], None]) -> None:
        """Write a file that training does not need: a disk that is full now may have room at the next checkpoint."""
        try:
            write()
        except OSError as error:
            logger.warning("%s could not be written (%s): the run goes on without it", self.output / name, error)

    def _measure_raw_pixels(self, train_labels: Tensor, test_labels: Tensor) -> None:
        assert self.sources is not None
        record = self.record
        record.n_train, record.n_test = len(train_labels), len(test_labels)
        record.n_classes = len(train_labels.unique())
        of_votes, of_asked = (raw_pixel_features(source, RAW_SIZES) for source in self.sources)
        for votes, asked in zip(of_votes, of_asked, strict=True):
            accuracy = knn_accuracy(
                votes.features, votes.labels, asked.features, asked.labels, self.k, self.temperature
            )
            record.raw_pixels = max(record.raw_pixels, accuracy)


def open_labelled_pair(cfg: DictConfig) -> LabelledPair | None:
    """Open the data sets that `knn` names; None where it names none.

    Raises:
        ValueError: a data set has no classes, or the two have others.
        OSError: a data set does not exist.
    """
    if not cfg.knn.train_dataset:
        return None
    votes, asked = make_dataset(cfg.knn.train_dataset), make_dataset(cfg.knn.test_dataset)
    for key, source in (("knn.train_dataset", votes), ("knn.test_dataset", asked)):
        if len(source.classes) < 2:
            raise ValueError(
                f"{key} has {len(source.classes)} classes ({source.describe()}), expected 2 or more: a folder of "
                "folders, one per class; or leave both empty for no k-NN"
            )
    if votes.classes != asked.classes:
        only = sorted(set(votes.classes) ^ set(asked.classes))[:3]
        raise ValueError(
            f"knn.train_dataset has {len(votes.classes)} classes and knn.test_dataset {len(asked.classes)}, expected "
            f"the same ones in both; in one only: {', '.join(only) or 'none, but their order differs'}"
        )
    return votes, asked


def _evenly_spread(source: ImageSource) -> list[Image.Image]:
    """Return a few images from all over a data set, without those that cannot be read."""
    count = min(N_PICTURES, len(source))
    found = (_readable(source, place * len(source) // count) for place in range(count))
    return [image for image in found if image is not None]


def _readable(source: ImageSource, index: int) -> Image.Image | None:
    try:
        return source.load(index)
    except BadImageError as error:
        logger.debug("no picture of %s: %s", error.name, error.reason)
        return None
