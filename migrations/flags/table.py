"""What is known of each flag, and what is proposed: a flag goes only when nothing reads it any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from migrations.engine.edits import OverlapError, apply_edits, insert_after
from migrations.engine.model import Edit
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flags.files import Found
from migrations.flags.python_uses import definition, python_uses
from migrations.flags.shell_uses import shell_uses
from migrations.flags.uses import DEFINE, READ, SET, Use
from migrations.flags.yaml_uses import documents, yaml_uses
from migrations.flow.flags import Flag, flag_reads, flags
from migrations.flow.nodes import callee

__all__ = ["NEW", "REMOVED", "Row", "Table", "make_table"]

REMOVED: Mapping[str, str] = {"token_mask_ratio": "0003", "clustering_mode": "0004"}
"""Flags that go, and the migration after which nothing reads them."""

NEW: Mapping[str, tuple[float, str]] = {
    "mask_ratio_min": (0.1, "smallest share of a masked crop's tokens that is masked"),
    "mask_ratio_max": (0.5, "largest share of a masked crop's tokens that is masked"),
    "mask_sample_probability": (0.5, "share of the global crops that are masked"),
}
"""Flags that migration 0003 needs, with official's defaults."""

_NOT_CONVERTED = (
    "has no official equivalent: it masks each token of every image with one probability, official masks blocks in "
    "half of the crops, a ratio between 0.1 and 0.5. Its value is not carried over; choose mask_ratio_min, "
    "mask_ratio_max and mask_sample_probability (official: 0.1, 0.5, 0.5; on average 15 % of all tokens are masked)"
)


@dataclass(frozen=True)
class Row:
    """A flag.

    Attributes:
        flag: its name.
        uses: everywhere it occurs.
        proposal: `goes`, `stays`, `blocked`, `new` or empty.
        reason: of the proposal, in words.
        edits: that carry it out.
    """

    flag: str
    uses: tuple[Use, ...]
    proposal: str = ""
    reason: str = ""
    edits: tuple[Edit, ...] = ()

    def of(self, kind: str) -> list[Use]:
        """Return the uses of a kind."""
        return [use for use in self.uses if use.kind == kind]

    @property
    def conflicts(self) -> list[tuple[Use, Use]]:
        """(definition, setting) pairs whose values differ."""
        return [
            (one, other)
            for one in self.of(DEFINE)
            for other in self.of(SET)
            if one.value and other.value and not _equal(one.value, other.value)
        ]


@dataclass(frozen=True)
class Table:
    """Rows of the flags that migrations touch, then of others that a launcher sets differently.

    Attributes:
        rows: of the flags.
        errors: files that could not be read or parsed, one line each.
        texts: new text by file, where edits are proposed.
    """

    rows: tuple[Row, ...]
    errors: tuple[str, ...]
    texts: Mapping[str, str]

    @property
    def work_remains(self) -> bool:
        """Whether a flag goes, is blocked, stays for now or is new."""
        return any(row.proposal for row in self.rows)


def make_table(found: Found) -> Table:
    """Look at all files together.

    Raises:
        ValueError: edits would leave what does not parse; nothing is proposed then.
    """
    project = Project(found.python.values())
    defined = flags(project)
    loaded, errors = _loaded(found)
    names = [*REMOVED, *NEW]
    uses = {name: _uses(name, found, defined.get(name, []), loaded) for name in names}
    errors.update({path: file.error for path, file in found.python.items() if _mentions(file, names) and file.error})
    rows = [_removal(name, uses[name], bool(defined), found, errors) for name in REMOVED if uses[name]]
    rows += _additions(uses, rows, defined)
    for name in sorted(set(defined) - set(names)):
        row = Row(name, (*map(definition, defined[name]), *_launched(name, found, loaded)))
        if row.conflicts:
            reads = [Use(name, READ, file.path, file.line(node)) for file, node in flag_reads(project, name)]
            rows.append(Row(name, (*row.uses, *reads)))
    return Table(tuple(rows), tuple(errors[path] for path in sorted(errors)), _texts(rows, found))


