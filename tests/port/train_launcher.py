"""Runs of `python port/train.py` in processes that end at a chosen place.

Starting Python and importing torch takes seconds, so `Launcher` starts one process that imports everything once and
forks a child for each run. A child notes every file that it makes, syncs, renames or removes below its output folder,
and can be told to die there: just before the operation, or with half of the file on the disk.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch
from train_runs import ENVIRONMENT, REPOSITORY, use_test_architectures

import port.train

__all__ = ["Ended", "Launcher", "Place"]


@dataclass(frozen=True)
class Place:
    """Where a run is to be disturbed.

    Attributes:
        seconds: after its start; None for not at a time.
        event: number of the file operation, from 0; None for not at one.
        matching: regular expression; only operations that it is found in count for `event`.
        signals: what it gets there.
        torn: whether the file that is being synced loses its second half before.
        file_limit: bytes that a file may have at most; None for no limit.
    """

    seconds: float | None = None
    event: int | None = None
    matching: str = ""
    signals: tuple[int, ...] = (signal.SIGKILL,)
    torn: bool = False
    file_limit: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: its exit code; minus the signal that killed it.
        seconds: that it took.
        events: its file operations, each as `name path`.
        left: processes of its group that were alive a little later.
        log: what it wrote to stdout and stderr.
    """

    code: int
    seconds: float
    events: list[str]
    left: list[int]
    log: str


class Launcher:
    """A process that forks a child for every run."""

    def __init__(self, folder: Path) -> None:
        """Start it; logs of its children go to `folder`."""
        self.folder = folder
        self.count = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env={
                **os.environ,
                **ENVIRONMENT,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv: Sequence[str], place: Place | None = None) -> Ended:
        """Run a command line to its end, or to the place where it is killed.

        Args:
            argv: from `arguments`.
            place: where to disturb it; None for nowhere.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self.count += 1
        log, events = self.folder / f"{self.count}.log", self.folder / f"{self.count}.events"
        for path in (log, events):
            path.touch()  # a child may be killed before it has opened them
        request = {"argv": list(argv), "place": asdict(place or Place()), "log": str(log), "events": str(events)}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = json.loads(self._server.stdout.readline())
        return Ended(
            answer["code"],
            answer["seconds"],
            events.read_text().splitlines(),
            _survivors(answer["pid"]),
            log.read_text(),
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(timeout=300)


def _survivors(group: int, seconds: float = 60.0) -> list[int]:
    """Return the processes of a group that are still alive after some time; those that ended and wait are not."""
    deadline = time.monotonic() + seconds
    while alive := list(_alive(group)):
        if time.monotonic() > deadline:
            return alive
        time.sleep(0.02)
    return []


def _alive(group: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            yield int(path.parent.name)


# What follows runs in the launcher's process and its children.


def _serve() -> None:
    import matplotlib.pyplot  # noqa: F401 - slow to import, so once for all children

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(request)
        code = _wait(child, began, request["place"]["seconds"])
        answer = {"code": code, "seconds": time.monotonic() - began, "pid": child}
        print(json.dumps(answer), flush=True)


def _wait(child: int, began: float, seconds: float | None) -> int:
    """Wait for a child, kill it after so many seconds, and return its code."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if seconds is not None and time.monotonic() - began >= seconds:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def _child(request: Mapping[str, Any]) -> None:
    code = 99
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        place = Place(**request["place"])
        if place.file_limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (place.file_limit, place.file_limit))
        argv = request["argv"]
        with pytest.MonkeyPatch.context() as patch, _noted(argv[argv.index("--output-dir") + 1], request, place, patch):
            use_test_architectures(patch)
            code = port.train.main(argv)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


@contextmanager
def _noted(output: str, request: Mapping[str, Any], place: Place, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note file operations below the output folder, and disturb the run at one of them."""
    notes = os.open(request["events"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    main, count = os.getpid(), 0
    fsync = os.fsync

    def note(name: str, what: str, descriptor: int | None = None) -> None:
        nonlocal count
        if os.getpid() != main:
            return  # a loader's worker
        line = f"{name} {what}"
        os.write(notes, f"{line}\n".encode())
        if not re.search(place.matching, line):
            return
        count += 1
        if count - 1 == place.event:
            if place.torn and descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            for number in place.signals:
                # As a terminal or torchrun does, to loader processes too.
                (os.kill if number == signal.SIGKILL else os.killpg)(main, number)

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
            return
        if not isinstance(values[0], str | os.PathLike):
            return
        path = os.fspath(values[0])
        writes = event != "open" or bool(values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        # shutil.rmtree removes what is in a folder by names relative to it.
        if writes and (path.startswith(output) or (event == "os.remove" and not os.path.isabs(path))):  # noqa: PTH117
            note(event, path)

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        note("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}"), descriptor)  # noqa: PTH115 - no Path in here

    patch.setattr(os, "fsync", noted_fsync)
    sys.addaudithook(hook)
    yield


if __name__ == "__main__":
    _serve()
