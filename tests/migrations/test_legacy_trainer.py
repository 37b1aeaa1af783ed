from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from migrations.legacy import LegacyStack
from migrations.legacy.trainer import run_step, views_of
from port.config import load_recipe
from port.data.collate import Batch
from port.models import Architecture
from port.ssl_meta_arch import SSLMetaArch

TINY = {"tiny": Architecture(embed_dim=24, depth=2, num_heads=2)}
IMAGES, N_LOCAL, ITERATION = 3, 2, 25


def config(recipe: str = "vitl16_short", *overrides: str) -> DictConfig:
    """A recipe with a tiny backbone, small heads, grids of 4 x 4 and a short schedule."""
    small = [
        *(f"{head}.head_hidden_dim=16" for head in ("dino", "ibot")),
        *(f"{head}.head_bottleneck_dim=8" for head in ("dino", "ibot")),
        *("dino.head_n_prototypes=32", "ibot.head_n_prototypes=20"),
        *("student.arch=tiny", "student.patch_size=8", "student.block_chunks=0"),
        *("crops.global_crops_size=32", "crops.local_crops_size=16"),
        *(f"crops.local_crops_number={N_LOCAL}", f"train.batch_size_per_gpu={IMAGES}"),
        *("train.OFFICIAL_EPOCH_LENGTH=10", "optim.epochs=12", "optim.warmup_epochs=2"),
        "teacher.warmup_teacher_temp_epochs=4",
    ]
    return load_recipe(recipe, [*small, *overrides])


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def official_batch(masked: bool = True) -> dict[str, Any]:
    """Two global crops per image and a row of masks for each, as official collates them."""
    masks = torch.zeros(2 * IMAGES, 16, dtype=torch.bool)
    masks[::2, :5] = masked
    indices = masks.flatten().nonzero().flatten()
    return {
        "collated_global_crops": noise(2 * IMAGES, 3, 32, 32),
        "collated_local_crops": noise(N_LOCAL * IMAGES, 3, 16, 16, seed=1),
        "collated_masks": masks,
        "mask_indices_list": indices,
        "masks_weight": torch.full((len(indices),), 1 / 5),
        "upperbound": len(indices) + 2,
        "n_masked_patches": torch.tensor([len(indices)]),
    }


def own_batch() -> dict[str, Any]:
    """Three global crops per image and masks for the third."""
    masks = torch.zeros(IMAGES, 16, dtype=torch.bool)
    masks[0, :7] = masks[1, 3:5] = masks[2, 10:] = True
    return {
        "collated_global_crops": noise(3 * IMAGES, 3, 32, 32),
        "collated_local_crops": noise(N_LOCAL * IMAGES, 3, 16, 16, seed=1),
        "collated_masks": masks,
    }


def state_of(cfg: DictConfig) -> dict[str, Tensor]:
    """Initial values, moved away from zero."""
    initial = LegacyStack(TINY).init_state(cfg, seed=0)
    return {k: v + 0.05 * noise(*v.shape, seed=i) for i, (k, v) in enumerate(initial.items())}


