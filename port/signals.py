"""Stops a run at the end of a step, on all ranks at the same one.

SIGTERM, SIGUSR1 (SLURM's warning, with `--signal=USR1@60`) and the first SIGINT ask for it; a second SIGINT, and one
before training, where there is nothing to save, raise KeyboardInterrupt at once. The run then saves a checkpoint and
exits with `EXIT_STOPPED`.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

__all__ = ["EXIT_STOPPED", "StopRequest", "ignore_stop_signals"]

logger = logging.getLogger("port")

EXIT_STOPPED = 75
"""The exit code of a run that was asked to stop (EX_TEMPFAIL): it has saved; the same command goes on from there."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Context manager that turns signals into a flag; on leaving, the signals do again what they did before.

    Attributes:
        reason: name of the first signal that came to this process, or None.
        training: whether there may be something to save; the caller sets it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Remember where ranks talk to each other: `cuda` for NCCL, `cpu` for gloo."""
        self.device = torch.device(device)
        self.reason: str | None = None
        self.training = False
        self._interrupts = 0
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    @property
    def requested(self) -> bool:
        """Whether any rank was asked to stop; a collective of one number: ask once per step on every rank."""
        asked = self.reason is not None
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return asked
        flag = torch.tensor(int(asked), dtype=torch.int32, device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            logger.info("signals are not handled: the run is not in the main thread, and will not save when stopped")
            return self
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python; it cannot be set back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # No logging here: the signal may have come while a log line was being written.
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1 or not self.training:
                raise KeyboardInterrupt
        if self.reason is None:
            self.reason = signal.Signals(number).name


def ignore_stop_signals() -> None:
    """Let a loader's worker process outlive stop signals, which reach every process of a terminal or a torchrun.

    A worker that died of one would make torch raise an error in the main process before it has saved. Call it in
    the worker; it ends when the main process ends it, or is gone.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
