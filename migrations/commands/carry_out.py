"""What `plan` and `apply` have in common: the plan, the patch, the report, and with `apply --write` the files."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from migrations.commands.output import check_outputs, deliver
from migrations.engine.discovery import Remark, Tree, discover
from migrations.engine.model import Level, Migration
from migrations.engine.planning import Plan, plan
from migrations.engine.survey import Result, unparsable
from migrations.engine.writing import contents, write
from migrations.errors import RefusedError, UsageError
from migrations.options import one_of
from migrations.report.diff import as_patch
from migrations.report.json_report import plan_json
from migrations.report.layout import line
from migrations.report.plan_text import plan_text
from migrations.report.progress import progress
from migrations.report.sarif import sarif
from parity.report.files import write_atomically
from parity.report.numbers import printable

if TYPE_CHECKING:
    from rich.console import Console

    from migrations.cli import Rules

__all__ = ["carry_out"]


def carry_out(
    arguments: argparse.Namespace, rules: Rules, *, write_files: bool = False, allow_dirty: bool = False
) -> int:
    """Make a plan, write what is asked for, report, and return the exit code."""
    check_outputs(arguments.output, arguments.patch)
    only = _ids(arguments.only, rules.migrations)
    with progress() as advance:
        tree = discover(arguments.path)
        made = plan(tree.project, rules.migrations, _levels(arguments), only, advance)
    failed = [step.before for step in made.steps if step.before.failure]
    if failed and write_files:
        raise RefusedError(
            f"the rule of {failed[0].migration.id} failed ({failed[0].failure}), please report it; "
            "nothing was written; leave it out with --only"
        )
    if arguments.patch is not None:
        write_atomically(arguments.patch, as_patch(contents(made, tree)))
    written = write(made, tree, allow_dirty=allow_dirty) if write_files else None
    code = _exit_code(made, wrote=write_files)
    _report(arguments, made, tree, written, code)
    return code


def _ids(given: Sequence[str], migrations: Sequence[Migration]) -> list[str]:
    """Return the ids of `--only`; commas separate them too.

    Raises:
        UsageError: one does not exist.
    """
    known = {one.id for one in migrations}
    ids = [name.strip().zfill(4) for word in given for name in word.split(",") if name.strip()]
    for id_ in ids:
        if id_ not in known:
            raise UsageError(one_of("migration", id_, sorted(known)))
    if given and not ids:
        raise UsageError(f"--only names no migration, expected some of {', '.join(sorted(known))}")
    return ids


def _levels(arguments: argparse.Namespace) -> Collection[Level]:
    chosen = [Level.SAFE]
    chosen += [Level.UNSAFE] if arguments.unsafe else []
    chosen += [Level.SKELETON] if arguments.skeleton else []
    return chosen


def _exit_code(made: Plan, *, wrote: bool) -> int:
    """Return how the files on the disk stand now: 0 settled, 1 work remains, 2 a rule failed or there is none."""
    results: Collection[Result] = (made.final if wrote else made.first).values()
    if not results or any(result.failure for result in results):
        return 2
    return 0 if all(result.state.settled for result in results) else 1


def _again(arguments: argparse.Namespace) -> str:
    """Return the command that writes what was shown."""
    words = ["python", "-m", "migrations", "apply", arguments.path]
    words += ["--only", *arguments.only] if arguments.only else []
    words += [f"--{name}" for name in ("unsafe", "skeleton") if getattr(arguments, name)]
    return shlex.join([*words, "--write"])


def _report(arguments: argparse.Namespace, made: Plan, tree: Tree, written: Sequence[str] | None, code: int) -> None:
    remarks = sorted({*tree.remarks, *unparsable(made.end)})
    if arguments.format == "json":
        text = plan_json(made, arguments.command, str(tree.root), code, written or (), remarks)
        deliver(lambda console: text, arguments.output)
    elif arguments.format == "sarif":
        project, results = (made.start, made.first) if written is None else (made.end, made.final)
        ordered = sorted(results.values(), key=lambda result: result.migration.id)
        text = sarif(ordered, project, tree.root, remarks, code)
        deliver(lambda console: text, arguments.output)
    else:
        deliver(lambda console: _as_text(arguments, made, written, remarks, console), arguments.output)


def _as_text(
    arguments: argparse.Namespace,
    made: Plan,
    written: Sequence[str] | None,
    remarks: Sequence[Remark],
    console: Console,
) -> str:
    text = plan_text(made, console, _again(arguments), written)
    with console.capture() as capture:
        if arguments.patch is not None:
            line(console, f"patch: {printable(str(arguments.patch))}, of paths relative to {arguments.path}")
        for remark in remarks:
            line(console, f"  {printable(str(remark))}", "yellow")
    return text + capture.get()
