"""Flags in YAML: keys of block mappings go with their line, so that comments and layout stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from migrations.engine.model import Edit
from migrations.engine.source import SourceFile
from migrations.flags.uses import SET, Use, option_pattern

__all__ = ["documents", "yaml_uses"]


def documents(file: SourceFile) -> list[Any]:
    """Return a file's documents, with the places of their keys.

    Raises:
        ValueError: it is not YAML; the message has the line.
    """
    try:
        return list(YAML(typ="rt").load_all(file.text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{file.path}:{line}: not YAML: {' '.join(str(error.problem).split())}") from error
    except YAMLError as error:
        raise ValueError(f"{file.path}: not YAML: {' '.join(str(error).split())}") from error


def yaml_uses(file: SourceFile, name: str, loaded: list[Any]) -> Iterator[Use]:
    """Yield where a file sets a flag: a key of that name, at any depth, or `--flag` in a string."""
    lines = set()
    for document in loaded:
        for mapping in _mappings(document):
            for key in mapping:
                # Keys that `<<: *other` merges in stand elsewhere, where they are found.
                own = key in (mapping.lc.data or {})
                if own and isinstance(key, str) and key.replace("-", "_") == name:
                    line = mapping.lc.key(key)[0] + 1
                    lines.add(line)
                    yield _key_use(file, name, mapping, key, line)
    for match in re.compile(option_pattern(name).encode() + rb"(?:[ =]([^\s\"',\]]+))?").finditer(file.data):
        line = file.line_at(match.start())
        before = file.data[file.line_span(line)[0] : match.start()]
        if b"#" not in before and line not in lines:
            value = (match.group(1) or b"").decode(errors="replace")
            yield Use(
                name, SET, file.path, line, value, (), "it is part of a string or a list; remove it by hand", True
            )


def _mappings(node: Any) -> Iterator[CommentedMap]:
    if isinstance(node, CommentedMap):
        yield node
        for value in node.values():
            yield from _mappings(value)
    elif isinstance(node, CommentedSeq):
        for value in node:
            yield from _mappings(value)


def _key_use(file: SourceFile, name: str, mapping: CommentedMap, key: str, line: int) -> Use:
    value = mapping[key]
    start, end = file.line_span(line)
    text = file.data[start:end].decode()
    shown = "" if isinstance(value, CommentedMap | CommentedSeq) else str(value)
    why = ""
    if isinstance(value, CommentedMap | CommentedSeq) or mapping.lc.value(key)[0] + 1 != line:
        why = "its value is a mapping, a list or on another line; remove it by hand"
    elif len(mapping) == 1:
        why = "it is the only key of its mapping; remove the mapping by hand"
    elif mapping.fa.flow_style() or re.match(rf"[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*:", text) is None:
        why = "other keys are on its line; remove it by hand"
    elif not _is_whole(text, value):
        why = "its value goes on below its line, or has an anchor; remove it by hand"
    edits = () if why else (Edit(file.path, start, end, ""),)
    return Use(name, SET, file.path, line, shown, edits, why)


def _is_whole(text: str, value: object) -> bool:
    """Whether a line alone is a mapping of one key to the value."""
    try:
        alone = YAML(typ="safe").load(text.strip())
    except YAMLError:
        return False
    return isinstance(alone, dict) and "&" not in text.split("#")[0] and list(alone.values()) == [value]
