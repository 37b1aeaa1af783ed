"""A run ordered for its reader: causes first, each told once, then one block of evidence per check.

One bug shows in many checks and under every recipe, with other numbers each time. Here these are brought
together. Nothing is inferred: a cause is a finding that a check recorded, and a diverged check that recorded none
has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from parity.report.wording import attribution, cause_order, causes, next_step, recipe_of, recipes_of
from parity.results import CheckResult, Exhibit, Finding, RunResult

__all__ = ["Cause", "Evidence", "Told", "compact_ids", "gather_causes", "gather_evidence", "unattributed"]

_NAME = re.compile(r"'[\w.]+'|(?<![/\w.`])(?:[A-Za-z]\w*(?:\.\w+)+|[A-Za-z]+(?:_\w+)+)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?%?|\b(?:nan|inf)\b")
_MOST_NAMES = 4
_MOST_IDS = 3


@dataclass(frozen=True)
class Told:
    """A sentence that is told, and the ones like it that are not.

    Attributes:
        finding: the first of them.
        like: how many more findings say the same with other numbers or names.
        where: the other checks that these are from, written together; without their recipes where they are many.
        names: names in these that the first does not have.
    """

    finding: Finding
    like: int
    where: str
    names: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The sentence, with what is left out in brackets."""
        if not self.like:
            return self.finding.sentence
        shown = ", ".join(self.names[:_MOST_NAMES])
        left = len(self.names) - _MOST_NAMES
        also = f", with {shown}{f' and {left} more names' if left > 0 else ''}" if shown else ""
        where = f": {self.where}" if self.where else ""
        return f"{self.finding.sentence} (and {self.like} like it{also}{where})"


@dataclass(frozen=True)
class Cause:
    """Everything that the diverged checks say about one cause.

    Attributes:
        id: the finding's id; empty for findings that name no known difference.
        told: its distinct sentences.
        steps: its next steps, each once.
        checks: number of diverged checks that name it.
        comparisons: number of diverging comparisons in these checks.
        shared: of these, the ones in checks that name other causes too.
        others: these other causes.
    """

    id: str
    told: tuple[Told, ...]
    steps: tuple[str, ...]
    checks: int
    comparisons: int
    shared: int
    others: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """One check under all the recipes in which it diverged.

    Attributes:
        name: the check's id without the recipe.
        checks: its diverged results, in the order of the run; at least one.
        passed: recipes under which it passed.
        exhibits: at most one picture of masks and one table, from the first of the results.
        elsewhere: the check that shows a longer table of the same kind in place of this one's; else empty.
    """

    name: str
    checks: tuple[CheckResult, ...]
    passed: tuple[str, ...]
    exhibits: tuple[Exhibit, ...]
    elsewhere: str = ""

    @property
    def first(self) -> CheckResult:
        """The result that is shown; of the others only the counts are."""
        return self.checks[0]

    def causes(self) -> list[tuple[str | None, tuple[str, ...]]]:
        """Return the causes, None standing for results without a finding, with the recipes that name them.

        The recipes are empty where all name it.
        """
        by_check = [(check, attribution(check.findings)) for check in self.checks]
        pairs: list[tuple[str | None, tuple[str, ...]]] = []
        for id_ in sorted({id_ for _, ids in by_check for id_ in ids}, key=cause_order):
            named = [recipe_of(check) for check, ids in by_check if id_ in ids]
            pairs.append((id_, () if len(named) == len(by_check) else tuple(named)))
        bare = [recipe_of(check) for check, ids in by_check if not ids]
        if bare:
            pairs.append((None, () if len(bare) == len(by_check) else tuple(bare)))
        return pairs


def gather_causes(result: RunResult) -> list[Cause]:
    """Return the causes that diverged checks name: numbered differences, quirks, the reference, not attributed."""
    diverged = [check for check in result.checks if check.status == "diverged"]
    recipes = recipes_of(result)
    return [_cause(id_, diverged, recipes) for id_ in causes(result)]


def _cause(id_: str, diverged: list[CheckResult], recipes: list[str]) -> Cause:
    named = [check for check in diverged if any(f.id == id_ for f in check.findings)]
    findings = [(check, finding) for check in named for finding in check.findings if finding.id == id_]
    groups: dict[str, list[tuple[CheckResult, Finding]]] = {}
    for check, finding in findings:
        groups.setdefault(_signature(finding, recipes), []).append((check, finding))
    lines = list(dict.fromkeys(finding.official for _, finding in findings))
    told = sorted((_told(group) for group in groups.values()), key=lambda t: lines.index(t.finding.official))
    several = [check for check in named if len(attribution(check.findings)) > 1]
    return Cause(
        id=id_,
        told=tuple(told),
        steps=tuple(dict.fromkeys(step for _, finding in findings if (step := next_step(finding)))),
        checks=len(named),
        comparisons=sum(len(check.diverged) for check in named),
        shared=sum(len(check.diverged) for check in several),
        others=tuple(sorted({i for c in several for i in attribution(c.findings)} - {id_}, key=cause_order)),
    )


