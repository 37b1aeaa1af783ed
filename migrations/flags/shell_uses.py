"""Flags in shell scripts: commands over several lines, strings of arguments, arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator

from migrations.engine.model import Edit
from migrations.engine.source import SourceFile
from migrations.flags.uses import SET, Use, option_pattern

__all__ = ["shell_uses"]

_WORD = rb"\"[^\"\n]*\"|'[^'\n]*'|\$\{[^}\n]*\}|\$\([^)\n]*\)|[^\s\"'\\();|&<>]+"
_CONTINUED = rb"(?:[ \t]|\\\r?\n)"
_ARRAY = re.compile(rb"\w+\+?=\(")
_VARIABLE = re.compile(r"\"?\$\{?(\w+)(?::-([^}]*))?\}?\"?")


def shell_uses(file: SourceFile, name: str) -> Iterator[Use]:
    """Yield where a script sets a flag: `--flag value`, `--flag=value`, `"--flag" "value"`; comments do not count."""
    data = file.data
    contexts = _contexts(data)
    for match in re.compile(option_pattern(name).encode()).finditer(data):
        context = contexts[match.start()]
        if context == "#":
            continue
        start, end, value = _extent(data, match.start(), match.end(), context)
        text = value.decode(errors="replace")
        removal = _removal(file, start, end)
        yield Use(name, SET, file.path, file.line_at(start), _resolved(file, text), (removal,), option=True)
    override = re.compile(rb"[ \t]((?:[\w.]+\.)?" + name.encode() + rb"=([^\s\\\"']*))")
    for match in override.finditer(data):
        if contexts[match.start(1)] != "#" and data[: match.start(1)].rsplit(b"\n", 1)[-1].strip():
            line = file.line_at(match.start(1))
            why = "an override without dashes; remove it by hand"
            yield Use(name, SET, file.path, line, match.group(2).decode(errors="replace"), (), why, option=True)


def _contexts(data: bytes) -> str:
    """Return a character per byte: `#` in a comment, `"` or `'` in quotes, `(` in an array, a space elsewhere."""
    found, quote, array, comment = [], "", False, False
    i = 0
    while i < len(data):
        char = chr(data[i])
        if comment:
            comment = char != "\n"
        elif quote:
            if char == "\\" and quote == '"':
                found.append(quote)
                i += 1
            elif char == quote:
                quote = ""
        elif char == "\\":
            found.append("(" if array else " ")
            i += 1
        elif char in "\"'":
            quote = char
        elif char == "#" and (i == 0 or data[i - 1 : i] in (b" ", b"\t", b"\n", b"(", b";")):
            comment = True
        elif char == "(" and _ARRAY.search(data[max(0, i - 80) : i + 1]) and data[i - 1 : i] == b"=":
            array = True
        elif char == ")":
            array = False
        found.append("#" if comment else quote or ("(" if array else " "))
        i += 1
    return "".join(found)[: len(data)] + " "


def _extent(data: bytes, start: int, end: int, context: str) -> tuple[int, int, bytes]:
    """Return the span of a flag with its value, and the value."""
    around, behind = data[start - 1 : start], data[end : end + 1]
    quoted = around in (b'"', b"'") and behind == around
    if around in (b'"', b"'") and behind == b"=":
        whole = re.compile(rb"=([^\"'\n]*)" + around).match(data, end)
        # `"--flag=value"` is a word of its own; `ARGS="--flag=value …` is not.
        if whole and b" " not in whole.group(1) and data[start - 2 : start - 1] != b"=":
            return start - 1, whole.end(), whole.group(1)
    if quoted:
        start, end = start - 1, end + 1
    gap = _CONTINUED + rb"+|=" if context == " " else rb"[\s\\]+|="
    value = re.compile(rb"(?:" + gap + rb")(" + _WORD + rb")").match(data, end)
    if value is None or re.match(rb"[\"']?--?[A-Za-z]", value.group(1)):
        return start, end, b""
    return start, value.end(), value.group(1).strip(b"\"'") if quoted else value.group(1)


def _removal(file: SourceFile, start: int, end: int) -> Edit:
    """Return the edit that takes words out of a command, a string or an array, and their line if it is then empty."""
    data = file.data
    left = len(data[:start].rstrip(b" \t"))
    right = end + len(data[end:]) - len(data[end:].lstrip(b" \t"))
    begins = left == 0 or data[left - 1 : left] == b"\n"
    ending = re.compile(rb"(\\?)(\r?\n|\Z)").match(data, right)
    if begins and ending:
        # The last line of a command: the backslash above, which continues it, goes too.
        above = re.compile(rb"[ \t]*\\\r?\n\Z").search(data[:left])
        if above and not ending.group(1):
            return Edit(file.path, above.start(), right, "")
        return Edit(file.path, left, ending.end(), "")
    if begins or data[left - 1 : left] in (b'"', b"'", b"("):
        return Edit(file.path, start, right, "")
    return Edit(file.path, left, end, "")


def _resolved(file: SourceFile, value: str) -> str:
    """Return a value with a variable's own value, where the script sets it once: `0.3 (RATIO, line 8)`."""
    match = _VARIABLE.fullmatch(value)
    if match is None:
        return value.strip("\"'")
    pattern = rf"^[ \t]*(?:export[ \t]+)?{match.group(1)}=([^\s#]*)".encode()
    found = list(re.finditer(pattern, file.data, re.MULTILINE))
    if len(found) != 1:
        return match.group(2) or value
    line = file.line_at(found[0].start(1))
    return f"{found[0].group(1).decode(errors='replace').strip(chr(34))} ({match.group(1)}, line {line})"
