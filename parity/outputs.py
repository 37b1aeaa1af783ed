"""The files that a command is asked for: refused before the work, written whole, and of one mind about the code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from parity.errors import OutputError, UsageError
from parity.results import RunResult

__all__ = ["RUN_OUTPUTS", "Render", "requested", "require_possible", "run_renderers", "write_outputs"]

RUN_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {
        "json": "write the whole result as JSON, schema 1: what `diff` reads",
        "markdown": "write a summary for a GitHub job",
        "junit": "write JUnit XML, a testsuite per family, for CI servers",
        "html": "write one page with pictures and plots that opens without a network",
    }
)
"""The file formats of `run`: option without dashes, and its help."""

Render = Callable[[int], str]
"""Makes a report that tells the given exit code."""

_FAILED = 2


def run_renderers(result: RunResult) -> dict[str, Render]:
    """Return how each format of `RUN_OUTPUTS` is made of a run."""
    from parity.report import as_html, as_json, as_junit, as_markdown

    return {
        "json": lambda code: as_json(result, code),
        "markdown": lambda code: as_markdown(result, code),
        "junit": lambda code: as_junit(result, code),
        "html": lambda code: as_html(result, code),
    }


def requested(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Path]:
    """Return the formats that the arguments ask for, with their files."""
    return {name: path for name in names if (path := getattr(arguments, name)) is not None}


def require_possible(outputs: Mapping[str, Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse files that cannot be written, or that would replace each other or an input.

    Raises:
        UsageError: two outputs, or an output and an input, are the same file.
        OutputError: a file cannot be written.
    """
    from parity.report.files import check_writable

    taken = {path.resolve(): "" for path in inputs}
    for name, path in outputs.items():
        other = taken.setdefault(path.resolve(), name)
        if other == "":
            raise UsageError(f"--{name} names a file that is read, {path}; give it another")
        if other != name:
            raise UsageError(f"--{other} and --{name} name the same file, {path}; give each its own")
    for path in outputs.values():
        check_writable(path)


def write_outputs(outputs: Mapping[str, Path], renderers: Mapping[str, Render], code: int) -> OutputError | None:
    """Write every file that can be written; return the first failure, which makes the exit code 2.

    After a failure the files that were written are written again, so that none of them tells another code than the
    process ends with. A pipe or a device keeps what it got.
    """
    failure: OutputError | None = None
    written = []
    for name, path in outputs.items():
        refused = _attempt(path, renderers[name], code, name)
        failure = failure or refused
        if refused is None and path.is_file():
            written.append(name)
    if failure is not None and code != _FAILED:
        for name in written:
            _attempt(outputs[name], renderers[name], _FAILED, name)
    return failure


def _attempt(path: Path, render: Render, code: int, name: str) -> OutputError | None:
    from parity.report.files import write_atomically

    try:
        write_atomically(path, render(code))
    except OutputError as error:
        return error
    except Exception as error:  # an error of ours in one format must cost neither the others nor the printed report
        return OutputError(
            f"cannot write {path}: making the {name} report raised {type(error).__name__}: {error}; "
            "this is an error of parity itself, please report it with a JSON report of the run"
        )
    return None
