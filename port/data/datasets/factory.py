"""From a dataset string to a data set."""

from __future__ import annotations

import difflib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from port.data.datasets.archive import make_zip
from port.data.datasets.base import ImageSource
from port.data.datasets.bundled import FORM as BUNDLED_FORM
from port.data.datasets.bundled import make_bundled
from port.data.datasets.decode import is_image_name
from port.data.datasets.folder import make_folder
from port.data.datasets.imagenet import IMAGENET_22K_FORM, IMAGENET_FORM, make_imagenet, make_imagenet_22k
from port.data.datasets.shards import make_shards
from port.data.datasets.strings import did_you_mean

__all__ = ["DATASET_FORMS", "make_dataset"]

DATASET_FORMS = {
    "PATH, folder:PATH": "a folder of images, nested or flat",
    IMAGENET_FORM: "ImageNet-1k, without the metadata files",
    IMAGENET_22K_FORM: "ImageNet-22k, unpacked or one .tar per class",
    "FILE.zip, zip:FILE": "a zip archive of images",
    "shards-{0000..0009}.tar, 'shards/*.tar', wds:PATTERN": "tar shards; needs webdataset",
    f"bundled, {BUNDLED_FORM}": "tiles of scikit-image's bundled images",
}
# A tar archive, compressed ones and streams included, whose errors say what to do instead.
SHARDS = re.compile(r"\.(tar|tgz|tbz2?|txz)$|\.tar\.\w+$|^pipe:|://", re.IGNORECASE)


def make_dataset(dataset_str: str) -> ImageSource:
    """Return the data set that `train.dataset_path` names (`dinov2/data/loaders.py:70`).

    Args:
        dataset_str: one of `DATASET_FORMS`. A name in front of a colon wins over a path of that name, which can
            be written with `./` in front.

    Raises:
        ValueError: no such form, or no image is found.
        OSError: what is named does not exist or cannot be opened.
        ImportError: an optional package is missing.
    """
    text = dataset_str.strip()
    if not text:
        raise ValueError(f"no data set is named; {_forms()}")
    name, colon, rest = text.partition(":")
    if name in _MAKERS:
        return _MAKERS[name](text)
    if name in _PATH_MAKERS and colon:
        if not rest.removeprefix("root="):
            raise ValueError(f"{text!r} names no path; {_forms()}")
        return _PATH_MAKERS[name](rest.removeprefix("root="))
    return _from_path(text)


_MAKERS: dict[str, Callable[[str], ImageSource]] = {
    "ImageNet": make_imagenet,
    "ImageNet22k": make_imagenet_22k,
    "bundled": make_bundled,
    "skimage": make_bundled,
}
_PATH_MAKERS: dict[str, Callable[[str], ImageSource]] = {
    "folder": make_folder,
    "Folder": make_folder,
    "zip": make_zip,
    "wds": make_shards,
}


def _from_path(text: str) -> ImageSource:
    """Return the data set at a path, whose kind shows in what is there."""
    path = Path(text).expanduser()
    if path.is_dir():
        return make_folder(text)
    if SHARDS.search(text):
        return make_shards(text)
    if not path.is_file():
        raise _unknown(text)
    if text.lower().endswith(".zip") or zipfile.is_zipfile(path):
        return make_zip(text)
    if is_image_name(text):
        raise ValueError(f"{text!r} is one image; give the folder that it is in, {str(path.parent)!r}")
    raise ValueError(f"{text!r} is a file, but no .zip and no .tar; {_forms()}")


def _unknown(text: str) -> Exception:
    """Return the error for what is neither a known name nor a path that exists."""
    name, colon, _ = text.partition(":")
    hint = did_you_mean(name, [*_MAKERS, *_PATH_MAKERS])
    if colon and not re.match(r"[A-Za-z]:[\\/]", text) and "/" not in name:
        return ValueError(f"no kind of data set {name!r} in {text!r}{hint}; {_forms()}")
    path = Path(text).expanduser()
    if path.parent.is_dir():
        known = [] if path.name != text else [*_MAKERS, *_PATH_MAKERS]
        beside = [entry.name for entry in path.parent.iterdir()]
        near = difflib.get_close_matches(path.name, [*beside, *known], n=1)
        hint = f", did you mean {str(path.parent / near[0])!r}?" if near and near[0] not in known else hint
    return FileNotFoundError(f"data set {text!r} does not exist{hint}; {_forms()}")


def _forms() -> str:
    """Return the forms there are, for an error."""
    return "expected one of:\n" + "\n".join(f"  {form}: {what}" for form, what in DATASET_FORMS.items())
