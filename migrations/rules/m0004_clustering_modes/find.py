"""What is said of a chain, and the edits that leave its masked arm."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

import libcst as cst

from migrations.engine.edits import delete_statement
from migrations.engine.model import Edit, Finding, Level, Site, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.flags import Flag, flag_reads, flags
from migrations.flow.nodes import callee, find_all, literal, names_in
from migrations.flow.settings import Setting, settings
from migrations.rules.m0004_clustering_modes.chains import PREFILTER, Arm, Chain, chains, may_matter, turned_masks

__all__ = ["find"]

_LOSS = re.compile(r"(proto\w*|cluster\w*)_?loss", re.IGNORECASE)


def find(project: Project) -> list[Finding]:
    """Return a finding per chain of modes, and one per call of a prototype loss outside of them."""
    found: list[Finding] = []
    all_chains: list[Chain] = []
    files = list(project.matching(PREFILTER, wanted=may_matter))
    for file in files:
        all_chains += chains(file) if b"==" in file.data else []
    defined = flags(project) if all_chains else {}
    for chain in all_chains:
        alone = sum(other.flag == chain.flag for other in all_chains) == 1
        found.append(_judged(project, chain, defined.get(chain.flag, []), alone=alone))
    # A function around a chain is no loss of its own, whatever it is called.
    around = {function.name.value for c in all_chains if (function := c.file.function(c.node)) is not None}
    for file in files:
        found += _calls(file, [chain for chain in all_chains if chain.file is file], around)
    if found:
        return found
    evidence = "no loss over patch prototypes or clusters and no chain of its modes was found; official code has none"
    return [Finding("0004", State.NOT_APPLICABLE, evidence)]


@dataclass(frozen=True)
class _Configuration:
    """Which mode runs.

    Attributes:
        doubts: why it is not proven that the masked arm is the one that runs; empty where it is.
        sets: places that set the flag beside its definition.
        reads: further places that read it.
    """

    doubts: tuple[str, ...]
    sets: tuple[Setting, ...]
    reads: tuple[Site, ...]


def _configuration(project: Project, chain: Chain, defined: list[Flag], masked: Arm) -> _Configuration:
    sets = tuple(settings(project, chain.flag))
    defaults = [(file.site(node), value) for file, node, value in _field_defaults(project, chain.flag)]
    defaults += [(flag.file.site(flag.call), flag.default) for flag in defined]
    doubts = [
        f"{site} makes {value!r} its default"
        for site, value in defaults
        if value is not ... and not chain.runs(masked, value)
    ]
    doubts += [f"{site} gives it no literal default" for site, value in defaults if value is ...]
    if not defaults or "." not in chain.mode:
        doubts.append(f"no default of {chain.mode} was found")
    # A dictionary key and an attribute of that name may belong to something else: what is unknown is a doubt.
    doubts += [
        f"{s.site} sets it to {'what cannot be read' if s.value is ... else repr(s.value)}"
        for s in sets
        if not chain.runs(masked, s.value)
    ]
    tests = [(chain.file.path, *chain.file.span(branch.test)) for branch in _ifs(chain.node)]
    reads = tuple(
        file.site(node)
        for file, node in flag_reads(project, chain.flag)
        if not any(file.path == path and start <= file.span(node)[0] < end for path, start, end in tests)
    )
    return _Configuration(tuple(doubts), sets, reads)


def _ifs(node: cst.If) -> list[cst.If]:
    found = [node]
    while isinstance(found[-1].orelse, cst.If):
        found.append(found[-1].orelse)
    return found


def _field_defaults(project: Project, name: str) -> list[tuple[SourceFile, cst.AnnAssign, object]]:
    """Return the defaults of class attributes `name: type = default`, as configurations have them."""
    found: list[tuple[SourceFile, cst.AnnAssign, object]] = []
    for file in project.matching(re.compile(rb"\b" + re.escape(name.encode()) + rb"\s*:")):
        for node in file.nodes(cst.AnnAssign):
            scope = next((a for a in file.ancestors(node) if isinstance(a, cst.FunctionDef | cst.ClassDef)), None)
            if isinstance(node.target, cst.Name) and node.target.value == name and isinstance(scope, cst.ClassDef):
                found.append((file, node, literal(node.value)))
    return found


def _judged(project: Project, chain: Chain, defined: list[Flag], *, alone: bool) -> Finding:
    values = [repr(arm.value) if arm.value is not None else "else" for arm in chain.arms]
    counted = f"{chain.mode} chooses among {len(values)} sets of tokens for a loss ({', '.join(values)})"
    site = chain.file.site(chain.node)
    if len(chain.masked) != 1:
        what = "none takes" if not chain.masked else f"{len(chain.masked)} take"
        person = f"keep the one arm that takes {chain.mask} as it is, and remove the others and the flag"
        return Finding(
            "0004", State.DIVERGED, f"{counted}; {what} {chain.mask} as it is", site, Level.MANUAL, person=person
        )
    arm = chain.masked[0]
    kept = f"{counted}; {'else' if arm.value is None else repr(arm.value)} is the one of masked tokens"
    if chain.series:
        person = (
            f"keep the arm of {'else' if arm.value is None else repr(arm.value)} alone, and drop the mode from callers"
        )
        return Finding("0004", State.DIVERGED, kept, site, Level.MANUAL, person=person)
    if _has_long_text(chain.file, arm):
        person = "keep the masked arm by hand: it holds a text of several lines, which another indentation would change"
        return Finding("0004", State.DIVERGED, kept, site, Level.MANUAL, person=person)
    known = _configuration(project, chain, defined, arm)
    edits = [_keep(chain, arm)]
    removable, why_not = _removable(defined, known, alone=alone)
    edits += removable
    proven = not known.doubts
    kept += " and what is configured everywhere" if proven else f", but {'; '.join(known.doubts[:3])}"
    return Finding(
        "0004",
        State.DIVERGED,
        kept,
        site,
        Level.SAFE if proven else Level.UNSAFE,
        tuple(edits),
        person=_person(chain, known, why_not),
        related=(*(flag.file.site(flag.call) for flag in defined), *(s.site for s in known.sets), *known.reads),
    )


def _person(chain: Chain, known: _Configuration, why_not: str) -> str:
    parts = []
    if known.doubts:
        parts.append("make sure that no experiment that still counts runs another mode: their arms are removed")
    if why_not:
        parts.append(f"remove the flag {chain.flag} itself later: {why_not}")
    return "; ".join(parts)


def _removable(defined: list[Flag], known: _Configuration, *, alone: bool) -> tuple[list[Edit], str]:
    """Return the edits that remove the flag, or why it stays."""
    if not defined:
        return [], ""
    if known.reads:
        return [], f"{', '.join(map(str, known.reads[:3]))} still read it"
    if known.sets:
        return [], f"{', '.join(str(s.site) for s in known.sets[:3])} still set it, and a parser refuses what it lacks"
    if not alone:
        return [], "several chains read it"
    edits = []
    for flag in defined:
        statement = flag.file.statement(flag.call)
        plain = isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1
        if not (plain and isinstance(statement.body[0], cst.Expr) and statement.body[0].value is flag.call):  # type: ignore[union-attr] # plain
            return [], f"{flag.file.site(flag.call)} defines it within another expression"
        assert statement is not None
        edits.append(delete_statement(flag.file, statement))
    return edits, ""


def _has_long_text(file: SourceFile, arm: Arm) -> bool:
    texts = [*find_all(arm.body, cst.SimpleString), *find_all(arm.body, cst.FormattedString)]
    return any("\n" in file.code(text) for text in texts)


def _keep(chain: Chain, arm: Arm) -> Edit:
    """Return the edit that puts an arm's lines, less their indentation, in the place of the chain."""
    file = chain.file
    start = file.line_span(file.line(chain.node))[0]
    end = file.line_span(file.line_at(file.span(chain.node)[1] - 1))[1]
    indent = file.data[start : file.span(chain.node)[0]].decode()
    if isinstance(arm.body, cst.IndentedBlock):
        # From the line below the colon: comments above the first statement are the arm's too.
        first = file.line_at(_header_end(file, arm)) + 1
        last = file.line_at(file.span(arm.body.body[-1])[1] - 1)
        body = file.data[file.line_span(first)[0] : file.line_span(last)[1]].decode()
        body = textwrap.dedent(body) if file.newline == "\n" else textwrap.dedent(body.replace(file.newline, "\n"))
    else:
        body = file.code(arm.body).strip() + "\n"
    text = textwrap.indent(body, indent, lambda line: bool(line.strip())).replace("\n", file.newline)
    if not file.data[:end].endswith(b"\n"):
        text = text.removesuffix(file.newline)
    return Edit(file.path, start, end, text)


