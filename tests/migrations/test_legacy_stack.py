from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from migrations.legacy import NOT_OFFERED, LegacyStack
from parity.stack import CAPABILITIES, capabilities_of, claims_bitwise, stack_name
from port.config import load_recipe
from port.models import Architecture

TINY = {"tiny": Architecture(embed_dim=24, depth=2, num_heads=2)}


def config(*overrides: str) -> DictConfig:
    """Separate heads of different widths on a tiny backbone."""
    small = [
        *("dino.head_n_prototypes=32", "ibot.head_n_prototypes=20", "dino.head_hidden_dim=16"),
        *("ibot.head_hidden_dim=16", "student.arch=tiny", "student.block_chunks=0"),
    ]
    return load_recipe("vitl14", [*small, *overrides])


def test_every_capability_is_offered_or_excused() -> None:
    """No capability is both, none is neither, and every excuse is one line."""
    offered = set(capabilities_of(LegacyStack()))
    assert offered | set(NOT_OFFERED) == set(CAPABILITIES)
    assert not offered & set(NOT_OFFERED)
    data = {"augment_steps", "evaluation_view", "decode_image", "data_order", "training_order"}
    others = {"mask_counts", "default_config", "recipe_configs", "training_trajectory"}
    assert set(NOT_OFFERED) >= data | others
    assert all(reason and "\n" not in reason for reason in LegacyStack.not_offered.values())


def test_the_stack_describes_itself() -> None:
    """Its name, its modes, and no claim to official's last bit."""
    stack = LegacyStack()
    assert (stack_name(stack), claims_bitwise(stack)) == ("legacy", False)
    assert stack.prototype_modes == ("visible", "masked", "separate")


def test_dino_loss_of_uniform_students_is_log_k_per_pair() -> None:
    """Two students of equal logits against three teachers: six times log 5."""
    uniform, teacher = torch.zeros(4, 5), torch.eye(5)[:4]
    loss = LegacyStack().dino_loss([uniform] * 2, [teacher] * 3)
    assert float(loss) == pytest.approx(6 * math.log(5), rel=1e-6)


def test_ibot_loss_sees_neither_weights_nor_rows() -> None:
    """The mean over tokens, whatever weights and masks come with it."""
    student, teacher = torch.randn(6, 5), torch.eye(5)[torch.arange(6) % 5]
    masks = torch.ones(2, 3, dtype=torch.bool)
    more_rows = torch.cat((masks, torch.zeros(4, 3, dtype=torch.bool)))
    stack = LegacyStack()
    losses = [
        stack.ibot_loss(student, teacher, rows, 6, torch.full((6,), weight))
        for rows, weight in ((masks, 1.0), (more_rows, 1.0), (masks, 7.0))
    ]
    expected = -(teacher * torch.log_softmax(student / 0.1, -1)).sum(-1).mean()
    for loss in losses:
        torch.testing.assert_close(loss, expected)


def test_koleo_loss_of_orthogonal_rows() -> None:
    """Every nearest neighbour is at the square root of 2."""
    assert float(LegacyStack().koleo_loss(torch.eye(4))) == pytest.approx(-0.5 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_sinkhorn_spreads_samples_over_prototypes(kind: str) -> None:
    """Rows sum to 1; equal rows share all prototypes alike."""
    stack = LegacyStack()
    assigned = stack.sinkhorn(kind, 0.1 * torch.randn(12, 4), 0.07)
    torch.testing.assert_close(assigned.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(stack.sinkhorn(kind, torch.ones(6, 4), 0.07), torch.full((6, 4), 0.25))


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_softmax_center_defers_its_update(kind: str) -> None:
    """The second batch is centred by a tenth of the first's mean, the centre by both."""
    first, second = torch.tensor([[1.0, 3.0], [3.0, 5.0]]), torch.tensor([[2.0, 0.0]])
    targets, center = LegacyStack().softmax_center(kind, [first, second], teacher_temp=0.5)
    torch.testing.assert_close(targets[0], torch.softmax(first / 0.5, -1))
    torch.testing.assert_close(targets[1], torch.softmax((second - torch.tensor([0.2, 0.4])) / 0.5, -1))
    torch.testing.assert_close(center, torch.tensor([0.9 * 0.2 + 0.1 * 2, 0.9 * 0.4]))


def test_schedules_never_freeze_the_last_layer() -> None:
    """`last_layer_lr` is the learning rate, where official has zeros for the first epoch."""
    schedules = LegacyStack().schedules(config("optim.freeze_last_layer_epochs=1"))
    assert np.array_equal(schedules["last_layer_lr"], schedules["lr"])
    assert schedules["last_layer_lr"][1] > 0
    # 2e-4 * sqrt(32 / 1024) at the end of the warm-up.
    assert schedules["lr"].max() == pytest.approx(2e-4 * 32**-0.5)
    assert {name: value.dtype for name, value in schedules.items()} == dict.fromkeys(
        ("lr", "wd", "momentum", "teacher_temp", "last_layer_lr"), np.dtype("float64")
    )


def test_schedules_leave_the_configuration_alone() -> None:
    """The scaled learning rate is written into a copy."""
    cfg = config()
    LegacyStack().schedules(cfg)
    assert cfg.optim.lr == 0.0


@pytest.mark.parametrize(("kind", "classes"), [("dino", 32), ("ibot", 20)])
def test_heads_have_their_own_sizes(kind: str, classes: int) -> None:
    """Tokens of the backbone's width become logits of the head's."""
    head = LegacyStack(TINY).build_head(config(), kind)
    assert head(torch.zeros(3, 24)).shape == (3, classes)


def test_backbone_runs_as_official_s() -> None:
    """A list of batches with a mask each returns official's keys for each."""
    backbone = LegacyStack(TINY).build_backbone(config("student.patch_size=14"))
    crops = [torch.zeros(2, 3, 28, 28), torch.zeros(3, 3, 14, 14)]
    outputs = backbone(crops, masks=[torch.ones(2, 4, dtype=torch.bool), None], is_training=True)
    assert [tuple(output["x_norm_patchtokens"].shape) for output in outputs] == [(2, 4, 24), (3, 1, 24)]


def test_initial_state_has_official_s_names() -> None:
    """Student, teacher and centres; a seed repeats it."""
    stack = LegacyStack(TINY)
    state = stack.init_state(config(), seed=1)
    assert {name.split(".")[0] for name in state} == {"student", "teacher", "dino_loss", "ibot_patch_loss"}
    assert {"student.backbone.mask_token", "teacher.ibot_head.last_layer.weight_g"} <= set(state)
    again = stack.init_state(config(), seed=1)
    assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_prototype_loss_needs_a_known_mode() -> None:
    """The three modes are numbers, anything else is an error."""
    tokens = torch.randn(2, 4, 3)
    masks = torch.tensor([[True, False, False, True]] * 2)
    stack = LegacyStack()
    losses: list[Tensor] = [stack.prototype_loss(m, tokens, tokens, masks) for m in stack.prototype_modes]
    assert all(bool(loss.isfinite()) and loss.ndim == 0 for loss in losses)
    with pytest.raises(ValueError, match="'none' is not known"):
        stack.prototype_loss("none", tokens, tokens, masks)
