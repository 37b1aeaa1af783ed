"""After a loss or a gradient that is not finite: which tensor was the first?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from port.data.collate import Batch
from port.losses.centering import CenteredLoss
from port.models import blocks_in_official_order
from port.ssl_meta_arch import SSLMetaArch, as_micro_batches

__all__ = ["Culprit", "CulpritKind", "earliest", "first_nonfinite", "local"]

CulpritKind = Literal["input", "parameter", "buffer", "output", "loss", "gradient", "none"]
"""In the order in which a step meets them."""
logger = logging.getLogger("port")


@dataclass(frozen=True)
class Culprit:
    """The first tensor that is not finite.

    Attributes:
        kind: `input` of the batch; `parameter` or `buffer` before the step; `output` of a module; `loss`, made of
            finite outputs; `gradient`, while losses and outputs are finite; `none`: the rerun was finite.
        name: the tensor's name in the batch or the model, from `student` or `teacher` on.
        shape: of the tensor.
        dtype: of the tensor, such as `float32`.
        n_nan: elements that are NaN.
        n_inf: elements that are infinite.
        largest_input: largest magnitude of the module's inputs, of `output` only; NaN where they are not finite.
        before: the tensor of the same kind that was computed just before, and is finite; empty if there is none.
        rank: that found it; None where it does not matter.
    """

    kind: CulpritKind
    name: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    n_nan: int = 0
    n_inf: int = 0
    largest_input: float | None = None
    before: str = ""
    rank: int | None = None

    def __str__(self) -> str:
        """Return what a user needs to read."""
        if self.kind == "none":
            return (
                "no tensor in particular: the same step, carried out again, was finite. Its random numbers differed, "
                "or the device is at fault"
            )
        what = {"output": "output of ", "gradient": "gradient of ", "input": "input "}.get(self.kind, f"{self.kind} ")
        count = " and ".join(
            f"{number} {name}" for number, name in ((self.n_nan, "NaN"), (self.n_inf, "infinite")) if number
        )
        text = f"{what}{self.name} {list(self.shape)} {self.dtype} ({count})"
        if self.rank is not None:
            text += f" on rank {self.rank}"
        if self.largest_input is not None:
            finite = self.largest_input == self.largest_input
            text += f", inputs up to {self.largest_input:.3g}" if finite else ", whose inputs are not finite either"
        return text + (f"; {self.before} just before it is finite" if self.before else "")


def first_nonfinite(model: SSLMetaArch, batch: Batch | Sequence[Batch], rerun: Callable[[], object]) -> Culprit:
    """Find the first tensor that is not finite, after a step that failed and before anything was updated.

    Looks at the batch, at parameters and buffers, then carries out the step again with hooks on every module: outputs
    in order of execution, then losses, then gradients in order of the backward pass. A module's name alone does not
    tell whether itself or the operations before it in its parent are at fault: `largest_input` and `before` do.

    The failed step's pending centre update is dropped, so that the rerun sees the same centres, and so are gradients.
    Of several ranks, all must call this, as the rerun communicates; each finds its own culprit.

    Args:
        model: as the failed step left it.
        batch: of the failed step.
        rerun: carries out forward and backward once more with the same random numbers, and updates nothing;
            FloatingPointError that it raises is expected.
    """
    drop_pending_center_updates(model)
    found = _first_present(model, as_micro_batches(batch))
    if found is not None and not dist.is_initialized():
        return found
    model.zero_grad(set_to_none=True)
    watch = _Watch()
    # Blocks call their layers and compiled ones run as they are written, so that the hooks inside them are called.
    with watch.on(model), blocks_in_official_order(model), torch.compiler.set_stance("force_eager"):
        try:
            rerun()
        except FloatingPointError as error:
            logger.debug("the rerun failed as the step did: %s", error)
    drop_pending_center_updates(model)
    return found or watch.output or watch.gradient or _first_of("gradient", _gradients(model)) or Culprit("none")


def earliest(found: Sequence[Culprit]) -> Culprit:
    """Return the culprit of the rank that met its own at the earliest stage of the step, of the first such rank.

    Args:
        found: by rank.
    """
    stages = get_args(CulpritKind)
    rank = min(range(len(found)), key=lambda rank: stages.index(found[rank].kind))
    return found[rank] if len(found) == 1 else replace(found[rank], rank=rank)


def drop_pending_center_updates(model: SSLMetaArch) -> None:
    """Forget the centre updates that the last forward pass started: its teacher outputs may not be finite."""
    for module in model.modules():
        if isinstance(module, CenteredLoss) and not module.updated:
            if module.reduce_handle is not None:
                module.reduce_handle.wait()
                module.reduce_handle = None
            module.async_batch_center = None
            module.updated = True


def local(tensor: Tensor) -> Tensor:
    """Return the tensor, or this rank's shard of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _first_present(model: SSLMetaArch, batches: Sequence[Batch]) -> Culprit | None:
    """Look at what was there before the step."""
    inputs = (
        (key if len(batches) == 1 else f"{key} of micro-batch {i}", value)
        for i, batch in enumerate(batches)
        for key, value in batch.items()
        if isinstance(value, Tensor)
    )
    return (
        _first_of("input", inputs)
        or _first_of("parameter", model.named_parameters())
        or _first_of("buffer", model.named_buffers())
    )


