from __future__ import annotations

import math

import pytest

from parity.report.pictures import cell, half_blocks, mask_lines, table_cells, table_lines
from parity.results import Exhibit


def test_half_blocks_show_two_rows_per_line() -> None:
    """Each of the four combinations of an upper and a lower patch has its character."""
    assert half_blocks([[True, False, True, False], [False, True, True, False]]) == ["▀▄█ "]


def test_half_blocks_of_an_odd_grid() -> None:
    """The last of an odd number of rows is an upper half alone."""
    assert half_blocks([[True], [False], [True]]) == ["▀", "▀"]
    assert half_blocks([]) == []


def test_masks_stand_beside_each_other() -> None:
    """Two masks that fit share their lines, with frames on one level and titles above."""
    grid = [[True, True], [False, False]]
    lines = mask_lines([{"title": "official", "mask": grid}, {"title": "yours", "mask": grid}], 80)
    assert lines == [
        "official          yours",
        "┌──┐              ┌──┐",
        "│▀▀│              │▀▀│",
        "└──┘              └──┘",
    ]


@pytest.mark.parametrize(("width", "bands"), [(140, 1), (80, 2), (40, 3), (20, 6)])
def test_masks_wrap_to_the_width(width: int, bands: int) -> None:
    """Six 14-wide masks (16 with frame, gaps of 2) need 106 characters in one band; none exceeds the width."""
    grid = [[False] * 14] * 14
    lines = mask_lines([{"title": f"mask {n}", "mask": grid} for n in range(6)], width)
    assert max(map(len, lines)) <= width
    assert sum("┌" in line for line in lines) == bands
    assert sum(line.count("┌") for line in lines) == 6


def test_long_titles_wrap_above_their_mask() -> None:
    """A title longer than its mask takes several lines, and the frames still align."""
    grid = [[True] * 14] * 2
    lines = mask_lines([{"title": "official, 58 patches asked for", "mask": grid}, {"title": "b", "mask": grid}], 80)
    assert [line.count("┌") for line in lines] == [0, 0, 0, 2, 0, 0]


def test_a_mask_wider_than_the_terminal_says_that_it_is_cut() -> None:
    """Nothing is cut silently."""
    text = "\n".join(mask_lines([{"title": "wide", "mask": [[True] * 100]}], 40))
    assert "of 100)" in text
    assert max(map(len, text.splitlines())) <= 40


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (True, "yes"),
        (131072, "131,072"),
        (0.0143579, "0.0143579"),
        (math.nan, "nan"),
        ("a\x1bb", "a\\x1bb"),
    ],
)
def test_cells_are_text(value: object, expected: str) -> None:
    """Every kind of value has one readable form."""
    assert cell(value) == expected


def test_table_keeps_the_order_of_columns_and_counts_what_it_leaves_out() -> None:
    """Columns come in the order of the first row, later ones at the end; rows beyond the limit are counted."""
    rows = ({"name": "a", "lr": 1.0}, {"name": "b", "lr": 2.0, "wd": 0}, {"name": "c", "lr": 3.0})
    columns, cells, left_out = table_cells(Exhibit("table", "t", rows), 2)
    assert (columns, left_out) == (["name", "lr", "wd"], 1)
    assert cells == [["a", "1", ""], ["b", "2", "0"]]


def test_table_aligns_numbers_to_the_right() -> None:
    """Words to the left, numbers to the right, a rule under the head."""
    assert table_lines(["name", "lr"], [["a", "0.5"], ["bcdef", "10"]], 80) == [
        "name    lr",
        "──────────",
        "a      0.5",
        "bcdef   10",
    ]


def test_a_wide_table_closes_its_gaps_then_continues_below() -> None:
    """Columns of 5, 4 and 4: 17 characters with gaps of 2, 15 with gaps of 1, else two tables with the key repeated."""
    columns, rows = ["stack", "mean", "most"], [["yours", "25.0", "34"]]
    assert table_lines(columns, rows, 17)[0] == "stack  mean  most"
    assert table_lines(columns, rows, 15)[0] == "stack mean most"
    assert table_lines(columns, rows, 14) == [
        "stack mean", "──────────", "yours 25.0", "", "stack most", "──────────", "yours   34",
    ]  # fmt: skip


def test_heads_of_two_words_break_before_the_table_does() -> None:
    """`lr official` above 0.5 takes 11 of 18 characters on one line, and 8 on two, with which the table fits."""
    assert table_lines(["name", "lr official", "lr yours"], [["a", "0.5", "1"]], 19) == [
        "           lr    lr",
        "name official yours",
        "───────────────────",
        "a         0.5     1",
    ]


def test_table_keys_are_the_columns_up_to_the_first_word() -> None:
    """A number before the word belongs to the key: `19 official`, not `19` alone."""
    lines = table_lines(["asked", "stack", "a", "b"], [["19", "official", "1" * 20, "2" * 20]], 40)
    assert [line.split()[:2] for line in lines if "official" in line] == [["19", "official"]] * 2


def test_a_cell_wider_than_the_terminal_is_kept() -> None:
    """Nothing is cut, and a table of one column ends."""
    assert table_lines(["name"], [["x" * 50]], 20)[-1] == "x" * 50


def test_wide_characters_count_twice() -> None:
    """Characters of two cells, as in Chinese, keep the columns in line."""
    lines = table_lines(["name", "n"], [["重み", "1"], ["ab", "2"]], 80)
    assert lines[2:] == ["重み  1", "ab    2"]
