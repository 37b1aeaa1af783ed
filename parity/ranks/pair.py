"""The two processes: started, asked, watched and ended.

A process is asked by a line on its standard input and answers with a file, so that nothing that the code under
comparison prints is taken for an answer. It ends when its input does, so that none outlives this process, however that
ends. They meet through a file too: no port is chosen that another program may take meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from parity.errors import SubjectError

__all__ = ["LOADING_S", "REQUEST_S", "WORLD_SIZE", "GroupError", "Pair", "RanksError"]

WORLD_SIZE = 2
LOADING_S = 300.0
"""Seconds after which processes that load are taken to hang, on a busy machine too."""
REQUEST_S = 120.0
"""Seconds after which an answer is no longer waited for; a collective that waits for a rank gives up then, too."""

_POLL_S = 0.005


class RanksError(SubjectError):
    """A rank raised, ended or did not answer; the message says which, and what it last said."""


class GroupError(RanksError):
    """The processes cannot form a gloo group on this machine, whatever they are to compare."""


class Pair:
    """Two processes that have joined one group and loaded one stack.

    Args:
        owner: put behind `rank 0 of 2` in messages; nothing for the subject's, which reports name anyway.
        side: `official` or `subject`.
        reference: folder that holds official `dinov2/`.
        allow_modified: whether code that is not official's may be run.
        subject: as given to `--subject`.
        path: where the processes import from.
        worker: what the interpreter is given to run; the folder and the rank follow.
    """

    def __init__(
        self,
        owner: str,
        side: str,
        reference: str,
        *,
        allow_modified: bool,
        subject: str,
        path: Sequence[str],
        worker: Sequence[str] = ("-m", "parity.ranks.worker"),
    ) -> None:
        self._owner = owner
        self._worker = tuple(worker)
        self._path = os.pathsep.join(str(Path(entry).resolve()) for entry in path)
        self._folder = tempfile.TemporaryDirectory(prefix="dinov2-parity-ranks-", ignore_cleanup_errors=True)
        self._place = Path(self._folder.name)
        self._asked = 0
        setup = {
            "side": side,
            "reference": reference,
            "allow_modified": allow_modified,
            "subject": subject,
            "world_size": WORLD_SIZE,
            "collective_s": REQUEST_S,
        }
        (self._place / "setup.json").write_text(json.dumps(setup), "utf-8")
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(WORLD_SIZE):
                self._processes.append(self._start(rank))
        except OSError as error:
            self.close()
            raise GroupError(f"a second process cannot be started: {error}") from error
        self._ready = False

    def __enter__(self) -> Pair:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can be asked: nothing has failed, and it has not been closed."""
        return bool(self._processes)

    def ask(
        self, case: str, options: Mapping[str, Any], tensors: Sequence[Mapping[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Run a case on all ranks at once and return what each computed.

        Args:
            case: a function of `parity.ranks.cases`.
            options: plain data, alike on all ranks.
            tensors: of each rank.

        Raises:
            GroupError: no group could be formed.
            RanksError: a rank raised, ended or did not answer. The pair is closed then.
        """
        if not self.alive:
            raise RanksError(f"the ranks{self._owner} have ended after an earlier error")
        try:
            self._join()
            self._asked += 1
            for rank in range(WORLD_SIZE):
                request = {"case": case, "options": dict(options), "tensors": dict(tensors[rank])}
                torch.save(request, self._place / f"request-{self._asked}-{rank}.pt")
            for rank, process in enumerate(self._processes):
                self._send(rank, process)
            return [answer["tensors"] for answer in self._answers(f"answer-{self._asked}", case, REQUEST_S)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End both processes, and wait until they have ended."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            with contextlib.suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
        self._processes = []
        self._folder.cleanup()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        # One thread adds in one order; and a host's name need not have an address, where its loopback has one.
        environment = {**os.environ, "PYTHONPATH": self._path, "OMP_NUM_THREADS": "1"}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        if sys.platform == "win32":
            environment.pop("GLOO_SOCKET_IFNAME")
        with self._log(rank).open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - this very interpreter, and a file of ours
                [sys.executable, *self._worker, str(self._place), str(rank)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def _send(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(f"{self._asked}\n".encode())
            process.stdin.flush()
        except OSError as error:  # it has ended; what it said is in its log
            raise RanksError(self._ended(rank, process.wait())) from error

    def _join(self) -> None:
        """Wait until both have joined the group, and then until both have loaded the stack."""
        if self._ready:
            return
        try:
            self._answers("joined", "joining a gloo group", LOADING_S)
        except RanksError as error:
            raise GroupError(f"two processes cannot form a gloo group here: {error}") from error
        self._answers("loaded", "loading the stack", LOADING_S)
        self._ready = True

    def _answers(self, name: str, what: str, limit: float) -> list[dict[str, Any]]:
        """Wait for a file of each rank; the first that fails decides."""
        deadline = time.monotonic() + limit
        found: dict[int, dict[str, Any]] = {}
        while len(found) < WORLD_SIZE:
            for rank, process in enumerate(self._processes):
                if rank in found:
                    continue
                ended = process.poll()  # asked before the file is looked for, which it may have written last
                file = self._place / f"{name}-{rank}.pt"
                if file.exists():
                    found[rank] = torch.load(file, weights_only=True)
                    file.unlink()
                    if found[rank].get("error"):
                        raise RanksError(f"{self._named(rank)}: {found[rank]['error']}")
                elif ended is not None:
                    raise RanksError(self._ended(rank, ended))
            if time.monotonic() > deadline:
                silent = " and ".join(self._named(rank) for rank in range(WORLD_SIZE) if rank not in found)
                raise RanksError(
                    f"{silent} did not answer within {limit:g} s ({what}); ranks that wait for each other make "
                    "different collective calls"
                )
            time.sleep(_POLL_S)
        return [found[rank] for rank in range(WORLD_SIZE)]

    def _ended(self, rank: int, code: int) -> str:
        said = self._log(rank).read_text("utf-8", errors="replace").strip().splitlines()
        last = f"; its last line: {said[-1].strip()[:300]}" if said else ""
        return f"{self._named(rank)} ended with exit code {code}{last}"

    def _named(self, rank: int) -> str:
        return f"rank {rank} of {WORLD_SIZE}{self._owner}"

    def _log(self, rank: int) -> Path:
        return self._place / f"rank-{rank}.log"
