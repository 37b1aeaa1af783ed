"""A run as JUnit XML: a testsuite per family, a testcase per check, for the CI servers that show tests.

The document is valid by Apache Ant's schema, which is the narrowest, and by that of Jenkins' xUnit plugin. A check that
diverged is a failure, one that raised an error, one that was not run or whose divergences are all waived is skipped:
never passed. Waivers are a suite too, in which one that is no longer needed is a failure. The instrument's
self-checks are a suite of their own, so that a run without a verdict never looks like one that passed.

All that differs between two equal runs are the attributes `time` and `timestamp`, and the duration in the verdict line,
which is the property `verdict` and the output of the suite `instrument`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree as ET

from parity.report.numbers import count, printable
from parity.report.phrases import NO_CAUSE, sized
from parity.report.provenance import environment, provenance
from parity.report.waivers import told_waiver
from parity.report.wording import FamilySummary, attribution, causes, difference, family_summaries, verdict_line
from parity.results import CheckResult, Comparison, RunResult, WaiverOutcome

__all__ = ["INSTRUMENT", "MOST_DIVERGENCES", "WAIVERS", "as_junit"]

INSTRUMENT = "instrument"
"""The suite of self-checks and, where there is no verdict and nothing else says so, of that."""

WAIVERS = "waivers"
"""The suite of waivers, where there are any."""

MOST_DIVERGENCES = 20
"""Failing comparisons told per check."""

Problem = tuple[str, str, str, str]
"""Element (`failure`, `error` or `skipped`), message, type and text."""


def as_junit(result: RunResult, exit_code: int | None = None) -> str:
    """Return the run as an XML document that ends in a newline.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    root = ET.Element("testsuites")
    known = list(_properties(result, exit_code))
    for summary in family_summaries(result):
        checks = [check for check in result.checks if check.family == summary.family]
        cases = [(check.id, check.seconds, _problem(check)) for check in checks]
        partly = [f"run in part: {c.id}: {c.reason}" for c in checks if c.reason and c.status in ("passed", "diverged")]
        _suite(root, summary.family, result.started, cases, [*known, *_counts(summary)], partly)
    if result.waivers:
        waived = [(f"{w.check} {w.name}", 0.0, _failed_waiver(w) if w.problem else None) for w in result.waivers]
        _suite(root, WAIVERS, result.started, waived, known, [told_waiver(waiver) for waiver in result.waivers])
    cases = [(c.name, 0.0, None if c.passed else _failed_self_check(c)) for c in result.doctor]
    cases += [("verdict", 0.0, problem) for problem in _no_verdict(result, exit_code)]
    _suite(root, INSTRUMENT, result.started, cases, known, [verdict_line(result, exit_code)])
    ET.indent(root, " ")
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ET.tostring(root, encoding='unicode')}\n"


