"""The migrations that exist, in the order in which they are applied."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache

import migrations.advisory
import migrations.rules
from migrations.engine.model import ORDER, Migration

__all__ = ["all_advisories", "all_migrations", "known_ids", "migration"]


@cache
def all_migrations() -> tuple[Migration, ...]:
    """Return every migration in `migrations.rules`, in the order of `ORDER`."""
    found: dict[str, Migration] = {}
    for module in pkgutil.iter_modules(migrations.rules.__path__):
        if module.name.startswith("m0"):
            one: Migration = importlib.import_module(f"migrations.rules.{module.name}").MIGRATION
            found[one.id] = one
    return tuple(found[id_] for id_ in ORDER if id_ in found)


@cache
def all_advisories() -> tuple[Migration, ...]:
    """Return every rule in `migrations.advisory` by id; `aNN_name.py` holds `ADVISORY`. They report and never edit."""
    names = [module.name for module in pkgutil.iter_modules(migrations.advisory.__path__)]
    found = [importlib.import_module(f"migrations.advisory.{n}").ADVISORY for n in names if re.match(r"a\d\d_", n)]
    return tuple(sorted(found, key=lambda one: one.id))


def known_ids() -> list[str]:
    """Return every id that a suppression may name, whether its rule is run or not."""
    return [*ORDER, *(one.id for one in all_advisories())]


def migration(id_: str) -> Migration:
    """Return a migration by id; `6` and `0006` name the same.

    Raises:
        ValueError: there is none.
    """
    for one in all_migrations():
        if one.id == id_.strip().zfill(4):
            return one
    known = ", ".join(sorted(one.id for one in all_migrations()))
    raise ValueError(f"no migration {id_!r}, expected one of {known}")
