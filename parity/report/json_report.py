"""A run as JSON, schema 1: everything that the terminal says, for programs.

Numbers that JSON has no form for are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`. `max_error` and
`allowed` of a check belong to one comparison, its worst; both are null where nothing has a size. Of a check's
failing comparisons the first 200 are listed under `divergences`, and `diverged` counts them all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from parity.report.wording import (
    FamilySummary,
    attribution,
    causes,
    family_summaries,
    largest,
    ratio,
    recipe_of,
    recipes_of,
    worst,
)
from parity.results import CheckResult, RunResult

__all__ = ["MOST_DIVERGENCES", "SCHEMA", "as_dict", "as_json"]

SCHEMA = 1
"""Raised when a key changes its meaning or goes; new keys do not raise it."""

MOST_DIVERGENCES = 200
"""Failing comparisons listed per check."""


def as_json(result: RunResult, exit_code: int | None = None) -> str:
    """Return the run as a JSON document that ends in a newline."""
    return json.dumps(as_dict(result, exit_code), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def as_dict(result: RunResult, exit_code: int | None = None) -> dict[str, Any]:
    """Return the run as plain dicts, lists, strings, numbers, booleans and None.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    document = {
        "schema": SCHEMA,
        "reference": asdict(result.reference),
        "subject": result.subject,
        "recipes": result.options.get("recipes") or recipes_of(result),
        "environment": result.environment,
        "options": result.options,
        "doctor": [asdict(comparison) for comparison in result.doctor],
        "checks": [_check(check) for check in result.checks],
        "waivers": [asdict(waiver) for waiver in result.waivers],
        "summary": _summary(result),
        "seconds": result.seconds,
        "exit_code": result.exit_code if exit_code is None else exit_code,
    }
    plain = _plain(document)
    assert isinstance(plain, dict)
    return plain


def _check(check: CheckResult) -> dict[str, Any]:
    extreme = worst(check.comparisons)
    diverged = check.diverged
    return {
        "id": check.id,
        "family": check.family,
        "level": check.level,
        "recipe": recipe_of(check),
        "status": check.status,
        "title": check.title,
        "official": check.official,
        "reason": check.reason,
        "compared": check.compared,
        "bitwise_equal": check.bitwise_equal,
        "diverged": len(diverged),
        "waived": len(check.waived),
        "max_ulp": largest(c.max_ulp for c in check.comparisons),
        "max_error": extreme.error if extreme else None,
        "allowed": extreme.allowed if extreme else None,
        "attribution": attribution(check.findings),
        "findings": [asdict(finding) for finding in check.findings],
        "divergences": [asdict(comparison) for comparison in diverged[:MOST_DIVERGENCES]],
        "waived_divergences": [asdict(comparison) for comparison in check.waived[:MOST_DIVERGENCES]],
        "exhibits": [{"kind": e.kind, "title": e.title, "rows": e.rows} for e in check.exhibits],
        "seconds": check.seconds,
    }


def _summary(result: RunResult) -> dict[str, Any]:
    families = family_summaries(result)
    totals = ("checks", "passed", "diverged", "not_run", "errors", "compared", "within", "bitwise_equal", "waived")
    return {
        "families": {summary.family: _family(summary) for summary in families},
        **{key: sum(getattr(summary, key) for summary in families) for key in totals},
        "attribution": causes(result),
    }


def _family(summary: FamilySummary) -> dict[str, Any]:
    extreme = summary.worst
    row = {key: value for key, value in asdict(summary).items() if key not in ("family", "worst")}
    return {
        **row,
        "max_error": extreme.error if extreme else None,
        "allowed": extreme.allowed if extreme else None,
        "max_ratio": ratio(extreme) if extreme else None,
        "verdict": summary.verdict,
    }


def _plain(value: object) -> object:
    """Return the value in JSON's own types; whatever is of no such type becomes its text."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _spelled(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return str(value)


def _spelled(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
