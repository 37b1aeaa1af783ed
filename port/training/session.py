"""Everything that a run consists of, built from its configuration in the one order that works."""

from __future__ import annotations

import copy
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from port.checkpoint import Checkpointer, as_container, check_compatible, find_checkpoints, training_state
from port.checkpoint.ranks import on_rank_zero
from port.config import apply_scaling_rules
from port.data.bad_files import BadFileLog
from port.data.datasets import ImageSource, check_readable, make_dataset
from port.data.seeding import derive_seed
from port.optim import PrototypeOptimizer, build_optimizer, build_schedulers, describe_groups
from port.preflight import check_before_training, check_output_dir
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep
from port.training.evaluation import LabelledPair, Monitor, open_labelled_pair
from port.training.output import check_apart, move_aside, save_config
from port.training.parallel import Processes, checkpoint_activations, compile_blocks, parallelise
from port.training.precision import autocast, choose_precision, gradient_scaler
from port.training.start import start_from_weights
from port.watch.statistics import GradientStatistics

__all__ = ["Session", "open_session", "seed_iteration"]

logger = logging.getLogger("port")
N_PREFLIGHT_IMAGES = 16
"""Images that are read before anything is built, to fail early on data that cannot be read at all."""


@dataclass
class Session:
    """A run, ready to go on from `start_iteration`.

    Attributes:
        cfg: with the learning rate scaled.
        processes, device, precision: where and how it computes.
        source: the images.
        labelled: images for k-NN.
        model: on its device, spread over the processes.
        step: carries out iterations.
        optimizers: by the names that checkpoints use.
        checkpointer: of the output folder.
        gradient_statistics: measures, when told to.
        bad_files: what could not be read.
        output: the run's folder.
        start_iteration: 0, or where the newest checkpoint left off.
        total_iterations: of the whole run.
        wall_seconds: that earlier sessions took.
    """

    cfg: DictConfig
    processes: Processes
    device: torch.device
    precision: str
    source: ImageSource
    labelled: LabelledPair | None
    model: SSLMetaArch
    step: TrainStep
    optimizers: dict[str, torch.optim.Optimizer]
    checkpointer: Checkpointer
    gradient_statistics: GradientStatistics
    bad_files: BadFileLog
    output: Path
    start_iteration: int
    total_iterations: int
    wall_seconds: float

    @property
    def global_batch_size(self) -> int:
        """Images per optimizer step."""
        cfg = self.cfg
        return self.processes.world_size * int(cfg.train.batch_size_per_gpu) * int(cfg.accumulation_steps)

    def evaluate(self, monitor: Monitor, iteration: int) -> float | None:
        """Measure k-NN after `iteration` iterations, and make a picture; all ranks must call this.

        Rank 0 works while the others wait, but where the model is sharded all must take part.
        """
        rank = self.processes.rank
        accuracy = None
        sharded = self.cfg.parallel == "fsdp" and self.processes.world_size > 1
        if sharded or rank == 0:
            backbone = self.model.teacher["backbone"]
            accuracy = monitor.measure(backbone, iteration, write=rank == 0)
            monitor.picture(backbone, iteration, write=rank == 0)
        if dist.is_initialized():
            dist.barrier()
        return accuracy

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors to save; see `training_state`."""
        return training_state(self.model, self.optimizers, self.step.scaler)


def open_session(
    cfg: DictConfig, processes: Processes, device: torch.device, *, resume: bool, training: bool = True
) -> Session:
    """Build a run, and restore it where its output folder holds checkpoints.

    What is in the output folder already changes only after everything that can be wrong has been looked at.

    Args:
        cfg: from the command line; its learning rate is set.
        processes: already in a group, where there are several.
        device: of this process.
        resume: whether to go on from the newest checkpoint; else the folder's checkpoints are moved aside.
        training: false to evaluate only: there must be a checkpoint, and `config.yaml` stays as it is.

    Raises:
        ValueError: configuration, data or checkpoint do not allow the run.
        OSError: the output folder cannot be written, or the data cannot be read.
    """
    check_before_training(cfg, processes.world_size, None, device.type)
    precision = choose_precision(cfg.precision, device)
    output = Path(cfg.train.output_dir)
    fresh = on_rank_zero(lambda: not resume or not find_checkpoints(output / "checkpoints"))
    if fresh and not training:
        raise ValueError(f"--eval-only: {output} holds no checkpoint to go on from, expected one; train first")
    source, labelled = _open_data(cfg, processes, device), open_labelled_pair(cfg)
    check_apart(output, source, labelled)
    check_output_dir(output)
    text = OmegaConf.to_yaml(cfg)
    global_batch_size = processes.world_size * cfg.train.batch_size_per_gpu * cfg.accumulation_steps
    apply_scaling_rules(cfg, global_batch_size)
    model = _build_model(cfg, device, precision, fresh=fresh)
    parallelise(model, cfg.parallel, device)
    statistics = GradientStatistics()
    step, optimizers = _build_step(cfg, model, precision, global_batch_size, statistics)
    session = Session(
        cfg=cfg,
        processes=processes,
        device=device,
        precision=precision,
        source=source,
        labelled=labelled,
        model=model,
        step=step,
        optimizers=optimizers,
        checkpointer=Checkpointer(output / "checkpoints", cfg.checkpoint.keep),
        gradient_statistics=statistics,
        bad_files=BadFileLog(output / "bad_files.jsonl", len(source), cfg.data.max_bad_share),
        output=output,
        start_iteration=0,
        total_iterations=cfg.optim.epochs * cfg.train.OFFICIAL_EPOCH_LENGTH,
        wall_seconds=0.0,
    )
    _restore(session, resume=resume)
    if training:
        on_rank_zero(lambda: save_config(text, output / "config.yaml"))
    return session


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed what a step draws from (drop path), so that a resumed run needs no generator's state."""
    derived = derive_seed(seed, "step", iteration, rank)
    torch.manual_seed(derived)
    random.seed(derived)
    np.random.seed(derived % 2**32)


