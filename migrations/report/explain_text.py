"""`explain`: a migration in full, as Markdown that reads well without being rendered."""

from __future__ import annotations

from collections.abc import Sequence

from migrations.engine.model import Migration
from migrations.engine.planning import in_order

__all__ = ["contents", "explanation"]


def contents(migrations: Sequence[Migration], advisories: Sequence[Migration]) -> str:
    """Return a line for each migration and advisory that can be explained."""
    lines = [f"{one.id}  {one.title}" for one in sorted(migrations, key=lambda one: one.id)]
    lines += [f"{one.id}  {one.title} (advisory)" for one in advisories]
    order = ", ".join(one.id for one in in_order(migrations))
    return "\n".join(
        [*lines, "", f"applied in this order: {order}", "explain one: python -m migrations explain ID", ""]
    )


def explanation(migration: Migration) -> str:
    """Return the text of one migration."""
    checks = ", ".join(f"`{check}`" for check in migration.checks) or "none"
    first = ", ".join(migration.depends_on)
    parts = [
        f"# {migration.id}: {migration.title}",
        f"Official: `dinov2/{migration.official.removeprefix('dinov2/')}` at b8931f7",
        "## Why it matters",
        migration.why.strip(),
        "## The algebra",
        _block(migration.algebra, ""),
        "## Before",
        _block(migration.example.before, "python"),
        "## After",
        _block(migration.example.after, "python"),
        "## What stays with a person",
        migration.person.strip() or "Nothing.",
        "## How it is verified",
        f"Parity checks: {checks}. `python -m parity run --subject ADAPTER.py` runs them.",
        *([f"Applied after: {first}."] if first else []),
        "## How to keep your own way",
        "Write the reason on the line, or on the line above; it is then reported as suppressed:",
        _block(f"# parity: ignore[{migration.id}] why this is meant to differ", "python"),
        f"`ignore-file[{migration.id}]` settles a file, `ignore-project[{migration.id}]` the whole project.",
    ]
    return "\n\n".join(parts) + "\n"


def _block(code: str, language: str) -> str:
    return f"```{language}\n{code.strip(chr(10))}\n```"
