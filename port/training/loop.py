"""The loop of a run: data, step, numbers, checkpoints, until it is done or asked to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from port.checkpoint import Metadata, save_teacher
from port.checkpoint.ranks import on_all_ranks
from port.data.collate import Batch
from port.data.loader import make_data_loader
from port.signals import StopRequest
from port.step import StepReport
from port.training.evaluation import Monitor
from port.training.session import Session, seed_iteration
from port.watch.doctor import check_initial_losses, masked_share, why_no_check
from port.watch.incident import nonfinite_error
from port.watch.metrics import MetricWriter
from port.watch.progress import TrainingProgress
from port.watch.statistics import LogitStatistics, to_floats

__all__ = ["train"]

logger = logging.getLogger("port")
EPOCHS_PER_CHECKPOINT = 3
"""Official's period (`dinov2/train/train.py:151`)."""


def train(session: Session, stop: StopRequest, monitor: Monitor) -> bool:
    """Carry out the iterations that are left.

    Args:
        session: opened; on return its model is trained, and the newest checkpoint holds it.
        stop: asked before the first iteration and after each; from here on Ctrl-C asks too, instead of ending at once.
        monitor: asked after each iteration.

    Returns:
        Whether the run is done; else it was stopped, and saved.

    Raises:
        FloatingPointError: a loss or gradient was not finite.
        ValueError, OSError: the data or the disk let the run down.
    """
    if session.start_iteration >= session.total_iterations:
        logger.info("the run is complete at iteration %d; optim.epochs makes it longer", session.total_iterations)
        return True
    stop.training = True
    with ExitStack() as stack:
        if _stopped_before(stop, session.start_iteration):
            return False
        loop = _Loop(session, monitor, stack)
        loop.watch_start()
        if _stopped_before(stop, session.start_iteration):
            return False
        for iteration in range(session.start_iteration, session.total_iterations):
            loop.iterate(iteration)
            last = iteration + 1 == session.total_iterations
            stopping = stop.requested
            if last or stopping or (iteration + 1) % loop.checkpoint_period == 0:
                loop.save(iteration + 1)
            if stopping and not last:
                logger.warning("stopped after iteration %d: saved; run the same command to go on", iteration)
                return False
    return True


def _stopped_before(stop: StopRequest, iteration: int) -> bool:
    """Return whether the run was asked to stop while it started; there is nothing new to save then."""
    if not stop.requested:
        return False
    logger.warning("stopped before iteration %d: nothing new to save; run the same command to go on", iteration)
    return True


