"""`verify PATH --adapter FILE`: the parity checks of migrations, before and after."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrations.errors import MigrationsError, UsageError
from parity.streams import complain, console_for, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrations.engine.model import Migration

_EPILOG = """\
exit codes:
  0    what ran passes, and something ran
  1    differences remain, or something got worse
  2    could not do the job, or nothing ran

Each side runs in a process of its own. `before` is the project at git HEAD, without files that git does not track;
where the changes are committed already, name the commit before them (--at) or an untouched copy (--before).

examples:
  python -m migrations verify my_fork --adapter my_fork/adapter.py
  python -m migrations verify my_fork --adapter adapter.py --at HEAD~1 --only 0006 --quick
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "verify",
        help="the parity checks that migrations name, before and after",
        description="Run the parity checks that migrations name on the project as it was and as it is.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("path", metavar="PATH", type=Path, help="the folder that holds your training code")
    option("--adapter", metavar="FILE", type=Path, required=True, help="shows your code to parity")
    option("--before", metavar="DIR", type=Path, help="an untouched copy of the folder (default: git HEAD)")
    option("--at", metavar="REVISION", default="HEAD", help="the commit to compare with (default: HEAD)")
    option("--only", action="extend", nargs="+", metavar="ID", default=[], help="these migrations alone")
    option("--recipe", action="append", metavar="NAME", default=[], help="of parity; repeatable (default: all)")
    option("--reference", metavar="SOURCE", help="official code: auto, github, pypi or a folder")
    option("--quick", action="store_true", help="fewer masks, no variants of recipes, no full-size step")
    option("--format", choices=("text", "json"), default="text", help="default: text")


def run(arguments: argparse.Namespace, rules: Any = None) -> int:
    """Carry the command out and return its exit code.

    Args:
        arguments: parsed.
        rules: has `migrations`; None for the registry's.
    """
    try:
        return _run(arguments, rules)
    except (MigrationsError, OSError) as error:
        complain(f"error: {error}")
        return 2


def _run(arguments: argparse.Namespace, rules: Any) -> int:
    from migrations.engine.registry import all_migrations
    from migrations.engine.verify import verify
    from migrations.report.verify_text import verification_json, verification_text

    known: Sequence[Migration] = all_migrations() if rules is None else rules.migrations
    found = verify(
        arguments.path,
        arguments.adapter,
        _chosen(known, arguments.only),
        before=arguments.before,
        revision=arguments.at,
        options=_parity_options(arguments),
    )
    if arguments.format == "json":
        emit(verification_json(found))
    else:
        emit(verification_text(found, console_for(sys.stdout)))
    return found.exit_code


def _chosen(known: Sequence[Migration], only: Sequence[str]) -> list[Migration]:
    wanted = {name.strip().zfill(4) for word in only for name in word.split(",") if name.strip()}
    if unknown := sorted(wanted - {one.id for one in known}):
        raise UsageError(f"no migration {unknown[0]!r}, expected some of {', '.join(sorted(one.id for one in known))}")
    return [one for one in known if not wanted or one.id in wanted]


def _parity_options(arguments: argparse.Namespace) -> list[str]:
    options = [word for name in arguments.recipe for word in ("--recipe", name)]
    options += ["--quick"] if arguments.quick else []
    if arguments.reference is not None:
        source = Path(arguments.reference)
        # The process of a side has another working directory.
        options += ["--reference", str(source.resolve()) if source.is_dir() else arguments.reference]
    return options
