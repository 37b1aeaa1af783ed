from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from port.data.datasets import BadImage, BadImageError, ImageSource, check_readable
from port.data.datasets.listed import folder_classes, summarise_ignored
from port.data.datasets.names import NameTable, path_order


class Planted(ImageSource):
    """A data set of which some images are bad."""

    def __init__(self, length: int, bad: set[int]) -> None:
        self.length, self.bad, self.classes = length, bad, []
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> Image.Image:
        """Return a black image, or raise for a bad one."""
        self.loaded.append(index)
        if index in self.bad:
            raise BadImageError(self.name(index), "planted")
        return Image.new("RGB", (1, 1))

    def name(self, index: int) -> str:
        """Return the index."""
        return f"#{index}"

    def label(self, index: int) -> None:
        """Return that there is none."""

    def describe(self) -> str:
        """Return what it is."""
        return "planted images"


@pytest.mark.parametrize(
    ("length", "n", "expected"),
    [(100, 4, [0, 33, 66, 99]), (3, 32, [0, 1, 2]), (1, 32, [0]), (10, 1, [0]), (2, 2, [0, 1])],
)
def test_the_sample_is_evenly_spaced(length: int, n: int, expected: list[int]) -> None:
    """From the first to the last image, none twice, no more than there are."""
    source = Planted(length, set())
    assert check_readable(source, n=n) == []
    assert source.loaded == expected


def test_bad_images_are_returned() -> None:
    """A few do not stop a run: they are named, for the log."""
    assert check_readable(Planted(100, {33, 50}), n=4) == [BadImage("#33", "planted")]


def test_a_sample_without_a_readable_image_is_an_error() -> None:
    """The first three are named with their reasons, whatever share is allowed."""
    with pytest.raises(ValueError, match=r"4 of 4 images cannot be read.*#0: planted; #33: planted; #66: planted; …"):
        check_readable(Planted(100, set(range(100))), n=4, max_bad_share=1.0)
    with pytest.raises(ValueError, match=r"1 of 1 images cannot be read.*#0: planted \(planted images\)"):
        check_readable(Planted(1, {0}))


@pytest.mark.parametrize(
    ("bad", "share", "is_error"),
    [
        # Binomial tails by hand: P(at least 3 of 32 | 0.01) = 0.0040, P(at least 4 of 32 | 0.01) = 0.00029.
        (3, 0.01, False),
        (4, 0.01, True),
        (1, 0.0, True),
        (31, 1.0, False),
        (16, 0.5, False),
        (26, 0.5, True),
    ],
)
def test_a_share_that_chance_cannot_explain_is_an_error(bad: int, share: float, is_error: bool) -> None:
    """32 images decide whether the whole data set can have the share allowed."""
    source = Planted(32, set(range(bad)))
    if is_error:
        with pytest.raises(ValueError, match=rf"{bad} of 32 images .* a share of {share:g} \(data\.max_bad_share\)"):
            check_readable(source, n=32, max_bad_share=share)
    else:
        assert len(check_readable(source, n=32, max_bad_share=share)) == bad


@pytest.mark.parametrize(("n", "share"), [(0, 0.1), (4, -0.1), (4, 1.5)])
def test_impossible_arguments_are_errors(n: int, share: float) -> None:
    """The value is named, and its range."""
    with pytest.raises(ValueError, match="expected"):
        check_readable(Planted(4, set()), n=n, max_bad_share=share)


def test_an_error_comes_back_from_another_process() -> None:
    """With name and reason, for the count of skipped files."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(Planted(3, {1}).load, 1)
        with pytest.raises(BadImageError) as caught:
            future.result()
    assert (caught.value.name, caught.value.reason) == ("#1", "planted")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_a_table_holds_any_names(names: list[str]) -> None:
    """It is a sequence of the same strings, the empty ones included."""
    table = NameTable(names)
    assert list(table) == names
    assert [table[index] for index in range(len(table))] == names


def test_a_table_keeps_names_that_are_no_utf8() -> None:
    """Undecodable bytes of a file name come back."""
    name = os.fsdecode(b"\xff\xfe.png")
    assert list(NameTable([name, "b"])) == [name, "b"]


@pytest.mark.parametrize("index", [-1, 1])
def test_a_table_has_no_negative_index(index: int) -> None:
    """An index out of range is an error on both sides."""
    with pytest.raises(IndexError, match="out of range for 1 images"):
        NameTable(["a"])[index]


def test_paths_are_ordered_by_component() -> None:
    """As text, `a-b/y` would come between `a/z` and nothing of `a`."""
    assert sorted(["a/z", "a-b/y", "a/b/c", "B"], key=path_order) == ["B", "a/b/c", "a/z", "a-b/y"]


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        ([], [], None),
        (["x.png"], [], None),
        (["a/x.png"], ["a"], [0]),
        (["a/x.png", "b/y/z.png"], ["a", "b"], [0, 1]),
        (["a/x.png", "y.png"], [], None),
        (["d/a/x.png", "d/b/y.png"], ["a", "b"], [0, 1]),
        (["d/a/x.png", "d/y.png"], ["d"], [0, 0]),
        (["d/e/a/x.png", "d/e/b/y.png", "d/e/b/z.png"], ["a", "b"], [0, 1, 1]),
        (["a/x/1.png", "b/x/1.png"], ["a", "b"], [0, 1]),
    ],
)
def test_classes_of_a_tree(names: list[str], classes: list[str], labels: list[int] | None) -> None:
    """By hand: the first level at which folders part, if nothing lies beside them."""
    found, numbers = folder_classes(NameTable(names))
    assert found == classes
    assert (None if numbers is None else numbers.tolist()) == labels


def test_ignored_files_are_summed_up() -> None:
    """The most frequent extensions first, four at most."""
    assert summarise_ignored({}) == []
    assert summarise_ignored({".txt": 1}) == ["ignored 1 other file (1 .txt)"]
    kinds = {".a": 1, ".b": 5, "": 4, ".c": 3, ".d": 1200}
    assert summarise_ignored(kinds) == ["ignored 1,213 other files (1,200 .d, 5 .b, 4 without extension, 3 .c, …)"]
