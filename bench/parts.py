"""Parts of a step in processes of their own, `port`'s beside official's: losses, optimizer and moving average.

Shapes: B images, n local crops per image, M masked patches, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import port.losses
from bench.inputs import N_INPUTS, Subsets, make_state
from bench.official import opened_official
from bench.settings import ITERATION, Settings
from bench.worker import iterations
from parity.adapters.official_step import prepared_model
from parity.recipes import SMALL_ARCHITECTURES
from parity.states import logits
from port.data.batches import N_GLOBAL_CROPS
from port.optim import apply_optim_scheduler, build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["LossInputs", "masked_rows", "port_losses", "student_losses", "time_losses", "time_update"]

SHARE_MASKED = 0.3
"""Of the patches of every second global crop: the middle of official's range, 0.1 to 0.5."""


class LossInputs(NamedTuple):
    """What the losses of a step take.

    Attributes:
        local_cls, global_cls, patches: the student's logits (nB, K), (2B, K), (M, K), which get gradients.
        dino, ibot: the teacher's probabilities (2, B, K), (M, K).
        masks: bool (2B, N), of which M are True.
    """

    local_cls: Tensor
    global_cls: Tensor
    patches: Tensor
    dino: Tensor
    ibot: Tensor
    masks: Tensor


def masked_rows(settings: Settings, patch_size: int = 16) -> int:
    """Return M, the number of masked patches that a batch has on average."""
    return settings.batch * int(SHARE_MASKED * (settings.global_size // patch_size) ** 2)


def loss_inputs(settings: Settings, seed: int) -> LossInputs:
    """Return random logits and targets at the sizes of a run, on its device."""
    images, K, M = settings.batch, settings.prototypes, masked_rows(settings)
    rows = (settings.local_crops * images, N_GLOBAL_CROPS * images, M, N_GLOBAL_CROPS * images, M)
    drawn = [logits(n, K, seed + i).to(settings.device) for i, n in enumerate(rows)]
    local_cls, global_cls, patches = (tensor.requires_grad_() for tensor in drawn[:3])
    dino, ibot = (torch.softmax(tensor / 0.07, dim=-1) for tensor in drawn[3:])
    masks = torch.zeros(N_GLOBAL_CROPS * images, M // images, dtype=torch.bool, device=settings.device)
    masks[:images] = True
    return LossInputs(local_cls, global_cls, patches, dino.view(N_GLOBAL_CROPS, images, K), ibot, masks)


def student_losses(losses: Any, inputs: LossInputs, n_local: int, *, one_tensor: bool) -> Tensor:
    """Return the sum of DINO's and iBOT's losses.

    Args:
        losses: has `DINOLoss` and `iBOTPatchLoss`, called with K: `port_losses`, or official `dinov2.loss`.
        inputs: see `LossInputs`.
        n_local: local crops per image.
        one_tensor: whether local crops are handed over as one tensor (n, B, K), as `port`'s step does it; else as a
            list of n, as official's step does.
    """
    K = inputs.patches.shape[-1]
    dino, ibot = (getattr(losses, name)(K).to(inputs.dino.device) for name in ("DINOLoss", "iBOTPatchLoss"))
    crops = inputs.local_cls.unflatten(0, (n_local, -1)) if one_tensor else inputs.local_cls.chunk(n_local)
    local: Tensor = dino(crops, inputs.dino)
    whole: Tensor = dino([inputs.global_cls], [inputs.dino.flatten(0, 1)])
    per_crop = inputs.masks.sum(-1).clamp(min=1.0)
    patches: Tensor = ibot.forward_masked(
        inputs.patches,
        inputs.ibot,
        student_masks_flat=inputs.masks,
        n_masked_patches=len(inputs.patches),
        masks_weight=(1 / per_crop).unsqueeze(-1).expand_as(inputs.masks)[inputs.masks],
    )
    return local + whole + patches


def port_losses(kernels: str) -> SimpleNamespace:
    """Return `port`'s losses with an option of `port.kernels.KERNELS` set, to be called as official's are."""
    names = ("DINOLoss", "iBOTPatchLoss")
    return SimpleNamespace(**{name: partial(getattr(port.losses, name), kernels=kernels) for name in names})


def time_losses(pipe: Connection, settings: Settings, side: str) -> None:
    """Compute losses and their gradients by logits; runs in a worker's process."""
    torch.set_num_threads(settings.threads)
    # One set of logits: three would not fit beside the losses on a small machine.
    inputs = loss_inputs(settings, 0)
    with _losses_of(side, settings) as losses:
        for given in iterations(pipe, settings, [inputs], Subsets(), lambda: _drop(inputs)):
            torch.autograd.backward(student_losses(losses, given, settings.local_crops, one_tensor=side == "port"))


def _drop(inputs: LossInputs) -> None:
    for tensor in inputs[:3]:
        tensor.grad = None


@contextmanager
def _losses_of(side: str, settings: Settings) -> Iterator[Any]:
    if side == "port":
        yield port_losses(settings.kernels)
        return
    with opened_official(settings) as reference:
        yield reference.module("loss")


def time_update(pipe: Connection, settings: Settings, side: str) -> None:
    """Step AdamW and move the teacher; runs in a worker's process."""
    torch.set_num_threads(settings.threads)
    with _update_of(side, settings, make_state(settings)) as update:
        for _ in iterations(pipe, settings, range(N_INPUTS), Subsets(), lambda: None):
            update()


@contextmanager
def _update_of(side: str, settings: Settings, state: Mapping[str, Tensor]) -> Iterator[Callable[[], None]]:
    """Yield a function that steps the optimizer and moves the teacher, with gradients in place."""
    cfg = settings.config()
    now = build_schedulers(cfg).at(ITERATION)
    if side == "port":
        model: Any = SSLMetaArch(cfg, architectures=SMALL_ARCHITECTURES)
        model.load_state_dict(dict(state))
        yield _update(model.to(settings.device), build_optimizer(cfg, model.get_params_groups()), now)
        return
    with opened_official(settings) as reference:
        model, _ = prepared_model(reference, cfg, state)
        model.to(settings.device)
        yield _update(model, reference.module("train.train").build_optimizer(cfg, model.get_params_groups()), now)


def _update(model: Any, optimizer: torch.optim.Optimizer, now: Any) -> Callable[[], None]:
    apply_optim_scheduler(optimizer, now.lr, now.wd, now.last_layer_lr)
    for parameter in model.student.parameters():
        parameter.grad = torch.randn_like(parameter)

    def update() -> None:
        optimizer.step()
        model.update_teacher(now.momentum)

    return update
