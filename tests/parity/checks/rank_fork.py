"""A fork as an adapter file whose fault is read from a file beside it at each call, so that two processes serve all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.port import PortStack
from parity.adapters.port_parts import official_settings
from parity.recipes import SMALL_ARCHITECTURES
from port.losses import centering, sinkhorn
from port.losses.ibot import iBOTPatchLoss
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep

FAULT = Path(__file__).with_name("fault.txt")


def _local(tensor: Tensor) -> Tensor:
    """Reduce nothing."""
    return tensor


def _only_the_total(tensor: Tensor) -> Tensor:
    """Reduce the sum of everything, and keep the prototypes' sums local."""
    if tensor.ndim == 0:
        dist.all_reduce(tensor)
    return tensor


def _only_the_rows(tensor: Tensor) -> Tensor:
    """Reduce the prototypes' sums, and keep the sum of everything local."""
    if tensor.ndim:
        dist.all_reduce(tensor)
    return tensor


def _twice(n_rows: Tensor) -> Tensor:
    total = n_rows.clone()
    dist.all_reduce(total)
    dist.all_reduce(total)
    return total


def _centre(finish: Callable[[Tensor, int], Tensor]) -> Callable[[Any], None]:
    """Apply a pending update in a way of its own: `finish` makes the mean of the ranks' sum and the world's size."""

    def apply(self: Any) -> None:
        if self.updated:
            return
        if self.reduce_handle is not None:
            self.reduce_handle.wait()
        own = finish(self.async_batch_center / self.len_teacher_output, dist.get_world_size())
        self.center = self.center * self.center_momentum + own * (1 - self.center_momentum)
        self.updated = True

    return apply


@contextmanager
def _not_reduced() -> Iterator[None]:
    with mock.patch("torch.distributed.all_reduce", return_value=None):
        yield


def _pooled(self: Any, teacher_output: Tensor) -> Tensor:
    """The mean over the tokens of all ranks: summed over ranks and divided by their number, it stays that."""
    rows = teacher_output.flatten(0, 1)
    total, count = rows.sum(0, keepdim=True), torch.tensor([float(len(rows))], dtype=rows.dtype)
    dist.all_reduce(total)
    dist.all_reduce(count)
    return total / count


def _gradients(change: Callable[[Tensor], object]) -> Callable[[TrainStep], None]:
    optimize = TrainStep._optimize

    def faulty(self: TrainStep) -> None:
        for parameter in self.model.student.parameters():
            if parameter.grad is not None:
                change(parameter.grad)
        optimize(self)

    return faulty


def _for_one_rank(config: DictConfig, kernels: str) -> DictConfig:
    """The learning rate of one rank's batch alone."""
    settings = official_settings(config, kernels)
    settings.optim.lr /= math.sqrt(2)
    return settings


def _fails_on_rank_1(*_: Any, **__: Any) -> None:
    if dist.get_rank() == 1:
        raise ValueError("rank 1 has no such prototype")
    dist.barrier()  # rank 0 waits, as for a gradient


_batch_center = iBOTPatchLoss.batch_center


def _kept(self: Any, teacher_output: Tensor) -> Tensor:
    """Where a rank has no tokens, vote for the present centre, as `port` does outside of parity."""
    self.keep_center_without_masks = True
    return _batch_center(self, teacher_output)


@contextmanager
def _centre_patch(finish: Callable[[Tensor, int], Tensor], *, reduced: bool = True) -> Iterator[None]:
    with mock.patch.object(centering.CenteredLoss, "apply_center_update", _centre(finish)):
        if reduced:
            yield
        else:
            with _not_reduced():
                yield


PATCHES: dict[str, Callable[[], Any]] = {
    "": lambda: mock.patch.object(sinkhorn, "__doc__", sinkhorn.__doc__),
    "sinkhorn not reduced": lambda: mock.patch.object(sinkhorn, "_summed_over_ranks", _local),
    "sinkhorn rows not reduced": lambda: mock.patch.object(sinkhorn, "_summed_over_ranks", _only_the_total),
    "sinkhorn sum not reduced": lambda: mock.patch.object(sinkhorn, "_summed_over_ranks", _only_the_rows),
    "count not reduced": lambda: mock.patch("port.losses.ibot.total_from_tensor", lambda n_rows: n_rows),
    "count reduced twice": lambda: mock.patch("port.losses.ibot.total_from_tensor", _twice),
    "centre not reduced": lambda: _centre_patch(lambda mean, _: mean, reduced=False),
    "centre summed": lambda: _centre_patch(lambda mean, _: mean),
    "centre divided twice": lambda: _centre_patch(lambda mean, world: mean / world / world),
    "centre pooled": lambda: mock.patch.object(iBOTPatchLoss, "batch_center", _pooled),
    "centre kept": lambda: mock.patch.object(iBOTPatchLoss, "batch_center", _kept),
    "gradients summed": lambda: mock.patch.object(TrainStep, "_optimize", _gradients(lambda g: g.mul_(2))),
    "gradients not reduced": lambda: mock.patch("parity.adapters.port.parallelise", return_value=None),
    "rates of one rank": lambda: mock.patch("parity.adapters.port.official_settings", _for_one_rank),
    "fails on rank 1": lambda: mock.patch.object(SSLMetaArch, "forward_backward", _fails_on_rank_1),
}


class RankFork(PortStack):
    """`port` without its claim, with the fault that the file names."""

    name = "fork"
    claims_bitwise = False

    def __init__(self) -> None:
        super().__init__(SMALL_ARCHITECTURES)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("sinkhorn", "softmax_center", "distributed_step"):
            return found

        def faulty(*args: Any) -> Any:
            with PATCHES[FAULT.read_text() if FAULT.exists() else ""]():
                return found(*args)

        return faulty


stack = RankFork
