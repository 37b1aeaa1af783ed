"""What `python -m parity list` prints: families with their checks, recipes and subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parity.arguments import FAMILIES, LEVELS
from parity.catalogue import entries

if TYPE_CHECKING:
    from parity.run import Options

__all__ = ["listing"]

_SUBJECTS = (
    ("port", "the training stack of this project"),
    ("legacy", "a fork before the documented changes"),
    ("document", "a fork after the documented changes, taken literally"),
    ("FILE.py", "an adapter file, whose functions are capabilities; `python -m parity adapter` drafts one"),
    ("MODULE:ATTR", "an importable object that offers capabilities"),
)


def listing(options: Options) -> str:
    """Return families with levels and checks, then recipes and subjects, one line each.

    A check that runs under several recipes is listed once.
    """
    from parity.recipes import RECIPES
    from parity.run import planned_checks

    checks: dict[str, dict[str, tuple[str, str]]] = {}
    for identity, family, level, title, *_ in planned_checks(options):
        checks.setdefault(family, {}).setdefault(identity.split("[")[0], (level, title))
    texts = {entry.id: entry.title for entry in entries()}
    lines = ["families and their checks"]
    for family in [*FAMILIES, *(name for name in checks if name not in FAMILIES)]:
        levels = sorted({level for level, _ in checks.get(family, {}).values()}, key=LEVELS.index)
        lines.append(f"  {family} ({', '.join(levels) or 'no checks'}): {texts.get(family, '')}".rstrip(": "))
        lines += [f"    {name}  {level}  {title}" for name, (level, title) in checks.get(family, {}).items()]
    lines += ["", "recipes"]
    lines += [f"  {recipe.name:<18} {recipe.about}" for recipe in RECIPES]
    lines += ["", "subjects", *(f"  {name:<18} {about}" for name, about in _SUBJECTS)]
    lines += ["", "`python -m parity explain ID` explains a family or a check."]
    lines += ["`python -m parity quirks` lists what official code really does, and runs the evidence for it."]
    return "\n".join(lines) + "\n"
