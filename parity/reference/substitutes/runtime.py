"""Stand-ins for CUDA calls, FSDP's additions to modules, and the process group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType, ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parity.errors import ReferenceSourceError

__all__ = ["PlainModule", "attach_fsdp_methods", "cpu_instead_of_cuda", "one_rank_group", "use_plain_modules"]


_INHERITED = object()


@dataclass(frozen=True)
class PlainModule:
    """What official's EMA reads of an FSDP module: its parameters (`dinov2/train/ssl_meta_arch.py:361-363`)."""

    params: list[nn.Parameter]


def _plain_modules(module: nn.Module) -> list[PlainModule]:
    """Return the module as FSDP would list one that is a single unit."""
    return [PlainModule(list(module.parameters()))]


def _no_wrapper(*_: object, **__: object) -> Callable[[nn.Module], nn.Module]:
    """Take the place of `dinov2.fsdp.get_fsdp_wrapper`: what it returns leaves a module as it is."""
    return _same_module


def _same_module(module: nn.Module) -> nn.Module:
    return module


def use_plain_modules(ssl_meta_arch: ModuleType) -> None:
    """Let official's `prepare_for_distributed_training` wrap nothing, and `update_teacher` find what is not wrapped.

    `reshard_fsdp_model` needs nothing: FSDP lists no module inside a plain one (`dinov2/fsdp/__init__.py:76-78`).
    """
    ssl_meta_arch.__dict__["get_fsdp_modules"] = _plain_modules
    ssl_meta_arch.__dict__["get_fsdp_wrapper"] = _no_wrapper


def _clip_grad_norm(module: nn.Module, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Clip the gradients of all of a module's parameters together and return their norm."""
    return torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm, norm_type)


def attach_fsdp_methods(*modules: nn.Module) -> None:
    """Give instances what FSDP gives to the modules that it wraps and official code uses.

    These are `clip_grad_norm_` (`dinov2/train/train.py:253, 259`) and `_streams`
    (`dinov2/train/ssl_meta_arch.py:351-353`). Call it with each of `student.values()` and `teacher.values()`.
    """
    for module in modules:
        object.__setattr__(module, "clip_grad_norm_", MethodType(_clip_grad_norm, module))
        object.__setattr__(module, "_streams", None)


def _same_tensor(tensor: Tensor, *_: object, **__: object) -> Tensor:
    """Take the place of `Tensor.cuda`."""
    return tensor


def _nothing(*_: object, **__: object) -> None:
    """Take the place of `torch.cuda.synchronize`."""


@contextmanager
def cpu_instead_of_cuda() -> Iterator[None]:
    """Make `tensor.cuda()` the tensor itself and `torch.cuda.synchronize()` nothing."""
    with _replaced(torch.Tensor, "cuda", _same_tensor), _replaced(torch.cuda, "synchronize", _nothing):
        yield


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute, and leave the owner as it was: an inherited attribute is inherited again."""
    # A sentinel of its own: nested, the value found may be a stand-in.
    before = vars(owner).get(name, _INHERITED)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def one_rank_group(backend: str = "gloo") -> Iterator[None]:
    """Provide a process group of one rank, destroyed afterwards; one that exists already is used and kept.

    Raises:
        ReferenceSourceError: a group of more ranks exists, or none can be made.
    """
    if dist.is_initialized():
        size = dist.get_world_size()
        if size != 1:
            raise ReferenceSourceError(
                f"torch.distributed is initialised with {size} ranks, expected 1: official code would reduce "
                "over all of them; run parity in a process of its own, not under torchrun"
            )
        yield
        return
    try:
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but missing from torch's stubs
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    except (RuntimeError, ValueError) as error:
        raise ReferenceSourceError(
            f"torch.distributed cannot make a {backend} group of one rank ({error}); where the host's own name "
            "has no address, set GLOO_SOCKET_IFNAME to the loopback interface (lo, or lo0 on macOS)"
        ) from error
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