def _suite(
    root: ET.Element,
    name: str,
    started: str,
    cases: Sequence[tuple[str, float, Problem | None]],
    properties: Iterable[tuple[str, str]],
    output: Sequence[str],
) -> None:
    """Append a suite; the order of its elements is the schema's."""
    kinds = [problem[0] if problem else "" for _, _, problem in cases]
    suite = ET.SubElement(
        root,
        "testsuite",
        id=str(len(root)),
        package="parity",
        name=printable(name) or "-",
        # Ant's schema demands a host; the machine's name is nobody's business, and differs between equal runs.
        hostname="localhost",
        tests=str(len(cases)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped=str(kinds.count("skipped")),
        time=_time(sum(seconds for _, seconds, _ in cases)),
    )
    if started:
        suite.set("timestamp", started.removesuffix("Z"))
    told = ET.SubElement(suite, "properties")
    for key, value in properties:
        ET.SubElement(told, "property", name=printable(key), value=printable(value))
    for identity, seconds, problem in cases:
        case = ET.SubElement(
            suite, "testcase", name=printable(identity), classname=f"parity.{printable(name)}", time=_time(seconds)
        )
        if problem:
            kind, message, type_, text = problem
            element = ET.SubElement(case, kind, message=printable(message))
            element.text = _lines(text)
            if kind != "skipped":
                element.set("type", printable(type_))
    ET.SubElement(suite, "system-out").text = _lines("\n".join(output))
    ET.SubElement(suite, "system-err")


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


def _lines(text: str) -> str:
    """Return lines without the characters that XML cannot hold, not even escaped; their indentation is kept."""
    return "\n".join(f"{' ' * (len(line) - len(line.lstrip(' ')))}{printable(line)}" for line in text.splitlines())


def _properties(result: RunResult, exit_code: int | None) -> Iterator[tuple[str, str]]:
    """Yield what every suite says of the run: a reader of one suite must know what was compared with what."""
    reference = result.reference
    yield "verdict", verdict_line(result, exit_code)
    yield "exit_code", str(result.exit_code if exit_code is None else exit_code)
    yield "attribution", ", ".join(causes(result))
    yield "subject", result.subject
    yield "reference", provenance(reference)
    for key in ("source", "requested", "location", "version", "identity"):
        yield f"reference.{key}", str(getattr(reference, key))
    for kind in ("modified", "notes", "substitutes"):
        for place, line in enumerate(getattr(reference, kind)):
            yield f"reference.{kind}.{place}", line
    yield "environment", environment(result.environment)
    for key, value in result.options.items():
        yield f"option.{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _counts(summary: FamilySummary) -> Iterator[tuple[str, str]]:
    yield "family.verdict", summary.verdict
    for key in ("compared", "within", "bitwise_equal"):
        yield f"family.{key}", str(getattr(summary, key))


def _problem(check: CheckResult) -> Problem | None:
    """Return what is wrong with a check; None where it passed."""
    if check.status == "passed":
        return None
    if check.status == "not_run":
        return "skipped", check.reason or "no reason given", "", ""
    if check.status == "waived":
        reasons = "; ".join(dict.fromkeys(c.waived for c in check.waived))
        return "skipped", f"{count(len(check.waived))} of {count(check.compared)} comparisons waived: {reasons}", "", ""
    if check.status == "error":
        return "error", check.reason or "no reason given", "error", check.title
    diverged = check.diverged
    counted = f"{count(len(diverged))} of {count(check.compared)} comparisons differ"
    first = f"; first: {diverged[0].name}: {sized(diverged[0])}" if diverged else ""
    named = ", ".join(id_ or "not attributed" for id_ in attribution(check.findings)) or NO_CAUSE
    return "failure", counted + first, named, "\n".join(_told(check))


def _told(check: CheckResult) -> Iterator[str]:
    yield check.title
    for finding in check.findings:
        yield f"cause {finding.id or 'not attributed'}: {finding.sentence}"
        yield from (
            f"  {label}: {text}" for label, text in (("official", finding.official), ("next", finding.fix)) if text
        )
    if not check.findings:
        yield f"{NO_CAUSE}; official: {', '.join(check.official)}"
    for comparison in check.diverged[:MOST_DIVERGENCES]:
        yield f"{comparison.name} ({comparison.tier}): {sized(comparison)}"
        yield f"  official: {comparison.reference}"
        yield f"  yours: {comparison.subject}"
    left = len(check.diverged) - MOST_DIVERGENCES
    if left > 0:
        yield f"and {count(left)} more, see the JSON report"
    if check.reason:
        yield f"run in part: {check.reason}"


def _failed_self_check(comparison: Comparison) -> Problem:
    return "error", f"self-check failed: {difference(comparison)}", "self-check", comparison.note


def _failed_waiver(waiver: WaiverOutcome) -> Problem:
    return "failure", told_waiver(waiver), waiver.problem, waiver.reason


def _no_verdict(result: RunResult, exit_code: int | None) -> Iterator[Problem]:
    """Yield an error where the exit code is 2 and neither a check nor a self-check is red."""
    code = result.exit_code if exit_code is None else exit_code
    red = any(c.status in ("error", "diverged") for c in result.checks) or any(not c.passed for c in result.doctor)
    red = red or any(waiver.problem for waiver in result.waivers)
    if code == 2 and not red:
        yield "error", verdict_line(result, exit_code), "no verdict", ""
