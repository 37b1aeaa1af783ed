"""Runs made by hand, for the tests of the reports: their numbers are chosen, so the sums are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.results import CheckResult, Comparison, Exhibit, Finding, ReferenceInfo, RunResult

VERIFIED = ReferenceInfo(
    source="github",
    requested="auto",
    location="/cache/dinov2",
    version="commit b8931f7",
    identity="verified",
    files_total=61,
    files_verified=61,
    substitutes=("memory_efficient_attention: plain torch", "index_select_cat: torch.cat"),
)
MODIFIED = replace(
    VERIFIED,
    source="path",
    location="/home/me/dinov2",
    identity="modified",
    files_verified=60,
    modified=("dinov2/data/masking.py line 69: differs", "dinov2/loss/koleo_loss.py line 33: differs"),
)
EQUAL = Comparison("losses/dino", "T0", passed=True, bitwise=True, max_ulp=0.0, error=0.0, allowed=0.0)
CLOSE = Comparison("losses/ibot", "T1", passed=True, bitwise=False, max_ulp=3.0, error=2e-16, allowed=8e-16)
FAR = Comparison(
    "gradients/backbone.cls_token",
    "T1",
    passed=False,
    bitwise=False,
    max_ulp=1.2e9,
    error=3e-5,
    allowed=2e-10,
    reference="0.79499",
    subject="0.01000",
    note="index (0, 0, 7)",
)
DOUBLE_NORMALISED = Finding(
    "0005", "official / yours = 79.50 = masked tokens per image", "migration 0005", "dinov2/loss/ibot_patch_loss.py:126"
)


def passing() -> RunResult:
    """Two passed checks: 4 comparisons, 3 bitwise equal; 252 seconds."""
    checks = [
        CheckResult("losses.dino[default]", "losses", "L1", "passed", "DINO loss", ("dinov2/loss/a.py:63",)),
        CheckResult("masks.block[default]", "masks", "L1", "passed", "block masks"),
    ]
    checks[0].comparisons += [EQUAL, CLOSE]
    checks[1].comparisons += [replace(EQUAL, name=f"mask {n}", max_ulp=None, error=None) for n in range(2)]
    return RunResult(VERIFIED, "port", checks, [EQUAL], {"torch": "2.14.1", "threads": "2"}, {}, 252.0)


def masks(size: int, titles: tuple[str, ...]) -> Exhibit:
    """Square masks whose first row is masked."""
    grid = [[row == 0] * size for row in range(size)]
    return Exhibit("masks", "masks from one seed", tuple({"title": title, "mask": grid} for title in titles))


def diverged() -> RunResult:
    """A run with a diverged check of 130 comparisons (129 diverge), a passed, an unrun and a failed one."""
    table = Exhibit("table", "lr by name", ({"name": "patch_embed", "official": 0.01436, "yours": 1.0},))
    check = CheckResult(
        "gradients.step[vitl14]", "gradients", "L3", "diverged", "one step", ("dinov2/train/train.py:134",)
    )
    check.comparisons += [CLOSE, FAR, *(replace(FAR, name=f"gradients/p{n}") for n in range(128))]
    check.findings += [DOUBLE_NORMALISED, Finding("Q3", "the cap is 666, not 684.5")]
    check.exhibits += [masks(14, ("official, seed 0", "yours, seed 0")), table]
    again = replace(check, id="gradients.step[default]", comparisons=[FAR], exhibits=[])
    unrun = CheckResult("modules.head[vitl14]", "modules", "L2", "not_run", "heads", reason="no capability build_head")
    failed = CheckResult("masks.block[vitl14]", "masks", "L1", "error", "masks", reason="ValueError: size 0")
    run = passing()
    return replace(run, subject="document", checks=[*run.checks, check, again, unrun, failed])


def only_not_run() -> RunResult:
    """A run in which nothing was compared."""
    check = CheckResult("masks.block[default]", "masks", "L1", "not_run", "masks", reason="no capability make_mask")
    return replace(passing(), checks=[check], doctor=[])


def with_comparisons(*comparisons: Comparison, **changes: Any) -> RunResult:
    """One diverged check of the given comparisons."""
    fields: dict[str, Any] = {"id": "losses.x[default]", "family": "losses", "level": "L1", "title": "x", **changes}
    check = CheckResult(status="diverged", comparisons=list(comparisons), **fields)
    return replace(passing(), checks=[check])
