from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from datasets_files import colour, encoded, labels, relative_names, write_images, write_tar, write_tree
from torchvision.datasets import ImageFolder

from port.data.datasets import BadImageError, make_dataset

CLASSES = ["n01440764", "n01443537", "n02085620"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A subset of ImageNet in official's layout, with val in class folders; val has one class fewer."""
    train = [f"train/{name}/{name}_{number}.JPEG" for name in CLASSES for number in (10026, 8, 1)]
    val = [f"val/{name}/ILSVRC2012_val_{number:08d}.JPEG" for number, name in enumerate(CLASSES[1:])]
    test = [f"test/ILSVRC2012_test_{number:08d}.JPEG" for number in (2, 1)]
    return write_images(tmp_path / "imagenet", *train, *val, *test, "labels.txt")


def test_train_is_in_the_order_of_officials_entries(root: Path) -> None:
    """Official builds its entries from torchvision's ImageFolder (image_net.py:206); order and labels equal it."""
    source = make_dataset(f"ImageNet:split=TRAIN:root={root}:extra={root / 'extra'}")
    expected = ImageFolder(str(root / "train")).samples
    assert [(source.name(index), source.label(index)) for index in range(len(source))] == expected
    assert source.classes == CLASSES


def test_a_subset_is_enough_and_extra_is_said_to_be_unused(root: Path) -> None:
    """Nine images instead of 1,281,167 are fine (Q31), and no metadata file is needed."""
    source = make_dataset(f"ImageNet:split=TRAIN:root={root}:extra=/no/such/folder")
    assert len(source) == 9
    assert source.describe() == (
        f"9 images, 3 classes, from ImageNet train, {root / 'train'}; extra=/no/such/folder is not needed and not used"
    )


def test_train_and_val_agree_on_labels(root: Path) -> None:
    """A class that a subset of val lacks does not shift the others."""
    source = make_dataset(f"ImageNet:split=VAL:root={root}")
    assert source.classes == CLASSES
    assert labels(source) == [1, 2]


def test_flat_val_and_test_have_no_labels(root: Path, tmp_path: Path) -> None:
    """Images in no class folder are sorted by name and have no label."""
    flat = write_images(tmp_path / "flat", *(f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in (3, 1, 2)))
    val = make_dataset(f"ImageNet:split=VAL:root={flat}")
    assert relative_names(val, flat / "val") == [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3)]
    assert (val.classes, labels(val)) == ([], [None] * 3)
    test = make_dataset(f"ImageNet:split=TEST:root={root}")
    assert relative_names(test, root / "test")[0] == "ILSVRC2012_test_00000001.JPEG"
    assert (test.classes, labels(test)) == ([], [None, None])


