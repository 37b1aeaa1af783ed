"""Larger runs made by hand, for the tests that hold the formats of a report against each other."""

from __future__ import annotations

import math
from dataclasses import replace

from fabricated_results import CLOSE, EQUAL, FAR, MODIFIED, VERIFIED, diverged, masks, passing

from parity.results import CheckResult, Comparison, Exhibit, Finding, RunResult

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=//evil.example/x onerror=alert(1)>',
    "]]><x/>&amp;",
    "a\x00b\x1b[31m\r\n::error::owned%0A",
    "lone \udc80, \ufffe and \u2028",
    "| a | `b` **c** [d](e)",
    "</title></style></svg>",
)
"""Texts that end what they stand in, in one format or another."""


def everything() -> RunResult:
    """A run that has one of each: all statuses, all kinds of causes, notes, exhibits, a check run in part.

    12 checks: 3 passed, 5 diverged, 2 not run, 2 errors. The comparisons: 135 of `diverged`, 7 here of which 3 fail,
    and 20 of the trajectory of which 6 fail.
    """
    run = diverged()
    edited = CheckResult("files.identity", "files", "L0", "diverged", "official files", ("dinov2/loss/a.py",))
    edited.comparisons += [
        EQUAL,
        replace(EQUAL, name="dinov2/data/masking.py", passed=False, bitwise=False, error=None),
    ]
    edited.findings.append(
        Finding("reference", "dinov2/data/masking.py line 69: `x = 1`", "", "dinov2/data/masking.py:69")
    )
    bare = CheckResult("collate.batch[default]", "collate", "L1", "diverged", "batch", ("dinov2/data/collate.py:9-50",))
    bare.comparisons += [replace(CLOSE, name="weights"), replace(FAR, name="upperbound", error=math.nan)]
    partly = CheckResult(
        "schedules.lr", "schedules", "L1", "passed", "learning rate", reason="lr_at returns no warm-up"
    )
    partly.comparisons += [replace(EQUAL, name=f"lr {n}") for n in range(2)]
    unrun = CheckResult("modules.head[default]", "modules", "L2", "not_run", "heads", reason="no capability build_head")
    failed = CheckResult("losses.koleo[default]", "losses", "L1", "error", "KoLeo")
    failed.reason = "my fork: ZeroDivisionError: division by zero at /home/me/fork/losses.py:12 in koleo"
    failed.comparisons.append(replace(FAR, name="koleo", passed=True, error=1e-12, allowed=1e-11))
    checks = [edited, *run.checks, bare, partly, unrun, failed, trajectory()]
    reference = replace(MODIFIED, notes=("GITHUB COULD NOT BE REACHED: fell back to the wheel",))
    options = {"reference": "auto", "quick": True, "recipes": ["default", "vitl14"], "only": []}
    return replace(run, reference=reference, checks=checks, options=options, started="2026-11-27T02:30:00Z")


def trajectory() -> CheckResult:
    """Ten steps of a loss and a parameter: equal at first, then a difference that grows tenfold at each step."""
    check = CheckResult(
        "trajectory.steps[default]", "trajectory", "L4", "diverged", "ten steps", ("dinov2/train/t.py:1",)
    )
    for step in range(10):
        for place, name in enumerate(("losses/ibot_loss", "parameters/backbone.cls_token")):
            error = 10.0 ** (step - 12) if step >= 4 else 0.0
            check.comparisons.append(
                _at(f"init/step {step}/{name}", error, passed=step < 7 + place * 0, equal=step < 4)
            )
    rows = tuple({"step": step, "loss": "ibot_loss", "difference": 10.0 ** (step - 12)} for step in (7, 8, 9))
    check.exhibits.append(Exhibit("table", "growth of the difference: it begins at step 4", rows))
    return check


def _at(name: str, error: float, *, passed: bool, equal: bool) -> Comparison:
    return Comparison(name, "T1", passed, equal, error=error, allowed=1e-6, reference="0.5", subject="0.5")


def hostile(texts: tuple[str, ...] = HOSTILE) -> RunResult:
    """A run in which every text that comes from others tries to be markup, or is one of seven other texts."""
    checks = []
    for place, text in enumerate(texts):
        check = CheckResult(f"losses.x{place}[{text}!]", "losses", "L1", "diverged", text, (text,))
        check.comparisons += [replace(FAR, name=text, reference=text, subject=text, note=text), EQUAL]
        check.findings.append(Finding("Q3", text, text, text))
        picture = masks(2, (text, text))
        check.exhibits += [replace(picture, title=text), Exhibit("table", text, ({text: text},))]
        error = replace(check, id=f"masks.x{place}[{text}!]", status="error", reason=text, comparisons=[], findings=[])
        unrun = replace(error, id=f"modules.x{place}[{text}!]", status="not_run")
        checks += [check, error, unrun]
    reference = replace(VERIFIED, location=texts[1], version=texts[0], notes=texts, substitutes=texts)
    run = replace(passing(), subject=texts[0], checks=checks, reference=reference, environment={"cpu": texts[1]})
    return replace(run, options={texts[1]: texts[0]}, doctor=[replace(FAR, name=text, note=text) for text in texts])


def large(many: int, fail_every: int = 0) -> RunResult:
    """A run of `many` comparisons in twelve checks whose errors spread over ten powers of ten."""
    checks = []
    for place in range(12):
        status = "diverged" if fail_every else "passed"
        check = CheckResult(f"gradients.step[r{place}]", "gradients", "L3", status, "one step")  # type: ignore[arg-type]
        for n in range(many // 12):
            size = 10.0 ** -(6 + n * 7919 % 1000 / 100)
            fails = bool(fail_every) and n % fail_every == 0
            name = f"generic/gradients/backbone.blocks.{n % 40}.attn.qkv.weight/{n}"
            allowed = size / 10 if fails else size * 10
            check.comparisons.append(replace(FAR, name=name, passed=not fails, error=size, allowed=allowed))
        checks.append(check)
    return replace(passing(), checks=checks)
