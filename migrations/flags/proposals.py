"""What is proposed for a flag: it goes only when nothing reads it any more, and comes where something waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from migrations.engine.edits import insert_after
from migrations.engine.model import Edit
from migrations.flags.python_uses import definition
from migrations.flags.uses import DEFINE, READ, SET, Use
from migrations.flow.flags import Flag

__all__ = ["NEW", "REMOVED", "Program", "Row", "additions", "removal"]

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
class Program:
    """What is known of the files given.

    Attributes:
        has_parser: whether one defines flags.
        read_yaml: YAML files other keys of which the Python files read.
        namespaces: what flags of a parser are read from in each file, `args`; (path, name).
    """

    has_parser: bool
    read_yaml: frozenset[str]
    namespaces: frozenset[tuple[str, str]]


def removal(name: str, uses: list[Use], program: Program, unread: list[str]) -> Row:
    """Propose what becomes of a flag that goes with a migration.

    Args:
        name: in `REMOVED`.
        uses: everywhere it occurs.
        program: what is known of the files given.
        unread: files that mention it and cannot be parsed.
    """
    more = f"; {_NOT_CONVERTED}" if name == "token_mask_ratio" else ""
    reads = [use for use in uses if use.kind == READ]
    by_hand = [use for use in uses if not use.edits and use.kind != READ]
    defined = any(use.kind == DEFINE for use in uses)
    # Keys and keywords of this name may be anything where no parser knows the flag.
    strangers = [] if defined else [use for use in uses if not use.option and use.path not in program.read_yaml]
    if reads:
        places = ", ".join(use.where for use in reads[:3]) + (" …" if len(reads) > 3 else "")
        counted = "1 read remains" if len(reads) == 1 else f"{len(reads)} reads remain"
        return Row(name, tuple(uses), "stays", f"{counted} ({places}): {REMOVED[name]} first{more}")
    if unread:
        return Row(name, tuple(uses), "blocked", f"{unread[0]} mentions it and cannot be parsed{more}")
    if strangers and len(strangers) == len(uses):
        return Row(name, tuple(uses))
    if not (defined or program.has_parser or not any(use.option for use in uses)):
        reason = "no parser is in the files given; give the program's files too, which may read it"
        return Row(name, tuple(uses), "blocked", reason + more)
    if strangers:
        reason = f"no parser defines it, and {strangers[0].where} may mean something else; remove it by hand"
        return Row(name, tuple(uses), "blocked", reason + more)
    if by_hand:
        reason = "; ".join(f"{use.where}: {use.why}" for use in by_hand)
        return Row(name, tuple(uses), "blocked", reason + more)
    edits = tuple(edit for use in uses for edit in use.edits)
    return Row(name, tuple(uses), "goes", f"nothing in the files given reads it{more}", edits)


def additions(
    uses: Mapping[str, list[Use]], rows: list[Row], defined: Mapping[str, list[Flag]], program: Program
) -> list[Row]:
    """Propose the new flags that are read, or take the place of one that goes, and are defined nowhere."""
    replaced = any(row.flag == "token_mask_ratio" and row.proposal == "goes" for row in rows)
    added = []
    for name, (default, help_text) in NEW.items():
        reads = [use for use in uses[name] if use.kind == READ and (use.path, use.receiver) in program.namespaces]
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
        if definition(flag).edits:
            return flag
    return None


def _equal(default: str, value: str) -> bool:
    """Whether a default, as Python shows it, is a launcher's value; a variable that is not known may be."""
    one, other = default.strip("\"'"), value.split(" (")[0].strip("\"'")
    if other.startswith("$"):
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
