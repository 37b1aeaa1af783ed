"""Official's `ImageNet:…` and `ImageNet22k:…`, without the metadata files that official code needs first.

The folders are scanned instead. Official reads `entries-TRAIN.npy` from `extra`, which lists the images by class
index and, within a class, by file name; a scan yields the same order, as long as the class folders are the 1000
official ones. `extra` is accepted and not used. A subset is as good as the whole (official asserts the exact length,
quirk Q31).
"""

from __future__ import annotations

from pathlib import Path

from port.data.datasets.base import ImageSource
from port.data.datasets.folder import FolderImages, FolderScan, existing_folder
from port.data.datasets.listed import labels_by_folder
from port.data.datasets.names import NameTable, part_order
from port.data.datasets.strings import parse_choice, parse_options
from port.data.datasets.tarballs import make_tarballs

__all__ = ["IMAGENET_22K_FORM", "IMAGENET_FORM", "make_imagenet", "make_imagenet_22k"]

IMAGENET_FORM = "ImageNet:split=TRAIN|VAL|TEST:root=FOLDER[:extra=FOLDER]"
IMAGENET_22K_FORM = "ImageNet22k:root=FOLDER[:extra=FOLDER]"
SPLITS = ("TRAIN", "VAL", "TEST")
KAGGLE_FOLDER = Path("ILSVRC/Data/CLS-LOC")


def make_imagenet(dataset_str: str) -> ImageSource:
    """Return a split of ImageNet-1k (`dinov2/data/datasets/image_net.py:55`).

    Images are at `root/train/n01440764/*.JPEG`, `root/val/n01440764/*.JPEG` and `root/test/*.JPEG`. A class's
    index is its place among the class folders of train and val together, so that both splits agree on it.
    Images of val that lie in no class folder have no label; `test` never has any.

    Raises:
        ValueError: the string has another form, or the split's folder holds no image.
        FileNotFoundError: root, or the split's folder in it, does not exist.
    """
    options = parse_options(
        dataset_str, known=("split", "root", "extra"), required=("split", "root"), form=IMAGENET_FORM
    )
    split = parse_choice(dataset_str, "split", options["split"].upper(), SPLITS).lower()
    root = existing_folder(options["root"])
    folder = root / split
    if not folder.is_dir():
        hint = f"; it is below {KAGGLE_FOLDER}, so give root={root / KAGGLE_FOLDER}"
        known = (root / KAGGLE_FOLDER / split).is_dir()
        raise FileNotFoundError(
            f"{dataset_str!r}: no folder {split!r} in root {str(root)!r}, where the split's images are expected"
            f"{hint if known else ''}"
        )
    classes = [] if split == "test" else _class_folders(root / "train", root / "val")
    return _scanned(dataset_str, f"ImageNet {split},", folder, classes, options)


def make_imagenet_22k(dataset_str: str) -> ImageSource:
    """Return ImageNet-22k (`dinov2/data/datasets/image_net_22k.py:56`).

    Images are in official's layout, one `root/n01440764.tar` per class, or unpacked at `root/n01440764/*.JPEG`.

    Raises:
        ValueError: the string has another form, or root holds no image.
        FileNotFoundError: root does not exist.
    """
    options = parse_options(dataset_str, known=("root", "extra"), required=("root",), form=IMAGENET_22K_FORM)
    root = existing_folder(options["root"])
    classes = _class_folders(root)
    tarballs = sorted(root.glob("*.tar"), key=lambda path: part_order(path.name))
    if tarballs and not classes:
        return make_tarballs(f"ImageNet22k {root}", tarballs, notes=_extra_note(options))
    return _scanned(dataset_str, "ImageNet22k", root, classes, options)


def _scanned(dataset_str: str, kind: str, folder: Path, classes: list[str], options: dict[str, str]) -> FolderImages:
    """Return the images below `folder`, labelled by their first folder."""
    scan = FolderScan()
    names = NameTable(scan.images(str(folder)))
    if not len(names):
        raise ValueError(
            f"{dataset_str!r}: no image in {str(folder)!r}, expected {folder / 'n01440764' / '*.JPEG'}"
            f"{''.join(f'; {note}' for note in scan.notes())}"
        )
    labels = labels_by_folder(names, classes)
    labelled = bool((labels >= 0).any())
    return FolderImages(
        kind,
        folder,
        names,
        classes=classes if labelled else (),
        labels=labels if labelled else None,
        notes=[*scan.notes(), *_extra_note(options)],
    )


def _class_folders(*folders: Path) -> list[str]:
    """Return the names of the folders in any of `folders`, sorted."""
    names = {
        entry.name
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    }
    return sorted(names, key=part_order)


def _extra_note(options: dict[str, str]) -> list[str]:
    """Return the note on `extra`, if it was given."""
    return [f"extra={options['extra']} is not needed and not used"] if "extra" in options else []
