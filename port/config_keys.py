"""What a configuration key may be called, and what to say about one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["ALIASES", "REMOVED_KEYS", "Alias", "find_alias", "flat_keys", "nearest", "type_in_words", "unknown_key"]


@dataclass(frozen=True)
class Alias:
    """A flag that users of document-style stacks know, and the key that it sets here.

    Attributes:
        key: the key it sets, with dots.
        index: the element of the key's list that it sets; None for the whole value.
        switch: the alias is true or false, and sets the key to 1 or 0.
    """

    key: str
    index: int | None = None
    switch: bool = False


ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        "mask_ratio_min": Alias("ibot.mask_ratio_min_max", index=0),
        "mask_ratio_max": Alias("ibot.mask_ratio_min_max", index=1),
        "mask_sample_probability": Alias("ibot.mask_sample_probability"),
        "use_prototype_clustering": Alias("prototype.loss_weight", switch=True),
    }
)
"""Accepted at the top level and in the section of the key they set."""

REMOVED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "token_mask_ratio": "replaced by ibot.mask_ratio_min_max and ibot.mask_sample_probability (migration 0003)",
        "clustering_mode": "prototypes are clustered on masked patches only (migration 0004)",
    }
)
"""Flags of stacks that predate official's approach, and the migration that replaces each."""

_TYPES: Mapping[type, str] = MappingProxyType(
    {bool: "true or false", int: "whole number", float: "number", str: "text"}
)


def flat_keys(node: Mapping[Any, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every key with dots and its value; a section comes before its keys, with a mapping as value."""
    for name, child in node.items():
        yield f"{prefix}{name}", child
        if isinstance(child, Mapping):
            yield from flat_keys(child, f"{prefix}{name}.")


def type_in_words(value: object) -> str:
    """Return what a user may write where `value` is the default."""
    if isinstance(value, list):
        return f"list of {type_in_words(value[0])}s" if value else "list"
    return _TYPES.get(type(value), type(value).__name__)


def nearest(given: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'X'?` for the nearest known word, or nothing where none is near."""
    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


def find_alias(key: str) -> Alias | None:
    """Return the alias that `key` is, at the top level or in its target's section; None if it is none."""
    section, _, name = key.rpartition(".")
    alias = ALIASES.get(name)
    if alias is None or section not in ("", alias.key.rpartition(".")[0]):
        return None
    return alias


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Return what is wrong with a key that does not exist, and what to write instead.

    Args:
        key: with dots.
        known: all keys with dots, sections included.
    """
    name = key.rpartition(".")[2]
    if name in REMOVED_KEYS:
        return f"configuration key {key!r} is gone: {REMOVED_KEYS[name]}"
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2].lower() == name.lower()]
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=0.0)
    # A misspelt section is likelier than a wrong one, so candidates are sorted by their likeness as a whole.
    same_name.sort(key=lambda candidate: -difflib.SequenceMatcher(None, candidate.lower(), key.lower()).ratio())
    found = same_name[:3] or [by_lower[match] for match in matches]
    return f"unknown configuration key {key!r}; did you mean {' or '.join(map(repr, found))}? --help-config lists all"
