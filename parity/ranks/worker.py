"""One rank: joins the group, loads its stack, and computes what it is asked for, until its input ends."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

__all__ = ["main"]

_ORPHANED = 3


def main(folder: Path, rank: int) -> None:
    """Serve requests in a folder, see `parity.ranks.pair`.

    Args:
        folder: holds `setup.json`; requests and answers appear in it.
        rank: of this process.
    """
    requests = _requests()
    setup = json.loads((folder / "setup.json").read_text("utf-8"))
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # FileStore's public name is missing from torch's stubs.
    store = dist.FileStore(str(folder / "store"), setup["world_size"])  # type: ignore[attr-defined]
    limit = timedelta(seconds=setup["collective_s"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=setup["world_size"], timeout=limit)
    dist.barrier()
    _answer(folder, f"joined-{rank}", {})
    with ExitStack() as opened:
        try:
            stack = opened.enter_context(_stack(setup))
        except Exception as error:
            _answer(folder, f"loaded-{rank}", {"error": _told(error)})
            return
        _answer(folder, f"loaded-{rank}", {})
        while True:
            number = requests.get()
            request = torch.load(folder / f"request-{number}-{rank}.pt", weights_only=True)
            (folder / f"request-{number}-{rank}.pt").unlink()
            _answer(folder, f"answer-{number}-{rank}", _computed(stack, request))


def _requests() -> queue.Queue[int]:
    """Read numbers of requests in a thread of its own: whatever this process is doing, it ends when its input does."""
    numbers: queue.Queue[int] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            numbers.put(int(line))
        os._exit(_ORPHANED)

    threading.Thread(target=read, daemon=True).start()
    return numbers


@contextmanager
def _stack(setup: Mapping[str, Any]) -> Iterator[Any]:
    """Open the reference, as a run has it open for either side, and give the stack of this one."""
    from parity.adapters.official import OfficialStack
    from parity.recipes import SMALL_ARCHITECTURES
    from parity.reference import open_reference
    from parity.subjects import open_subject

    allowed = setup["allow_modified"]
    with open_reference(setup["reference"], allow_modified=allowed, own_group=False) as reference:
        if setup["side"] == "official":
            yield OfficialStack(reference, SMALL_ARCHITECTURES)
        else:
            with open_subject(setup["subject"]) as subject:
                yield subject


def _computed(stack: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a case; whatever it raises is an answer too, for the other rank may wait for this one."""
    import torch

    from parity.oracle import Float64Oracle
    from parity.ranks import cases

    tensors = request["tensors"]
    wide = any(tensor.dtype is torch.float64 for tensor in tensors.values())
    try:
        with Float64Oracle() if wide else ExitStack():
            found = cases.CASES[request["case"]](stack, request["options"], tensors)
    except (Exception, SystemExit) as error:
        return {"error": _told(error)}
    return {"tensors": {name: tensor.detach().clone() for name, tensor in found.items()}}


def _told(error: BaseException) -> str:
    from parity.errors import origin

    return f"{type(error).__name__}: {' '.join(str(error).split())}{origin(error)}"


def _answer(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    import torch

    temporary = folder / f".{name}.tmp"
    torch.save(dict(content), temporary)
    temporary.replace(folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