@pytest.mark.parametrize("folder", ["C:images", "C:", "C:/images", "with=sign", "a b"])
def test_a_root_may_hold_colons_and_equal_signs(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `:word=` starts an option; official stops at any second colon or equal sign."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / folder, "train/n01440764/1.JPEG")
    assert len(make_dataset(f"ImageNet:split=TRAIN:root={folder}:extra=x")) == 1


@pytest.mark.parametrize(
    ("dataset_str", "error", "words"),
    [
        ("ImageNet", ValueError, "lacks split= and root=; expected ImageNet:split=TRAIN"),
        ("ImageNet:split=TRAIN", ValueError, "lacks root="),
        ("ImageNet:split=TRIAN:root=.", ValueError, "no split 'TRIAN', did you mean 'TRAIN'"),
        ("ImageNet:spilt=TRAIN:root=.", ValueError, "no option 'spilt', did you mean 'split'"),
        ("ImageNet:split=TRAIN:split=VAL:root=.", ValueError, "'split' is given twice"),
        ("ImageNet:split=TRAIN:root=", ValueError, "'root' is empty"),
        ("ImageNet:/data/imagenet", ValueError, "'/data/imagenet' is no key=value"),
        ("ImageNet:split=TRAIN:root=/a:b=c", ValueError, r"no option 'b'.*cannot hold ':word=': give a symbolic link"),
        ("ImageNet:split=TRAIN:root=/no/such", FileNotFoundError, "no folder '/no/such'"),
        ("ImageNet22k", ValueError, "lacks root="),
        ("ImageNet22k:split=TRAIN:root=.", ValueError, "no option 'split'"),
    ],
)
def test_mistakes_in_the_string_are_named(dataset_str: str, error: type[Exception], words: str) -> None:
    """Each error names the value, what was expected and the nearest word."""
    with pytest.raises(error, match=words):
        make_dataset(dataset_str)


def test_a_missing_split_and_an_empty_one_are_errors(root: Path, tmp_path: Path) -> None:
    """The folder that was looked for is named; so is where Kaggle's archive has it."""
    kaggle = write_images(tmp_path / "kaggle", "ILSVRC/Data/CLS-LOC/train/n01440764/1.JPEG")
    with pytest.raises(FileNotFoundError, match=r"no folder 'train' in root .*CLS-LOC, so give root="):
        make_dataset(f"ImageNet:split=TRAIN:root={kaggle}")
    with pytest.raises(FileNotFoundError, match=r"no folder 'val' in root .* are expected$"):
        make_dataset(f"ImageNet:split=VAL:root={kaggle}")
    write_tree(tmp_path / "empty", {"train/n01440764.tar": b""})
    with pytest.raises(ValueError, match=r"no image in .*ignored 1 other file \(1 \.tar\)"):
        make_dataset(f"ImageNet:split=TRAIN:root={tmp_path / 'empty'}")


def test_lower_case_splits_are_understood(root: Path) -> None:
    """Official wants capitals; there is nothing else that `train` could mean."""
    assert len(make_dataset(f"ImageNet:split=train:root={root}")) == 9


def test_imagenet_22k_unpacked(tmp_path: Path) -> None:
    """Class folders at the top level are classes."""
    root = write_images(tmp_path, "n02085620/n02085620_7.JPEG", "n01440764/n01440764_2.JPEG")
    source = make_dataset(f"ImageNet22k:root={root}:extra={root}")
    assert source.classes == ["n01440764", "n02085620"]
    assert labels(source) == [0, 1]
    assert "not needed and not used" in source.describe()


def test_imagenet_22k_as_tar_archives(tmp_path: Path) -> None:
    """Official's layout, one archive per class, is read in place; gzipped members (26 of them) are unpacked."""
    good, zipped = encoded((5, 6, 7), "JPEG", 16), gzip.compress(encoded((9, 9, 9)))
    write_tar(tmp_path / "n02085620.tar", {"n02085620_7.JPEG": good, "n02085620_8.JPEG": zipped, "x.txt": b"-"})
    write_tar(tmp_path / "n01440764.tar", {"n01440764_2.JPEG": encoded((1, 2, 3)), "n01440764_3.JPEG": zipped[:-9]})
    source = make_dataset(f"ImageNet22k:root={tmp_path}")
    assert source.classes == ["n01440764", "n02085620"]
    assert labels(source) == [0, 0, 1, 1]
    assert source.name(2) == f"{tmp_path}/n02085620.tar/n02085620_7.JPEG"
    assert [colour(source, index) for index in (0, 3)] == [(1, 2, 3), (9, 9, 9)]
    assert source.load(2).size == (16, 16)
    with pytest.raises(BadImageError, match=r"n01440764_3\.JPEG: gzipped and damaged"):
        source.load(1)


def test_tar_archives_without_images_are_an_error(tmp_path: Path) -> None:
    """Archives of archives, as the winter 2021 download is, hold no image that can be reached."""
    write_tar(tmp_path / "n01440764.tar", {"inner.tar": b"-"})
    with pytest.raises(ValueError, match=r"no image in the 1 tar archives .*1 \.tar"):
        make_dataset(f"ImageNet22k:root={tmp_path}")
