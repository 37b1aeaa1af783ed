from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import logging
import os
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import parity.reference
from parity.errors import ReferenceSourceError
from parity.reference import Reference, attach_fsdp_methods, open_reference, resolve
from parity.reference.manifest import load_manifest
from parity.reference.substitutes import SUBSTITUTES

MODULES = sorted(
    path.removesuffix(".py").removesuffix("/__init__").replace("/", ".").removeprefix("dinov2").removeprefix(".")
    for path in load_manifest().files
    if path.endswith(".py")
)


def _state() -> dict[str, Any]:
    """Everything of the process that official code or its substitutes could change."""
    logger = logging.getLogger("dinov2")
    owners: tuple[Any, ...] = (torch, torch.Tensor, torch.cuda, torch.distributed, torch.nn.functional, torch.nn.utils)
    return {
        "modules": {n: id(m) for n, m in sys.modules.items() if n.partition(".")[0] in ("dinov2", "xformers")},
        "meta_path": list(sys.meta_path),
        "path": list(sys.path),
        "attributes": [{name: id(value) for name, value in vars(owner).items()} for owner in owners],
        "group": dist.is_initialized(),
        "environment": dict(os.environ),
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "filters": list(warnings.filters),
        "logger": (logger.level, logger.handlers[:], logger.filters[:], logger.propagate, logger.disabled),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _use(root: Path) -> None:
    """Open official code, import its training script, and disturb what can be disturbed."""
    with open_reference(str(root)) as reference:
        reference.module("train.train")
        reference.module("utils.utils").fix_random_seeds(31)
        reference.module("logging").setup_logging(level=logging.INFO)
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        os.environ["MASTER_PORT"] = "1"
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.ones(1).cuda()


def _fail_after_use(reference: Reference) -> None:
    reference.module("train.train")
    torch.manual_seed(7)
    raise KeyError("mine")


@pytest.mark.parametrize("name", MODULES)
def test_every_training_module_imports(official_root: Path, name: str) -> None:
    """Each official training module imports, from the reference's own folder."""
    with open_reference(str(official_root)) as reference:
        module = reference.module(name)
        assert Path(str(module.__file__)).is_relative_to(official_root / "dinov2")
        assert module.__name__ == f"dinov2.{name}".rstrip(".")


def test_training_code_takes_the_substitutes(official_root: Path) -> None:
    """Official code believes in xformers for attention and blocks, and falls back by itself for SwiGLU."""
    with open_reference(str(official_root)) as reference:
        assert reference.module("layers.attention").XFORMERS_AVAILABLE is True
        assert reference.module("layers.block").XFORMERS_AVAILABLE is True
        swiglu = reference.module("layers.swiglu_ffn")
        assert swiglu.XFORMERS_AVAILABLE is False
        assert swiglu.SwiGLU is swiglu.SwiGLUFFN


@pytest.mark.parametrize("centering", ["centering", "sinkhorn_knopp"])
def test_official_training_step_runs_on_a_cpu(official_root: Path, centering: str) -> None:
    """Official's own collate, losses, backward pass, clipping and EMA run unmodified, without a warning."""
    with open_reference(str(official_root)) as reference:
        config = copy.deepcopy(reference.module("configs").dinov2_default_config)
        config.train.centering = centering
        config.student.update(arch="vit_small", block_chunks=0, patch_size=14)
        config.dino.update(head_n_prototypes=32, head_hidden_dim=16, head_bottleneck_dim=8)
        config.crops.update(global_crops_size=56, local_crops_size=28, local_crops_number=2)
        torch.manual_seed(0)
        random.seed(0)
        arch = reference.module("train.ssl_meta_arch").SSLMetaArch(config)
        attach_fsdp_methods(*arch.student.values(), *arch.teacher.values())
        arch.train()
        data = reference.module("data")
        sample = {
            "global_crops": list(torch.randn(2, 3, 56, 56)),
            "local_crops": list(torch.randn(2, 3, 28, 28)),
        }
        masks = data.MaskingGenerator((4, 4), max_num_patches=8)
        options = {"dtype": torch.float32, "n_tokens": 16, "mask_generator": masks}
        batch = data.collate_data_and_cast([(sample, ())] * 3, (0.1, 0.5), 0.5, **options)
        losses = arch.forward_backward(batch, teacher_temp=0.07)
        norms = [module.clip_grad_norm_(3.0) for module in arch.student.values()]
        before = [p.clone() for p in arch.teacher.parameters()]
        arch.update_teacher(0.9)
    assert set(losses) == {"dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(norms) == 2
    assert all(norm > 0 for norm in norms)
    moved = zip(arch.teacher.parameters(), before, arch.student.parameters(), strict=True)
    for new, old, student in moved:
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)


def test_variable_that_disables_xformers_is_put_aside(official_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XFORMERS_DISABLED would make official code refuse lists of crops; it is absent inside, as before outside."""
    monkeypatch.setenv("XFORMERS_DISABLED", "1")
    with open_reference(str(official_root)):
        assert "XFORMERS_DISABLED" not in os.environ
    assert os.environ["XFORMERS_DISABLED"] == "1"


def test_everything_is_as_before(official_root: Path) -> None:
    """After a first and after a second use, torch, modules, environment, generators and the rest are unchanged."""
    _use(official_root)  # what torch imports lazily on first use is not parity's to undo
    before = _state()
    for _ in range(2):
        _use(official_root)
        after = _state()
        assert {name for name in before if before[name] != after[name]} == set()


def test_everything_is_as_before_after_an_exception(official_root: Path) -> None:
    """An exception inside passes through and leaves nothing behind."""
    _use(official_root)
    before = _state()
    with pytest.raises(KeyError, match="mine"), open_reference(str(official_root)) as reference:
        _fail_after_use(reference)
    after = _state()
    assert {name for name in before if before[name] != after[name]} == set()


def test_fresh_process_is_as_before(official_root: Path) -> None:
    """In a new process, the first use leaves no dinov2, no xformers, no group, no setting and no draw behind."""
    script = """
        import json, os, random, sys, torch
        from parity.reference import open_reference
        def state():
            names = [n for n in sys.modules if n.partition(".")[0] in ("dinov2", "xformers")]
            return [names, [type(f).__name__ for f in sys.meta_path], torch.distributed.is_initialized(),
                    dict(os.environ), random.getstate(), torch.initial_seed(), torch.get_rng_state().tolist(),
                    "cuda" in vars(torch.Tensor), torch.cuda.synchronize.__module__, torch.get_num_threads(),
                    torch.backends.cuda.matmul.allow_tf32]
        before = json.dumps(state())
        with open_reference(sys.argv[1]) as reference:
            reference.module("train.train")
            torch.manual_seed(3)
        print(json.dumps([before == json.dumps(state()), reference.info.identity]))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(official_root)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, "verified"]


def test_users_own_dinov2_is_not_used_and_comes_back(official_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `dinov2` that the user has imported is put aside meanwhile."""
    mine = ModuleType("dinov2")
    monkeypatch.setitem(sys.modules, "dinov2", mine)
    with open_reference(str(official_root)) as reference:
        assert reference.module() is not mine
        assert reference.module().__version__ == "0.0.1.dev2"
    assert sys.modules["dinov2"] is mine


def test_installed_xformers_is_shadowed_on_a_cpu(
    official_root: Path, real_xformers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real xformers importable, a CPU still gets the substitutes: the real kernels need a GPU."""
    monkeypatch.syspath_prepend(str(real_xformers_folder))
    with open_reference(str(official_root)) as reference:
        fmha = reference.module("layers.block").fmha
        assert fmha is importlib.import_module("xformers.ops").fmha
        assert fmha.BlockDiagonalMask.__module__ == "parity.reference.substitutes.xformers"


def test_info_says_what_runs(official_root: Path) -> None:
    """The record for the report has source, version, counts, identity and the substitutes in use."""
    with open_reference(str(official_root)) as reference:
        info = reference.info
    assert (info.source, info.requested, info.location) == ("path", str(official_root), str(official_root))
    assert info.version.startswith("dinov2 0.0.1.dev2 on PyPI")
    assert (info.identity, info.files_total, info.files_verified, info.modified) == ("verified", 44, 44, ())
    assert info.substitutes == tuple(item.text() for item in SUBSTITUTES)
    assert reference.root == official_root
    with pytest.raises(dataclasses.FrozenInstanceError):
        reference.root = Path()  # type: ignore[misc]  # that it cannot be set is what is tested


def test_module_is_lazy_and_ends_with_the_reference(official_root: Path) -> None:
    """Nothing is imported before it is asked for, nothing can be asked for afterwards."""
    with open_reference(str(official_root)) as reference:
        assert "dinov2" not in sys.modules
        reference.module("utils.utils")
        assert "dinov2.utils.utils" in sys.modules
        assert "dinov2.train" not in sys.modules
        with pytest.raises(ModuleNotFoundError, match=r"dinov2\.eval is not among the verified"):
            reference.module("eval")
    with pytest.raises(RuntimeError, match=r"dinov2\.loss was asked of a closed reference"):
        reference.module("loss")


def test_unreachable_reference_changes_nothing(tmp_path: Path) -> None:
    """A reference that does not exist raises before anything is touched."""
    before = _state()
    with pytest.raises(ReferenceSourceError, match="does not exist"), open_reference(str(tmp_path / "no")):
        pytest.fail("nothing was opened")
    assert _state() == before


def test_cuda_device_gets_the_real_kernels(official_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CUDA device the CUDA calls are real, and so is xformers where it is installed (chosen, not run)."""
    chosen = parity.reference._substituted
    assert chosen(torch.device("cpu")) == {"xformers", "cuda", "fsdp"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen(torch.device("cuda")) == {"xformers", "fsdp"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert chosen(torch.device("cuda", 1)) == {"fsdp"}
    info = parity.reference._info(resolve(str(official_root)), frozenset({"fsdp"}))
    assert [line.split(":")[0] for line in info.substitutes] == [
        "dinov2.train.ssl_meta_arch.get_fsdp_modules",
        "dinov2.train.ssl_meta_arch.get_fsdp_wrapper",
        "clip_grad_norm_, _streams of student and teacher",
        "torch.distributed process group",
    ]


def test_the_verified_files_can_be_read(official_root: Path) -> None:
    """Questions about the source are asked of the bytes that are compiled, not of what lies on the disk by then."""
    with open_reference(str(official_root)) as reference:
        assert set(reference.files) == set(resolve(str(official_root)).files)
        source = reference.files["dinov2/loss/koleo_loss.py"].decode()
        assert "class KoLeoLoss" in source
        module = reference.module("loss.koleo_loss")
        assert module.__loader__ is not None
        assert module.__loader__.get_source(module.__name__) == source  # type: ignore[attr-defined]  # a source loader
