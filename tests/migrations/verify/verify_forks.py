"""A fork of one file under git, with an adapter, that is wrong at HEAD and right on the disk."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from migrations.engine.model import Example, Migration

__all__ = ["RIGHT", "WRONG", "commit", "make_fork", "migration_of"]

# Official's KoLeo (loss/koleo_loss.py:22-48): the logarithm of the distance to the nearest neighbour, eps 1e-8 in the
# normalisation and 1e-8 in the logarithm.
RIGHT = """\
import torch
import torch.nn.functional as F


def koleo(x):
    x = F.normalize(x, eps=1e-8, p=2, dim=-1)
    dots = torch.mm(x, x.t())
    n = x.shape[0]
    dots.view(-1)[:: (n + 1)].fill_(-1)
    nearest = torch.max(dots, dim=1).indices
    distances = F.pairwise_distance(x, x[nearest], p=2, eps=1e-8)
    return -torch.log(distances + 1e-8).mean()
"""
WRONG = RIGHT.replace(".mean()", ".sum()")

ADAPTER = """\
from losses import koleo

name = "fork"


def koleo_loss(student_output):
    return koleo(student_output)
"""


def git(folder: Path, *words: str) -> None:
    """Run git in a folder."""
    command = [shutil.which("git") or "git", "-C", str(folder), *words]
    subprocess.run(command, check=True)


def commit(folder: Path) -> None:
    """Commit everything in a folder."""
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *settings, "commit", "-qm", "state")


def make_fork(folder: Path, losses: str, adapter: str = ADAPTER) -> Path:
    """Write and commit a fork whose KoLeo loss is in `losses.py`; return its folder."""
    folder.mkdir(exist_ok=True)
    (folder / "losses.py").write_text(losses)
    (folder / "adapter.py").write_text(adapter)
    commit(folder)
    return folder


def migration_of(id_: str, *checks: str) -> Migration:
    """Return a migration that names checks and finds nothing."""
    return Migration(
        id=id_,
        title="a difference",
        official="loss/koleo_loss.py:1",
        why="",
        algebra="",
        example=Example("", ""),
        person="",
        checks=checks,
        depends_on=(),
        prefilter=re.compile(b"x"),
        find=lambda project: [],
    )
