"""Numbers, times and foreign text as a reader meets them."""

from __future__ import annotations

import math

__all__ = ["count", "duration", "number", "printable"]


def printable(text: str) -> str:
    """Return one line without control characters: names and messages come from files of others."""
    flat = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in flat)


def count(n: int) -> str:
    """Return a whole number with its thousands separated: 8412 -> `8,412`."""
    return f"{n:,}"


def number(value: float | None) -> str:
    """Return a size in at most three significant digits; `-` for None."""
    if value is None:
        return "-"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return count(int(value))
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a wall time: `0.4 s`, `12 s`, `4 min 12 s` or `1 h 02 min`."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
