from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from verify_forks import ADAPTER, RIGHT, WRONG, commit, make_fork, migration_of

from migrations.engine.sides import both_sides
from migrations.engine.verify import outcome, verify
from migrations.errors import MigrationsError, UsageError

QUICK = ("--quick", "--reference", "pypi", "--recipe", "default")
KOLEO = migration_of("0005", "losses.koleo")


@pytest.mark.slow
def test_a_change_on_the_disk_is_compared_with_git(tmp_path: Path) -> None:
    """At HEAD the loss is a sum, on the disk a mean: KoLeo diverges before, agrees after, and is mended: exit 0.

    A check that the adapter does not offer is not run, and does not count as passed.
    """
    fork = make_fork(tmp_path / "fork", WRONG)
    (fork / "losses.py").write_text(RIGHT)
    found = verify(fork, fork / "adapter.py", [KOLEO, migration_of("0006", "losses.ibot")], options=QUICK)
    verdicts = {row.check: row.verdict for row in found.rows}
    assert verdicts == {"losses.koleo": "mended", "losses.ibot": "not run"}
    koleo = found.rows[0]
    assert (koleo.before.status, koleo.after.status) == ("diverged", "passed")
    assert koleo.before.diverged > 0
    assert koleo.after.diverged == 0
    assert found.exit_code == 0
    assert sorted(path.name for path in fork.iterdir()) == [".git", "adapter.py", "losses.py"]


@pytest.mark.slow
def test_a_change_for_the_worse_against_a_copy(tmp_path: Path) -> None:
    """With an untouched copy in place of git: what agreed and no longer does got worse: exit 1.

    The adapter lies beside both folders and imports the fork as a package, each side's own.
    """
    for name, losses in (("copy", RIGHT), ("fork", WRONG)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "losses.py").write_text(losses)
    adapter = tmp_path / "adapters" / "adapter.py"
    adapter.parent.mkdir()
    adapter.write_text(ADAPTER)
    found = verify(tmp_path / "fork", adapter, [KOLEO], before=tmp_path / "copy", options=QUICK)
    assert [row.verdict for row in found.rows] == ["got worse"]
    assert found.exit_code == 1


@pytest.mark.slow
def test_modules_of_the_other_side_are_refused(tmp_path: Path) -> None:
    """An adapter that imports the disk's files by an absolute path would compare them with themselves."""
    fork = tmp_path / "fork"
    intruder = f"import sys\n\nsys.path.insert(0, {str(fork)!r})\n{ADAPTER}"
    make_fork(fork, WRONG, intruder)
    with pytest.raises(MigrationsError, match=r"before: .*imported .*fork/losses\.py, which belongs to the other side"):
        verify(fork, fork / "adapter.py", [migration_of("0005", "files.identity")], options=QUICK)


@pytest.mark.slow
def test_an_adapter_that_cannot_be_loaded(tmp_path: Path) -> None:
    """What an adapter raises is in the one line that says why there is no verdict."""
    fork = make_fork(tmp_path / "fork", WRONG, "from losses import nothing_of_this_name\n")
    with pytest.raises(MigrationsError, match=r"after .*parity gave no report: .*nothing_of_this_name"):
        verify(fork, fork / "adapter.py", [KOLEO], options=QUICK)


def test_each_side_has_its_own_files_and_adapter(tmp_path: Path) -> None:
    """Before: the commit's files under the project's name; after: the folder itself; nothing is left behind."""
    fork = make_fork(tmp_path / "fork", WRONG)
    (fork / "losses.py").write_text(RIGHT)
    (fork / "untracked.py").write_text("x = 1\n")
    with both_sides(fork, fork / "adapter.py", None, "HEAD") as (before, after):
        assert (before.root / "losses.py").read_text() == WRONG
        assert not (before.root / "untracked.py").exists()
        assert before.root.name == "fork"
        assert before.adapter == before.root / "adapter.py"
        assert (after.root, after.adapter) == (fork, fork / "adapter.py")
        stage = before.root
    assert not stage.exists()
    assert (fork / "losses.py").read_text() == RIGHT


