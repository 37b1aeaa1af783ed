from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port
from torch_masks import TorchMasks

from parity.adapters.official import OfficialStack
from parity.checks.statistical import ALPHA, SHARE
from parity.report import as_json, as_markdown
from parity.results import CheckResult, Comparison, RunResult
from parity.run import Options, run

CHECK = "masks.statistical"
SETTINGS = ("14x14 patches, 10% to 50%", "3x3 patches, 40% to 60%")
BITWISE = ("masks.bitwise", "masks.distribution", "masks.counts", "collate.batch", "collate.cap")


def variant(**changes: Any) -> TorchMasks:
    """The honest stack with attributes changed."""
    changed = TorchMasks()
    for name, value in changes.items():
        assert hasattr(changed, name), name
        setattr(changed, name, value)
    return changed


def parted(result: CheckResult) -> set[str]:
    """The features that diverge, of whatever group."""
    return {comparison.name.rsplit("/", 1)[1] for comparison in result.diverged}


def judged(result: CheckResult) -> list[Comparison]:
    """The comparisons of features, which have a critical value."""
    return [comparison for comparison in result.comparisons if "critical T" in comparison.note]


def test_port_passes_from_other_seeds(official_stack: OfficialStack) -> None:
    """Draws of official's own algorithm under other seeds: none is equal, and no feature alarms."""
    result = check(official_stack, port(), CHECK)
    assert_no_alarm(result)
    features = judged(result)
    assert sum(SETTINGS[0] in c.name for c in features) == 14
    assert {c.tier for c in features} == {"T4"}
    assert not any(c.bitwise for c in features)
    assert sum(c.reference != c.subject for c in features) > 14


def test_an_honest_port_to_torch_passes(official_stack: OfficialStack) -> None:
    """The same algorithm with torch.rand and torch.randint; what follows from its masks is compared bit for bit."""
    result = check(official_stack, variant(), CHECK)
    assert_no_alarm(result)
    groups = {c.name.split("/")[0] for c in result.comparisons}
    assert groups == {f"{what} of {s}" for what in ("batch", "masks") for s in SETTINGS}
    derived = [c for c in result.comparisons if "/given its masks/" in c.name]
    assert len(derived) == 2 * 6
    assert all(c.bitwise and c.tier == "T0" for c in derived)


@pytest.mark.parametrize("capabilities", [("make_mask",), ("mask_counts",), ("make_mask", "mask_counts")])
def test_a_stack_without_collate_is_judged_by_what_it_draws(
    official_stack: OfficialStack, capabilities: tuple[str, ...]
) -> None:
    """What it lacks, official does; how parity shuffled the batch is no feature of the subject."""
    honest = TorchMasks()
    subject = SimpleNamespace(name="some", **{name: getattr(honest, name) for name in capabilities})
    result = check(official_stack, subject, CHECK)
    assert_no_alarm(result)
    assert {c.name.split("/")[0] for c in result.comparisons} == {f"masks of {s}" for s in SETTINGS}
    assert not any("in the batch" in c.name for c in result.comparisons)


@pytest.mark.parametrize(
    ("changes", "feature", "words"),
    [
        ({"min_aspect": 0.8}, "stretch", "masks look otherwise: .*stretch"),
        (
            {"more_masked": 1},
            "share of crops that are masked",
            "56% of the global crops are masked, official masks 50%",
        ),
        (
            {"equal_counts": True},
            "spread of the patches",
            r"numbers of masked patches differ: spread of the patches 0\.",
        ),
        ({"shuffled": False}, "row of the masked crops in the batch", "row of the masked crops in the batch 0.233"),
        ({"floored_cap": False}, "masked neighbours", r"an odd grid of 3 x 3 patches alone: .*floored .* \(Q3\)"),
    ],
)
def test_a_wrong_distribution_is_seen_and_named(
    official_stack: OfficialStack, changes: Mapping[str, Any], feature: str, words: str
) -> None:
    """Each fault shows in its own feature, and difference 0003 is told with both means."""
    result = check(official_stack, variant(own_randomness=("collate",), **changes), CHECK)
    assert_seen(result, "", "0003")
    assert feature in parted(result), parted(result)
    assert any(re.search(words, finding.sentence) for finding in result.findings), result.findings
    assert len(result.findings) == 1


