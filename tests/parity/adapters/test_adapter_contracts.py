"""What both built-in stacks promise alike: shapes, types, names, and inputs that stay as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from parity import states
from parity.adapters.official import OfficialStack
from parity.adapters.port import PortStack
from parity.names import canonical
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from parity.seeding import seeded
from parity.stack import CAPABILITIES, capabilities_of, claims_bitwise, stack_name

B, LOCAL = 3, 3


@pytest.fixture(params=["official", "port"])
def stack(request: pytest.FixtureRequest, official_stack: OfficialStack) -> Any:
    """Each of the two built-in stacks."""
    return official_stack if request.param == "official" else PortStack(SMALL_ARCHITECTURES)


@pytest.fixture
def config() -> DictConfig:
    """The small default recipe."""
    return RECIPES[0].config()


def test_everything_is_offered_but_official_s_prototype_loss(stack: Any) -> None:
    """Official has no such loss; port claims bits, and the reference itself claims nothing."""
    is_port = stack_name(stack) == "port"
    assert capabilities_of(stack) == tuple(name for name in CAPABILITIES if is_port or name != "prototype_loss")
    assert claims_bitwise(stack) is is_port


def test_masks_are_bool_grids_from_the_random_module(stack: Any) -> None:
    """At most what was asked for, on grids that are not square too, alike for like seeds."""
    seeded(3)
    first = stack.make_mask((7, 5), 12, 17.5)
    seeded(3)
    again = stack.make_mask((7, 5), 12, 17.5)
    assert (first.shape, first.dtype) == ((7, 5), np.dtype(bool))
    assert 0 < first.sum() <= 12
    assert (first == again).all()
    assert stack.make_mask((7, 5), 0, 17.5).sum() == 0


def test_counts_are_integers_for_every_row(stack: Any) -> None:
    """Half of ten rows, in rising bins between 19 and 98 of 196 patches; the others 0."""
    seeded(0)
    counts = stack.mask_counts(10, 196, (0.1, 0.5), 0.5)
    assert [type(c) for c in counts] == [int] * 10
    assert counts[5:] == [0] * 5
    assert counts[:5] == sorted(counts[:5])
    assert 19 <= counts[0] <= counts[4] <= 98


def test_a_batch_has_official_s_fields(stack: Any, config: DictConfig) -> None:
    """Shapes and types of the seven fields, crops outermost, and a weight that sums to one for each masked row."""
    kept = config.copy()
    given = states.samples(B, 96, 48, LOCAL, 0)
    seeded(1)
    batch = stack.collate(given, config, torch.float16)
    assert list(batch["collated_global_crops"].shape) == [2 * B, 3, 96, 96]
    assert list(batch["collated_local_crops"].shape) == [LOCAL * B, 3, 48, 48]
    assert batch["collated_global_crops"].dtype is torch.float16
    assert torch.equal(batch["collated_global_crops"][B], given[0]["global_crops"][1].half())
    masks = batch["collated_masks"]
    assert (list(masks.shape), masks.dtype) == ([2 * B, 36], torch.bool)
    assert int(masks.any(-1).sum()) == B
    assert torch.equal(batch["mask_indices_list"], masks.flatten().nonzero().flatten())
    torch.testing.assert_close(batch["masks_weight"].sum(), torch.tensor(float(B)))
    assert int(batch["n_masked_patches"]) == int(masks.sum()) <= batch["upperbound"]
    assert config == kept


def test_losses_are_scalars_that_reach_their_inputs(stack: Any) -> None:
    """DINO, iBOT and KoLeo are differentiable in the student."""
    student = states.logits(4, 12, 0).requires_grad_()
    teacher = torch.softmax(states.logits(4, 12, 1), dim=-1)
    masks = torch.zeros(4, 6, dtype=torch.bool)
    masks[0, :4] = True
    weight = torch.full((4,), 0.25)
    for loss in (
        stack.dino_loss([student], [teacher]),
        stack.ibot_loss(student, teacher, masks, 4, weight),
        stack.koleo_loss(student),
    ):
        assert loss.ndim == 0
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["dino", "ibot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_are_distributions(stack: Any, kind: str, dtype: torch.dtype) -> None:
    """Rows of assignments and of centred targets sum to one; the centre is a tenth of the last update's mean."""
    outputs = [states.logits(rows, 12, rows).to(dtype) for rows in (5, 7)]
    assigned = stack.sinkhorn(kind, outputs[0].clone(), 0.07)
    torch.testing.assert_close(assigned.sum(-1), torch.ones(5, dtype=assigned.dtype))
    targets, center = stack.softmax_center(kind, outputs, 0.07)
    for target, output in zip(targets, outputs, strict=True):
        assert target.shape == output.shape
        torch.testing.assert_close(target.sum(-1), torch.ones(len(output), dtype=dtype))
    expected = 0.9 * 0.1 * outputs[0].mean(0) + 0.1 * outputs[1].mean(0)
    torch.testing.assert_close(center, expected)


def test_schedules_cover_every_step(stack: Any, config: DictConfig) -> None:
    """12 epochs of 10 steps; the temperature stops after its warm-up; the rate is scaled for three images."""
    schedules = stack.schedules(config)
    lengths = {name: len(values) for name, values in schedules.items()}
    assert lengths == {"lr": 120, "wd": 120, "momentum": 120, "teacher_temp": 40, "last_layer_lr": 120}
    assert schedules["lr"].max() == pytest.approx(config.optim.base_lr * (3 / 1024) ** 0.5)
    assert not schedules["last_layer_lr"][:10].any()


