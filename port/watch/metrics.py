"""Where the numbers of a run go: JSON lines always, TensorBoard and Weights & Biases where asked for."""

from __future__ import annotations

import importlib
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from port.watch.jsonlines import METRICS_FILE, JsonLines

__all__ = ["MetricWriter"]

WANDB_ID_FILE = "wandb_run_id.txt"
logger = logging.getLogger("port")


class Sink(Protocol):
    """A place that takes numbers."""

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Take the values of an iteration."""

    def flush(self) -> None:
        """Bring to disk what was taken."""

    def close(self) -> None:
        """Finish."""


class MetricWriter:
    """Writes the metrics of a run to `OUTPUT/training_metrics.json`, and to TensorBoard and W&B where asked for.

    Only rank 0 writes; on other ranks every method does nothing. After the constructor nothing that fails here
    stops the training: it is said once, in a warning.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        tensorboard: bool,
        wandb_project: str,
        config: DictConfig | Mapping[str, object],
        resume_iteration: int,
    ) -> None:
        """Open everything, and drop what was logged from `resume_iteration` on.

        W&B keeps the first value of an iteration that is logged twice; after an exact resume both are the same.

        Args:
            output_dir: created where it does not exist.
            tensorboard: write event files to OUTPUT/tensorboard.
            wandb_project: Weights & Biases project; empty for none. The run's id is kept in OUTPUT.
            config: shown beside the numbers.
            resume_iteration: the first iteration to come; 0 for a fresh start.

        Raises:
            OSError: the JSON lines cannot be written.
        """
        self._json: JsonLines | None = None
        self._sinks: dict[str, Sink] = {}
        if dist.is_initialized() and dist.get_rank() != 0:
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._json = JsonLines(folder / METRICS_FILE, resume_iteration)
        if tensorboard:
            self._open("TensorBoard", "pip install 'dinov2-parity[train]'", _TensorBoard, folder, resume_iteration)
        if wandb_project:
            self._open("W&B", "pip install 'dinov2-parity[wandb]'", _Wandb, folder, wandb_project, config)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write values of an iteration, which may come in several calls.

        Raises:
            ValueError: a name is `iteration` or `nonfinite`.
        """
        if self._json is None:
            return
        self._json.write(iteration, values)
        for name in list(self._sinks):
            self._attempt(name, "write", iteration, values)

    def flush(self) -> None:
        """Bring everything to disk, as before a checkpoint; JSON lines always are."""
        for name in list(self._sinks):
            self._attempt(name, "flush")

    def close(self) -> None:
        """Finish; a second call does nothing."""
        for name in list(self._sinks):
            self._attempt(name, "close")
        self._sinks.clear()
        if self._json is not None:
            self._json.close()
            self._json = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, name: str, remedy: str, sink: Any, *arguments: object) -> None:
        try:
            self._sinks[name] = sink(*arguments)
        except ImportError as error:
            logger.warning("%s is not installed (%s): the run goes on without it; %s", name, error, remedy)
        except Exception as error:  # whatever a service answers
            logger.warning("%s did not start (%s: %s): the run goes on without it", name, type(error).__name__, error)

    def _attempt(self, name: str, method: str, *arguments: object) -> None:
        try:
            getattr(self._sinks[name], method)(*arguments)
        except Exception as error:  # whatever a service answers
            del self._sinks[name]
            logger.warning("%s failed (%s: %s): the run goes on without it", name, type(error).__name__, error)


class _TensorBoard:
    def __init__(self, folder: Path, resume_iteration: int) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        # TensorBoard then hides what an earlier session logged from this step on.
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=resume_iteration)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, project: str, config: DictConfig | Mapping[str, object]) -> None:
        wandb = importlib.import_module("wandb")
        id_file = folder / WANDB_ID_FILE
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else ""
        if not run_id:
            run_id = secrets.token_hex(8)
            id_file.write_text(run_id + "\n", encoding="utf-8")
        shown = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
        self._run = wandb.init(project=project, id=run_id, resume="allow", dir=str(folder), config=shown)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=iteration)

    def flush(self) -> None:
        """Do nothing: W&B sends in a process of its own."""

    def close(self) -> None:
        self._run.finish()