def test_a_right_mean_does_not_hide_a_wrong_spread(official_stack: OfficialStack) -> None:
    """Counts all equal to the mean: the mean passes, spread, fewest and most do not."""
    result = check(official_stack, variant(own_randomness=("collate",), equal_counts=True), CHECK)
    names = parted(result)
    assert {"spread of the patches", "fewest patches", "most patches"} <= names
    assert "patches per masked crop" not in names


def test_the_cap_is_seen_where_it_is_reached(official_stack: OfficialStack) -> None:
    """Blocks of 4.5 patches instead of 3 on a grid of 3 x 3 (Q3); on an even grid nothing is floored."""
    result = check(official_stack, variant(own_randomness=("collate",), floored_cap=False), CHECK)
    assert {c.name.split("/")[0].split(" of ")[1] for c in result.diverged} == {SETTINGS[1]}


def test_uniformly_random_masks_are_scattered(official_stack: OfficialStack) -> None:
    """As many patches, anywhere: many blocks, few neighbours, and the counts are right."""

    def scattered(grid: tuple[int, int], asked: int, cap: float) -> np.ndarray:
        chosen = torch.randperm(grid[0] * grid[1])[:asked]
        return np.isin(np.arange(grid[0] * grid[1]), chosen.numpy()).reshape(grid)

    result = check(official_stack, SimpleNamespace(name="random", make_mask=scattered), CHECK)
    assert_seen(result, "", "0003", "masks are scattered tokens, not blocks")
    assert {"blocks", "block size", "masked neighbours"} <= parted(result)


def test_a_batch_that_repeats_is_seen(official_stack: OfficialStack) -> None:
    """One seed for all batches has means like any batch, and no second batch."""

    class Repeating(TorchMasks):
        def collate(self, samples: Any, config: Any, dtype: torch.dtype) -> Mapping[str, Any]:
            torch.manual_seed(3)
            return super().collate(samples, config, dtype)

    result = check(official_stack, Repeating(), CHECK)
    assert_seen(result)
    first = next(c for c in result.diverged if "different batches" in c.name)
    assert (first.reference, first.subject, first.tier) == ("64", "1", "T4")


def test_what_follows_from_the_masks_must_be_official_s(official_stack: OfficialStack) -> None:
    """Weights of twice the size: the masks are right, and what no draw decides is not."""
    result = check(official_stack, variant(own_randomness=("collate",), weight=2.0), CHECK)
    assert_seen(result, r"given its masks/masks_weight$")
    assert {c.tier for c in result.diverged} == {"T0"}


def test_a_third_view_is_named_in_a_batch_of_its_own_randomness(official_stack: OfficialStack) -> None:
    """The crops are no draw of collate's: 24 rows of 8 images are difference 0002, as in `collate.batch`."""

    class ThreeViews(TorchMasks):
        own_randomness = ("collate",)

        def collate(self, samples: Any, config: Any, dtype: torch.dtype) -> Mapping[str, Any]:
            batch = dict(super().collate(samples, config, dtype))
            batch["collated_global_crops"] = torch.cat([batch["collated_global_crops"]] * 2)[:24]
            return batch

    result = check(official_stack, ThreeViews(), CHECK)
    assert_seen(result, r"given its masks/collated_global_crops$", "0002", "3 global views per image (24 rows)")


@pytest.mark.parametrize("masks", [None, torch.zeros(16, 3, dtype=torch.bool), torch.zeros(16)])
def test_masks_of_another_form_are_told(official_stack: OfficialStack, masks: Any) -> None:
    """Missing, of another grid or without one: the reason says what was expected."""

    def collate(samples: Any, config: Any, dtype: Any) -> dict[str, Any]:
        return {**TorchMasks().collate(samples, config, dtype), "collated_masks": masks}

    result = check(official_stack, fork(collate=collate), CHECK)
    assert "collated_masks is" in result.reason
    assert "expected bool (2B, 196)" in result.reason


