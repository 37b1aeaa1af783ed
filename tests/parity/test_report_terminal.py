from __future__ import annotations

import io
import math
import time
from dataclasses import replace

import pytest
from fabricated_results import (
    CLOSE,
    FAR,
    MODIFIED,
    VERIFIED,
    diverged,
    masks,
    only_not_run,
    passing,
    with_comparisons,
)
from rich.console import Console

from parity.report.terminal import as_text
from parity.results import Comparison, Exhibit, RunResult


def _text(result: RunResult, width: int = 80, *, colour: bool = False, exit_code: int | None = None) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    return as_text(result, console, exit_code)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_first_line_is_the_provenance_and_the_last_the_verdict(width: int) -> None:
    """Both are single lines at any width, so that `head -1` and `tail -1` read them whole."""
    lines = _text(passing(), width).splitlines()
    assert lines[0] == (
        "reference: facebookresearch/dinov2 commit b8931f7 from github, 61 of 61 files verified byte-identical"
    )
    assert lines[-1].startswith("PARITY: 4 comparisons, 4 within tolerance")
    assert lines[-1].endswith("exit 0")


@pytest.mark.parametrize("width", [80, 140])
def test_lines_fit_the_width(width: int) -> None:
    """Only provenance and verdict may be longer than the terminal is wide."""
    lines = _text(diverged(), width).splitlines()
    assert [line for line in lines[1:-1] if len(line) > width] == []


@pytest.mark.parametrize("result", [passing(), diverged(), only_not_run()])
def test_without_colour_there_are_no_escapes(result: RunResult) -> None:
    """Plain text carries the same words as the coloured report."""
    plain = _text(result)
    assert "\x1b" not in plain
    coloured = _text(result, colour=True)
    assert "\x1b[" in coloured
    for word in ("passed", "DIVERGED", "not run", "ERROR"):
        assert (word in plain) == (word in coloured)


def test_a_modified_reference_is_loud() -> None:
    """The first line names the first modified file, the next lines the others and the notes."""
    reference = replace(MODIFIED, notes=("fell back to the wheel of April 2023",))
    lines = _text(replace(passing(), reference=reference), 140).splitlines()
    assert "MODIFIED: dinov2/data/masking.py line 69" in lines[0]
    assert "also modified: dinov2/loss/koleo_loss.py line 33" in lines[1]
    assert lines[2] == "NOTE: fell back to the wheel of April 2023"


def test_head_names_subject_environment_and_substitutes() -> None:
    """Substitutes are folded into one entry, by name."""
    text = _text(passing(), 140)
    assert "2 for missing kernels: memory_efficient_attention, index_select_cat" in text
    assert "torch 2.14.1, threads 2" in text
    assert "1 of 1 self-checks passed" in text
    assert "substitutes" not in _text(replace(passing(), reference=replace(VERIFIED, substitutes=())))


def test_a_failed_self_check_is_named() -> None:
    """An instrument that fails its own check says which."""
    run = replace(passing(), doctor=[replace(FAR, name="doctor/reference twice")])
    text = _text(run)
    assert "0 of 1 self-checks passed" in text
    assert "self-check failed: doctor/reference twice" in text


def test_the_table_has_a_row_per_family() -> None:
    """losses: 1 check, 2 compared, 1 bitwise, 3 ulp, 2e-16 / 8e-16 = 0.25."""
    rows = [line.split() for line in _text(passing()).splitlines()]
    assert ["losses", "1", "2", "1", "3", "0.25", "passed"] in rows
    assert ["masks", "1", "2", "2", "-", "-", "passed"] in rows


@pytest.mark.parametrize("error", [None, 1.0])
def test_an_exact_rule_has_no_ratio(error: float | None) -> None:
    """Beyond an exact rule there is no quotient to show, whether or not the difference has a size."""
    run = with_comparisons(replace(FAR, tier="T0", error=error, allowed=0.0), CLOSE)
    row = next(line for line in _text(run).splitlines() if "losses" in line)
    assert "not exact" in row
    assert "DIVERGED" in row


@pytest.mark.parametrize(("width", "bands"), [(80, 1), (36, 2)])
def test_masks_are_pictured_side_by_side(width: int, bands: int) -> None:
    """The first of 14 rows is masked: an upper half block in the first of 7 lines."""
    lines = _text(diverged(), width).splitlines()
    assert sum("▀" * 14 in line for line in lines) == bands
    assert any("official, seed 0" in line for line in lines)


def test_long_tables_are_cut_with_a_count() -> None:
    """Of 120 rows 6 are shown, and the report says how many are not."""
    rows = tuple({"name": f"blocks.{n}.mlp.fc1.weight", "lr": 0.9**n} for n in range(120))
    run = with_comparisons(FAR, exhibits=[Exhibit("table", "lr", rows)])
    text = _text(run)
    assert "blocks.5.mlp" in text
    assert "blocks.6.mlp" not in text
    assert "and 114 more rows, see --json" in text


def test_long_names_are_wrapped_and_never_cut() -> None:
    """On 40 columns every character of a parameter's name is still there."""
    name = "backbone." + "x" * 90
    text = _text(with_comparisons(FAR, replace(FAR, name=name)), 40)
    assert "x" * 90 in "".join(text.split())


def test_what_was_not_run_is_listed_with_its_reason() -> None:
    """Errors and unrun checks stand apart, each with the reason."""
    text = _text(diverged(), 140)
    assert "not run (1):\n  - modules.head[vitl14]: no capability build_head" in text
    assert "errors (1):\n  - masks.block[vitl14]: ValueError: size 0" in text


def test_nothing_compared_is_said() -> None:
    """A run that compared nothing does not read like parity."""
    text = _text(only_not_run())
    assert "nothing was compared" in text
    assert "PARITY" not in text
    assert "no checks" in _text(replace(passing(), checks=[]))


def test_markup_and_escapes_in_names_are_text() -> None:
    """Brackets are no markup, and an escape sequence of a subject's file reaches no terminal."""
    odd = Comparison("[red]x[/red]\x1b[2J", "T0", passed=False, bitwise=False, reference="größe 重み", subject="[/]")
    text = _text(with_comparisons(odd, title="[bold]t"), 140)
    assert "[red]x[/red]\\x1b[2J" in text
    assert "größe 重み" in text
    assert "[bold]t" in text


def test_nan_is_shown() -> None:
    """A NaN on one side has a size that no rule allows."""
    run = with_comparisons(replace(FAR, error=math.nan, subject="nan"))
    text = _text(run, 140)
    assert "nan, allowed 2e-10" in text
    assert "not finite" in text


def test_ten_thousand_comparisons_stay_short_and_fast() -> None:
    """The report's length does not grow with the number of comparisons."""
    run = with_comparisons(CLOSE, *[replace(FAR, name=f"p{n}") for n in range(10_000)])
    start = time.perf_counter()
    text = _text(run)
    assert time.perf_counter() - start < 5
    assert "10,000 of 10,001 comparisons differ" in text
    assert len(text.splitlines()) < 40


def test_the_exit_code_can_be_the_process_own() -> None:
    """Where a file could not be written, the last line tells the code that the shell will see."""
    assert _text(passing(), exit_code=2).splitlines()[-1].endswith("exit 2")


def test_masks_exhibit_of_the_helper_is_square() -> None:
    """The fabricated exhibit is what the pictures above are counted from: 14 of 196 patches."""
    assert sum(map(sum, masks(14, ("a",)).rows[0]["mask"])) == 14