def _header_end(file: SourceFile, arm: Arm) -> int:
    """Return the offset of the last byte of `elif mode == "x"`."""
    return file.span(arm.node.test)[1] - 1 if isinstance(arm.node, cst.If) else file.span(arm.node)[0]


def _calls(file: SourceFile, inside: list[Chain], around: set[str]) -> list[Finding]:
    """Return a finding for each call of a prototype loss that is part of no chain."""
    spans = [file.span(chain.node) for chain in inside]
    found = []
    for call in file.nodes(cst.Call):
        name, place = callee(call), file.span(call)[0]
        if not _LOSS.search(name) or name[:1].isupper() or name in around:
            continue
        if any(a <= place < b for a, b in spans):
            continue
        masks = sorted(n for arg in call.args for n in names_in(arg.value) if "mask" in n.lower())
        turned = turned_masks(call) | {n for n in masks if _is_turned(file, call, n)}
        if turned:
            evidence = f"{name} is given the inverse of, or all tokens instead of, {', '.join(sorted(turned))}"
            person = "give it the masked tokens alone"
            found.append(Finding("0004", State.DIVERGED, evidence, file.site(call), person=person))
        elif masks or "mask" in file.code(call).lower():
            evidence = f"{name} takes masked tokens ({', '.join(masks) or 'by a mask'}), in one mode"
            found.append(Finding("0004", State.ALIGNED, evidence, file.site(call)))
    return found


def _is_turned(file: SourceFile, call: cst.Call, name: str) -> bool:
    """Whether a name that a call is given was last made by inverting or filling a mask."""
    node = next(n for arg in call.args for n in find_all(arg.value, cst.Name) if n.value == name)
    return any(b.value is not None and bool(turned_masks(b.value)) for b in resolve(file, node))
