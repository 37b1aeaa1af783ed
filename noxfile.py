"""Every command that the project promises, each in one shared environment, so that torch is installed once.

nox -s parity [-- ARGS]   compare port with official code, or what ARGS ask for
nox -s tests [-- ARGS]    the test suite
nox -s lint               ruff and mypy

Not run by default:
nox -s demo [-- ARGS]     port/train.py in that environment: without ARGS a small ViT on bundled images
nox -s learns [-- ARGS]   three longer trainings, whose features must beat untrained ones and raw pixels
nox -s teeth [-- ARGS]    known faults injected into port: does parity catch and name them?
nox -s lines [-- ARGS]    which lines of official code a whole parity run executes, and why it leaves the others
nox -s bench [-- ARGS]    how fast port is, against official code and the three-view fork: bench/README.md
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["parity", "tests", "lint"]

# nox gives each session an environment of its own; torch is 5 GB, so these share one that they make themselves.
SHARED = Path(__file__).parent / ".nox" / "shared"
BIN = SHARED / ("Scripts" if os.name == "nt" else "bin")
EDITABLE = ".[train,webdataset,export,migrations]"
REPORTS = {
    "--json": "parity-report.json",
    "--markdown": "parity-report.md",
    "--junit": "parity-report.xml",
    "--html": "parity-report.html",
}


def install(session: nox.Session) -> None:
    """Make the shared environment, or bring it up to date when pyproject.toml or the interpreter changed."""
    groups = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "tests", "bench", "lint")
    wanted = hashlib.sha256((Path("pyproject.toml").read_text() + sys.version).encode()).hexdigest()
    stamp = SHARED / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        session.log(f"environment is up to date: {SHARED}")
        return
    # virtualenv comes with nox; it finds the interpreter behind the one that runs nox, pipx or uvx included.
    session.run(sys.executable, "-m", "virtualenv", "--quiet", str(SHARED), external=True)
    call(session, "python", "-m", "pip", "install", "--disable-pip-version-check", "-e", EDITABLE, *groups)
    stamp.write_text(wanted)


def call(session: nox.Session, program: str, *arguments: str, success_codes: Sequence[int] = (0,)) -> None:
    """Run a program of the shared environment; other exit codes than these end the session."""
    path = os.pathsep.join((str(BIN), os.environ.get("PATH", "")))
    env = {"PATH": path, "VIRTUAL_ENV": str(SHARED)}
    session.run(str(BIN / program), *arguments, external=True, env=env, success_codes=success_codes)


@nox.session(venv_backend="none")
def parity(session: nox.Session) -> None:
    """Prove port against official code; ARGS go to `python -m parity run`."""
    install(session)
    given = {word.split("=")[0] for word in session.posargs}
    reports = [word for option, file in REPORTS.items() if option not in given for word in (option, file)]
    call(session, "python", "-m", "parity", "run", *session.posargs, *reports)


@nox.session(venv_backend="none", default=False)
def teeth(session: nox.Session) -> None:
    """Inject known faults into port and see that parity catches and names them; ARGS go to `python -m parity.teeth`."""
    install(session)
    call(session, "python", "-m", "parity.teeth", *session.posargs)


@nox.session(venv_backend="none", default=False)
def lines(session: nox.Session) -> None:
    """Count the lines of official code that a parity run executes; ARGS go to `python -m parity run`."""
    install(session)
    call(session, "python", "-m", "parity.lines", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the test suite, a process per core; ARGS go to pytest."""
    install(session)
    # Each process holds torch and a model or two, about 2 GB.
    call(
        session, "python", "-m", "pytest", "-n", "auto", "--maxprocesses", "8", "--dist", "worksteal", *session.posargs
    )


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, formatting and types."""
    install(session)
    call(session, "ruff", "check", ".")
    call(session, "ruff", "format", "--check", ".")
    call(session, "mypy")


@nox.session(venv_backend="none", default=False)
def demo(session: nox.Session) -> None:
    """Train the demonstration, or what ARGS ask for."""
    install(session)
    call(session, "python", "port/train.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def learns(session: nox.Session) -> None:
    """Train with three seeds and compare k-NN accuracy on held-out tiles; ARGS go to `python -m bench.learns`."""
    install(session)
    call(session, "python", "-m", "bench.learns", *session.posargs)


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Measure at the sizes of the required ratios; ARGS go to `pytest bench`. Table and picture: output/bench."""
    install(session)
    output = Path("output/bench")
    output.mkdir(parents=True, exist_ok=True)
    measured = output / "bench.json"
    measured.unlink(missing_ok=True)
    options = ("--benchmark-only", "--bench-figures", "--benchmark-json", str(measured))
    # 1 where an arm ran out of memory: the others still have their rows.
    call(session, "python", "-m", "pytest", "bench", *options, *session.posargs, success_codes=(0, 1))
    call(session, "python", "-m", "bench.report", str(measured), "--baseline", "bench/baseline.json")
