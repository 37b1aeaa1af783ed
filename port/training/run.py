"""A whole run: processes, device, session, loop, and what is left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from port.checkpoint import save_teacher
from port.cli import ExitCode
from port.signals import StopRequest
from port.training.evaluation import KNN_FILE, PCA_FILE, Monitor
from port.training.logs import log_to_file
from port.training.loop import train
from port.training.parallel import Processes, process_group
from port.training.precision import choose_device, keep_freed_memory, limit_threads, reproducible
from port.training.session import Session, open_session
from port.watch.hardware import hardware_line
from port.watch.jsonlines import METRICS_FILE
from port.watch.plots import plot_losses

__all__ = ["LOSSES_FILE", "run"]

logger = logging.getLogger("port")
LOSSES_FILE = "losses.png"
SHORT_RUN = 1000
"""Iterations below which a k-NN accuracy says that the parts work together, and little about the method."""


def run(cfg: DictConfig, *, resume: bool = True, eval_only: bool = False) -> ExitCode:
    """Train, or evaluate only, as a configuration says; torchrun's variables make it one of several processes.

    Args:
        cfg: from `port.cli.load_run_config`; its learning rate is set.
        resume: whether to go on from the newest checkpoint in `train.output_dir`.
        eval_only: evaluate and export the newest checkpoint's teacher instead.

    Returns:
        `DONE`, or `STOPPED` after a signal, with nothing lost.

    Raises:
        ValueError, OSError, ImportError: the run cannot start or go on as asked.
        NonFiniteError: a loss or gradient was not finite.
    """
    if eval_only and not resume:
        raise ValueError(
            "--eval-only evaluates the newest checkpoint, which --no-resume leaves aside; give one of them"
        )
    processes = Processes.from_environment()
    device = choose_device(cfg.device, processes.local_rank)
    with ExitStack() as stack:
        if device.type == "cpu":
            limit_threads(processes.local_world_size)
            keep_freed_memory()
        stack.enter_context(reproducible(device, cfg.deterministic))
        stack.enter_context(process_group(processes, device))
        # Not before, as ranks may wait for each other there for long. An evaluation ends at once.
        stop = StopRequest(device) if eval_only else stack.enter_context(StopRequest(device))
        session = open_session(cfg, processes, device, resume=resume, training=not eval_only)
        stack.enter_context(log_to_file(session.output, processes.rank))
        logger.info("%s", hardware_line(device, session.precision))
        logger.info("output: %s", session.output)
        monitor = Monitor(
            cfg,
            session.source,
            session.labelled,
            session.output,
            device=device,
            autocast=session.model.autocast,
            start_iteration=session.start_iteration,
        )
        if eval_only:
            evaluate(session, monitor)
            return ExitCode.DONE
        if not train(session, stop, monitor):
            return ExitCode.STOPPED
        if processes.rank == 0:
            _draw(session.output)
            _tell(session, monitor)
    return ExitCode.DONE


def evaluate(session: Session, monitor: Monitor) -> None:
    """Measure the newest checkpoint's teacher, and write it as official's evaluation reads it."""
    done = session.start_iteration
    session.evaluate(monitor, done)
    path = save_teacher_of(session, done)
    if session.processes.rank == 0:
        logger.info("teacher: %s", path)
        _tell(session, monitor)


def save_teacher_of(session: Session, done: int) -> Path:
    """Write the teacher after `done` iterations under official's name (`dinov2/train/train.py:124-131`)."""
    path = session.output / f"eval/training_{done - 1}/teacher_checkpoint.pth"
    save_teacher(session.model, path)
    return path


def _draw(output: Path) -> None:
    """Draw the losses; a picture that cannot be made loses nothing else."""
    _attempt("the loss curve", lambda: plot_losses(output / METRICS_FILE, output / LOSSES_FILE, output.name))


def _attempt(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (ImportError, OSError, ValueError) as error:
        logger.warning("no picture of %s: %s", what, error)


def _tell(session: Session, monitor: Monitor) -> None:
    """Say how it went, and where to look."""
    record, output = monitor.record, session.output
    if record.curve:
        first, last = min(record.curve), max(record.curve)
        before = f"{record.curve[first]:.3f} {'before training' if first == 0 else f'after {first} iterations'}, "
        logger.info(
            "k-NN accuracy: %s%.3f after %d iterations; raw pixels %.3f, chance %.3f (%d images, %d vote)",
            before if first != last else "",
            record.curve[last],
            last,
            record.raw_pixels,
            1 / max(record.n_classes, 1),
            record.n_test,
            record.n_train,
        )
        if last < SHORT_RUN:
            logger.info("A run of %d iterations shows that everything works, not that much was learnt.", last)
    names = (KNN_FILE, LOSSES_FILE, PCA_FILE, METRICS_FILE)
    there = ", ".join(name for name in names if (output / name).exists())
    logger.info("in %s: %s", output, there)