def _gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None:
            yield f"parameter {name}", parameter.grad


def _first_of(kind: CulpritKind, tensors: Iterable[tuple[str, Tensor]]) -> Culprit | None:
    return next((_culprit(kind, name, tensor) for name, tensor in tensors if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    tensor = local(tensor.detach())
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _culprit(
    kind: CulpritKind, name: str, tensor: Tensor, *, largest_input: float | None = None, before: str = ""
) -> Culprit:
    values = local(tensor.detach())
    return Culprit(
        kind,
        name,
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        n_nan=int(values.isnan().sum()),
        n_inf=int(values.isinf().sum()),
        largest_input=largest_input,
        before=before,
    )


class _Watch:
    """Hooks that keep the first output and the first gradient that are not finite; they change no number."""

    def __init__(self) -> None:
        self.output: Culprit | None = None
        self.gradient: Culprit | None = None
        self._last_output = ""
        self._last_gradient = ""

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Hook every module of the model, and the model itself, whose output are the losses."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                handle = module.register_forward_hook(partial(self._see_output, name), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _see_output(
        self, name: str, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
    ) -> None:
        kind: CulpritKind = "output" if name else "loss"
        # The losses' terms say more than their sum, which comes first among them.
        for suffix, tensor in sorted(_tensors(output), key=lambda item: item[0] == ".total"):
            full_name = f"{name}{suffix}" if name else suffix.removeprefix(".")
            if self.output is None and not _is_finite(tensor):
                largest = _largest((args, kwargs)) if name else None
                self.output = _culprit(kind, full_name, tensor, largest_input=largest, before=self._last_output)
            if tensor.requires_grad:
                tensor.register_hook(partial(self._see_gradient, full_name))
            self._last_output = full_name

    def _see_gradient(self, name: str, gradient: Tensor) -> None:
        if self.gradient is None and not _is_finite(gradient):
            self.gradient = _culprit("gradient", name, gradient, before=self._last_gradient)
        self._last_gradient = name


def _tensors(value: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested containers, each with its path."""
    if isinstance(value, Tensor):
        yield "", value
        return
    children: Iterable[tuple[object, object]] = ()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        children = value._asdict().items()
    elif isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    for key, child in children:
        for suffix, tensor in _tensors(child):
            yield f".{key}{suffix}", tensor


def _largest(value: object) -> float:
    """Return the largest magnitude in nested containers; NaN where something is not finite."""
    magnitudes = [
        local(tensor.detach()).abs().max().float()
        for _, tensor in _tensors(value)
        if tensor.is_floating_point() and tensor.numel() > 0
    ]
    largest = float(torch.stack(magnitudes).max()) if magnitudes else 0.0
    return largest if largest < float("inf") else float("nan")