def _told(group: list[tuple[CheckResult, Finding]]) -> Told:
    (origin, first), *rest = group
    known = {_NUMBER.sub("#", name) for name in _NAME.findall(first.sentence)}
    names: dict[str, str] = {}
    for _, finding in rest:
        for name in _NAME.findall(finding.sentence):
            names.setdefault(_NUMBER.sub("#", name), name.strip("'"))
    new = tuple(name for masked, name in names.items() if masked not in known)
    # The same file named as modified by several checks is one edit, with nothing like it.
    again = first.id == "reference"
    others = list(dict.fromkeys(check.id for check, _ in rest if check is not origin))
    where = compact_ids(others if len(others) <= _MOST_IDS else map(_base, others))
    return Told(first, 0 if again else len(rest), where, new)


def _signature(finding: Finding, recipes: Iterable[str]) -> str:
    """Return what is left of a sentence under another recipe: numbers, names and lists of either are masked."""
    sentence = finding.sentence
    if finding.id == "reference":
        # Checks introduce an edit in their own words; from the file's name on, they agree.
        return sentence[max(0, sentence.find(finding.official)) :]
    for recipe in recipes:
        sentence = re.sub(rf"\b{re.escape(recipe)}\b", "@", sentence)
    masked = _NUMBER.sub("#", _NAME.sub("@", sentence))
    return re.sub(r"([#@])(?:, \1)+", r"\1", masked)


def gather_evidence(result: RunResult) -> list[Evidence]:
    """Return one block per check that diverged under some recipe, in the order of the run."""
    names = dict.fromkeys(_base(check.id) for check in result.checks if check.status == "diverged")
    blocks = []
    for name in names:
        checks = [check for check in result.checks if _base(check.id) == name]
        diverged = tuple(check for check in checks if check.status == "diverged")
        passed = tuple(recipe for c in checks if c.status == "passed" and (recipe := recipe_of(c)))
        blocks.append(Evidence(name, diverged, passed, _exhibits(diverged[0])))
    return _without_repeated_tables(blocks)


def _exhibits(check: CheckResult) -> tuple[Exhibit, ...]:
    """Return a check's first picture of masks, and of its tables the one with most rows that differ."""
    masks = [e for e in check.exhibits if e.kind == "masks"][:1]
    tables = [e for e in check.exhibits if e.kind == "table"]
    return (*masks, *([max(tables, key=_rows_differing)] if tables else []))


def _without_repeated_tables(blocks: list[Evidence]) -> list[Evidence]:
    """Keep, of the tables of one family with one caption, the one with most rows that differ."""
    longest: dict[tuple[str, str], tuple[int, str]] = {}
    tables = [(block, e, (block.first.family, _caption(e))) for block in blocks for e in block.exhibits]
    for block, exhibit, key in tables:
        if exhibit.kind == "table" and _rows_differing(exhibit) > longest.get(key, (-1, ""))[0]:
            longest[key] = (_rows_differing(exhibit), block.first.id)
    kept = []
    for block in blocks:
        shown = []
        elsewhere = ""
        for exhibit in block.exhibits:
            _, where = longest.get((block.first.family, _caption(exhibit)), (0, block.first.id))
            if exhibit.kind == "table" and where != block.first.id:
                elsewhere = where
            else:
                shown.append(exhibit)
        kept.append(replace(block, exhibits=tuple(shown), elsewhere=elsewhere))
    return kept


def _caption(exhibit: Exhibit) -> str:
    """Return the title without the remark in brackets that counts rows left out."""
    return exhibit.title.split(" (")[0]


def unattributed(result: RunResult) -> list[CheckResult]:
    """Return the diverged checks without any finding."""
    return [check for check in result.checks if check.status == "diverged" and not check.findings]


def compact_ids(ids: Iterable[str]) -> str:
    """Return ids of checks with the recipes of one check together: `masks.counts, losses.ibot[vitl14, vitg14]`."""
    recipes: dict[str, list[str]] = {}
    for id_ in dict.fromkeys(ids):
        base = _base(id_)
        recipes.setdefault(base, []).extend([id_[len(base) + 1 : -1]] if base != id_ else [])
    return ", ".join(f"{base}[{', '.join(names)}]" if names else base for base, names in recipes.items())


def _base(id_: str) -> str:
    return id_[: id_.index("[")] if id_.endswith("]") and "[" in id_ else id_


def _rows_differing(exhibit: Exhibit) -> int:
    """Return how many rows differ between columns `… official` and `… yours`; all rows where none are paired."""
    return sum(_differs(row) for row in exhibit.rows)


def _differs(row: Mapping[str, Any]) -> bool:
    pairs = [
        (row[column], row[other])
        for column in row
        for word in ("yours", "subject")
        if "official" in column and (other := column.replace("official", word)) in row
    ]
    return not pairs or any(a != b for a, b in pairs)
