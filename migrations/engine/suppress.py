"""Comments with which an owner settles a finding: `# parity: ignore[0005] reason`.

Behind code the comment settles what is found on its line, alone on a line what is found on the next. `ignore-file`
settles the sites of its file; `ignore-project`, in any file, all of a difference, and so also what was looked for and
not found. Several ids are separated by commas. A reason is part of the decision: without one nothing is settled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import libcst as cst

from migrations.engine.discovery import Remark
from migrations.engine.model import Finding, Level, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile

__all__ = ["Suppression", "suppress", "suppressions", "unused"]

_CANDIDATE = re.compile(rb"parity:\s*ignore")
_COMMENT = re.compile(r"#\s*parity:\s*ignore(-file|-project)?\s*(?:\[([^\]]*)\])?\s*(.*)$")
_FORM = "# parity: ignore[0005] reason"


@dataclass(frozen=True)
class Suppression:
    """One id of one comment.

    Attributes:
        path, line: of the comment.
        migration: id that it settles.
        reach: empty for a site, `-file` or `-project`.
        reason: the owner's words.
        target: the line that a comment about a site speaks of: its own, or the next where it stands alone.
    """

    path: str
    line: int
    migration: str
    reach: str
    reason: str
    target: int

    def reaches(self, finding: Finding) -> bool:
        """Whether a finding is of this comment's id and stands where the comment speaks of."""
        if finding.migration != self.migration:
            return False
        if self.reach == "-project":
            return True
        if finding.site is None or finding.site.path != self.path:
            return False
        return self.reach == "-file" or finding.site.line == self.target


def suppressions(project: Project, known: Collection[str]) -> tuple[list[Suppression], list[Remark]]:
    """Return the suppressions of a project, and what is wrong with those that settle nothing."""
    found: list[Suppression] = []
    remarks: list[Remark] = []
    known = set(known)
    for file in project.matching(_CANDIDATE):
        for comment in file.nodes(cst.Comment):
            _read(file, comment, known, found, remarks)
    return found, remarks


def _read(
    file: SourceFile, comment: cst.Comment, known: Collection[str], found: list[Suppression], remarks: list[Remark]
) -> None:
    if not (match := _COMMENT.search(comment.value)):
        return
    reach, ids, reason = match.groups()
    line = file.line(comment)
    alone = not file.data[file.line_span(line)[0] : file.span(comment)[0]].strip()
    names = [_full(name) for name in (ids or "").split(",") if name.strip()]
    if not names:
        remarks.append(Remark(file.path, f"suppression without an id settles nothing, write `{_FORM}`", line))
    for name in names:
        if name not in known:
            expected = ", ".join(sorted(known))
            remarks.append(Remark(file.path, f"suppression of an unknown id {name}, expected one of {expected}", line))
        elif not reason.strip():
            remarks.append(Remark(file.path, f"suppression of {name} without a reason settles nothing", line))
        else:
            found.append(Suppression(file.path, line, name, reach or "", reason.strip(), line + alone))


def _full(name: str) -> str:
    name = name.strip()
    return name.zfill(4) if name.isdigit() else name


def suppress(findings: Iterable[Finding], by: Sequence[Suppression]) -> list[Finding]:
    """Return findings, those that a comment covers as settled and without edits."""
    return [_settled(finding, by) for finding in findings]


def _settled(finding: Finding, by: Sequence[Suppression]) -> Finding:
    reason = next((one.reason for one in by if one.reaches(finding)), "")
    if finding.state.settled or not reason:
        return finding
    evidence = f"{finding.evidence}; left so: {reason}"
    return replace(
        finding, state=State.SUPPRESSED, evidence=evidence, level=Level.MANUAL, edits=(), person="", blocked_by=()
    )


def unused(by: Iterable[Suppression], findings: Sequence[Finding], ran: Collection[str]) -> list[Remark]:
    """Return a remark for each suppression that settles none of the findings, of the migrations that were run.

    Args:
        by: the suppressions.
        findings: after `suppress`.
        ran: ids.
    """
    settled = [finding for finding in findings if finding.state is State.SUPPRESSED]
    return [
        Remark(one.path, f"suppression of {one.migration} matches nothing (any more), remove it", one.line)
        for one in by
        if one.migration in ran and not any(one.reaches(finding) for finding in settled)
    ]
