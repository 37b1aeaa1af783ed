"""Results as JSON, schema 1: a key is never renamed or removed without a new number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from migrations.engine.discovery import Remark
from migrations.engine.model import Finding, Site
from migrations.engine.planning import Plan
from migrations.engine.survey import Result, Survey
from migrations.report.diff import between
from migrations.report.words import next_steps

__all__ = ["SCHEMA", "plan_json", "status_json"]

SCHEMA = 1


def status_json(survey: Survey) -> str:
    """Return what `status --format json` prints."""
    files = {
        "looked_at": len(survey.tree.project.files),
        "parsed": survey.parsed,
        "skipped": survey.skipped,
        "folders_left_out": survey.tree.folders,
    }
    return _text(
        {
            "schema": SCHEMA,
            "command": "status",
            "root": str(survey.tree.root),
            "exit_code": survey.exit_code,
            "migrations": _results(survey.results),
            "advisory": _results(survey.advisory),
            "next": [{"command": s.command, "effect": s.effect} for s in next_steps(survey.results, survey.tree.given)],
            "files": files,
            "remarks": _remarks(survey.remarks),
            "seconds": round(survey.seconds, 3),
        }
    )


def plan_json(
    plan: Plan, command: str, root: str, exit_code: int, written: Sequence[str], remarks: Sequence[Remark]
) -> str:
    """Return what `plan` and `apply` print with `--format json`."""
    steps = [
        {
            "id": step.migration.id,
            "before": step.before.state.value,
            "after": step.after.state.value,
            "failure": step.before.failure,
            "taken": [_finding(finding) for finding in step.taken],
            "not_taken": [{"why": left.why, **_finding(left.finding)} for left in step.not_taken],
            "diff": "".join(f"{line}\n" for line in between(step.start, step.end)),
        }
        for step in plan.steps
    ]
    return _text(
        {
            "schema": SCHEMA,
            "command": command,
            "root": root,
            "exit_code": exit_code,
            "steps": steps,
            "migrations": _results(sorted(plan.final.values(), key=lambda result: result.migration.id)),
            "would_change": list(plan.changed),
            "written": list(written),
            "remarks": _remarks(remarks),
        }
    )


def _results(results: Iterable[Result]) -> list[dict[str, Any]]:
    return [
        {
            "id": result.migration.id,
            "title": result.migration.title,
            "official": result.migration.official,
            "state": result.state.value,
            "settled": result.state.settled,
            "failure": result.failure,
            "findings": [_finding(finding) for finding in result.findings],
        }
        for result in results
    ]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "migration": finding.migration,
        "state": finding.state.value,
        "level": finding.level.value,
        "evidence": finding.evidence,
        "site": _site(finding.site),
        "person": finding.person,
        "blocked_by": list(finding.blocked_by),
        "related": [_site(site) for site in finding.related],
    }


def _site(site: Site | None) -> dict[str, Any] | None:
    if site is None:
        return None
    return {"path": site.path, "line": site.line, "column": site.column, "end_line": site.end_line}


def _remarks(remarks: Iterable[Remark]) -> list[dict[str, Any]]:
    return [{"path": remark.path, "line": remark.line, "text": remark.text} for remark in remarks]


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