def _loaded(found: Found) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the documents of each YAML file, and why files cannot be read, by path."""
    loaded: dict[str, list[Any]] = {}
    errors = dict(found.errors)
    for path, file in found.yaml.items():
        try:
            loaded[path] = documents(file)
        except ValueError as error:  # noqa: PERF203 - one broken file stops nothing
            errors[path] = str(error)
    return loaded, errors


def _uses(name: str, found: Found, defined: list[Flag], loaded: Mapping[str, list[Any]]) -> list[Use]:
    uses = [definition(flag) for flag in defined]
    for file in found.python.values():
        if _mentions(file, [name]) and not file.error:
            uses += python_uses(file, name)
    return [*uses, *_launched(name, found, loaded)]


def _launched(name: str, found: Found, loaded: Mapping[str, list[Any]]) -> Iterator[Use]:
    for file in found.shell.values():
        if _mentions(file, [name]):
            yield from shell_uses(file, name)
    for path, file in found.yaml.items():
        if path in loaded and _mentions(file, [name]):
            yield from yaml_uses(file, name, loaded[path])


def _mentions(file: SourceFile, names: list[str]) -> bool:
    data = file.data.replace(b"-", b"_")
    return any(name.encode() in data for name in names)


def _removal(name: str, uses: list[Use], parser_known: bool, found: Found, errors: Mapping[str, str]) -> Row:
    migration = REMOVED[name]
    more = f"; {_NOT_CONVERTED}" if name == "token_mask_ratio" else ""
    reads = [use for use in uses if use.kind == READ]
    unread = [path for path in errors if path in found.original and name.encode() in found.original[path]]
    by_hand = [use for use in uses if not use.edits and use.kind != READ]
    if reads:
        places = ", ".join(use.where for use in reads[:3]) + (" …" if len(reads) > 3 else "")
        reason = (
            f"{len(reads)} read{'s' * (len(reads) > 1)} remain{'s' * (len(reads) == 1)} ({places}): {migration} first"
        )
        return Row(name, tuple(uses), "stays", reason + more)
    if unread:
        return Row(name, tuple(uses), "blocked", f"{unread[0]} mentions it and cannot be parsed{more}")
    if not parser_known:
        reason = "no parser is in the files given; give the program's files too, which may read it"
        return Row(name, tuple(uses), "blocked", reason + more)
    if by_hand:
        reason = "; ".join(f"{use.where}: {use.why}" for use in by_hand)
        return Row(name, tuple(uses), "blocked", reason + more)
    edits = tuple(edit for use in uses for edit in use.edits)
    return Row(name, tuple(uses), "goes", f"nothing in the files given reads it{more}", edits)


def _additions(uses: Mapping[str, list[Use]], rows: list[Row], defined: Mapping[str, list[Flag]]) -> list[Row]:
    """Propose the new flags that are read, or take the place of one that goes, and are defined nowhere."""
    replaced = any(row.flag == "token_mask_ratio" and row.proposal == "goes" for row in rows)
    added = []
    for name, (default, help_text) in NEW.items():
        reads = [use for use in uses[name] if use.kind == READ]
        if any(use.kind == DEFINE for use in uses[name]) or not (reads or replaced):
            added += [Row(name, tuple(uses[name]))] if uses[name] else []
            continue
        anchor = _anchor(defined)
        if anchor is None:
            reason = "no parser in the files given to define it in; give its file too"
            added.append(Row(name, tuple(uses[name]), "blocked", reason))
            continue
        receiver, call = anchor.file.code(anchor.call.func).rpartition(".")[0], anchor.call
        statement = anchor.file.statement(call)
        assert statement is not None
        code = f'{receiver}.add_argument("--{name}", type=float, default={default}, help="{help_text}")'
        edit = insert_after(anchor.file, statement, code)
        reason = f"default {default}, official's" + (f"; {len(reads)} reads wait for it" if reads else "")
        added.append(Row(name, tuple(uses[name]), "new", reason, (edit,)))
    return _joined(added)


def _joined(rows: list[Row]) -> list[Row]:
    """Make one insertion of several at the same place, which would touch the same bytes."""
    first = next((i for i, row in enumerate(rows) if row.edits), None)
    if first is None:
        return rows
    edits = [edit for row in rows for edit in row.edits]
    whole = Edit(edits[0].path, edits[0].start, edits[0].end, "".join(edit.text for edit in edits))
    return [
        Row(row.flag, row.uses, row.proposal, row.reason, (whole,) if i == first else ()) for i, row in enumerate(rows)
    ]


def _anchor(defined: Mapping[str, list[Flag]]) -> Flag | None:
    """Return the definition after which new ones come: the one that they replace, else the last of a parser."""
    old = defined.get("token_mask_ratio", [])
    last = [its[-1] for name, its in defined.items() if name not in REMOVED]
    for flag in [*old, *reversed(last)]:
        if callee(flag.call) == "add_argument" and definition(flag).edits:
            return flag
    return None


def _texts(rows: list[Row], found: Found) -> dict[str, str]:
    """Return new texts; flags that stand beside each other go one after the other."""
    try:
        return _edited(rows, found)
    except OverlapError:
        first = _edited([row for row in rows if row.flag != "clustering_mode"], found)
        return {**first, **make_table(found.with_texts(first)).texts}


def _edited(rows: list[Row], found: Found) -> dict[str, str]:
    by_path: dict[str, list[Edit]] = {}
    for row in rows:
        for edit in row.edits:
            by_path.setdefault(edit.path, []).append(edit)
    texts = {}
    for path, edits in by_path.items():
        file = found.files[path]
        text = apply_edits(file, edits)
        if path in found.python and (error := SourceFile(path, text).error):
            raise ValueError(f"the edits would leave {error}; nothing was changed")
        if path in found.yaml:
            gone = {row.flag for row in rows if row.proposal == "goes"}
            if documents(SourceFile(path, text)) != [_without(one, gone) for one in documents(file)]:
                raise ValueError(f"{path}: without these keys its other values would change; remove them by hand")
        texts[path] = text
    return texts


def _without(node: Any, gone: set[str]) -> Any:
    """Return a document without the keys of flags that go."""
    if isinstance(node, dict):
        return {key: _without(its, gone) for key, its in node.items() if str(key).replace("-", "_") not in gone}
    return [_without(its, gone) for its in node] if isinstance(node, list) else node


def _equal(default: str, value: str) -> bool:
    """Whether a default, as Python shows it, is a launcher's value; a variable that is not known may be."""
    one, other = default.strip("\"'"), value.split(" (")[0].strip("\"'")
    if other.startswith("$"):
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