def _open_data(cfg: DictConfig, processes: Processes, device: torch.device) -> ImageSource:
    source = make_dataset(cfg.train.dataset_path)
    warnings = check_before_training(cfg, processes.world_size, len(source), device.type)
    for warning in warnings if processes.rank == 0 else ():
        logger.warning("%s", warning)
    check_readable(source, N_PREFLIGHT_IMAGES, cfg.data.max_bad_share)
    return source


def _build_model(cfg: DictConfig, device: torch.device, precision: str, *, fresh: bool) -> SSLMetaArch:
    """Build the model alike on all ranks; a run that goes on needs no weights to start from."""
    torch.manual_seed(derive_seed(cfg.train.seed, "model"))
    if not fresh:
        # The file may be gone by now, and what it held is in the checkpoint.
        cfg = copy.deepcopy(cfg)
        cfg.student.pretrained_weights = ""
    model = SSLMetaArch(cfg)
    if fresh:
        start_from_weights(model, cfg)
    model.to(device).train()
    model.autocast = autocast(precision, device)
    if cfg.activation_checkpointing:
        checkpoint_activations(model.student["backbone"])
    if cfg.compile:
        for networks in (model.student, model.teacher):
            compile_blocks(networks["backbone"])
    return model


def _build_step(
    cfg: DictConfig, model: SSLMetaArch, precision: str, global_batch_size: int, statistics: GradientStatistics
) -> tuple[TrainStep, dict[str, torch.optim.Optimizer]]:
    """Return the step, and its optimizers by the names that checkpoints use."""
    optimizer = build_optimizer(cfg, model.get_params_groups())
    logger.info("%s", describe_groups(optimizer))
    optimizers: dict[str, torch.optim.Optimizer] = {"student": optimizer}
    prototypes = None
    if model.do_prototypes:
        prototypes = PrototypeOptimizer(model.prototype_loss, cfg, global_batch_size)
        optimizers["prototypes"] = prototypes.optimizer
    step = TrainStep(
        model,
        optimizer,
        build_schedulers(cfg),
        cfg,
        prototypes=prototypes,
        scaler=gradient_scaler(precision, cfg),
        on_gradients=(statistics,),
    )
    return step, optimizers


def _restore(session: Session, *, resume: bool) -> None:
    state = session.state()
    if not resume:
        on_rank_zero(lambda: move_aside(session.checkpointer.folder))
    elif metadata := session.checkpointer.load(state, as_container(session.cfg)):
        warnings = check_compatible(metadata, session.cfg, len(session.source))
        for warning in warnings if session.processes.rank == 0 else ():
            logger.warning("%s", warning)
        session.start_iteration = metadata.iteration
        session.wall_seconds = metadata.wall_seconds
    session.checkpointer.check_writable(state)
