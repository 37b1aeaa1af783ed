"""The whole step on devices that hold no numbers: no value is read on the way, and no tensor of the CPU strays in.

Where there is no GPU (for one that is there see test_training_cuda.py), fake CUDA tensors carry shapes and devices
through teacher, student, losses, clipping, both optimizers and the moving average, and raise an error where devices
mix. Torch's autograd engine needs a real CUDA device, so the backward pass is the meta device's; autocast for CUDA is
refused without one, and tested on the CPU instead (test_step_precision.py). What only a GPU can show is left: kernels,
streams, NCCL, speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import pytest
import torch
from equal_steps import COMMON, WAYS
from tiny_training import ARCHITECTURES, tiny_batch, tiny_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import port.step
from port.data import Batch
from port.data.batches import batch_to_device
from port.losses import KoLeoLoss
from port.optim import PrototypeOptimizer, build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep

Loss = Callable[..., Tensor]
DROP_PATH = "student.drop_path_rate=0.3"


class Read:
    """Stands in for the step's only look at numbers, one transfer of all losses and one of the norms."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        self.places: set[tuple[str, int]] = set()

    def __call__(self, values: Mapping[str, Tensor], *unused: object) -> None:
        """Note what would have been read."""
        self.names.append(list(values))
        self.places |= {(value.device.type, value.ndim) for value in values.values()}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Take the place of the check for numbers that are not finite."""
    stand_in = Read()
    monkeypatch.setattr(port.step, "_check_numbers", stand_in)
    return stand_in


def step_on(device: str, way: str) -> TrainStep:
    """Return a step whose model is on a device; initial values are left out, as torch's look at numbers."""
    cfg = tiny_config([*COMMON, *WAYS[way], DROP_PATH])
    with torch.device(device):
        model = SSLMetaArch(cfg, architectures=ARCHITECTURES).train()
    model.synchronise_teacher()
    prototypes = PrototypeOptimizer(model.prototype_loss, cfg, 4) if model.do_prototypes else None
    optimizer = build_optimizer(cfg, model.get_params_groups())
    return TrainStep(model, optimizer, build_schedulers(cfg), cfg, prototypes=prototypes)


def moved(batch: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch with each tensor replaced."""
    return cast(Batch, {key: move(value) if isinstance(value, Tensor) else value for key, value in batch.items()})


def devices(tensors: Iterable[Tensor]) -> set[str]:
    """Return the kinds of device that tensors are on."""
    return {tensor.device.type for tensor in tensors}


def moments(step: TrainStep) -> list[Tensor]:
    """Return the optimizers' state but for the counts of steps, which torch keeps on the CPU."""
    optimizers = [step.optimizer, *([step.prototypes.optimizer] if step.prototypes else [])]
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return [value for state in states for key, value in state.items() if key != "step"]


@pytest.mark.parametrize("way", WAYS)
def test_a_whole_step_reads_no_number(read: Read, way: str) -> None:
    """On the meta device, where reading raises: two micro-batches, backward, clipping, AdamW, moving average.

    The one thing left out is the check of losses and norms before the step, whose single transfers are counted.
    """
    step = step_on("meta", way)
    report = step.run([tiny_batch(step.model.cfg), tiny_batch(step.model.cfg, seed=1)], 3)
    assert read.names == [list(report.losses.displayed), list(report.gradient_norms)]
    assert read.places == {("meta", 0)}
    trained = [p for p in step.model.parameters() if p.requires_grad]
    gradients = [p.grad for p in trained if p.grad is not None]
    assert len(gradients) == len(trained) == len(moments(step)) // 2
    assert devices([*gradients, *moments(step), *step.model.parameters(), *step.model.buffers()]) == {"meta"}


def test_a_number_read_on_the_way_is_found(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: a loss that looks at its value raises on the meta device."""
    original: Loss = KoLeoLoss.forward
    monkeypatch.setattr(KoLeoLoss, "forward", lambda self, x: original(self, x) * (1 if x.sum() > 0 else 2))
    step = step_on("meta", "centring, one head")
    with pytest.raises(RuntimeError, match="meta tensors"):
        step.run(tiny_batch(step.model.cfg), 3)
    assert read.names == []


class OnCpu(TorchDispatchMode):
    """Notes the operations that take or give a CPU tensor, of which indices raise no error among CUDA tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry out an operation."""
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if "cpu" in devices(tensors):
            self.found.add(str(func))
        return result


def no_backward(step: TrainStep) -> Callable[[Tensor], None]:
    """Return what gives each trained parameter a gradient in place of the engine."""

    def fill(loss: Tensor) -> None:
        assert (loss.device.type, loss.ndim, loss.requires_grad) == ("cuda", 0, True)
        for parameter in step.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    return fill


@pytest.fixture
def fake_mode(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Return a mode without real tensors; torch's truncated normal distribution reads numbers, so it is left out."""
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)
    return FakeTensorMode(allow_non_fake_inputs=False)


def carry_out(mode: FakeTensorMode, way: str) -> set[str]:
    """Carry out a step of two micro-batches among fake CUDA tensors, and return its operations with CPU tensors.

    AdamW is not among those: it keeps its count of steps on the CPU.
    """
    real = [tiny_batch(tiny_config(), seed=seed) for seed in range(2)]
    strays = OnCpu()
    with mode:
        step = step_on("cuda", way)
        backward = no_backward(step)
        batches = [batch_to_device(moved(batch, mode.from_tensor), torch.device("cuda", 0)) for batch in real]
        with strays:
            losses = step.model.forward_backward(batches, 0.07, backward=backward)
            step._clip()
            step.model.update_teacher(0.9)
        values = [losses.total, *losses.optimised.values(), *losses.displayed.values(), *step.gradient_norms.values()]
        assert devices(values) == {"cuda"}
        for optimizer in (step.optimizer, *([step.prototypes.optimizer] if step.prototypes else [])):
            optimizer.step()
        assert devices([*moments(step), *step.model.parameters(), *step.model.buffers()]) == {"cuda"}
    return strays.found


@pytest.mark.parametrize("way", WAYS)
def test_no_cpu_tensor_strays_among_cuda_tensors(fake_mode: FakeTensorMode, way: str) -> None:
    """Teacher, student with stochastic depth, losses, clipping, moving average: not one operation has a CPU tensor."""
    assert carry_out(fake_mode, way) == set()


def test_a_cpu_tensor_in_a_loss_is_found(fake_mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: a factor made without a device raises."""
    original: Loss = KoLeoLoss.forward
    monkeypatch.setattr(KoLeoLoss, "forward", lambda self, x: (original(self, x) * torch.ones(1)).sum())
    with pytest.raises(RuntimeError, match=r"devices.* cuda:0.* cpu"):
        carry_out(fake_mode, "centring, one head")


def test_a_constant_of_the_cpu_is_found(fake_mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: a real tensor, made before the step, raises."""
    original: Loss = KoLeoLoss.forward
    table = torch.ones(1)
    monkeypatch.setattr(KoLeoLoss, "forward", lambda self, x: (original(self, x) * table).sum())
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors first"):
        carry_out(fake_mode, "centring, one head")


def test_an_index_of_the_cpu_is_found(fake_mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: indices of the CPU, which torch copies without a word, are named."""
    original: Loss = KoLeoLoss.forward
    monkeypatch.setattr(KoLeoLoss, "forward", lambda self, x: original(self, x[torch.arange(2)]))
    assert "aten.index.Tensor" in carry_out(fake_mode, "centring, one head")
