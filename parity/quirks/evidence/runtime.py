"""What official training needs to start, to resume, and to be told."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

from parity.quirks.evidence.tools import NotHereError, Observation, raised
from parity.quirks.sources import attributes_read, calls, function, keyword, tree, union_annotations
from parity.reference import Reference

__all__ = [
    "environment",
    "fsdp_internals",
    "union_annotations_evaluated",
    "unknown_keys",
    "weights_only",
    "xformers_required",
]


def xformers_required(reference: Reference) -> Observation:
    """Execute `train/ssl_meta_arch.py` anew where xformers cannot be imported."""
    spec = reference.module("train.ssl_meta_arch").__spec__
    assert spec is not None
    assert spec.loader is not None
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"xformers": None, "xformers.ops": None}):
        error = raised(lambda: loader.exec_module(module), AssertionError, ImportError)
    words = "it imports" if error is None else f"{type(error).__name__}: {error}"
    return Observation(error is not None, f"without xformers: {words}")


def fsdp_internals(reference: Reference) -> Observation:
    """Let official reshard a module of this torch's FSDP, and look for the attribute that it copies."""
    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # its constructor wants an accelerator
    nn.Module.__init__(wrapped)
    wrapped._fsdp_wrapped_module = nn.Identity()
    wrapped.sharding_strategy = ShardingStrategy.FULL_SHARD
    error = raised(lambda: reference.module("fsdp").free_if_fsdp(wrapped), AttributeError)
    streams = hasattr(wrapped, "_streams")
    readers = attributes_read(reference, "_streams")
    confirmed = "_handles" in str(error) and bool(readers) and not streams
    resharded = "no error" if error is None else f"{type(error).__name__} ({error})"
    seen = (
        f"torch {torch.__version__}: resharding gives {resharded}; _streams is read in {len(readers)} places and "
        f"{'exists' if streams else 'does not exist'}"
    )
    return Observation(confirmed, seen)


def union_annotations_evaluated(reference: Reference) -> Observation:
    """Search for annotations with `|` that are evaluated when a function is defined.

    Raises:
        NotHereError: the code is older than the commit that brought them.
    """
    found = union_annotations(reference)
    classes = {node.name for node in tree(reference, "layers/block.py").body if isinstance(node, ast.ClassDef)}
    if not found and "CausalAttentionBlock" not in classes:
        raise NotHereError("the reference is older than 12592a9 (June 2025), which brought it")
    places = ", ".join(dict.fromkeys(found)) or "none"
    return Observation(bool(found), f"annotations with | that are evaluated: {places}")


_SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_JOB_NODELIST": "node7",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "3",
}
_TORCHRUN = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
}


def environment(reference: Reference) -> Observation:
    """Describe SLURM's rank 3 and torchrun's rank 1 to official, then a part of torchrun's variables."""
    module = reference.module("distributed")

    def rank(variables: dict[str, str]) -> int:
        with mock.patch.dict(os.environ, variables):
            for name in {*_SLURM, *_TORCHRUN} - set(variables):
                os.environ.pop(name, None)
            return int(module._TorchDistributedEnvironment().rank)

    torchrun, both = rank(_TORCHRUN), rank({**_SLURM, **_TORCHRUN})
    part = raised(lambda: rank({"RANK": "1"}), RuntimeError)
    (start,) = calls(function(tree(reference, "distributed/__init__.py"), "enable"), "init_process_group")
    backend = keyword(start, "backend")
    confirmed = (torchrun, both, backend) == (1, 3, "'nccl'") and part is not None
    word = "accepted" if part is None else type(part).__name__
    return Observation(
        confirmed, f"rank {torchrun} by torchrun, {both} with SLURM's too; a part: {word}; backend {backend}"
    )


def weights_only(reference: Reference) -> Observation:
    """Save a plain tensor and a ShardedTensor, as FSDP's local state dicts hold, and load both as official does."""
    from torch.distributed._shard.sharded_tensor import init_from_local_shards
    from torch.distributed._shard.sharded_tensor.shard import Shard

    module = reference.module("fsdp")
    shard = Shard.from_tensor_and_offsets(torch.zeros(2), [0], 0)
    contents: dict[str, Any] = {"plain": torch.zeros(2), "sharded": init_from_local_shards([shard], [2])}
    errors = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)  # torch, of what official saves
        checkpointer = module.FSDPCheckpointer(nn.Identity(), folder)
        for name, value in contents.items():
            path = Path(folder, f"{name}.pth")
            torch.save({"model": {"weight": value}}, path)
            errors[name] = raised(partial(checkpointer._load_file, str(path)), pickle.UnpicklingError)
    confirmed = errors["plain"] is None and errors["sharded"] is not None
    words = {name: "loads" if e is None else type(e).__name__ for name, e in errors.items()}
    return Observation(confirmed, f"torch {torch.__version__}: " + ", ".join(f"{k} {v}" for k, v in words.items()))


def unknown_keys(reference: Reference) -> Observation:
    """Merge a configuration with a key that does not exist, and search for who reads --eval and guards config.yaml."""
    module = reference.module("utils.config")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text("optim:\n  lerning_rate: 3\n", "utf-8")
        given = SimpleNamespace(output_dir=folder, opts=["train.sead=5"], config_file=str(file))
        merged: list[Any] = []
        refused = raised(lambda: merged.append(module.get_cfg_from_args(given)), OmegaConfBaseException)
    accepted = refused is None and (merged[0].optim.lerning_rate, merged[0].train.sead) == (3, 5)
    readers = attributes_read(reference, "args", "eval")
    source = tree(reference, "utils/config.py")
    unguarded = any(isinstance(s, ast.Expr) and calls(s, "write_config") for s in function(source, "setup").body)
    unguarded &= not calls(function(source, "write_config"), "is_main_process")
    seen = (
        f"keys that do not exist are {'accepted' if accepted else 'refused'}; --eval is read in {len(readers)} places; "
        f"config.yaml is written {'by every rank' if unguarded else 'behind a condition'}"
    )
    return Observation(accepted and not readers and unguarded, seen)
