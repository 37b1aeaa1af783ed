"""The configuration's documentation, from the comments beside its keys, and the configuration as commented YAML."""

from __future__ import annotations

import ast
import functools
import inspect
import io
import json
import math
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from port import config_run, config_schema
from port.config import default_config
from port.config_keys import flat_keys, nearest, type_in_words

__all__ = ["KeyDoc", "describe_keys", "describe_sections", "print_keys", "render_config", "summarize_keys"]

COMMENT_COLUMN = 40
LINE_LENGTH = 120
LONGEST_UNWRAPPED_KEY = 36  # characters; a longer one leaves too little of 80 columns


@dataclass(frozen=True)
class KeyDoc:
    """One key.

    Attributes:
        key: with dots.
        type: what may be written, in words.
        default: official's value, or the port's for a key that official has not.
        text: meaning and unit.
    """

    key: str
    type: str
    default: object
    text: str


@functools.cache
def describe_keys() -> tuple[KeyDoc, ...]:
    """Return every key that holds a value, in the order of the sections; those without a section come first."""
    cfg = default_config()
    docs = [
        KeyDoc(key, type_in_words(value), value, _key_text(cfg, key))
        for key, value in flat_keys(_content(cfg))
        if not isinstance(value, Mapping)
    ]
    return tuple(docs)


@functools.cache
def describe_sections() -> Mapping[str, str]:
    """Return the first line of each section's documentation, subsections (with dots) included."""
    cfg = default_config()
    sections = [key for key, value in flat_keys(_content(cfg)) if isinstance(value, Mapping)]
    return {key: _first_line(_schema_of(cfg, key)) for key in sections}


def summarize_keys() -> Iterator[tuple[str, str, list[str]]]:
    """Yield for each top-level section its name, its documentation and its keys' names; `(top level)` comes first."""
    sections = describe_sections()
    names: dict[str, list[str]] = {"": []}
    for doc in describe_keys():
        section, _, rest = doc.key.partition(".") if "." in doc.key else ("", "", doc.key)
        names.setdefault(section, []).append(rest)
    for section, keys in names.items():
        yield section or "(top level)", sections.get(section, "How the run is carried out."), keys


def render_config(cfg: DictConfig) -> str:
    """Return a configuration as YAML that loads again, with every key's meaning, unit and changed default."""
    docs = {doc.key: doc for doc in describe_keys()}
    return "\n".join(_render(_content(cfg), "", docs)) + "\n"


def print_keys(section: str = "", console: Console | None = None) -> None:
    """Print keys with type, default and meaning as a table.

    Args:
        section: a section, a subsection or a key; empty for all.
        console: where to print; None for the terminal.

    Raises:
        ValueError: there is no such section or key.
    """
    chosen = [doc for doc in describe_keys() if not section or doc.key == section or doc.key.startswith(f"{section}.")]
    if not chosen:
        known = [*describe_sections(), *(doc.key for doc in describe_keys())]
        top_level = [name for name in describe_sections() if "." not in name]
        raise ValueError(
            f"no section or key {section!r}, expected one of {', '.join(top_level)}{nearest(section, known)}"
        )
    table = Table(title=describe_sections().get(section), title_justify="left")
    table.add_column("key", overflow="fold", no_wrap=max(len(doc.key) for doc in chosen) <= LONGEST_UNWRAPPED_KEY)
    for heading in ("type", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for doc in chosen:
        table.add_row(*(Text(cell) for cell in (doc.key, doc.type, _scalar(doc.default), doc.text)))
    (console or Console()).print(table)


def _content(cfg: DictConfig) -> Mapping[str, object]:
    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items()}


def _schema_of(cfg: DictConfig, section: str) -> type:
    """Return the dataclass that declares a section; an empty name means the top level."""
    node = OmegaConf.select(cfg, section) if section else cfg
    schema = OmegaConf.get_type(node)
    assert schema is not None
    return schema


def _first_line(schema: type) -> str:
    return (inspect.getdoc(schema) or "").partition("\n")[0]


def _key_text(cfg: DictConfig, key: str) -> str:
    section, _, name = key.rpartition(".")
    comments = _comments()
    for schema in _schema_of(cfg, section).__mro__:
        text = comments.get((schema.__name__, name))
        if text is not None:
            return text
    return ""


@functools.cache
def _comments() -> Mapping[tuple[str, str], str]:
    """Return the comment beside each field, by class and field."""
    return {key: text for module in (config_schema, config_run) for key, text in _comments_in(module)}


def _comments_in(module: ModuleType) -> Iterator[tuple[tuple[str, str], str]]:
    source = inspect.getsource(module)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                # A long line's comment may stand on the lines of its value, where a formatter has put it.
                lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
                texts = [by_line[line] for line in lines if line in by_line]
                if texts:
                    yield (node.name, field.target.id), " ".join(texts)


def _render(node: Mapping[str, object], prefix: str, docs: Mapping[str, KeyDoc]) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            text = describe_sections().get(key, "")
            yield _commented(f"{indent}{name}:", text)
            yield from _render(value, f"{key}.", docs)
            continue
        doc = docs[key]
        changed = "" if value == doc.default else f"; default {_scalar(doc.default)}"
        yield _commented(f"{indent}{name}: {_scalar(value)}", f"{doc.text}{changed}")


def _commented(line: str, comment: str) -> str:
    """Return the line with its comment beside it, or above it where both together are too long."""
    together = f"{line:<{COMMENT_COLUMN}}  # {comment}"
    if len(together) <= LINE_LENGTH:
        return together
    indent = line[: len(line) - len(line.lstrip())]
    return f"{indent}# {comment}\n{line}"


def _scalar(value: object) -> str:
    """Return a value on one line of YAML, quoted where it would be read as another type."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, (bool, int)):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        # YAML 1.1 reads 1e-06 as text; OmegaConf reads both.
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    if isinstance(value, str) and any(character in value for character in "\n\r\t,[]{}"):
        return json.dumps(value, ensure_ascii=False)
    text = OmegaConf.to_yaml(OmegaConf.create({"value": value}))
    return text.removeprefix("value: ").rstrip("\n")
