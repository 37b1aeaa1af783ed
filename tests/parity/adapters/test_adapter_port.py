from __future__ import annotations

import math

import pytest
import torch

from parity import states
from parity.adapters.port import PortStack
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from port.models import Architecture

# Tensors this small are slower on several threads, many times so on a busy machine.
torch.set_num_threads(1)


def _stack() -> PortStack:
    return PortStack(SMALL_ARCHITECTURES)


def test_the_prototype_loss_by_hand() -> None:
    """Two tokens per row, one along each axis: both rows count in the divisor, masked tokens alone in the sum."""
    axes = torch.eye(2)
    teacher = torch.stack((axes, axes))
    student = torch.stack((axes, axes)).requires_grad_()
    masks = torch.tensor([[True, True], [False, False]])
    loss = _stack().prototype_loss("masked", student, teacher, masks)
    # exp(cosine / 0.07) is (e^(1/0.07), 1) or its mirror: balanced already. The student's logits are cosine / 0.1.
    p = 1 / (1 + math.exp(-1 / 0.07))
    log_p = -math.log1p(math.exp(-10))
    cross_entropy = -(p * log_p + (1 - p) * (log_p - 10))
    assert float(loss.detach()) == pytest.approx(cross_entropy / 2, rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient[0].abs().sum() > 0
    assert not gradient[1].any()


def test_removed_prototype_modes_are_refused() -> None:
    """The document keeps masked patches alone."""
    tokens = torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match="'separate' is not offered, expected masked"):
        _stack().prototype_loss("separate", tokens, tokens, torch.ones(1, 2, dtype=torch.bool))


def test_architectures_are_those_given() -> None:
    """Sizes are looked up by the configuration's name, in the backbone and in the heads."""
    config = RECIPES[0].config()
    config.student.arch = "vit_of_mine"
    stack = PortStack({"vit_of_mine": Architecture(embed_dim=16, depth=2, num_heads=2)})
    assert stack.build_backbone(config).embed_dim == 16
    assert list(stack.build_head(config, "dino")(torch.zeros(1, 16)).shape) == [1, 96]
    with pytest.raises((KeyError, ValueError), match="vit_of_mine"):
        _stack().build_backbone(config)


def test_quirks_are_official_s_while_comparing() -> None:
    """After a batch without masks official's iBOT centre is NaN (Q13), and so is port's as parity runs it."""
    recipe = next(r for r in RECIPES if r.name == "default-unmasked")
    config, stack = recipe.config(), _stack()
    config.quirks = {"empty_mask_center": "corrected"}
    batch = stack.collate(states.samples(3, 96, 48, 3, 0), config, torch.float32)
    assert int(batch["n_masked_patches"]) == 0
    state = states.generic_state(stack.init_state(config, 0), 0)
    result = stack.training_step(config, state, batch, 25, 0)
    assert result["centers"]["ibot_patch_loss.center"].isnan().all()
    assert config.quirks.empty_mask_center == "corrected"


def test_a_seed_decides_the_drop_path_of_a_step() -> None:
    """Equal seeds give equal losses, other ones other losses."""
    config, stack = RECIPES[0].config(), _stack()
    batch = stack.collate(states.samples(3, 96, 48, 3, 0), config, torch.float32)
    state = states.generic_state(stack.init_state(config, 0), 0)
    losses = [float(stack.training_step(config, state, batch, 25, seed)["losses"]["ibot_loss"]) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_gradients_are_read_before_and_after_clipping() -> None:
    """With a bound of 0.01 the backbone's norm falls to it; the gradients before keep their own."""
    config, stack = RECIPES[0].config(), _stack()
    config.optim.clip_grad = 0.01
    batch = stack.collate(states.samples(3, 96, 48, 3, 0), config, torch.float32)
    state = states.generic_state(stack.init_state(config, 0), 0)
    result = stack.training_step(config, state, batch, 25, 1)
    norms = [
        float(torch.stack([t.norm() for n, t in result[part].items() if n.startswith("backbone.")]).norm())
        for part in ("gradients", "clipped_gradients")
    ]
    assert norms[0] > 0.02
    assert norms[1] == pytest.approx(0.01, rel=1e-3)
