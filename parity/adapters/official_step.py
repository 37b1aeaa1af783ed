"""Official training, run as it stands: `do_train` of `dinov2/train/train.py:134` for one iteration.

Nothing of the loop is rewritten. What reads or writes files, the data set, its loader, the checkpointer, is
replaced in the module's namespace while it runs; gradients, hyper-parameters and losses are read at the calls
that official makes itself.

In a process group of several ranks, each runs its own `do_train`. Official averages gradients over ranks in FSDP's
backward pass, which needs CUDA; here they are averaged when `forward_backward` returns, before anything reads them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Protocol
from unittest import mock

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor, nn

from parity.adapters.common import moments, settled_centers, state_parts
from parity.names import canonical
from parity.reference.substitutes import attach_fsdp_methods

__all__ = [
    "Modules",
    "NoModel",
    "collate_of_official_training",
    "files_replaced",
    "options_of_official_loader",
    "prepared_batch",
    "prepared_model",
    "run_official_step",
]


class Modules(Protocol):
    """Whoever gives official modules by name: the reference, or a fork that kept official's training loop."""

    def module(self, name: str) -> ModuleType:
        """Return `train.train` or `train.ssl_meta_arch`."""


def run_official_step(
    reference: Modules,
    config: DictConfig,
    state: Mapping[str, Tensor],
    batch: Mapping[str, Any],
    iteration: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Run one iteration of official `do_train` and return what it computed.

    Args:
        reference: the opened official code.
        config: official configuration, `optim.lr` already scaled; owned by the call.
        state: `student.…`, `teacher.…` and centres; its dtype is the dtype of the step.
        batch: a collated batch; floats are cast to the dtype of the state.
        iteration: the iteration that is run, 0-based.
        seed: torch is seeded with it when the batch is handed over, that is before drop path draws.

    Returns:
        The mapping that `parity.stack` documents for `training_step`.
    """
    model, dtype = prepared_model(reference, config, state)
    watch = _Watch(model)
    prepared = prepared_batch(batch, dtype)

    def loader(**_: Any) -> Iterator[dict[str, Any]]:
        torch.manual_seed(seed)
        yield prepared

    with files_replaced(reference, config, loader, start=iteration, on_optimizer=watch.optimizer):
        watch.attach()
        reference.module("train.train").do_train(config, model, resume=True)
    return watch.result()


def prepared_model(reference: Modules, config: DictConfig, state: Mapping[str, Tensor]) -> tuple[Any, torch.dtype]:
    """Return official `SSLMetaArch` with the given state, and the dtype of that state."""
    dtype = next(t.dtype for t in state.values() if t.is_floating_point())
    model = reference.module("train.ssl_meta_arch").SSLMetaArch(config).to(dtype)
    model.load_state_dict(dict(state), strict=True)
    for submodel in [*model.student.values(), *model.teacher.values()]:
        attach_fsdp_methods(submodel)
    return model, dtype


def prepared_batch(batch: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return a copy of a collated batch with its images in the given dtype."""
    return {k: v.to(dtype) if _is_image(k, v) else _copy(v) for k, v in batch.items()}


def options_of_official_loader(reference: Modules, config: DictConfig, start: int = 0) -> dict[str, Any]:
    """Return what official `do_train` gives to `make_data_loader`, at its start or resumed at iteration `start`."""
    captured: dict[str, Any] = {}

    def loader(**options: Any) -> Iterator[Any]:
        captured.update(options)
        return iter(())

    with files_replaced(reference, config, loader, start=start, on_optimizer=lambda _: None):
        reference.module("train.train").do_train(config, NoModel(), resume=True)
    return captured


def collate_of_official_training(reference: Modules, config: DictConfig) -> Callable[..., dict[str, Any]]:
    """Return the collate function that official `do_train` builds for its loader, mask generator included."""
    collate: Callable[..., dict[str, Any]] = options_of_official_loader(reference, config)["collate_fn"]
    return collate


class _Watch:
    """Reads losses, gradients, hyper-parameters and results of one iteration."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._names = {id(p): canonical(name) for name, p in model.student.named_parameters()}
        self.losses: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.clipped: dict[str, Tensor] = {}
        self.hyperparameters: dict[str, dict[str, float]] = {}
        self._moments: dict[str, dict[str, Tensor]] = {}

    def attach(self) -> None:
        """Watch the model's own `forward_backward`, which returns after the backward pass."""
        inner = self._model.forward_backward

        def forward_backward(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            losses: dict[str, Tensor] = inner(*args, **kwargs)
            average_over_ranks(self._model.student)
            # Not copied: official sums them over ranks in place (`dinov2/train/train.py:269-271`).
            self.losses = {name: value.detach() for name, value in losses.items()}
            self.gradients = self._read_gradients()
            return losses

        self._model.forward_backward = forward_backward

    def optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch the optimizer: what reaches `step` is clipped, and its groups are scheduled."""

        def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.clipped = self._read_gradients()
            for group in optimizer.param_groups:
                row = {"lr": float(group["lr"]), "weight_decay": float(group["weight_decay"])}
                self.hyperparameters.update({self._names[id(p)]: row for p in group["params"]})

        def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self._moments = moments(optimizer, self._names)

        optimizer.register_step_pre_hook(before_step)
        optimizer.register_step_post_hook(after_step)

    def result(self) -> dict[str, dict[str, Any]]:
        """What `training_step` returns."""
        return {
            "losses": {name: value / dist.get_world_size() for name, value in self.losses.items()},
            "gradients": self.gradients,
            "clipped_gradients": self.clipped,
            **state_parts(self._model.state_dict()),
            "centers": settled_centers(self._model),
            **self._moments,
            "hyperparameters": self.hyperparameters,
        }

    def _read_gradients(self) -> dict[str, Tensor]:
        return {
            self._names[id(p)]: p.grad.detach().clone() for p in self._model.student.parameters() if p.grad is not None
        }


def average_over_ranks(module: nn.Module) -> None:
    """Average gradients as FSDP does (`dinov2/fsdp/__init__.py:45`); one rank keeps its own, bit for bit."""
    if dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    # In one piece, as FSDP's flat parameters are.
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class NoModel(nn.Module):
    """Enough of a model for `do_train` to reach its data loader."""

    fp16_scaler = None

    def get_params_groups(self) -> list[dict[str, Any]]:
        """Return one group of one parameter, for the optimizer that the loop builds."""
        return [{"params": [nn.Parameter(torch.zeros(1))]}]


@contextlib.contextmanager
def files_replaced(
    reference: Modules,
    config: DictConfig,
    loader: Callable[..., Any],
    *,
    start: int,
    on_optimizer: Callable[[torch.optim.Optimizer], None],
) -> Iterator[None]:
    """Replace what touches files; the checkpointer claims that iteration `start - 1` was the last."""
    train = reference.module("train.train")
    build = train.build_optimizer

    def build_optimizer(*args: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = build(*args)
        on_optimizer(optimizer)
        return optimizer

    class MetricLogger(train.MetricLogger):  # type: ignore[misc, name-defined] # a class known at run time only
        """Official's, but for the final reduction of its averages, which is written for CUDA."""

        def synchronize_between_processes(self) -> None:
            pass

    checkpointer = mock.Mock()
    checkpointer.return_value.resume_or_load.return_value = {"iteration": start - 1}
    with contextlib.ExitStack() as stack:
        config.train.output_dir = stack.enter_context(tempfile.TemporaryDirectory())
        for name, value in {
            "build_optimizer": build_optimizer,
            "FSDPCheckpointer": checkpointer,
            "MetricLogger": MetricLogger,
            "PeriodicCheckpointer": mock.Mock(),
            "make_dataset": lambda **_: (),
            "make_data_loader": loader,
        }.items():
            stack.enter_context(mock.patch.object(train, name, value))
        yield


def _is_image(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and name.endswith("_crops")


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
