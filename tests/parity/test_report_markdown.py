from __future__ import annotations

from dataclasses import replace

import pytest
from fabricated_results import FAR, MODIFIED, diverged, only_not_run, passing, with_comparisons

from parity.report.markdown import as_markdown
from parity.results import Exhibit, Finding


def test_the_heading_is_the_verdict() -> None:
    """A job summary opens with the verdict, and the provenance follows."""
    lines = as_markdown(passing()).splitlines()
    assert lines[0].startswith("## PARITY: 4 comparisons")
    assert lines[2].startswith("reference: facebookresearch/dinov2 commit b8931f7")


def test_the_families_are_a_table() -> None:
    """A row per family with the same numbers as in the terminal."""
    lines = as_markdown(passing()).splitlines()
    assert "| losses | 1 | 2 | 1 | 3 | 0.25 | passed | 0.0 s |" in lines
    assert "| **DIVERGED** |" in as_markdown(diverged())


def test_causes_come_before_the_evidence() -> None:
    """Cause with its sentence, official line and next step; the checks follow in a table."""
    text = as_markdown(diverged())
    parts = [
        "### Causes",
        "- **0005**: 2 checks, 130 diverging comparisons (all shared with Q3)",
        "  - official / yours = 79.50 = masked tokens per image (and 1 like it: gradients.step\\[default\\]); "
        "official: `dinov2/loss/ibot_patch_loss.py:126`",
        "  - **next:** migration 0005",
        "- **Q3**: ",
        "  - **next:** `python -m parity explain Q3`",
        "### Evidence",
        "| `gradients.step[vitl14]` | 0005, Q3 | 129 of 130; default (1 of 1) | `gradients/backbone.cls_token` "
        "| `0.79499` | `0.01000` | 3e-05, allowed 2e-10 (150,000 times as much); index (0, 0, 7) |",
        "```text\n",
        "▀" * 14,
        "| patch\\_embed | 0.01436 | 1 |",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)


def test_a_check_without_a_cause_is_listed_as_such() -> None:
    """Nothing is attributed by guessing, and nothing diverged goes missing from the causes."""
    text = as_markdown(with_comparisons(FAR))
    assert "- **no cause recorded**: `losses.x[default]`: no known difference has this signature" in text
    assert "| `losses.x[default]` | no known difference has this signature | 1 of 1 |" in text


def test_parity_has_neither_causes_nor_evidence() -> None:
    """A run without divergence has no empty sections."""
    assert "###" not in as_markdown(passing())


def test_what_was_not_run_is_listed() -> None:
    """Reasons stand beside the ids."""
    assert "- `modules.head[vitl14]`: no capability build\\_head" in as_markdown(diverged())
    assert "nothing was compared" in as_markdown(only_not_run())


def test_a_modified_reference_and_notes_are_shown() -> None:
    """Neither a modification nor a fall-back is lost on the way to the summary."""
    reference = replace(MODIFIED, notes=("fell back to the wheel",))
    text = as_markdown(replace(passing(), reference=reference))
    assert "MODIFIED: dinov2/data/masking.py line 69" in text
    assert "**also modified: dinov2/loss/koleo\\_loss.py line 33: differs**" in text
    assert "> **Note:** fell back to the wheel" in text


@pytest.mark.parametrize("value", ["a|b", "a`b", "a\nb", "<script>", ""])
def test_values_cannot_break_the_table(value: str) -> None:
    """Bars, backticks, line ends and tags of a subject's values stay inside their cell."""
    text = as_markdown(with_comparisons(replace(FAR, name=value, reference=value)))
    row = next(line for line in text.splitlines() if "allowed 2e-10" in line)
    assert row.replace("\\|", "").count("|") == 8
    assert row.count("`") % 2 == (1 if value == "a`b" else 0) * (row.count("`") % 2)


def test_sentences_are_no_markup() -> None:
    """Tags and emphasis in a finding are shown as text."""
    text = as_markdown(with_comparisons(FAR, findings=[Finding("Q3", "<b> *x* [y](z)")]))
    assert "&lt;b> \\*x\\* \\[y\\](z)" in text


def test_the_summary_stays_small() -> None:
    """GitHub refuses more than 1 MiB: diverged checks and table rows are limited, and the rest is counted."""
    rows = tuple({"name": f"p{n}", "lr": 0.5} for n in range(1000))
    run = with_comparisons(FAR, exhibits=[Exhibit("table", "lr", rows)])
    many = replace(run, checks=[replace(run.checks[0], id=f"losses.x{n}[default]") for n in range(300)])
    text = as_markdown(many)
    assert "and 994 more rows" in text
    assert "and 250 more diverged checks" in text
    assert len(text.encode()) < 2**20


def test_the_exit_code_can_be_the_process_own() -> None:
    """As in the terminal."""
    assert as_markdown(passing(), exit_code=2).splitlines()[0].endswith("exit 2")