def test_groups_hold_every_trained_parameter_once(stack: Any, config: DictConfig) -> None:
    """Under the student's own names, at each iteration that was asked for."""
    table = stack.parameter_groups(config, [0, 50])
    expected = {
        canonical(name.removeprefix("student.")) for name in stack.init_state(config, 0) if name.startswith("student.")
    }
    assert list(table) == [0, 50]
    for rows in table.values():
        assert {canonical(name) for name in rows} == expected
        assert all({"lr", "weight_decay"} <= set(row) for row in rows.values())


def test_modules_are_the_student_s(stack: Any, config: DictConfig) -> None:
    """A backbone that answers with official's dict, and heads of the sizes of either loss."""
    backbone = stack.build_backbone(config)
    features = backbone(torch.zeros(2, 3, 96, 96), masks=None, is_training=True)
    assert list(features["x_norm_patchtokens"].shape) == [2, 36, 48]
    for kind, width in (("dino", 96), ("ibot", 80)):
        assert list(stack.build_head(config, kind)(torch.zeros(5, 48)).shape) == [5, width]


def test_initial_states_repeat_by_seed(stack: Any, config: DictConfig) -> None:
    """The same seed gives the same tensors, copies of their own."""
    first, again, other = (stack.init_state(config, seed) for seed in (4, 4, 5))
    name = next(n for n in first if n.endswith("qkv.weight"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first[name], other[name])
    assert not first[name].requires_grad or first[name].is_leaf


_PARTS = (
    "losses",
    "gradients",
    "clipped_gradients",
    "exp_avg",
    "exp_avg_sq",
    "parameters",
    "teacher",
    "centers",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_returns_every_part_in_the_dtype_of_its_state(
    stack: Any, config: DictConfig, dtype: torch.dtype
) -> None:
    """Losses, gradients twice, student, teacher and centres, and the rates; the state that was given stays."""
    seeded(2)
    batch = stack.collate(states.samples(B, 96, 48, LOCAL, 0), config, torch.float32)
    state = {n: t.to(dtype) for n, t in states.generic_state(stack.init_state(config, 0), 0).items()}
    kept = {n: t.clone() for n, t in state.items()}
    before = OmegaConf.to_yaml(config)
    result = stack.training_step(config.copy(), state, batch, 25, 0)
    names = {*_PARTS, "hyperparameters"}
    assert set(result) == names
    assert set(result["losses"]) == {"dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss"}
    for part in _PARTS:
        assert {t.dtype for t in result[part].values()} == {dtype}, part
    assert all(torch.equal(kept[n], state[n]) for n in kept)
    assert OmegaConf.to_yaml(config) == before
    moved = [n for n, t in result["parameters"].items() if not torch.equal(t, _named(kept, n))]
    assert len(moved) == len(result["parameters"])
    assert set(result["hyperparameters"]) == {
        canonical(n).removeprefix("student.") if stack_name(stack) == "official" else n.removeprefix("student.")
        for n in kept
        if n.startswith("student.")
    }


_CARRIED = ("parameters", "exp_avg", "exp_avg_sq", "teacher", "centers")


def _training(stack: Any, config: DictConfig, steps: int, snapshots: list[int]) -> dict[str, Any]:
    config = config.copy()
    config.optim.warmup_epochs = config.optim.freeze_last_layer_epochs = 0  # so that everything moves at once
    result: dict[str, Any] = stack.training_trajectory(config, *_state_and_batches(stack, config, steps), snapshots, 7)
    return result


def _state_and_batches(
    stack: Any, config: DictConfig, steps: int
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    seeded(2)
    batches = [stack.collate(states.samples(B, 96, 48, LOCAL, i), config, torch.float32) for i in range(steps)]
    return states.generic_state(stack.init_state(config, 0), 0), batches


def test_a_training_begins_with_the_step_at_iteration_0(stack: Any, config: DictConfig) -> None:
    """The same batch, state and seed give the bits of `training_step`, and the inputs stay as they were."""
    config.optim.warmup_epochs = 0
    state, batches = _state_and_batches(stack, config, 1)
    kept, before = {n: t.clone() for n, t in state.items()}, OmegaConf.to_yaml(config)
    training = stack.training_trajectory(config.copy(), state, batches, [0], 7)
    step = stack.training_step(config.copy(), state, batches[0], 0, 7)
    assert len(training["losses"]) == 1
    assert set(training["snapshots"]) == {0}
    for part, values in {"losses": training["losses"][0], **training["snapshots"][0]}.items():
        assert values.keys() == step[part].keys(), part
        assert all(torch.equal(values[name], step[part][name]) for name in values), part
    assert set(training["snapshots"][0]) == set(_CARRIED)
    assert all(torch.equal(kept[n], state[n]) for n in kept)
    assert OmegaConf.to_yaml(config) == before


def test_looking_at_a_training_does_not_change_it(stack: Any, config: DictConfig) -> None:
    """A snapshot applies pending centre updates to copies: later steps are the same without it."""
    watched, unwatched = (_training(stack, config, 4, snapshots) for snapshots in ([0, 1, 2, 3], [3]))
    for left, right in zip(watched["losses"], unwatched["losses"], strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)
    for part in _CARRIED:
        first, last, again = watched["snapshots"][0][part], watched["snapshots"][3][part], unwatched["snapshots"][3]
        assert all(torch.equal(last[name], again[part][name]) for name in last), part
        moved = [name for name in last if not torch.equal(first[name], last[name])]
        assert len(moved) == len(last), (part, set(last) - set(moved))


def _named(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return next(t for n, t in state.items() if canonical(n) == canonical(name))