class _Loop:
    """The parts that live as long as the loop."""

    def __init__(self, session: Session, monitor: Monitor, stack: ExitStack) -> None:
        cfg = session.cfg
        self.session, self.monitor = session, monitor
        self.started = time.monotonic()
        self.checkpoint_period = (
            cfg.checkpoint.period_iterations or EPOCHS_PER_CHECKPOINT * cfg.train.OFFICIAL_EPOCH_LENGTH
        )
        self.loader = stack.enter_context(
            make_data_loader(
                session.source,
                cfg,
                rank=session.processes.rank,
                world_size=session.processes.world_size,
                start_iteration=session.start_iteration,
            )
        )
        self.writer = stack.enter_context(
            MetricWriter(
                session.output,
                tensorboard=cfg.logging.tensorboard,
                wandb_project=cfg.logging.wandb_project,
                config=cfg,
                resume_iteration=session.start_iteration,
            )
        )
        self.logits = LogitStatistics(session.model, cfg.teacher.warmup_teacher_temp)
        stack.callback(self.logits.remove)
        self.progress = stack.enter_context(
            TrainingProgress(
                session.total_iterations,
                start=session.start_iteration,
                images_per_iteration=session.global_batch_size,
                period=cfg.logging.period_iterations,
                enabled=session.processes.rank == 0,
            )
        )

    def watch_start(self) -> None:
        """Measure k-NN before the first step."""
        if self.session.start_iteration == 0:
            self._evaluate(0)

    def iterate(self, iteration: int) -> None:
        """Carry out one iteration and write down what it did."""
        session, cfg = self.session, self.session.cfg
        began = time.monotonic()
        loaded = [next(self.loader) for _ in range(cfg.accumulation_steps)]
        session.bad_files.record(skipped for batch in loaded for skipped in batch.skipped)
        data_seconds = time.monotonic() - began
        batches = [batch.batch for batch in loaded]
        measured = iteration % cfg.logging.period_iterations == 0
        session.gradient_statistics.due = self.logits.due = measured
        self.logits.teacher_temp = session.step.schedules.at(iteration).teacher_temp
        report = self._step(batches, iteration)
        displayed = to_floats(report.losses.displayed)
        if iteration == 0:
            self._examine(displayed, batches)
        values = self._values(report, displayed)
        values["data_time"], values["iteration_time"] = data_seconds, time.monotonic() - began
        if measured:
            values |= session.gradient_statistics.values() | self.logits.values()
        self.writer.write(iteration, values)
        self.progress.update(iteration, displayed, report.hyperparameters.lr)
        period = cfg.evaluation.eval_period_iterations
        if period > 0 and (iteration + 1) % period == 0:
            save_teacher(session.model, session.output / f"eval/training_{iteration}/teacher_checkpoint.pth")
        if self.monitor.due(iteration + 1) or iteration + 1 == session.total_iterations:
            self._evaluate(iteration + 1)

    def save(self, iteration: int) -> None:
        """Write a checkpoint from which `iteration` is the next."""
        seconds = self.session.wall_seconds + time.monotonic() - self.started
        n_bad = len(self.session.bad_files.bad_files)
        self.writer.flush()
        self.session.checkpointer.save(
            self.session.state(), Metadata.of_run(iteration, self.session.cfg, n_bad, seconds, len(self.session.source))
        )
        self.progress.skip_time()

    def _step(self, batches: Sequence[Batch], iteration: int) -> StepReport:
        session = self.session
        rank = session.processes.rank
        seed_iteration(session.cfg.train.seed, iteration, rank)
        try:
            return session.step.run(batches, iteration)
        except FloatingPointError as error:

            def again() -> object:
                seed_iteration(session.cfg.train.seed, iteration, rank)
                return session.model.forward_backward(batches, session.step.schedules.at(iteration).teacher_temp)

            raise nonfinite_error(
                session.model,
                batches,
                again,
                output_dir=session.output,
                iteration=iteration,
                failure=str(error),
                precision=session.precision,
                extra={name: optimizer.state_dict() for name, optimizer in session.optimizers.items()},
            ) from error

    def _examine(self, displayed: Mapping[str, float], batches: Sequence[Batch]) -> None:
        reason = why_no_check(self.session.cfg, self.session.start_iteration)
        if reason:
            logger.info("doctor: initial losses not checked: %s", reason)
            return
        # The losses are means over ranks, and so must be what explains them.
        shares = on_all_ranks(partial(masked_share, batches))
        share = sum(shares) / len(shares)
        findings = check_initial_losses(displayed, self.session.cfg, share_of_masked_crops=share)
        for finding in findings if self.session.processes.rank == 0 else ():
            logger.log(logging.INFO if finding.ok else logging.WARNING, "%s", finding)

    def _values(self, report: StepReport, displayed: Mapping[str, float]) -> dict[str, float]:
        """Return official's names (`dinov2/train/train.py:276-283`), then what official does not log."""
        now, losses = report.hyperparameters, report.losses
        own = to_floats(
            {"optimised_total": losses.total}
            | {f"optimised/{name}": value for name, value in losses.optimised.items()}
            | {f"gradient_norm/{name}": norm for name, norm in report.gradient_norms.items()}
        )
        values = {
            "lr": now.lr,
            "wd": now.wd,
            "mom": now.momentum,
            "last_layer_lr": now.last_layer_lr,
            "teacher_temp": now.teacher_temp,
            "current_batch_size": float(self.session.global_batch_size),
            "total_loss": sum(displayed.values()),
            **displayed,
            **own,
        }
        if self.session.step.scaler is not None:
            values["scale"] = self.session.step.scaler.get_scale()
        return values

    def _evaluate(self, iteration: int) -> None:
        """Measure k-NN after `iteration` steps."""
        accuracy = self.session.evaluate(self.monitor, iteration)
        if accuracy is not None:
            self.writer.write(max(iteration - 1, 0), {"knn_accuracy": accuracy})
        self.progress.skip_time()
