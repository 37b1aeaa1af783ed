"""The command line: `python -m parity COMMAND`.

What is heavy (torch, the reference, the checks) is imported inside the commands, so that `--help` and
`explain` answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.arguments import known_command, unknown_arguments
from parity.commands import adapter, certify, diff, quirks
from parity.errors import ParityError, UsageError, origin
from parity.options import COMMANDS, build_parser
from parity.streams import complain, console_for, emit, substitute_unencodable

if TYPE_CHECKING:
    from parity.results import Comparison, RunResult

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: arguments after the program's name; those of the process where it is None.

    Returns:
        0 parity, 1 divergence, 2 could not do the job, 130 interrupted.
    """
    substitute_unencodable()
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except ParityError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted: no verdict, nothing was written")
        return 130
    except SystemExit as stop:
        # Whoever called sys.exit(0), in an adapter or an edited reference, it is not parity.
        complain(f"error: code under comparison ended the process with {stop!r}{origin(stop)}; no verdict")
        return 2
    except BaseException:
        # An error of ours must never look like parity (0) or divergence (1), and both are what Python exits with.
        complain(traceback.format_exc(), one_line=False)
        complain("error: parity itself failed; the traceback above says where")
        return 2
    finally:
        emit("")


def _dispatch(argv: list[str]) -> int:
    parser = build_parser()
    if not argv:
        emit(parser.format_help())
        raise UsageError(f"no command given; expected one of {', '.join(COMMANDS)}")
    known_command(argv[0], COMMANDS)
    try:
        arguments, unknown = parser.parse_known_args(argv)
    except SystemExit as stop:  # --help and --version, which print and leave
        return int(stop.code or 0)
    if unknown:
        raise UsageError(unknown_arguments(unknown, arguments.command))
    commands = {"run": _run, "list": _list, "explain": _explain, "doctor": _doctor}
    commands |= {"quirks": quirks.command, "diff": diff.command, "adapter": adapter.command, "certify": certify.command}
    return commands[arguments.command](arguments)


def _options(arguments: argparse.Namespace) -> Any:
    """Return the `Options` that the arguments ask for; what was not given keeps its default there."""
    from parity.run import Options

    names = ("reference", "allow_modified_reference", "subject", "level", "seeds", "quick", "waivers")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    for option, name in (("recipe", "recipes"), ("only", "only")):
        values = getattr(arguments, option, None)
        if values:
            given[name] = tuple(dict.fromkeys(values))
    return Options(**given)


def _run(arguments: argparse.Namespace) -> int:
    from parity.outputs import RUN_OUTPUTS, requested, require_possible

    outputs = requested(arguments, RUN_OUTPUTS)
    require_possible(outputs)
    options = _options(arguments)
    annotate = os.environ.get("GITHUB_ACTIONS") == "true" if arguments.github is None else arguments.github
    from parity.report.github import no_verdict
    from parity.report.progress import progress
    from parity.run import run

    try:
        with progress() as advance:
            result = run(options, advance)
    except ParityError as error:
        if annotate:
            complain(no_verdict(str(error)))
        raise
    return _report(result, outputs, annotate=annotate)


def _report(result: RunResult, outputs: Mapping[str, Path], *, annotate: bool) -> int:
    """Write the files, then print; a file that cannot be written costs the verdict, printing never does."""
    from parity.outputs import run_renderers, write_outputs
    from parity.report import as_annotations, as_text

    failure = write_outputs(outputs, run_renderers(result), result.exit_code)
    code = 2 if failure else result.exit_code
    emit(as_text(result, console_for(sys.stdout), code))
    if annotate:
        # GitHub reads them on either stream; on stdout they would stand before the provenance or behind the verdict.
        root = os.environ.get("GITHUB_WORKSPACE", "")
        complain(as_annotations(result, code, root), one_line=False)
    if failure:
        raise failure
    return code


def _list(arguments: argparse.Namespace) -> int:
    from parity.listing import listing

    emit(listing(_options(arguments)))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from parity.catalogue import contents, explain

    if arguments.id is None:
        emit(contents())
        return 0
    entry = explain(arguments.id)
    if not sys.stdout.isatty():
        emit(entry.markdown)
        return 0
    from rich.markdown import Markdown
    from rich.text import Text

    console = console_for(sys.stdout)
    with console.capture() as capture:
        console.print(Text(f"{entry.id}: {entry.title}\n", style="bold"))
        console.print(Markdown(entry.body))
    emit(capture.get())
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from parity.doctor import doctor

    comparisons: list[Comparison] = doctor(_options(arguments))
    failed = [c for c in comparisons if not c.passed]
    lines = [f"{'passed' if c.passed else 'FAILED'}  {c.name}  {c.note}".rstrip() for c in comparisons]
    verdict = "NOT SOUND, no verdict of this instrument counts" if failed or not comparisons else "sound"
    lines.append(f"{len(comparisons) - len(failed)} of {len(comparisons)} self-checks passed: {verdict}")
    emit("\n".join(lines) + "\n")
    return 2 if failed or not comparisons else 0