def test_a_folder_of_a_larger_repository(tmp_path: Path) -> None:
    """Only the folder is checked out, of the commit that is named; an adapter that it lacked then is copied beside."""
    fork = tmp_path / "source" / "fork"
    fork.mkdir(parents=True)
    (fork / "losses.py").write_text(WRONG)
    (tmp_path / "other.py").write_text("")
    commit(tmp_path)
    (fork / "losses.py").write_text(RIGHT)
    (fork / "adapter.py").write_text(ADAPTER)
    commit(tmp_path)
    with both_sides(fork, fork / "adapter.py", None, "HEAD~1") as (before, _):
        assert sorted(path.name for path in before.root.iterdir()) == ["losses.py"]
        assert (before.root / "losses.py").read_text() == WRONG
        assert before.adapter.read_text() == ADAPTER
        assert before.adapter.parent != fork


def test_an_adapter_above_the_project_is_taken_alone(tmp_path: Path) -> None:
    """Its folder would offer the project of the disk to both sides, so that it is copied away from there."""
    fork = make_fork(tmp_path / "fork", WRONG)
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER)
    with both_sides(fork, adapter, None, "HEAD") as (before, after):
        assert before.adapter.read_text() == after.adapter.read_text() == ADAPTER
        assert tmp_path not in (before.adapter.parent, after.adapter.parent)


def test_links_that_lead_outside_are_left_out(tmp_path: Path) -> None:
    """A committed link to data elsewhere is not followed and not made."""
    fork = make_fork(tmp_path / "fork", WRONG)
    (fork / "data").symlink_to("/")
    commit(fork)
    with both_sides(fork, fork / "adapter.py", None, "HEAD") as (before, _):
        assert not os.path.lexists(before.root / "data")


def test_what_git_does_not_have(tmp_path: Path) -> None:
    """No repository and no such commit: one line each that names the way out."""
    fork = tmp_path / "fork"
    fork.mkdir()
    (fork / "adapter.py").write_text(ADAPTER)
    with pytest.raises(MigrationsError, match="--before DIR"), both_sides(fork, fork / "adapter.py", None, "HEAD"):
        pass
    make_fork(fork, WRONG)
    for revision in ("no-such-branch", "--output=x", "HEAD~7"):
        with (
            pytest.raises(MigrationsError, match=f"git knows no {revision}"),
            both_sides(fork, fork / "adapter.py", None, revision),
        ):
            pass


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    """A missing adapter, folder or copy is named; the project is no copy of itself."""
    fork = make_fork(tmp_path / "fork", WRONG)
    for path, adapter, before in (
        (tmp_path / "no", fork / "adapter.py", None),
        (fork, fork / "no.py", None),
        (fork, fork / "adapter.py", tmp_path / "no"),
    ):
        with pytest.raises(UsageError, match="that exists"), both_sides(path, adapter, before, "HEAD"):
            pass
    with pytest.raises(UsageError, match="the project itself"), both_sides(fork, fork / "adapter.py", fork, "HEAD"):
        pass


def test_checks_that_parity_does_not_know(tmp_path: Path) -> None:
    """A migration with a check of no family, or none at all, is an error before anything runs."""
    fork = make_fork(tmp_path / "fork", WRONG)
    for checks, said in ((("lossses.koleo",), "'lossses'"), ((), "no parity check")):
        with pytest.raises(UsageError, match=said):
            verify(fork, fork / "adapter.py", [migration_of("0005", *checks)])


def test_recipes_of_a_check_are_added_up() -> None:
    """`outcome` adds the recipes of a check up, and takes the worst of their states."""

    def check(id_: str, status: str, compared: int, failed: int, *causes: str) -> dict[str, Any]:
        counts = {"compared": compared, "diverged": failed}
        return {"id": id_, "family": "losses", "status": status, **counts, "attribution": causes, "reason": ""}

    checks = [
        check("losses.koleo[a]", "passed", 5, 0),
        check("losses.koleo[b]", "diverged", 7, 2, "0005", "Q3"),
        check("losses.ibot[a]", "error", 0, 0),
    ]
    report = json.loads(json.dumps({"checks": checks}))
    found = outcome(report, "losses.koleo")
    assert (found.status, found.compared, found.diverged, found.causes) == ("diverged", 12, 2, ("0005", "Q3"))
    assert outcome(report, "losses.koleo[a]").status == "passed"
    assert outcome(report, "losses").status == "error"
    assert outcome(report, "masks.bitwise").status == "not_run"
