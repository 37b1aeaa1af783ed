"""Git repositories that tests make."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["git"]


def git(folder: Path, *arguments: str) -> None:
    """Run git as a user would."""
    name = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True)  # noqa: S607
