"""The reference: official code, found, verified, imported unmodified and isolated.

with open_reference("auto") as reference:
    loss = reference.module("loss").DINOLoss(65536)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

# ShardedGradScaler's default process group is evaluated when torch defines it. Imported for the first time by
# official code, with a group in place, it would keep that group after it is destroyed.
import torch.distributed.fsdp.sharded_grad_scaler

from parity.errors import ReferenceSourceError
from parity.reference.isolation import (
    imported_modules,
    preserved_environment,
    preserved_import_path,
    preserved_logger,
    preserved_random_state,
    preserved_torch_settings,
    quiet_official_warnings,
)
from parity.reference.loader import PACKAGE, VerifiedFinder
from parity.reference.source import Source, resolve
from parity.reference.substitutes import SUBSTITUTES, attach_fsdp_methods
from parity.reference.substitutes.runtime import cpu_instead_of_cuda, one_rank_group, use_plain_modules
from parity.reference.substitutes.xformers import xformers_modules
from parity.results import ReferenceInfo

__all__ = ["Reference", "attach_fsdp_methods", "open_reference", "resolve"]

Group = Literal["xformers", "cuda", "fsdp"]


@dataclass(frozen=True)
class Reference:
    """Official code, importable while `open_reference` is open.

    Attributes:
        info: where it came from, how far it is verified and what stands in for missing kernels.
        root: folder that holds `dinov2/`.
    """

    info: ReferenceInfo
    root: Path
    _finder: VerifiedFinder

    @property
    def files(self) -> Mapping[str, bytes]:
        """The training files that were verified and are compiled, keyed by POSIX path from `root`."""
        return self._finder.files

    def module(self, name: str = "") -> ModuleType:
        """Import an official module.

        Args:
            name: its name below `dinov2`, e.g. `loss` or `train.ssl_meta_arch`; empty for `dinov2` itself.

        Raises:
            RuntimeError: the reference is closed, or another one has been opened inside it.
            ModuleNotFoundError: official training code has no such module.
        """
        full = f"{PACKAGE}.{name}" if name else PACKAGE
        if self._finder not in sys.meta_path:
            raise RuntimeError(f"{full} was asked of a closed reference; use it inside open_reference")
        module = importlib.import_module(full)
        if not self._finder.loaded(module):
            raise RuntimeError(f"{full} comes from elsewhere: {module}; is another reference open inside this one?")
        return module


@contextmanager
def open_reference(
    requested: str = "auto", *, allow_modified: bool = False, device: str = "cpu", own_group: bool = True
) -> Iterator[Reference]:
    """Make official code importable, and leave everything as it was on exit, by exception too.

    Kept: `dinov2*` and `xformers*` in `sys.modules`, `sys.meta_path`, `sys.path`, the working directory, torch's
    attributes and settings, the process group, `os.environ`, the generators of `random`, numpy and torch, warning
    filters, and the logger `dinov2`. It is state of the process: not for use from several threads at once.

    On a CPU every substitute of `parity.reference.substitutes` is in place, and an installed xformers is
    shadowed. On a CUDA device the calls to CUDA are real, and so is xformers where it is installed; it then
    stays imported, since its operators cannot be registered twice. No GPU has run that path.

    Args:
        requested: `auto`, `github`, `pypi` or a folder that holds `dinov2/`.
        allow_modified: run code that is not official's, or official's of different commits, and say so.
        device: the device that official code is to run on.
        own_group: whether to provide a process group of one rank; False where the caller has joined one of several.

    Raises:
        ReferenceSourceError: the code cannot be found, is incomplete, or is modified and not allowed.
    """
    source = resolve(requested)
    if source.identity.identity != "verified" and not allow_modified:
        raise ReferenceSourceError(_refusal(source))
    groups = _substituted(torch.device(device))
    modules = xformers_modules() if "xformers" in groups else {}
    finder = VerifiedFinder(source.root, source.files, {f"{PACKAGE}.train.ssl_meta_arch": use_plain_modules})
    with ExitStack() as stack:
        stack.enter_context(quiet_official_warnings())
        stack.enter_context(preserved_import_path())
        stack.enter_context(preserved_random_state())
        stack.enter_context(preserved_torch_settings())
        stack.enter_context(preserved_logger(PACKAGE))
        stack.enter_context(preserved_environment("XFORMERS_DISABLED"))
        if own_group:
            stack.enter_context(one_rank_group("gloo" if "cuda" in groups else "nccl"))
        if "cuda" in groups:
            stack.enter_context(cpu_instead_of_cuda())
        stack.enter_context(imported_modules(finder, PACKAGE, modules))
        yield Reference(_info(source, groups), source.root, finder)


def _substituted(device: torch.device) -> frozenset[Group]:
    """Return which groups of substitutes a device needs."""
    if device.type != "cuda":
        return frozenset({"xformers", "cuda", "fsdp"})
    real = importlib.util.find_spec("xformers") is not None
    return frozenset({"fsdp"} if real else {"xformers", "fsdp"})


def _info(source: Source, groups: frozenset[Group]) -> ReferenceInfo:
    """Describe the reference for the report."""
    identity = source.identity
    return ReferenceInfo(
        source=source.source,
        requested=source.requested,
        location=str(source.root),
        version=identity.version,
        identity=identity.identity,
        files_total=identity.files_total,
        files_verified=identity.files_verified,
        modified=tuple(file.text() for file in identity.modified),
        notes=source.notes + identity.remarks,
        substitutes=tuple(item.text() for item in SUBSTITUTES if item.group in groups),
    )


def _refusal(source: Source) -> str:
    """Say what is not official, file and line, and what to do."""
    identity = source.identity
    if identity.identity == "modified":
        what = f"is not official code: {'; '.join(file.text() for file in identity.modified)}"
    else:
        what = f"mixes official files of different commits: {'; '.join(identity.remarks)}"
    return (
        f"the reference {source.root} {what}. Compare with official code (--reference auto), or with this "
        "code all the same (--allow-modified-reference)"
    )
