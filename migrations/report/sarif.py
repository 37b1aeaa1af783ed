"""Results as SARIF 2.1.0, which code hosts show beside the lines: a rule for each migration, a result for each finding.

A fork's form is a failure (`warning`); what could not be decided is `open`, official's form is `pass`. An owner's
decision is a suppression with its reason. Edits are fixes, in lines and columns of Unicode code points.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from migrations.engine.discovery import Remark
from migrations.engine.model import Edit, Finding, Migration, Site, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.engine.survey import Result

__all__ = ["SCHEMA_URI", "sarif"]

SCHEMA_URI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "PROJECTROOT"
_OFFICIAL = "https://github.com/facebookresearch/dinov2/tree/b8931f7bf91576930313be2c6d6af376033b35f0/dinov2"
_KINDS = {
    State.DIVERGED: "fail",
    State.PARTIAL: "fail",
    State.SUPPRESSED: "fail",
    State.UNKNOWN: "open",
    State.ALIGNED: "pass",
    State.NOT_APPLICABLE: "notApplicable",
}


def sarif(results: Iterable[Result], project: Project, root: Path, remarks: Sequence[Remark], exit_code: int) -> str:
    """Return a SARIF log of one run."""
    results = list(results)
    invocation = {
        "executionSuccessful": exit_code in (0, 1),
        "exitCode": exit_code,
        "toolExecutionNotifications": [
            *({"level": "warning", **_notification(remark)} for remark in remarks),
            *(_failure(result) for result in results if result.failure),
        ],
    }
    run = {
        "tool": {"driver": _driver([result.migration for result in results])},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"uri": root.as_uri().rstrip("/") + "/"}},
        "invocations": [invocation],
        "results": [
            _result(finding, number, project) for number, one in enumerate(results) for finding in one.findings
        ],
    }
    return json.dumps({"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _driver(migrations: Sequence[Migration]) -> dict[str, Any]:
    try:
        version = importlib.metadata.version("dinov2-parity")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    return {"name": "dinov2-parity migrations", "version": version, "rules": [_rule(one) for one in migrations]}


def _rule(migration: Migration) -> dict[str, Any]:
    return {
        "id": migration.id,
        "shortDescription": {"text": migration.title},
        "fullDescription": {"text": migration.why},
        "help": {"text": f"official: {migration.official} at b8931f7\n\n{migration.algebra}\n\n{migration.person}"},
        "helpUri": _OFFICIAL,
        "defaultConfiguration": {"level": "warning"},
    }


def _result(finding: Finding, rule: int, project: Project) -> dict[str, Any]:
    kind = _KINDS[finding.state]
    text = f"{finding.evidence}. {finding.person}".strip()
    result: dict[str, Any] = {
        "ruleId": finding.migration,
        "ruleIndex": rule,
        "kind": kind,
        "level": "warning" if kind == "fail" else "none",
        "message": {"text": text},
        "properties": {"state": finding.state.value, "rewrite": finding.level.value},
    }
    if finding.site is not None:
        result["locations"] = [_location(finding.site)]
        result["partialFingerprints"] = {"migrationAndLine/v1": _fingerprint(finding, project)}
    if finding.related:
        result["relatedLocations"] = [_location(site) for site in finding.related]
    if finding.state is State.SUPPRESSED:
        reason = finding.evidence.rpartition("left so: ")[2]
        result["suppressions"] = [{"kind": "inSource", "justification": reason}]
    if finding.edits:
        result["fixes"] = [_fix(finding, project)]
    return result


def _location(site: Site) -> dict[str, Any]:
    region = {"startLine": site.line, "startColumn": site.column}
    if site.end_line > site.line:
        region["endLine"] = site.end_line
    return {"physicalLocation": {"artifactLocation": _artifact(site.path), "region": region}}


def _artifact(path: str) -> dict[str, str]:
    return {"uri": quote(path), "uriBaseId": _ROOT}


def _fingerprint(finding: Finding, project: Project) -> str:
    """Return a digest that stays when lines are added above a finding."""
    assert finding.site is not None
    file = project.files.get(finding.site.path)
    line = b""
    if file is not None:
        begin, end = file.line_span(finding.site.line)
        line = file.data[begin:end].strip()
    return hashlib.sha256(f"{finding.migration}:{finding.site.path}:".encode() + line).hexdigest()[:32]


def _fix(finding: Finding, project: Project) -> dict[str, Any]:
    by_path: dict[str, list[Edit]] = {}
    for edit in finding.edits:
        by_path.setdefault(edit.path, []).append(edit)
    changes = [
        {
            "artifactLocation": _artifact(path),
            "replacements": [_replacement(project.files[path], edit) for edit in edits],
        }
        for path, edits in by_path.items()
    ]
    return {"description": {"text": f"rewrite, {finding.level.value}"}, "artifactChanges": changes}


def _replacement(file: SourceFile, edit: Edit) -> dict[str, Any]:
    (line, column), (end_line, end_column) = _position(file, edit.start), _position(file, edit.end)
    region = {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}
    return {"deletedRegion": region, "insertedContent": {"text": edit.text}}


def _position(file: SourceFile, offset: int) -> tuple[int, int]:
    line = file.line_at(offset)
    return line, len(file.data[file.line_span(line)[0] : offset].decode()) + 1


def _notification(remark: Remark) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(remark.path)}
    if remark.line:
        physical["region"] = {"startLine": remark.line}
    return {"message": {"text": remark.text}, "locations": [{"physicalLocation": physical}]}


def _failure(result: Result) -> dict[str, Any]:
    return {"level": "error", "message": {"text": f"the rule of {result.migration.id} failed: {result.failure}"}}
