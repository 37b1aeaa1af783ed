"""A run as annotations of a GitHub workflow run: what its summary page and a pull request's files show.

GitHub shows ten annotations of a step and drops the rest without a word, so at most nine are written, root causes
first, and a tenth line says how many there would be more. A run at parity has one, a notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from parity.report.grouping import Cause, compact_ids, gather_causes, gather_evidence
from parity.report.numbers import count, printable
from parity.report.phrases import NO_CAUSE, explained, shared_reasons, sized, steps
from parity.report.waivers import told_waiver
from parity.report.wording import difference, verdict_line
from parity.results import CheckResult, Comparison, RunResult

__all__ = ["MOST_ANNOTATIONS", "Annotation", "as_annotations", "gather_annotations", "no_verdict"]

MOST_ANNOTATIONS = 9
"""Annotations before the line that counts the rest."""

_MOST_TOLD = 4
_OFFICIAL = re.compile(r"(?P<file>[^\s:,]+\.\w+):(?P<line>\d+)")
_RAISED = re.compile(r".* at (?P<file>.+):(?P<line>\d+) in \S+")


@dataclass(frozen=True)
class Annotation:
    """One annotation.

    Attributes:
        level: how GitHub shows it.
        title: one line.
        message: lines, separated by newlines.
        file: a path, relative to the repository where it lies in it; empty for none.
        line: line in the file, from 1; 0 for none.
    """

    level: Literal["error", "notice"]
    title: str
    message: str
    file: str = ""
    line: int = 0

    @property
    def command(self) -> str:
        """The workflow command, one line."""
        place = [("file", self.file), ("line", str(self.line))] if self.file and self.line else []
        properties = ",".join(f"{key}={_property(value)}" for key, value in [*place, ("title", self.title)])
        return f"::{self.level} {properties}::{_data(self.message)}"


def _data(text: str) -> str:
    """Escape what would end the command; control characters other than line ends become visible escapes."""
    lines = "\n".join(printable(line) for line in text.splitlines())
    return lines.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(printable(text)).replace(":", "%3A").replace(",", "%2C")


def as_annotations(result: RunResult, exit_code: int | None = None, root: str = "") -> str:
    """Return the workflow commands, one a line, at most ten.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
        root: the repository's folder, which files are named relative to.
    """
    gathered = gather_annotations(result, exit_code, root)
    shown, left = gathered[:MOST_ANNOTATIONS], gathered[MOST_ANNOTATIONS:]
    if left:
        more = f"and {count(len(left))} more, such as {left[0].title}: see the report"
        shown.append(
            Annotation("error", "parity: more than GitHub shows", f"{more}\n{verdict_line(result, exit_code)}")
        )
    return "".join(f"{annotation.command}\n" for annotation in shown)


def no_verdict(why: str) -> str:
    """Return the workflow command of a run that could not be made."""
    return Annotation("error", "parity: no verdict", why).command


def gather_annotations(result: RunResult, exit_code: int | None = None, root: str = "") -> list[Annotation]:
    """Return all annotations: causes in their order, checks without a cause, errors, what denies a verdict, waivers.

    Arguments are those of `as_annotations`.
    """
    code = result.exit_code if exit_code is None else exit_code
    if code == 0:
        return [Annotation("notice", "parity", verdict_line(result, exit_code))]
    found = [_of_cause(cause, result) for cause in gather_causes(result)]
    found += _of_unattributed(result)
    found += _of_errors(result, root)
    found += [
        Annotation("error", f"parity: self-check failed: {c.name}", f"{difference(c)}\n{c.note}".strip())
        for c in result.doctor
        if not c.passed
    ]
    found += [
        Annotation("error", f"parity: waiver {waiver.problem}", told_waiver(waiver))
        for waiver in result.waivers
        if waiver.problem
    ]
    return found or [Annotation("error", "parity: no verdict", verdict_line(result, exit_code))]


def _of_cause(cause: Cause, result: RunResult) -> Annotation:
    lines = [told.sentence for told in cause.told[:_MOST_TOLD]]
    if len(cause.told) > _MOST_TOLD:
        lines.append(f"and {count(len(cause.told) - _MOST_TOLD)} more findings, see the report")
    lines += [f"next: {step}" for step in steps(cause)[:1]]
    named = [c for c in result.checks if c.status == "diverged" and any(f.id == cause.id for f in c.findings)]
    lines += _first(named)
    # A fork keeps official's names of files more often than not, so that this is a place in its own repository.
    places = [told.finding.official for told in cause.told]
    return _placed(f"parity: {cause.id or 'not attributed'}: {explained(cause)}", lines, places)


def _of_unattributed(result: RunResult) -> Iterator[Annotation]:
    for evidence in gather_evidence(result):
        bare = [check for check in evidence.checks if not check.findings]
        if bare:
            lines = [f"{compact_ids(check.id for check in bare)}: {bare[0].title}", *_first(bare)]
            yield _placed(f"parity: {evidence.name}: {NO_CAUSE}", lines, bare[0].official)


def _of_errors(result: RunResult, root: str) -> Iterator[Annotation]:
    for reason, ids in shared_reasons([check for check in result.checks if check.status == "error"]).items():
        raised = _RAISED.fullmatch(" ".join(reason.split()))
        file, line = (raised["file"], int(raised["line"])) if raised else ("", 0)
        inside = file.removeprefix(f"{root.rstrip('/')}/") if root else file
        yield Annotation("error", f"parity: error in {compact_ids(ids)}", reason, inside, line)


def _first(checks: Sequence[CheckResult]) -> list[str]:
    """Return the first divergence of the first of the checks that has one, as one line."""
    for check in checks:
        for first in check.diverged[:1]:
            values = [f"{whose} {value}" for whose, value in _values(first) if value]
            return [f"first: {check.id}: {', '.join([first.name, *values])}: {sized(first)}"]
    return []


def _values(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    return ("official", comparison.reference), ("yours", comparison.subject)


def _placed(title: str, lines: Sequence[str], places: Sequence[str]) -> Annotation:
    found = next((match for place in places if (match := _OFFICIAL.search(place))), None)
    file, line = (found["file"], int(found["line"])) if found else ("", 0)
    return Annotation("error", title, "\n".join(lines), file, line)
