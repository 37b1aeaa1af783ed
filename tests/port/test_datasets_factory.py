from __future__ import annotations

from pathlib import Path

import pytest
from datasets_files import encoded, write_images, write_tar, write_tree, write_zip

from port.data.datasets import DATASET_FORMS, make_dataset
from port.data.datasets.archive import ZipImages
from port.data.datasets.bundled import BundledTiles
from port.data.datasets.folder import FolderImages
from port.data.datasets.strings import did_you_mean, parse_options
from port.data.datasets.tarballs import TarImages


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images in every form."""
    write_images(tmp_path, "images/a/1.png", "bundled/1.png", "imagenet/1.png", "a b/1.png", "odd.tar/1.png")
    write_images(tmp_path / "official", "train/n01440764/1.JPEG")
    write_zip(tmp_path / "data.zip", {"1.png": encoded()})
    write_zip(tmp_path / "data.cbz", {"1.png": encoded()})
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards/0.tar", {"1.png": encoded()})
    write_tar(tmp_path / "shards/1.TAR", {"1.png": encoded()})
    write_tree(tmp_path, {"notes.txt": b"none"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("dataset_str", "kind"),
    [
        ("images", FolderImages),
        ("./images/", FolderImages),
        ("  images\n", FolderImages),
        ("~/images", FolderImages),
        ("folder:images", FolderImages),
        ("Folder:root=images", FolderImages),
        ("folder:~/images", FolderImages),
        ("a b", FolderImages),
        ("imagenet", FolderImages),
        ("./bundled", FolderImages),
        ("odd.tar", FolderImages),
        ("ImageNet:split=TRAIN:root=official:extra=x", FolderImages),
        ("ImageNet22k:root=official/train", FolderImages),
        ("data.zip", ZipImages),
        ("zip:data.zip", ZipImages),
        ("data.cbz", ZipImages),
        ("shards/0.tar", TarImages),
        ("shards/1.TAR", TarImages),
        ("shards/*.tar", TarImages),
        ("shards/{0..0}.tar", TarImages),
        ("wds:shards/?.tar", TarImages),
        ("wds:shards/[0-9].*", TarImages),
        ("bundled", BundledTiles),
        ("bundled:split=val", BundledTiles),
        ("skimage:split=test:size=64:grey=false", BundledTiles),
    ],
)
def test_every_form_is_understood(here: Path, dataset_str: str, kind: type) -> None:
    """Names, paths and patterns; `bundled` is the data set even where a folder has this name."""
    source = make_dataset(dataset_str)
    assert isinstance(source, kind)
    assert source.load(0).mode == "RGB"
    assert len(source) >= 1


@pytest.mark.parametrize(
    ("dataset_str", "error", "words"),
    [
        ("", ValueError, "no data set is named"),
        ("Imagenet:split=TRAIN:root=x", ValueError, "no kind of data set 'Imagenet'.*did you mean 'ImageNet'"),
        ("imagenet22K:root=x", ValueError, "did you mean 'ImageNet22k'"),
        ("CIFAR10:root=x", ValueError, "no kind of data set 'CIFAR10'"),
        ("foldr:images", ValueError, "did you mean 'folder'"),
        ("folder:", ValueError, "'folder:' names no path"),
        ("Folder:root=", ValueError, "names no path"),
        ("imges", FileNotFoundError, "data set 'imges' does not exist, did you mean 'images'"),
        ("images/b", FileNotFoundError, "'images/b' does not exist"),
        ("bundeld", FileNotFoundError, "did you mean 'bundled'"),
        ("skimge", FileNotFoundError, "did you mean 'skimage'"),
        ("/no/such/folder", FileNotFoundError, "'/no/such/folder' does not exist"),
        ("C:\\no\\such", FileNotFoundError, "does not exist"),
        ("dat.zip", FileNotFoundError, "did you mean 'data.zip'"),
        ("images/a/1.png", ValueError, "is one image; give the folder that it is in, 'images/a'"),
        ("notes.txt", ValueError, r"is a file, but no \.zip and no \.tar"),
        ("shards/7.tar", FileNotFoundError, "1 of its shards do not exist"),
        ("shards", ValueError, r"for tar shards give 'wds:shards/\*\.tar'"),
    ],
)
def test_what_is_not_understood_is_named_with_the_nearest(
    here: Path, dataset_str: str, error: type[Exception], words: str
) -> None:
    """The error names what was given and what is most like it."""
    with pytest.raises(error, match=words):
        make_dataset(dataset_str)


def test_the_error_lists_all_forms(here: Path) -> None:
    """Whoever mistypes a name sees what there is."""
    with pytest.raises(ValueError, match="expected one of") as caught:
        make_dataset("CIFAR10:root=x")
    assert all(f"  {form}: {what}" in str(caught.value) for form, what in DATASET_FORMS.items())
    assert len(DATASET_FORMS) == 6


def test_options_are_split_in_front_of_a_key() -> None:
    """A colon that no `key=` follows belongs to the value, and so do equal signs."""
    options = parse_options("X:root=C:\\a b:extra=//host/x=y", known=("root", "extra"), form="X:root=…")
    assert options == {"root": "C:\\a b", "extra": "//host/x=y"}
    assert parse_options("X", known=("root",), form="X") == {}


@pytest.mark.parametrize(
    ("word", "expected"), [("SPLTI", ", did you mean 'split'?"), ("zzz", ""), ("Root", ", did you mean 'root'?")]
)
def test_the_nearest_word_whatever_its_case(word: str, expected: str) -> None:
    """Only a word that is near is suggested."""
    assert did_you_mean(word, ("split", "root")) == expected
