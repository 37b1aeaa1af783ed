"""What a conversion changes, for people and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from migrations.checkpoint.convert import Conversion

__all__ = ["as_json", "as_text"]

_BLOCK = re.compile(r"(?<=blocks\.)(\d+\.)?(\d+)(?=\.)")
Row = tuple[str, str, str, tuple[int, ...]]


def as_text(conversion: Conversion, verdict: str) -> str:
    """Return names and shapes that change, then everything else, then a last line.

    Names that differ in the block alone are one line.
    """
    lines: list[str] = []
    previous: list[str] = []
    for network in dict.fromkeys(row[0] for row in conversion.renamed):
        rows = [row for row in conversion.renamed if row[0] == network]
        changed = [row for row in rows if row[1] != row[2]]
        title = f"{network}: {len(changed)} of {len(rows)} names change, all {len(rows)} shapes stay"
        its = _names(changed)
        same = its and its == previous
        lines += [title + (", as above" if same else "")]
        lines += [] if same else its
        previous = its
    lines += list(conversion.notes)
    if conversion.kept:
        lines.append(f"kept as they are: {', '.join(conversion.kept)}")
    return "\n".join([*lines, verdict]) + "\n"


def as_json(conversion: Conversion, **more: object) -> str:
    """Return the same as a JSON document, with every name, and `more` keys."""
    document: dict[str, Any] = {
        "schema": 1,
        "changed": conversion.changed,
        "renamed": [
            {"network": network, "old": old, "new": new, "shape": list(shape)}
            for network, old, new, shape in conversion.renamed
        ],
        "notes": list(conversion.notes),
        "kept": list(conversion.kept),
        **more,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _names(rows: Sequence[Row]) -> list[str]:
    blocks: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
    for _, old, new, shape in rows:
        match = _BLOCK.search(old)
        found = blocks.setdefault((_BLOCK.sub("{}", old), _BLOCK.sub("{}", new), shape), [])
        found += [int(match.group(2))] if match else []
    lines = []
    width = max((len(_numbered(old, numbers)) for (old, _, _), numbers in blocks.items()), default=0)
    for (old, new, shape), numbers in blocks.items():
        lines.append(f"  {_numbered(old, numbers):<{width}} -> {_numbered(new, numbers)}  {shape}")
    return lines


def _numbered(name: str, numbers: Sequence[int]) -> str:
    if not numbers:
        return name
    low, high = min(numbers), max(numbers)
    return name.replace("{}", str(low) if low == high else f"{{{low}…{high}}}")
