"""What only a CUDA device can show. Without one every test here is skipped, and says so: not run is not passed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from equal_steps import COMMON, ROUNDING, WAYS, double_batch, largest_difference
from tiny_training import tiny_batch, tiny_model
from torch import Tensor
from train_runs import (
    REPOSITORY,
    arguments,
    checkpoint_tensors,
    command,
    in_process,
    losses,
    make_images,
    metric_lines,
    newest_checkpoint,
)

from parity.oracle import Float64Oracle
from port.checkpoint import training_state
from port.optim import PrototypeOptimizer, build_optimizer, build_schedulers
from port.step import TrainStep
from port.training.parallel import compile_blocks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

CUDA = torch.device("cuda", 0)
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train a tiny model on CUDA, and return its output folder."""
    images = make_images(tmp_path / "images")

    def run(name: str, *overrides: str) -> Path:
        output = tmp_path / name
        assert in_process(monkeypatch, arguments(images, output, "device=cuda", *overrides)) == 0
        return output

    return run


@pytest.fixture
def exact_weight_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spell weight normalisation out: torch's CUDA kernel takes float64 rows' norms in single precision (5e-9 off)."""

    def weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
        assert dim == 0
        weight: Tensor = v * (g / v.norm(dim=1, keepdim=True))
        return weight

    monkeypatch.setattr(torch, "_weight_norm", weight_norm)


def steps_in_double(way: str, device: torch.device, compiled: bool = False) -> dict[str, Tensor]:
    """Return the state after three steps in float64, on the CPU."""
    model = tiny_model([*COMMON, *WAYS[way]]).double().to(device)
    if compiled:
        compile_blocks(model.student["backbone"])
    cfg = model.cfg
    optimizer = build_optimizer(cfg, model.get_params_groups())
    optimizers: dict[str, torch.optim.Optimizer] = {"student": optimizer}
    prototypes = None
    if model.do_prototypes:
        prototypes = PrototypeOptimizer(model.prototype_loss, cfg, 4)
        optimizers["prototypes"] = prototypes.optimizer
    step = TrainStep(model, optimizer, build_schedulers(cfg), cfg, prototypes=prototypes)
    with Float64Oracle():
        for iteration in range(1, 4):
            step.run(double_batch(cfg, 4, seed=iteration), iteration)
    return {name: tensor.detach().cpu() for name, tensor in training_state(model, optimizers, None).items()}


@pytest.mark.usefixtures("exact_weight_norm")
@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_computes_what_the_cpu_does(way: str) -> None:
    """In float64 three whole steps agree to rounding: weights, moments, teacher, centres, prototypes."""
    on_cpu, on_cuda = steps_in_double(way, torch.device("cpu")), steps_in_double(way, CUDA)
    assert largest_difference(on_cuda, on_cpu) < (ROUNDING, "")


# torch's own compiler, when it is first imported, and when it leaves an optimisation out.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:[^a-z]*Online softmax is disabled:UserWarning")
def test_compiled_blocks_compute_the_same() -> None:
    """To rounding, in float64."""
    way = next(iter(WAYS))
    compiled, plain = steps_in_double(way, CUDA, compiled=True), steps_in_double(way, CUDA)
    assert largest_difference(compiled, plain) < (ROUNDING, "")


def test_deterministic_runs_are_equal_bit_for_bit(train: Train) -> None:
    """With `deterministic=true`; positions are resized for local crops, of which CUDA's backward pass has none."""
    first, second = (train(name, "deterministic=true", "precision=bf16") for name in ("first", "second"))
    assert losses(first) == losses(second)
    ours, theirs = (checkpoint_tensors(newest_checkpoint(output)) for output in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_a_deterministic_run_resumes_bit_for_bit(train: Train, tmp_path: Path) -> None:
    """Killed after a checkpoint and started again, it ends as the undisturbed run does, drop path included."""
    settings = ("deterministic=true", "precision=fp32", "student.drop_path_rate=0.3")
    whole = train("whole", *settings)
    part = tmp_path / "part"
    script = (
        "import os, port.training.loop as loop\n"
        "save = loop._Loop.save\n"
        "def save_and_die(self, iteration):\n"
        "    save(self, iteration)\n"
        "    if iteration == 4: os._exit(9)\n"
        "loop._Loop.save = save_and_die\n"
        "import sys, runpy; sys.path.insert(0, 'tests/port')\n"
        "import pytest, train_runs, port.train\n"
        "train_runs.use_test_architectures(pytest.MonkeyPatch())\n"
        "sys.exit(port.train.main(sys.argv[1:]))\n"
    )
    argv = arguments(tmp_path / "images", part, "device=cuda", *settings)
    killed = subprocess.run([sys.executable, "-c", script, *argv], cwd=REPOSITORY, check=False, capture_output=True)
    assert killed.returncode == 9, killed.stderr
    resumed = train("part", *settings)
    ours, theirs = (checkpoint_tensors(newest_checkpoint(output)) for output in (whole, resumed))
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_trains(train: Train, precision: str) -> None:
    """All losses are finite; with fp16 the scale of the loss is logged."""
    output = train(precision, f"precision={precision}", "prototype.loss_weight=1", "accumulation_steps=2")
    lines = metric_lines(output)
    assert len(lines) == 6
    assert all(0 < line["optimised_total"] < float("inf") for line in lines)
    assert all(("scale" in line) == (precision == "fp16") for line in lines)


def test_losses_are_float32_under_autocast() -> None:
    """Cross-entropies and KoLeo are computed in float32 where the networks compute in bf16, and no device mixes."""
    model = tiny_model().to(CUDA)
    model.autocast = lambda: torch.autocast("cuda", dtype=torch.bfloat16)
    losses = model.forward_backward(tiny_batch(model.cfg, 4), 0.05)
    assert {value.dtype for value in losses.optimised.values()} == {torch.float32}
    assert {value.device.type for value in losses.optimised.values()} == {"cuda"}
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.student.parameters())


def test_recomputed_activations_change_no_bit(train: Train) -> None:
    """`activation_checkpointing=true` gives the same losses, drop path included."""
    settings = ("deterministic=true", "student.drop_path_rate=0.3")
    assert losses(train("kept", *settings)) == losses(train("again", *settings, "activation_checkpointing=true"))


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_torchrun_with_nccl(tmp_path: Path, mode: str) -> None:
    """One rank under torchrun, with a real group, ends with code 0 and without a warning of torch's."""
    images = make_images(tmp_path / "images")
    _, script, *settings = command(images, tmp_path / "out", "device=cuda", f"parallel={mode}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--standalone"]
    done = subprocess.run([*launcher, script, *settings], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr
    assert len(metric_lines(tmp_path / "out")) == 6


def test_too_little_memory_is_told_with_the_remedy(tmp_path: Path) -> None:
    """A batch that does not fit ends with exit code 1 and names the settings that need less."""
    images = make_images(tmp_path / "images")
    # A process whose share of the device is next to nothing.
    share = "torch.cuda.set_per_process_memory_fraction(2e-3)"
    code = f"import sys, torch, port.train; {share}; sys.exit(port.train.main())"
    argv = command(images, tmp_path / "out", "device=cuda", "dino.head_n_prototypes=262144")[2:]
    found = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([found] if found else [])])}
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1, done.stderr
    assert "error: out of memory" in done.stderr
    assert "activation_checkpointing=true" in done.stderr
