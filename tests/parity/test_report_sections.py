from __future__ import annotations

import io
from dataclasses import replace

from fabricated_results import DOUBLE_NORMALISED, FAR, diverged, passing, with_comparisons
from rich.console import Console

from parity.report.terminal import as_text
from parity.results import Exhibit, Finding, RunResult


def _text(result: RunResult, width: int = 80) -> str:
    return as_text(result, Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None))


def test_a_divergence_is_told_cause_first() -> None:
    """Causes with their official lines and next steps, then what was compared, both values, sizes and place."""
    text = _text(diverged(), 140)
    parts = [
        "causes (in full: python -m parity explain ID)",
        "\n0005  2 checks, 130 diverging comparisons (all shared with Q3)\n",
        "official / yours = 79.50 = masked tokens per image (and 1 like it: gradients.step[default])",
        "[dinov2/loss/ibot_patch_loss.py:126]",
        "next: migration 0005",
        "\nQ3  2 checks",
        "the cap is 666, not 684.5",
        "python -m parity explain Q3",
        "DIVERGED  gradients.step[vitl14] (L3), causes 0005, Q3\n  one step\n",
        "129 of 130 comparisons differ; first (T1): gradients/backbone.cls_token\n",
        "official  0.79499\n",
        "yours     0.01000\n",
        "size      3e-05, allowed 2e-10 (150,000 times as much); index (0, 0, 7)\n",
        "- gradients/p0: 3e-05, allowed 2e-10\n",
        "- gradients/p1: 3e-05, allowed 2e-10\n",
        "also under default (1 of 1)\n",
        "masks from one seed",
        "lr by name",
        "0.01436",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert "gradients/p2" not in text


def test_a_cause_is_told_once() -> None:
    """Two checks have the same cause, and both are in one block of evidence."""
    text = _text(diverged())
    assert text.count(DOUBLE_NORMALISED.sentence) == 1
    assert text.count("DIVERGED  gradients.step") == 1


def test_a_finding_without_a_known_difference_is_called_so() -> None:
    """A schedule of another length is described and not attributed."""
    finding = Finding("", "lr has 10 steps, official 20", "take lengths from the configuration", "train.py:64")
    text = _text(with_comparisons(FAR, findings=[finding]), 140)
    assert "\nnot attributed  1 check, 1 diverging comparison\n" in text
    assert "  - not attributed: lr has 10 steps, official 20 [train.py:64]\n" in text
    assert "  next: take lengths from the configuration\n" in text
    assert "DIVERGED  losses.x[default] (L1), cause one not attributed\n" in text


def test_an_official_line_is_told_once() -> None:
    """Sentences about one official line stand together, and the last of them names it."""
    findings = [DOUBLE_NORMALISED, replace(DOUBLE_NORMALISED, sentence="rows do not count")]
    text = _text(with_comparisons(FAR, findings=findings), 140)
    assert text.count("[dinov2/loss/ibot_patch_loss.py:126]") == 1
    assert "rows do not count [dinov2/loss/ibot_patch_loss.py:126]" in text
    assert text.count("migration 0005") == 1


def test_many_sentences_of_one_cause_are_cut_with_a_count() -> None:
    """Of ten distinct sentences eight are told."""
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    text = _text(with_comparisons(FAR, findings=[Finding("0007", word) for word in words]))
    assert "- eight\n" in text
    assert "- nine" not in text
    assert "and 2 more findings, see --json" in text


def test_recipes_that_passed_are_told() -> None:
    """Where only some recipes diverge, that is half of the diagnosis."""
    run = diverged()
    run.checks[3].status = "passed"
    assert "DIVERGED  gradients.step[vitl14] (L3), causes 0005, Q3, passed under default\n" in _text(run, 140)


def test_a_table_shown_elsewhere_is_pointed_to() -> None:
    """Of two tables of one kind, only the longer is printed."""
    run = with_comparisons(FAR, exhibits=[Exhibit("table", "lr by name", ({"name": "a", "lr": 1.0},))])
    rows = ({"name": "b", "lr": 1.0}, {"name": "c", "lr": 2.0})
    longer = replace(run.checks[0], id="losses.y", exhibits=[Exhibit("table", "lr by name", rows)])
    text = _text(replace(run, checks=[*run.checks, longer]))
    assert text.count("lr by name") == 1
    assert "a table of the same kind is shown under losses.y" in text


def test_parity_has_neither_causes_nor_evidence() -> None:
    """A run without divergence stays a screen long."""
    text = _text(passing())
    assert "cause" not in text
    assert "DIVERGED" not in text
    assert len(text.splitlines()) < 20


def test_a_divergence_without_a_cause_says_so() -> None:
    """Nothing is attributed by guessing."""
    text = _text(with_comparisons(FAR, official=("dinov2/data/masking.py:49-86",)))
    assert "no cause recorded: losses.x[default]\n" in text
    assert "  no known difference has this signature; official: dinov2/data/masking.py:49-86\n" in text
    assert "cause 0" not in text
