"""A run as JSON, schema 1: everything that the terminal says, for programs.

Numbers that JSON has no form for are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`. `max_error` and
`allowed` of a check belong to one comparison, its worst; both are null where nothing has a size. Of a check's
failing comparisons the first 200 are listed under `divergences`, and `diverged` counts them all. `names` and
`inexact` hold every comparison, see `parity/report/records.py`. Two runs of the same code give the same bytes but for
`started` and, of the run, its families and its checks, `seconds`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from parity.report.records import NamePool, inexact_rows
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

__all__ = ["MOST_DIVERGENCES", "SCHEMA", "as_dict", "as_json", "dump"]

SCHEMA = 1
"""Raised when a key changes its meaning or goes; new keys do not raise it."""

MOST_DIVERGENCES = 200
"""Failing comparisons listed per check."""

_MOST_DEPTH = 4
"""Levels that get a line for each item, down to a row of a check; below it, hundreds of thousands would be noise."""


def as_json(result: RunResult, exit_code: int | None = None) -> str:
    """Return the run as a JSON document that ends in a newline."""
    return dump(as_dict(result, exit_code))


def dump(document: Mapping[str, Any]) -> str:
    """Return a document as JSON that ends in a newline: every record on a line of its own, numbers as told above."""
    return _indented(_plain(document), _MOST_DEPTH) + "\n"


def as_dict(result: RunResult, exit_code: int | None = None) -> dict[str, Any]:
    """Return the run as plain dicts, lists, strings, numbers, booleans and None.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    pool = NamePool()
    document = {
        "schema": SCHEMA,
        "reference": asdict(result.reference),
        "subject": result.subject,
        "recipes": result.options.get("recipes") or recipes_of(result),
        "environment": result.environment,
        "options": result.options,
        "doctor": [asdict(comparison) for comparison in result.doctor],
        "checks": [_check(check, pool) for check in result.checks],
        "waivers": [asdict(waiver) for waiver in result.waivers],
        "summary": _summary(result),
        "started": result.started,
        "seconds": result.seconds,
        "exit_code": result.exit_code if exit_code is None else exit_code,
        "names": pool.names,
    }
    plain = _plain(document)
    assert isinstance(plain, dict)
    return plain


def _check(check: CheckResult, pool: NamePool) -> dict[str, Any]:
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
        "names": pool.add(check.comparisons),
        "inexact": inexact_rows(check.comparisons),
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


def _indented(value: Any, depth: int, indent: str = "") -> str:
    """Return JSON with one item a line down to a depth, and everything below, and each row of a table, on one line."""
    if depth == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = f"{indent} "
    if isinstance(value, dict):
        items = [f"{json.dumps(k, ensure_ascii=False)}: {_indented(v, depth - 1, inner)}" for k, v in value.items()]
        return f"{{\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}}}"
    # A list in a list is a row.
    items = [_indented(item, 0 if isinstance(item, list) else depth - 1, inner) for item in value]
    return f"[\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}]"


def _spelled(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
