"""What is too deep to be parsed, found by looking at the text: LibCST's parser is native and recursive.

Measured with LibCST 1.9 in a thread of 8 MB: 2,000 nested brackets end the process with a segmentation fault, a sum
of 3,000 terms takes minutes. Python itself allows 200 nested brackets.
"""

from __future__ import annotations

import re

__all__ = ["MAX_BRACKETS", "MAX_CHAIN", "too_deep"]

MAX_BRACKETS = 200
"""Nested brackets, as many as Python allows."""

MAX_CHAIN = 500
"""Operators, attributes and calls in a row, without a comma or a new statement between them; `elif` of one `if`."""

_TOKEN = re.compile(
    rb"""(?P<skip>\#[^\r\n]*|[^\S\r\n]+|\\\r?\n)"""
    rb"""|(?P<string>'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^\\'\r\n]|\\.)*'|"(?:[^\\"\r\n]|\\.)*")"""
    rb"""|(?P<open>[\[({])|(?P<close>[\])}])|(?P<line>\r\n?|\n)|(?P<split>[,;])"""
    rb"""|(?P<chain>(?:not|and|or|in|is|if|lambda|await)\b|\*\*|//|<<|>>|[-+*/%@&|^~<>=!.]+)"""
    rb"""|\w+|.""",
    re.DOTALL,
)
_ELIF = re.compile(rb"^([ \t]*)(if|elif)\b", re.MULTILINE)


def too_deep(data: bytes) -> str:
    """Return in words what is nested too deeply in a text, with its line; empty where nothing is.

    Strings and comments are skipped. What is not Python is looked at in the same way; the parser says the rest.
    """
    return _brackets_and_chains(data) or _elifs(data)


def _brackets_and_chains(data: bytes) -> str:
    # There must be room for what passes a limit.
    if len(data) < MAX_BRACKETS:
        return ""
    chains = [0]
    for match in _TOKEN.finditer(data):
        kind = match.lastgroup
        if kind == "open":
            # What is called or subscripted in a row is a chain as well.
            chains[-1] += 1
            chains.append(0)
        elif kind == "close":
            if len(chains) > 1:
                chains.pop()
        elif kind == "split" or (kind == "line" and len(chains) == 1):
            chains[-1] = 0
        elif kind == "chain":
            chains[-1] += 1
        if len(chains) - 1 > MAX_BRACKETS:
            return f"line {_line(data, match)}: more than {MAX_BRACKETS} nested brackets"
        if chains[-1] > MAX_CHAIN:
            return f"line {_line(data, match)}: more than {MAX_CHAIN} operators, attributes or calls in a row"
    return ""


def _elifs(data: bytes) -> str:
    if data.count(b"elif") <= MAX_CHAIN:
        return ""
    counts: dict[bytes, int] = {}
    for match in _ELIF.finditer(data):
        indent, word = match.groups()
        counts[indent] = counts.get(indent, 0) + 1 if word == b"elif" else 0
        if counts[indent] > MAX_CHAIN:
            return f"line {_line(data, match)}: more than {MAX_CHAIN} elif of one if"
    return ""


def _line(data: bytes, match: re.Match[bytes]) -> int:
    return data.count(b"\n", 0, match.start()) + 1
