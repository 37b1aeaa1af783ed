"""The command line: `python -m migrations status | plan | apply | verify | explain | flags | checkpoint`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from migrations.commands import apply, checkpoint, explain, flags, plan, status, verify
from migrations.errors import MigrationsError, UsageError
from migrations.options import build_parser, parse
from parity.errors import OutputError
from parity.streams import complain, emit, substitute_unencodable

if TYPE_CHECKING:
    from migrations.engine.model import Migration

__all__ = ["COMMANDS", "Rules", "main"]

COMMANDS: dict[str, ModuleType] = {
    "status": status,
    "plan": plan,
    "apply": apply,
    "verify": verify,
    "explain": explain,
    "flags": flags,
    "checkpoint": checkpoint,
}


@dataclass(frozen=True)
class Rules:
    """The migrations and advisories that commands work with; the registry's unless given."""

    given: Sequence[Migration] | None = None
    given_advisories: Sequence[Migration] | None = None

    @property
    def migrations(self) -> Sequence[Migration]:
        """The migrations, in the order of application."""
        from migrations.engine.registry import all_migrations

        return all_migrations() if self.given is None else self.given

    @property
    def advisories(self) -> Sequence[Migration]:
        """The rules that only report."""
        from migrations.engine.registry import all_advisories

        return all_advisories() if self.given_advisories is None else self.given_advisories


def main(argv: Sequence[str] | None = None, rules: Rules | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: arguments after the program's name; those of the process where it is None.
        rules: other migrations than the registry's, for tests.

    Returns:
        0 aligned, 1 work remains, 2 could not do the job, 130 interrupted.
    """
    substitute_unencodable()
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv), rules or Rules())
    except (MigrationsError, OutputError) as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted: nothing was written")
        return 130
    except Exception:
        # An error of ours must look neither aligned (0) nor like work that remains (1).
        complain(traceback.format_exc(), one_line=False)
        complain("error: migrations itself failed; the traceback above says where")
        return 2
    finally:
        emit("")


def _dispatch(argv: list[str], rules: Rules) -> int:
    parser = build_parser(COMMANDS)
    if not argv:
        emit(parser.format_help())
        raise UsageError(f"no command given; expected one of {', '.join(COMMANDS)}")
    try:
        arguments = parse(parser, argv, COMMANDS)
    except SystemExit as stop:  # --help and --version, which print and leave
        return int(stop.code or 0)
    code: int = COMMANDS[arguments.command].run(arguments, rules)
    return code
