from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from parity.ranks import GroupError, Pair, RanksError, RemoteStack, pair

_STAND_IN = """
import os, pathlib, shutil, sys, time
folder, rank = pathlib.Path(sys.argv[1]), sys.argv[2]
answers = pathlib.Path(__file__).parent

def answer(name, content="fine"):
    shutil.copyfile(answers / f"{content}.pt", folder / ("copy-" + rank))
    os.replace(folder / ("copy-" + rank), folder / f"{name}-{rank}.pt")

JOIN
answer("joined")
answer("loaded")
for line in sys.stdin:
    number = line.strip()
    SERVE
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Pair]:
    """Start a pair whose processes do not import torch: they answer with files that were made before."""
    torch.save({"tensors": {"x": torch.ones(2)}}, tmp_path / "fine.pt")
    torch.save({"error": "ValueError: no such prototype at fork.py:7"}, tmp_path / "error.pt")

    def start(serve: str = 'answer("answer-" + number)', join: str = "") -> Pair:
        script = tmp_path / "stand_in.py"
        script.write_text(_STAND_IN.replace("JOIN", join).replace("SERVE", serve))
        return Pair("", "subject", "", allow_modified=False, subject="", path=(), worker=(str(script),))

    return start


def _ask(pair: Pair) -> list[dict[str, torch.Tensor]]:
    return pair.ask("sinkhorn", {}, [{}, {}])


def _gone(pid: int) -> bool:
    """Whether a process has ended, waited for up to ten seconds; one that its parent has not collected has."""
    for _ in range(400):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.025)
    return False


def test_a_pair_answers_again_and_again(stand_in: Callable[..., Pair]) -> None:
    """Both ranks' tensors, in order of rank; afterwards no process is left, and the folder is gone."""
    with stand_in() as two:
        pids, folder = [process.pid for process in two._processes], two._place
        for _ in range(3):
            answers = _ask(two)
            assert [list(answer) for answer in answers] == [["x"], ["x"]]
    assert not two.alive
    assert all(_gone(pid) for pid in pids)
    assert not folder.exists()


class _Noting:
    """In the place of a pair: notes what each rank is given."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def ask(self, case: str, options: object, tensors: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Answer with one tensor of each rank."""
        self.seen = [sorted(own) for own in tensors]
        return [{"y": torch.zeros(1)}, {"y": torch.ones(1)}]


def test_tensors_go_to_the_rank_that_they_are_for() -> None:
    """`rank N/name` to rank N as `name`, others to both; answers come back under the rank's name."""
    noting = _Noting()
    given = {name: torch.ones(1) for name in ("state w", "rank 0/b", "rank 1/b", "rank 1/c")}
    found = RemoteStack(object(), cast(Pair, noting)).run("step", {}, given)
    assert noting.seen == [["b", "state w"], ["b", "c", "state w"]]
    assert {name: float(value) for name, value in found.items()} == {"rank 0/y": 0.0, "rank 1/y": 1.0}


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (
            'answer("answer-" + number, "error" if rank == "1" else "fine")',
            r"rank 1 of 2: ValueError: no such prototype",
        ),
        ('print("out of memory"); sys.exit(9 if rank == "0" else 0)', r"rank [01] of 2 ended with exit code [09]; its"),
        ("os._exit(7)", r"rank [01] of 2 ended with exit code 7$"),
        ('rank == "1" or answer("answer-" + number)', r"rank 1 of 2 did not answer within 0\.7 s \(sinkhorn\); ranks"),
        ("time.sleep(60)", r"rank 0 of 2 and rank 1 of 2 did not answer within 0\.7 s"),
    ],
)
def test_a_rank_that_fails_is_named_and_both_are_ended(
    stand_in: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, serve: str, words: str
) -> None:
    """One that raises, one that ends, one that hangs: which, how, and what it last said; the pair is not used again."""
    monkeypatch.setattr(pair, "REQUEST_S", 0.7)
    with stand_in(serve) as two:
        pids = [process.pid for process in two._processes]
        with pytest.raises(RanksError, match=words):
            _ask(two)
        assert all(_gone(pid) for pid in pids)
        with pytest.raises(RanksError, match="the ranks have ended after an earlier error"):
            _ask(two)


def test_processes_that_form_no_group_are_no_fault_of_the_subject(stand_in: Callable[..., Pair]) -> None:
    """Where joining fails, nothing has been loaded: the check is not run, and says why."""
    with (
        stand_in(join='sys.exit("gloo: no interface called lo")') as two,
        pytest.raises(GroupError, match=r"cannot form a gloo group here: rank [01] .* no interface called lo"),
    ):
        _ask(two)


def test_a_failure_after_joining_is_the_stack_s(stand_in: Callable[..., Pair]) -> None:
    """What raises when the stack is loaded is an error of its own kind."""
    with (
        stand_in(join='answer("joined"); answer("loaded", "error"); time.sleep(60)') as two,
        pytest.raises(RanksError, match="rank 0 of 2: ValueError") as caught,
    ):
        _ask(two)
    assert not isinstance(caught.value, GroupError)


def test_no_rank_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed outright, it closes their input, and they end, whatever they are doing."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import sys, time\n"
        "from parity.ranks.worker import _requests\n"
        "_requests()\n"
        "print('reading', flush=True)\n"
        "time.sleep(60)\n"
    )
    rank = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert rank.stdin is not None
    assert rank.stdout is not None
    assert rank.stdout.readline() == b"reading\n"
    rank.stdin.close()
    assert rank.wait(timeout=20) == 3
    rank.stdout.close()
