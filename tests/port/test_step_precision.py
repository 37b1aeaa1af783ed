"""The step under autocast: matrix products in half precision, losses, centres and updates in float32.

The CPU's autocast to bfloat16 stands for CUDA's, which no GPU here has run. It knows no rule for the losses' functions,
where CUDA's widens some of them, so that what is float32 here is so by the losses' own doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from equal_steps import WAYS
from tiny_training import tiny_batch, tiny_model
from torch import Tensor
from torch.overrides import TorchFunctionMode

from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss, linear_cross_entropy
from port.optim import build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep

BF16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
# By form, a function that its cross-entropies are made of.
CROSS_ENTROPY = {"official_order": "log_softmax", "fast": "exp_"}
LOSS_FUNCTIONS = {*CROSS_ENTROPY.values(), "cross_entropy", "softmax", "pairwise_distance", "normalize", "mm"} | {
    *("exp", "log", "amax", "mv"),
}


class Types(TorchFunctionMode):
    """Notes the types that functions are given, within calls of some modules and of the joint cross-entropy only."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.inside = 0
        self.seen: dict[str, set[torch.dtype]] = {}
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self._enter(1))
            module.register_forward_hook(lambda *_: self._enter(-1))

    def _enter(self, change: int) -> None:
        self.inside += change

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out a function."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if self.inside and name in LOSS_FUNCTIONS:
            given = {value.dtype for value in (*args, result) if isinstance(value, Tensor)}
            self.seen[name] = self.seen.get(name, set()) | given
        return result


def losses_of(model: SSLMetaArch) -> list[torch.nn.Module]:
    """Return the modules that compute losses."""
    names = ("dino_loss", "koleo_loss", "ibot_patch_loss", "prototype_loss")
    return [getattr(model, name) for name in names if hasattr(model, name)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kernels", CROSS_ENTROPY)
def test_losses_are_computed_in_single_precision(monkeypatch: pytest.MonkeyPatch, way: str, kernels: str) -> None:
    """Within the losses not one function has a half-precision tensor, though the networks' logits are bfloat16."""
    model = tiny_model([*WAYS[way], "prototype.n_prototypes=7", f"kernels={kernels}"])
    model.autocast = BF16
    heads: list[torch.dtype] = []
    for part in (model.teacher, model.student):
        # The student's last product is made with its losses where these are fast.
        part["dino_head"].get_submodule("mlp").register_forward_hook(
            lambda module, args, tokens: heads.append(tokens.dtype)
        )
    with Types(losses_of(model)) as types:
        made = linear_cross_entropy._losses_and_gradients

        def inside(*args: Any) -> Tensor:
            assert args[0].dtype == torch.bfloat16
            types._enter(1)
            losses = made(*args)
            types._enter(-1)
            return losses

        monkeypatch.setattr(linear_cross_entropy, "_losses_and_gradients", inside)
        losses = model.forward_backward(tiny_batch(model.cfg, n_images=3), 0.05)
    assert heads == [torch.bfloat16] * 2
    assert {CROSS_ENTROPY[kernels], "pairwise_distance", "mm", "normalize"} <= types.seen.keys()
    assert ("cross_entropy" in types.seen) == model.do_prototypes
    # The KoLeo neighbours and the masks' places are integers.
    assert set().union(*types.seen.values()) <= {torch.float32, torch.int64}
    values = [losses.total, *losses.optimised.values(), *losses.displayed.values()]
    assert {value.dtype for value in values} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    """The losses of rounded logits, to the last bit: nothing is rounded a second time."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 9, generator=generator).to(dtype) for _ in range(2))
    targets = torch.softmax(teacher.float(), -1)
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    dino, ibot, koleo = DINOLoss(9), iBOTPatchLoss(9), KoLeoLoss()
    with BF16():
        found = dino([student], [targets]), ibot.forward_masked(student, targets, mask), koleo(student)
        dense = ibot(student.view(2, 3, 9), targets.view(2, 3, 9), mask[:2])
    wide = student.float()
    expected = dino([wide], [targets]), ibot.forward_masked(wide, targets, mask), koleo(wide)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert torch.equal(dense, ibot(wide.view(2, 3, 9), targets.view(2, 3, 9), mask[:2]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_centres_sum_in_single_precision(dtype: torch.dtype) -> None:
    """Over 4000 logits of 1 a sum in half precision stops or rounds; the centres take a tenth of exactly 1."""
    logits = torch.ones(4001, 3, dtype=dtype)
    dino, ibot = DINOLoss(3), iBOTPatchLoss(3)
    dino.update_center(logits)
    ibot.update_center(logits.unsqueeze(0))
    for loss in (dino, ibot):
        loss.apply_center_update()
        assert loss.center.dtype == torch.float32
        torch.testing.assert_close(loss.center.flatten(), torch.full((3,), 0.1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_centre_is_kept_in_its_own_precision(dtype: torch.dtype) -> None:
    """Q13: a batch without masks votes for the centre as it is, not as half precision rounds it."""
    loss = iBOTPatchLoss(3)
    loss.center.fill_(0.1234567)
    loss.update_center(torch.zeros(1, 0, 3, dtype=dtype))
    loss.apply_center_update()
    torch.testing.assert_close(loss.center.flatten(), torch.full((3,), 0.1234567), rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_losses_are_near(way: str) -> None:
    """bfloat16 has eight bits: losses differ by parts of a hundred from single precision's, and not by nothing."""
    values = []
    for autocast in (None, BF16):
        model = tiny_model([*WAYS[way], "prototype.n_prototypes=7"])
        if autocast is not None:
            model.autocast = autocast
        values.append(model.forward_backward(tiny_batch(model.cfg, n_images=3), 0.2).displayed)
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=0.05, atol=0.05)
    assert any(not torch.equal(values[1][name], value) for name, value in values[0].items())


def test_parameters_moments_and_teacher_stay_single_precision() -> None:
    """After two steps under autocast: what is kept from step to step is float32, and it moved."""
    model = tiny_model(["ibot.separate_head=true"])
    model.autocast = BF16
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    step = TrainStep(model, optimizer, build_schedulers(model.cfg), model.cfg)
    for iteration in (2, 3):
        step(tiny_batch(model.cfg, seed=iteration), iteration)
    kept = [*model.state_dict().values(), *(x for state in optimizer.state.values() for x in state.values())]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_large_logits_train_with_sinkhorn() -> None:
    """Last layers of length 50, teacher at 0.04: official's targets are not a number there (Q8), these train."""
    model = tiny_model(["train.centering=sinkhorn_knopp"])
    with torch.no_grad():
        for networks in (model.student, model.teacher):
            networks.get_parameter("dino_head.last_layer.weight_g").fill_(50.0)
    losses = model.forward_backward(tiny_batch(model.cfg), 0.04)
    assert all(value.isfinite() for value in losses.displayed.values())
    gradients = [parameter.grad for parameter in model.student.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
