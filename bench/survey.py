"""What do the migrations say of packages that hold DINO-like code, and how long do they take?

    python -m bench.survey                      the README's table: packages downloaded without their dependencies
    python -m bench.survey 'timm==1.0.31' FOLDER  others: requirements for pip, or folders of source

Nothing of a package is installed or run: its wheel is unpacked into a temporary folder and read. A "diverged" is worth
a look: either the package does differ from official DINOv2, or the rule is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

__all__ = ["PACKAGES", "Surveyed", "main", "markdown"]

PACKAGES = ("dinov2==0.0.1.dev2", "lightly==1.6.0", "lightly-train==0.18.0", "timm==1.0.31", "transformers==5.24.0")
STATES = ("aligned", "diverged", "partial", "unknown", "not-applicable")
EXIT_OK, EXIT_COULD_NOT = 0, 2


@dataclass(frozen=True)
class Surveyed:
    """What `python -m migrations status` says of one package.

    Attributes:
        name: as it was asked for.
        files: Python files looked at.
        parsed: of these, the ones that a rule asked for.
        states: ids of the migrations by state, in the order of the document.
        failed: ids of the rules that raised.
        seconds: of wall clock, start of Python left out.
    """

    name: str
    files: int
    parsed: int
    states: dict[str, list[str]]
    failed: list[str]
    seconds: float

    @classmethod
    def of(cls, name: str, report: dict[str, Any]) -> Surveyed:
        """Read the JSON that `status` prints."""
        states: dict[str, list[str]] = {state: [] for state in STATES}
        for one in report["migrations"]:
            states.setdefault(one["state"], []).append(one["id"])
        failed = [one["id"] for one in report["migrations"] if one["failure"]]
        files = report["files"]
        return cls(name, files["looked_at"], files["parsed"], states, failed, report["seconds"])


def markdown(surveyed: Sequence[Surveyed]) -> str:
    """Return a table, a row for each package, with the ids of the migrations in each state."""
    head = ["package", "files", "parsed", *STATES, "seconds"]
    rows = [head, ["---", *["---:"] * 2, *["---"] * len(STATES), "---:"]]
    for one in surveyed:
        states = [" ".join(one.states[state]) for state in STATES]
        rows.append([one.name, f"{one.files:,}", f"{one.parsed:,}", *states, f"{one.seconds:.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def unpacked(requirement: str, folder: Path) -> Path:
    """Download a wheel without its dependencies and unpack it.

    Raises:
        RuntimeError: pip found none; the message holds what it printed.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(  # noqa: S603 - pip, with what the user asked for
        [*command, "--only-binary", ":all:", "--dest", str(folder), requirement], capture_output=True, text=True
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise RuntimeError(f"pip download {requirement} failed (exit {done.returncode}): {done.stderr.strip()}")
    source = folder / "source"
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(source)
    return source


def status(folder: Path) -> dict[str, Any]:
    """Return the report of `python -m migrations status FOLDER`, run in a process of its own.

    Raises:
        RuntimeError: it ended otherwise than with 0 (aligned) or 1 (work remains).
    """
    command = [sys.executable, "-m", "migrations", "status", str(folder), "--format", "json"]
    done = subprocess.run(  # noqa: S603 - this project's own command
        command, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"status of {folder} ended with {done.returncode}, expected 0 or 1: {done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def survey(names: Sequence[str], console: Console) -> Iterator[Surveyed]:
    """Yield what is said of each package or folder."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder, console.status(f"{name} …"):
            source = Path(name) if Path(name).is_dir() else unpacked(name, Path(folder))
            yield Surveyed.of(name, status(source))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 when every rule ran on every package, 2 otherwise."""
    parser = argparse.ArgumentParser(
        "python -m bench.survey", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="*", default=PACKAGES, help="requirements for pip, or folders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    args = parser.parse_args(arguments)
    console = Console(stderr=True)
    surveyed: list[Surveyed] = []
    try:
        surveyed += survey(args.packages, console)
    except RuntimeError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return EXIT_COULD_NOT
    print(markdown(surveyed))
    if args.json is not None:
        args.json.write_text(json.dumps([vars(one) for one in surveyed], indent=2) + "\n")
    failed = [f"{one.name}: {' '.join(one.failed)}" for one in surveyed if one.failed]
    for line in failed:
        console.print(f"error: a rule raised, of {line}", style="red", markup=False)
    return EXIT_COULD_NOT if failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
