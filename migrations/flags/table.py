"""Everything that is known of the flags in some files, and the texts that the proposals would leave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from migrations.engine.edits import OverlapError, apply_edits
from migrations.engine.model import Edit
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flags.files import Found
from migrations.flags.proposals import NEW, REMOVED, Program, Row, additions, removal
from migrations.flags.python_uses import definition, python_uses
from migrations.flags.shell_uses import shell_uses
from migrations.flags.uses import READ, Use
from migrations.flags.yaml_uses import documents, yaml_uses
from migrations.flow.flags import Flag, flag_reads, flags

__all__ = ["Table", "make_table"]


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
    program = _program(found, defined, loaded, uses)
    rows = [removal(name, uses[name], program, _unread(name, found, errors)) for name in REMOVED if uses[name]]
    rows += additions(uses, rows, defined, program)
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


def _program(
    found: Found, defined: Mapping[str, list[Flag]], loaded: Mapping[str, list[Any]], uses: Mapping[str, list[Use]]
) -> Program:
    names = "|".join(map(re.escape, defined))
    pairs = {(use.path, use.receiver) for its in uses.values() for use in its if use.receiver}
    namespaces = {
        (path, receiver)
        for path, receiver in pairs
        if names and re.search(rf"(?<![\w.]){re.escape(receiver)}\.(?:{names})\b", found.files[path].text)
    }
    code = "\n".join(file.text for file in found.python.values())
    read_yaml = {
        path
        for path, documents_ in loaded.items()
        if any(re.search(rf"\.{re.escape(key)}\b", code) for one in documents_ for key in _keys(one) - set(uses))
    }
    return Program(bool(defined), frozenset(read_yaml), frozenset(namespaces))


def _keys(node: Any) -> set[str]:
    """Return the keys of a document at all depths."""
    if isinstance(node, dict):
        own = {key for key in node if isinstance(key, str)}
        return own.union(*(_keys(value) for value in node.values()))
    return set().union(*map(_keys, node)) if isinstance(node, list) else set()


def _unread(name: str, found: Found, errors: Mapping[str, str]) -> list[str]:
    """Return the files that mention a flag and cannot be parsed."""
    return [path for path in errors if path in found.original and name.encode() in found.original[path]]


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
