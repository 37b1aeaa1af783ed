"""A parser, what reads it and its launchers, on a disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from migrations.commands import flags

__all__ = ["PARSER", "run", "shown", "write"]

PARSER = """\
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--token_mask_ratio", type=float, default=0.3)
parser.add_argument("--clustering_mode", type=str, default="masked",
                    choices=["visible", "masked", "separate"])
parser.add_argument("--epochs", type=int, default=10)
"""


def write(folder: Path, **texts: str) -> list[Path]:
    """Write texts, `main_py=…` as `main.py`, and return their paths."""
    paths = []
    for name, text in texts.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(text.encode())
        paths.append(path)
    return paths


def run(*words: str | Path) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser()
    flags.add(parser.add_subparsers())
    arguments = parser.parse_args(["flags", *map(str, words)])
    return flags.run(arguments)


def shown(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """Run the command and return its JSON, flags by name under `flags`."""
    capsys.readouterr()
    code = run(*words, "--format", "json")
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == code
    document["flags"] = {row["flag"]: row for row in document["flags"]}
    return document
