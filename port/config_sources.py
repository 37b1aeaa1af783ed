"""Where settings come from: YAML files, whose lines are remembered, and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML, which OmegaConf brings along, has no type information
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["Setting", "parse_override", "read_yaml"]


@dataclass(frozen=True)
class Setting:
    """One key and its value, not yet checked.

    Attributes:
        key: with dots.
        value: as YAML reads it.
        where: the place to name in an error: `run.yaml, line 3` or `override 'a=b'`.
        raw: the value as it was typed; None for a file.
    """

    key: str
    value: object
    where: str
    raw: str | None = None


def parse_override(text: str) -> Setting:
    """Return the setting of a `key=value` override; the value is YAML, as in official (`dinov2/utils/config.py:45`).

    Raises:
        ValueError: it has no key or no `=`.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals:
        raise ValueError(f"override {text!r} has no '=', expected key=value such as optim.epochs=10")
    if not key:
        raise ValueError(f"override {text!r} has no key, expected key=value such as optim.epochs=10")
    return Setting(key, _parse_value(raw), f"override {text!r}", raw)


def read_yaml(path: Path) -> list[Setting]:
    """Return a file's settings, in its order; sections without content are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a YAML file of sections.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None or root.tag == "tag:yaml.org,2002:null":
            return []
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else f"only {str(root.value)!r}"
            raise ValueError(f"{path} holds {kind}, expected sections such as 'optim:'")  # noqa: TRY004 - content
        lines = dict(_key_lines(root, "", path, frozenset()))
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.YAMLError as error:
        raise ValueError(_yaml_problem(path, error)) from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}; another key is meant by ${{section.key}}") from None
    assert isinstance(content, Mapping)
    return list(_leaves(content, "", path, lines))


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a YAML file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"the configuration file {str(path)!r} does not exist") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}") from None


def _parse_value(raw: str) -> object:
    """Return what YAML makes of a value, or the text itself where it is no YAML: only text keys will take it."""
    try:
        parsed = OmegaConf.to_container(OmegaConf.create(f"value: {raw}"), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException):
        return raw
    assert isinstance(parsed, Mapping)
    return parsed["value"] if len(parsed) == 1 else raw


def _key_lines(node: yaml.MappingNode, prefix: str, path: Path, parents: frozenset[int]) -> Iterator[tuple[str, int]]:
    """Yield each key with dots and the line it stands on, from 1.

    Raises:
        ValueError: a key is no word, or an anchor holds itself.
    """
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{path}, line {line}: expected a key such as 'optim'")  # noqa: TRY004 - content
        name = str(key_node.value)
        if "." in name:
            raise ValueError(
                f"{path}, line {line}: the key {name!r} has dots, which only overrides may have; "
                f"in a file write '{name.partition('.')[0]}:' and, indented below it, '{name.partition('.')[2]}:'"
            )
        yield f"{prefix}{name}", line
        if isinstance(value_node, yaml.MappingNode):
            if id(value_node) in parents:
                raise ValueError(f"{path}, line {line}: {name!r} holds itself, through an anchor")
            yield from _key_lines(value_node, f"{prefix}{name}.", path, parents | {id(value_node)})


def _leaves(node: Mapping[Any, object], prefix: str, path: Path, lines: Mapping[str, int]) -> Iterator[Setting]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.", path, lines)
        else:
            place = f"{path}, line {lines[key]}" if key in lines else str(path)
            yield Setting(key, value, place)


def _yaml_problem(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    hint = "; YAML is indented with spaces" if "\\t" in problem else ""
    return f"{place}: not valid YAML: {problem}{hint}"
