"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

__all__ = ["TrainingProgress"]

WINDOW = 50
"""Iterations over which speed is averaged."""

REFRESH_SECONDS = 0.2
SUFFIXES = ("_loss", "_crops")
logger = logging.getLogger("port")


class TrainingProgress:
    """Shows step, images per second, losses, learning rate and the time to go.

    On a terminal this is a bar at the bottom; log lines go above it where their handler writes to `console`.
    Elsewhere, a line is logged every `period` iterations and at the end. Nothing runs in a thread, so that loader
    processes can be forked at any time. The environment's NO_COLOR is respected.

    The time to go comes from this session's last iterations alone, so it is right after a resume, where official
    divides by iterations of earlier sessions too (Q56).

    Attributes:
        console: writes to the stream.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int,
        images_per_iteration: int,
        period: int,
        stream: TextIO | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock and show the bar.

        Args:
            total: iterations of the whole run.
            start: the first iteration of this session; above 0 after a resume.
            images_per_iteration: images of an optimizer step on all ranks.
            period: iterations between plain lines.
            stream: where to; None for stderr.
            enabled: false to show nothing, as on ranks above 0.
            clock: seconds.

        Raises:
            ValueError: a number is out of range.
        """
        if period < 1:
            raise ValueError(f"logging.period_iterations is {period}, expected at least 1")
        if not 0 <= start <= total:
            raise ValueError(f"the first iteration is {start}, expected 0 to the run's {total}; optim.epochs sets it")
        self.total = total
        self.period = period
        self.images_per_iteration = images_per_iteration
        self.enabled = enabled
        self.console = Console(file=stream if stream is not None else sys.stderr)
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque([(clock(), start)], maxlen=WINDOW + 1)
        self._drawn = float("-inf")
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal and not self.console.is_dumb_terminal:
            # What does not fit is cut at the right, never the step.
            text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
            step = MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1))
            self._bar = Progress(BarColumn(bar_width=12), step, text, console=self.console, auto_refresh=False)
            self._task = self._bar.add_task("", total=total, completed=start, text="")
            self._bar.start()

    def update(self, iteration: int, losses: Mapping[str, float], lr: float) -> None:
        """Show that an iteration is done.

        Args:
            iteration: position in the run, from 0.
            losses: by name; `_loss` and `_crops_loss` at the end of a name are not shown.
            lr: learning rate.
        """
        done = iteration + 1
        now = self._clock()
        self._done.append((now, done))
        if not self.enabled:
            return
        last = done >= self.total
        if self._bar is not None:
            if last or now - self._drawn >= REFRESH_SECONDS:
                self._drawn = now
                self._bar.update(self._task, completed=done, text="\n".join(self._texts(losses, lr)), refresh=True)
        elif last or iteration % self.period == 0:
            logger.info("step %d/%d  %s", done, self.total, "  ".join(self._texts(losses, lr)))

    def skip_time(self) -> None:
        """Leave the time since the last update out of the speed: call it after an evaluation or a checkpoint."""
        pause = self._clock() - self._done[-1][0]
        self._done = deque(((then + pause, done) for then, done in self._done), maxlen=WINDOW + 1)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back; a second call does nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def iterations_per_second(self) -> float:
        """Return the speed over the last iterations; 0 before the first."""
        (first_time, first), (last_time, last) = self._done[0], self._done[-1]
        return (last - first) / (last_time - first_time) if last_time > first_time else 0.0

    def _texts(self, losses: Mapping[str, float], lr: float) -> tuple[str, str]:
        """Return the speed and the rest of its kind, and the losses."""
        speed = self.iterations_per_second()
        to_go = self.total - self._done[-1][1]
        eta = str(timedelta(seconds=round(to_go / speed))) if speed > 0 else "unknown"
        shown = [f"{_short(name)} {value:.4g}" for name, value in losses.items()]
        return f"{speed * self.images_per_iteration:.1f} images/s  eta {eta}  lr {lr:.3g}", "  ".join(shown)


def _short(name: str) -> str:
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name
