"""Dataset strings, `NAME:key=value:key=value`, as official code writes them (`dinov2/data/loaders.py:46`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

__all__ = ["did_you_mean", "parse_choice", "parse_count", "parse_options", "parse_truth"]

# A colon starts the next option only in front of `key=`, so that a value may hold one, as `C:\\images` does.
_NEXT_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_options(
    dataset_str: str, *, known: Collection[str], required: Collection[str] = (), form: str
) -> dict[str, str]:
    """Return the options behind a dataset string's name.

    A value may hold `:` and `=`, except for a `:` that is followed by a word and `=`: that starts an option.

    Args:
        dataset_str: `NAME` or `NAME:key=value:…`.
        known: the options there are.
        required: the options that have to be given.
        form: an example, for the error.

    Raises:
        ValueError: no `key=value`, or an unknown, repeated, empty or missing option.
    """
    options: dict[str, str] = {}
    _, _, rest = dataset_str.partition(":")
    for token in _NEXT_OPTION.split(rest) if rest else []:
        key, equals, value = token.partition("=")
        if not equals:
            raise ValueError(f"{dataset_str!r}: {token!r} is no key=value; expected {form}")
        if key not in known:
            hint = did_you_mean(key, known) or f", expected one of {', '.join(known)}"
            raise ValueError(
                f"{dataset_str!r}: no option {key!r}{hint}; expected {form}. A path cannot hold ':word=': "
                "give a symbolic link to it"
            )
        if key in options:
            raise ValueError(f"{dataset_str!r}: {key!r} is given twice; give it once")
        if not value:
            raise ValueError(f"{dataset_str!r}: {key!r} is empty; expected {form}")
        options[key] = value
    missing = [key for key in required if key not in options]
    if missing:
        raise ValueError(f"{dataset_str!r} lacks {' and '.join(f'{key}=' for key in missing)}; expected {form}")
    return options


def parse_count(dataset_str: str, key: str, value: str) -> int:
    """Return an option's value, a number of at least one.

    Raises:
        ValueError: it is none.
    """
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{dataset_str!r}: {key}={value!r} is no positive whole number")
    return int(value)


def parse_truth(dataset_str: str, key: str, value: str) -> bool:
    """Return an option's value, true or false.

    Raises:
        ValueError: it is neither.
    """
    if value.lower() not in _TRUTH:
        raise ValueError(f"{dataset_str!r}: {key}={value!r} is neither true nor false")
    return _TRUTH[value.lower()]


def parse_choice(dataset_str: str, key: str, value: str, choices: Collection[str]) -> str:
    """Return an option's value, one of `choices`.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{dataset_str!r}: no {key} {value!r}{hint}; expected one of {', '.join(choices)}")
    return value


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return `, did you mean …?` with the nearest known word, whatever its case; empty when none is near."""
    by_lower = {name.lower(): name for name in reversed(list(known))}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""