def step(
    cfg: DictConfig, batch: dict[str, Any], state: dict[str, Tensor] | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """One iteration past the warm-up."""
    return run_step(cfg, state or state_of(cfg), batch, ITERATION, seed, TINY)


def test_own_batch_has_a_third_view() -> None:
    """The last third of the rows is masked; the others serve DINO."""
    batch = own_batch()
    views = views_of(batch, config(), torch.float32)
    assert torch.equal(views.global_crops, batch["collated_global_crops"][: 2 * IMAGES])
    assert torch.equal(views.original_images, batch["collated_global_crops"][2 * IMAGES :])
    assert torch.equal(views.token_masks, batch["collated_masks"])


def test_official_batch_lends_its_first_crop() -> None:
    """The third view is a copy of global crop 1, with masks drawn from torch's generator."""
    batch = official_batch()
    torch.manual_seed(4)
    views = views_of(batch, config(), torch.float64)
    assert torch.equal(views.original_images, batch["collated_global_crops"][:IMAGES].double())
    torch.manual_seed(4)
    assert torch.equal(views.token_masks, torch.bernoulli(torch.full((IMAGES, 16), 0.3)).bool())


def test_other_batches_are_refused() -> None:
    """Five rows of masks for six crops are neither official's nor the fork's."""
    batch = official_batch()
    batch["collated_masks"] = batch["collated_masks"][:5]
    with pytest.raises(ValueError, match="6 global crops and 5 rows of masks"):
        views_of(batch, config(), torch.float32)


@pytest.mark.parametrize(("recipe", "patch_classes"), [("vitl16_short", 32), ("vitl14", 20)])
def test_scales_of_the_losses(recipe: str, patch_classes: int) -> None:
    """A student whose logits are all 0 has cross-entropy log K everywhere: only official's scales remain.

    With two local crops there are 4 + 2 terms: 4 / 6 of log K for the local ones, 2 / 6 for the global ones,
    and half of log K shown for iBOT.
    """
    cfg = config(recipe)
    state = state_of(cfg)
    for name in state:
        if name.startswith("student.") and name.endswith("weight_g"):
            state[name].zero_()
    losses = {name: float(value) for name, value in step(cfg, own_batch(), state)["losses"].items()}
    del losses["koleo_loss"]
    assert losses == pytest.approx(
        {
            "dino_local_crops_loss": 4 / 6 * math.log(32),
            "dino_global_crops_loss": 2 / 6 * math.log(32),
            "ibot_loss": math.log(patch_classes) / 2,
        },
        rel=1e-5,
    )


def test_without_local_crops_the_global_term_is_divided_by_three() -> None:
    """Official's denominator without local crops is 3 (Q19), and there is no local loss."""
    cfg = config("vitl16_short", "crops.local_crops_number=0")
    state = state_of(cfg)
    state["student.dino_head.last_layer.weight_g"].zero_()
    losses = step(cfg, {**own_batch(), "collated_local_crops": torch.zeros(0, 3, 16, 16)}, state)["losses"]
    assert "dino_local_crops_loss" not in losses
    assert float(losses["dino_global_crops_loss"]) == pytest.approx(2 / 3 * math.log(32), rel=1e-5)


@pytest.mark.parametrize("centering", ["centering", "sinkhorn_knopp"])
def test_cls_losses_are_those_of_unmasked_global_crops(centering: str) -> None:
    """DINO and KoLeo equal the port's on the same crops without masks, and differ from its masked ones."""
    cfg = config("vitl16_short", "student.drop_path_rate=0.0", "ibot.loss_weight=0.0", f"train.centering={centering}")
    state = state_of(cfg)
    losses = step(cfg, official_batch(), state)["losses"]
    expected = {}
    for masked in (False, True):
        model = SSLMetaArch(cfg, architectures=TINY)
        model.load_state_dict(state)
        model.train()
        # Iteration 25 of a warm-up over 40, from 0.04 to 0.07, both ends included.
        temperature = 0.04 + 0.03 * ITERATION / 39
        shown = model.forward_backward(cast(Batch, official_batch(masked)), teacher_temp=temperature).displayed
        expected[masked] = {name: float(value) for name, value in shown.items()}
    assert losses.keys() == expected[False].keys()
    for name, value in losses.items():
        assert float(value) == pytest.approx(expected[False][name], rel=1e-5)
    assert float(losses["koleo_loss"]) != pytest.approx(expected[True]["koleo_loss"], rel=1e-4)


def test_masks_move_the_ibot_loss_alone() -> None:
    """Without drop path another seed draws other masks: iBOT changes, DINO and KoLeo do not."""
    cfg = config("vitl16_short", "student.drop_path_rate=0.0")
    first, second = (step(cfg, official_batch(), seed=seed)["losses"] for seed in (0, 1))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"ibot_loss"}


