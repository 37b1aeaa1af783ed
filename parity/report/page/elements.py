"""HTML in which foreign text cannot become markup: text is escaped where it enters, and types tell which is which."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NewType

from parity.report.numbers import duration, printable

__all__ = ["Html", "joined", "section", "table", "tag", "text", "time"]

Html = NewType("Html", str)
"""Markup. Only the functions here make it; whatever else is a string must go through `text`."""

_VOID = ("input", "meta")


def text(value: str) -> Html:
    """Return one line of text, control characters as visible escapes; a blank at either end is kept."""
    before, after = " " * value.startswith(" "), " " * value.endswith(" ")
    return Html(html.escape(f"{before}{printable(value)}{after}"))


def tag(name: str, /, *children: Html, **attributes: str) -> Html:
    """Return an element; `class_` spells `class`, `aria_label` spells `aria-label`."""
    spelled = "".join(f' {_spelled(key)}="{html.escape(printable(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{spelled}>" if name in _VOID else f"<{name}{spelled}>{''.join(children)}</{name}>")


def _spelled(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def joined(parts: Iterable[Html], between: str = "\n") -> Html:
    """Return markup in sequence."""
    return Html(between.join(parts))


def section(title: str, *children: Html, identity: str) -> Html:
    """Return a titled section, which `#identity` leads to; nothing where it would be empty."""
    inner = [child for child in children if child]
    return tag("section", tag("h2", text(title)), *inner, id=identity) if inner else Html("")


def table(header: Sequence[str], rows: Iterable[Sequence[Html]], **attributes: str) -> Html:
    """Return a table in a box that scrolls by itself where the page is narrow."""
    head = tag("tr", *(tag("th", text(title), scope="col") for title in header))
    body = joined(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", body), **attributes), class_="scroll")


def time(seconds: float) -> Html:
    """Return a duration; on the whole page, only `time` elements differ between two equal runs."""
    return tag("time", text(duration(seconds)))