def test_a_stack_that_draws_no_masks_is_not_run(official_stack: OfficialStack) -> None:
    """None of the three capabilities: listed as lacking, never as passed."""
    result = check(official_stack, SimpleNamespace(name="loss", koleo_loss=len), CHECK)
    assert (result.status, result.reason) == ("not_run", "loss does not offer collate or make_mask or mask_counts")


def test_level_batches_critical_value_and_smallest_difference_are_told(official_stack: OfficialStack) -> None:
    """In each comparison and in the table, which begins with what diverges and has a row for each feature."""
    result = check(official_stack, variant(own_randomness=("collate",), equal_counts=True), CHECK)
    features = judged(result)
    for comparison in features:
        assert re.fullmatch(
            r"means of 64 and 64 batches, adjusted p [\d.e-]+, alpha [\d.e-]+ of 0.001 a run, critical T [\d.]+; "
            r"a difference of ([\d.e-]+|any size) is found with 95%",
            comparison.note,
        )
        assert comparison.passed == (comparison.error is not None and comparison.error <= (comparison.allowed or 0))
    (table,) = result.exhibits
    assert table.kind == "table"
    verdicts = [row["verdict"] for row in table.rows]
    assert verdicts == sorted(verdicts)  # DIVERGED before passed
    assert verdicts.count("DIVERGED") == sum(not c.passed for c in features)
    (share,) = (row for row in table.rows if row["of"].endswith(SETTINGS[0]) and row["feature"].startswith("share"))
    assert (share["official"], share["smallest"]) == ("0.5", "any size")
    assert f"alpha {SHARE:g}" in table.title
    assert 2 * SHARE == ALPHA


@pytest.mark.parametrize("name", BITWISE)
def test_draws_of_its_own_are_not_compared_bit_for_bit(official_stack: OfficialStack, name: str) -> None:
    """Not run, with the reason and the check that judges instead; never passed."""
    recipe = "default" if name.startswith("collate") else None
    result = check(official_stack, variant(), name, recipe)
    assert result.status == "not_run"
    assert result.compared == 0
    assert "draws from a generator of its own (own_randomness); masks.statistical judges" in result.reason


def test_an_undeclared_generator_still_diverges(official_stack: OfficialStack) -> None:
    """Without the declaration the same stack is held to official's bits."""
    assert check(official_stack, variant(own_randomness=()), "masks.bitwise").status == "diverged"


def test_a_wrong_declaration_is_an_error_of_the_check(official_stack: OfficialStack) -> None:
    """A stack that parity did not open itself is told as well."""
    result = check(official_stack, variant(own_randomness=("masks",)), "masks.bitwise")
    assert result.status == "error"
    assert "own_randomness names 'masks', expected names of make_mask" in result.reason


@pytest.mark.parametrize(("change", "code"), [("", 0), ("stack.min_aspect = 0.8", 1)])
def test_the_exit_code_follows_the_statistics(tmp_path: Path, change: str, code: int) -> None:
    """A run of the families with masks: bits are not compared, the distribution decides, and every report says so."""
    adapter = tmp_path / "adapter.py"
    adapter.write_text(f"from torch_masks import TorchMasks\n\nstack = TorchMasks()\n{change}\n")
    options = Options(
        "pypi", subject=str(adapter), only=("masks", "collate"), recipes=("default",), quick=True, seeds=8
    )
    result: RunResult = run(options)
    statuses = {c.id.split("[")[0]: c.status for c in result.checks}
    assert statuses == {**dict.fromkeys(BITWISE, "not_run"), CHECK: "diverged" if code else "passed"}
    assert result.exit_code == code
    for report in (as_markdown(result), as_json(result)):
        assert "masks.statistical judges the distribution" in report
    assert "is found with 95%" in as_json(result)


def test_without_its_judge_a_declared_family_proves_nothing() -> None:
    """`--only collate` leaves nothing to compare: exit 2, not parity."""
    result = run(Options("pypi", subject="torch_masks:TorchMasks", only=("collate",), recipes=("default",), quick=True))
    assert {c.status for c in result.checks} == {"not_run"}
    assert result.exit_code == 2