def test_a_step_repeats() -> None:
    """The seed decides masks and drop path, whatever the generator held before, and the state is left alone."""
    cfg = config()
    state = state_of(cfg)
    before = {name: value.clone() for name, value in state.items()}
    first = step(cfg, official_batch(), state, seed=3)
    torch.rand(5)
    second = step(cfg, official_batch(), state, seed=3)
    for part in ("losses", "gradients", "parameters", "teacher", "centers"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_every_parameter_of_the_student_has_a_gradient() -> None:
    """The mask token's comes from the third view, the patch head's from its masked tokens."""
    cfg = config("vitl14")
    result = step(cfg, own_batch())
    names = {name.removeprefix("student.") for name in result["parameters"]}
    assert set(result["gradients"]) == set(result["clipped_gradients"]) == set(result["hyperparameters"])
    assert set(result["gradients"]) == names
    assert float(result["gradients"]["backbone.mask_token"].abs().sum()) > 0
    assert float(result["gradients"]["ibot_head.last_layer.weight_v"].abs().sum()) > 0


def test_gradients_are_clipped_per_module() -> None:
    """Each of the three modules ends at the norm of 0.01; official clips them one by one too (Q40)."""
    result = step(config("vitl14", "optim.clip_grad=0.01"), own_batch())
    for module in ("backbone", "dino_head", "ibot_head"):
        norms = [v.norm() for k, v in result["clipped_gradients"].items() if k.startswith(module)]
        assert float(torch.stack(norms).norm()) == pytest.approx(0.01, rel=1e-3)


def test_without_clipping_gradients_stay() -> None:
    """A limit of 0 turns clipping off."""
    result = step(config("vitl14", "optim.clip_grad=0.0"), own_batch())
    assert all(torch.equal(v, result["clipped_gradients"][k]) for k, v in result["gradients"].items())


def test_teacher_moves_towards_the_new_student() -> None:
    """With m fixed at 0.75: three quarters of the old teacher and a quarter of the new student."""
    cfg = config("vitl16_short", "teacher.momentum_teacher=0.75", "teacher.final_momentum_teacher=0.75")
    state = state_of(cfg)
    result = step(cfg, own_batch(), state)
    for name, value in result["teacher"].items():
        student = result["parameters"][name.replace("teacher.", "student.", 1)]
        torch.testing.assert_close(value, 0.75 * state[name] + 0.25 * student)


def test_centers_move_with_centering_alone() -> None:
    """Centering updates both centres, Sinkhorn neither."""
    for recipe, moved in (("vitl16_short", True), ("vitl14", False)):
        cfg = config(recipe)
        state = state_of(cfg)
        centers = step(cfg, own_batch(), state)["centers"]
        assert centers.keys() == {"dino_loss.center", "ibot_patch_loss.center"}
        assert [torch.equal(centers[k], state[k]) for k in centers] == [not moved] * 2


def test_hyperparameters_are_the_fork_s() -> None:
    """One lr for all; weight decay scheduled in the backbone, 0.01 in the head, 0 for biases."""
    rows = step(config(), own_batch())["hyperparameters"]
    # Cosine from 0.04 to 0.4 over 120 iterations.
    scheduled = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * ITERATION / 120))
    assert len({row["lr"] for row in rows.values()}) == 1
    assert rows["backbone.cls_token"]["weight_decay"] == pytest.approx(scheduled)
    assert rows["dino_head.mlp.0.weight"]["weight_decay"] == 0.01
    assert rows["dino_head.mlp.0.bias"]["weight_decay"] == 0.0


def test_a_step_keeps_the_dtype_of_the_state() -> None:
    """A state in double precision is stepped in double precision."""
    cfg = config()
    state = {name: value.double() for name, value in state_of(cfg).items()}
    result = step(cfg, own_batch(), state)
    assert {value.dtype for value in result["gradients"].values()} == {torch.float64}


def test_ibot_off_has_neither_loss_nor_center() -> None:
    """With weight 0 the third view is not run, and the mask token gets no gradient."""
    result = step(config("vitl16_short", "ibot.loss_weight=0.0"), own_batch())
    assert "ibot_loss" not in result["losses"]
    assert set(result["centers"]) == {"dino_loss.center"}
    assert "backbone.mask_token" not in result["gradients"]


def test_koleo_off_has_no_loss() -> None:
    """With weight 0 there is no KoLeo term."""
    assert "koleo_loss" not in step(config("vitl16_short", "dino.koleo_loss_weight=0.0"), own_batch())["losses"]


def test_unknown_centering_is_named() -> None:
    """Only official's two ways to balance targets exist."""
    with pytest.raises(ValueError, match=r"train\.centering is 'mean'"):
        LegacyStack(TINY).init_state(config("vitl16_short", "train.centering=mean"), 0)


def test_a_foreign_state_is_refused() -> None:
    """A name that is missing is named."""
    cfg = config()
    state = state_of(cfg)
    del state["student.backbone.cls_token"]
    with pytest.raises(RuntimeError, match=r"student\.backbone\.cls_token"):
        step(cfg, own_batch(), state)
