"""The output folder of a run: apart from its data, and what an earlier run left there is kept."""

from __future__ import annotations

import logging
from pathlib import Path

from port.checkpoint import find_checkpoints
from port.data.datasets import ImageSource
from port.data.datasets.folder import FolderImages
from port.training.evaluation import LabelledPair

__all__ = ["check_apart", "move_aside", "save_config"]

logger = logging.getLogger("port")


def check_apart(output: Path, source: ImageSource, labelled: LabelledPair | None) -> None:
    """Check that a run's pictures do not become images of its data sets, which a resumed run would read.

    Args:
        output: the run's folder; there need not be one yet.
        source: the training images.
        labelled: images for k-NN.

    Raises:
        ValueError: the folder is among the images of a folder, and no name on the way starts with a dot, which would
            hide it.
    """
    keys = ("train.dataset_path", "knn.train_dataset", "knn.test_dataset")
    for key, images in zip(keys, (source, *(labelled or ())), strict=False):
        if isinstance(images, FolderImages) and _is_seen_from(images.root.resolve(), output.resolve()):
            raise ValueError(
                f"the output folder {output} is inside {images.root}, the images of {key}: the run's own pictures "
                "would become images; give another with --output-dir"
            )


def _is_seen_from(root: Path, folder: Path) -> bool:
    return folder.is_relative_to(root) and not any(part.startswith(".") for part in folder.relative_to(root).parts)


def save_config(text: str, path: Path) -> None:
    """Write the configuration; a former one with other values stays beside it."""
    if path.exists() and path.read_bytes() != text.encode():
        path.replace(_unused(path))
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def move_aside(folder: Path) -> None:
    """Keep checkpoints that the run is not to go on from, out of the way of its own."""
    if find_checkpoints(folder):
        target = _unused(folder)
        folder.replace(target)
        logger.warning("--no-resume: earlier checkpoints are kept in %s", target)


def _unused(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.stem}.old-{number}{path.suffix}")).exists():
        number += 1
    return target
