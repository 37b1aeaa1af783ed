"""The sections of the page, in the order of the terminal report: what was compared, families, causes, divergences."""

from __future__ import annotations

from collections.abc import Sequence

from parity.report.grouping import Cause, Evidence, compact_ids, gather_causes, unattributed
from parity.report.numbers import count
from parity.report.page.elements import Html, joined, section, table, tag, text, time
from parity.report.page.exhibits import exhibit
from parity.report.phrases import (
    NO_CAUSE,
    also_under,
    explained,
    named_causes,
    shared_reasons,
    sized,
    worst_ratio,
    worst_ulp,
)
from parity.report.provenance import environment, provenance
from parity.report.waivers import told_waiver, waiver_title
from parity.report.wording import difference, family_summaries, recipe_of
from parity.results import CheckResult, RunResult

__all__ = ["causes_section", "divergences_section", "families_section", "head", "reasons_section", "waivers_section"]

MOST_DIVERGENCES = 20
"""Failing comparisons listed per check and recipe."""


def head(result: RunResult) -> Html:
    """Return the provenance, loud notes, and what was compared where."""
    reference = result.reference
    sound = reference.identity == "verified" and not reference.modified
    lines = [tag("p", text(provenance(reference)), class_="provenance" if sound else "provenance error")]
    lines += [tag("p", text(f"also modified: {line}"), class_="error") for line in reference.modified[1:]]
    lines += [tag("p", text(f"NOTE: {note}"), class_="loud") for note in reference.notes]
    facts = [("subject", text(result.subject)), ("environment", text(environment(result.environment)))]
    facts += [("options", text(", ".join(f"{key} {_option(value)}" for key, value in result.options.items())))]
    if reference.substitutes:
        listed = tag("ul", *(tag("li", text(line)) for line in reference.substitutes))
        title = tag("summary", text(f"{len(reference.substitutes)} for missing kernels"))
        facts.append(("substitutes", tag("details", title, listed)))
    if result.doctor:
        facts.append(("instrument", _self_checks(result)))
    if result.started:
        facts.append(("started", tag("time", text(result.started))))
    pairs = [Html(tag("dt", text(name)) + tag("dd", fact)) for name, fact in facts if fact]
    return joined([*lines, tag("dl", *pairs)])


def _option(value: object) -> str:
    return ("+".join(map(str, value)) or "all") if isinstance(value, list | tuple) else str(value)


def _self_checks(result: RunResult) -> Html:
    failed = [c for c in result.doctor if not c.passed]
    told = text(f"{len(result.doctor) - len(failed)} of {len(result.doctor)} self-checks passed")
    lines = [tag("li", text(f"self-check failed: {c.name}: {difference(c)}"), class_="error") for c in failed]
    return Html(told + tag("ul", *lines)) if lines else told


def families_section(result: RunResult) -> Html:
    """Return the table of families."""
    header = ("family", "checks", "compared", "bitwise equal", "worst ulp", "error / allowed", "verdict", "time")
    rows = [
        (
            text(summary.family),
            text(count(summary.checks)),
            text(count(summary.compared)),
            text(count(summary.bitwise_equal)),
            text(worst_ulp(summary)),
            text(worst_ratio(summary)),
            tag("span", text(summary.verdict), class_=summary.verdict.split(",")[0].lower().replace(" ", "_")),
            time(summary.seconds),
        )
        for summary in family_summaries(result)
    ]
    content = table(header, rows, class_="number") if rows else tag("p", text("no checks"))
    return section("Families", content, identity="families")


def causes_section(result: RunResult) -> Html:
    """Return every cause with its sentences, official lines and next steps, root causes first."""
    blocks = [_cause(cause) for cause in gather_causes(result)]
    bare = unattributed(result)
    if bare:
        told = text(f": {compact_ids(check.id for check in bare)}: {NO_CAUSE}")
        blocks.append(tag("p", tag("strong", text("no cause recorded")), told))
    hint = tag("p", text("In full: "), tag("code", text("python -m parity explain ID")), class_="faint")
    return section("Causes", *blocks, *[hint] * bool(blocks), identity="causes")


def _cause(cause: Cause) -> Html:
    title = tag("h3", text(cause.id or "not attributed"), data_cause=cause.id)
    lines = []
    for told in cause.told:
        official = [text(" official: "), tag("code", text(told.finding.official))] if told.finding.official else []
        lines.append(tag("li", text(told.sentence), *official))
    lines += [tag("li", tag("strong", text("next: ")), text(step)) for step in cause.steps]
    return Html(title + tag("p", text(explained(cause))) + tag("ul", *lines))


def waivers_section(result: RunResult) -> Html:
    """Return every waiver with what became of it; nothing where there is none."""
    lines = [tag("li", text(told_waiver(w)), **({"class_": "error"} if w.problem else {})) for w in result.waivers]
    return section(f"Waivers ({waiver_title(result)})", *[tag("ul", *lines)] * bool(lines), identity="waivers")


def divergences_section(evidence: Sequence[Evidence]) -> Html:
    """Return one block per diverged check, with each recipe's first failing comparisons and everything to look at."""
    return section("Divergences", *(_evidence(n, block) for n, block in enumerate(evidence)), identity="divergences")


def _evidence(place: int, block: Evidence) -> Html:
    first = block.first
    lines = [tag("h3", text(block.name))]
    lines.append(tag("p", text(f"{first.title} ({first.level}); {named_causes(block) or NO_CAUSE}")))
    official = [part for path in first.official for part in (tag("code", text(path)), text(" "))]
    lines += [tag("p", text("official: "), *official, class_="faint")] if official else []
    lines += [tag("p", text(f"also under {also_under(block)}"))] if len(block.checks) > 1 else []
    lines += [tag("p", text(f"passed under {', '.join(block.passed)}"))] if block.passed else []
    lines += [_under_recipe(check, opened=check is first) for check in block.checks]
    return tag("article", *lines, id=f"divergence-{place}")


def _under_recipe(check: CheckResult, *, opened: bool) -> Html:
    diverged = check.diverged
    counted = f"{count(len(diverged))} of {count(check.compared)} comparisons differ"
    title = tag("summary", text(f"{recipe_of(check) or check.id}: {counted}"))
    header = ("comparison", "rule", "official", "yours", "size")
    rows = [
        (tag("code", text(c.name)), text(c.tier), text(c.reference), text(c.subject), text(sized(c)))
        for c in diverged[:MOST_DIVERGENCES]
    ]
    content = [table(header, rows)] if rows else []
    left = len(diverged) - len(rows)
    content += [tag("p", text(f"and {count(left)} more, see the JSON report"))] if left > 0 else []
    content += [exhibit(shown) for shown in check.exhibits]
    # Only the presence of `open` counts, whatever its value.
    return tag("details", title, *content, **({"open": "open"} if opened else {}))


def reasons_section(title: str, checks: Sequence[CheckResult], identity: str) -> Html:
    """Return checks without a verdict, or with one in part, under the reasons that they share."""
    lines = [
        tag("li", tag("code", text(compact_ids(ids))), text(f": {reason}"))
        for reason, ids in shared_reasons(checks).items()
    ]
    return section(f"{title} ({count(len(checks))})", *[tag("ul", *lines)] * bool(lines), identity=identity)
