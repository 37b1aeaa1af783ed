from __future__ import annotations

import math

import pytest
import torch
from tiny_training import tiny_batch, tiny_config, tiny_model

from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss
from port.ssl_meta_arch import SSLMetaArch

SINKHORN = "train.centering=sinkhorn_knopp"
SEPARATE = "ibot.separate_head=true"
TEMP = 0.07


def gradients(model: SSLMetaArch) -> dict[str, torch.Tensor]:
    """Return the student's gradients by name, all of which must exist."""
    found = {}
    for name, parameter in model.student.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def expected_losses(model: SSLMetaArch, n_local: int = 2) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Compute the losses plainly: separate forwards, no padding, only targets by Sinkhorn."""
    batch = tiny_batch(model.cfg)
    student, teacher = model.student, model.teacher
    masks = batch["collated_masks"]
    patch_head = "ibot_head" if "ibot_head" in student else "dino_head"
    with torch.no_grad():
        features = teacher["backbone"](batch["collated_global_crops"], is_training=True)
        one, two = teacher["dino_head"](features["x_norm_clstoken"]).chunk(2)
        dino, ibot = DINOLoss(12), iBOTPatchLoss(10 if patch_head == "ibot_head" else 12)
        target_two, target_one = dino.sinkhorn_knopp_teacher(torch.cat((two, one)), TEMP).chunk(2)
        patch_logits = teacher[patch_head](features["x_norm_patchtokens"][masks])
        patch_targets = ibot.sinkhorn_knopp_teacher(patch_logits, TEMP, batch["n_masked_patches"])
    features = student["backbone"](batch["collated_global_crops"], masks=masks, is_training=True)
    local = student["backbone"](batch["collated_local_crops"], is_training=True)
    n_terms = 2 + 2 * n_local
    global_one, global_two = student["dino_head"](features["x_norm_clstoken"]).chunk(2)
    # Student crop 1 against the teacher's crop 2, and the other way round, each a mean over images.
    crossed = dino([global_one], [target_two]) + dino([global_two], [target_one])
    shown = {
        "dino_local_crops_loss": dino(
            student["dino_head"](local["x_norm_clstoken"]).chunk(n_local), [target_one, target_two]
        )
        / n_terms,
        "dino_global_crops_loss": crossed / n_terms,
        "koleo_loss": 0.1 * sum(KoLeoLoss()(half) for half in features["x_norm_clstoken"].chunk(2)) / 2,
        "ibot_loss": ibot.forward_masked(
            student[patch_head](features["x_norm_patchtokens"][masks]), patch_targets, masks
        )
        / 2,
    }
    total = shown["dino_local_crops_loss"] + shown["dino_global_crops_loss"]
    return shown, total + 2 * shown["koleo_loss"] + 2 * shown["ibot_loss"]


@pytest.mark.parametrize("overrides", [[SINKHORN], [SINKHORN, SEPARATE]])
def test_losses_and_gradients_are_those_of_separate_forwards(overrides: list[str]) -> None:
    """Packing, padding and one head call for all tokens change nothing but rounding."""
    model = tiny_model(overrides)
    shown, total = expected_losses(model)
    wanted = torch.autograd.grad(total, list(model.student.parameters()))
    loss_dict = model.forward_backward(tiny_batch(model.cfg), TEMP).displayed
    assert list(loss_dict) == list(shown)
    for name, loss in shown.items():
        torch.testing.assert_close(loss_dict[name], loss, rtol=1e-4, atol=1e-5)
    for gradient, expected in zip(gradients(model).values(), wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], ["dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss"]),
        (["ibot.loss_weight=0"], ["dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss"]),
        (["dino.koleo_loss_weight=0"], ["dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss"]),
        (["crops.local_crops_number=0"], ["dino_global_crops_loss", "koleo_loss", "ibot_loss"]),
    ],
)
def test_a_loss_is_shown_where_it_is_used(overrides: list[str], names: list[str]) -> None:
    """In official's order; all are finite, with either way to make targets."""
    for centering in ("centering", "sinkhorn_knopp"):
        model = tiny_model([*overrides, f"train.centering={centering}"])
        loss_dict = model.forward_backward(tiny_batch(model.cfg), TEMP).displayed
        assert list(loss_dict) == names
        assert all(loss.isfinite() for loss in loss_dict.values())
        assert gradients(model)


def test_the_global_term_is_divided_by_three_without_local_crops() -> None:
    """Q19: official still counts one local term; with two local crops it divides by six."""
    with_local, without = tiny_model(), tiny_model(["crops.local_crops_number=0"])
    batch = tiny_batch(with_local.cfg)
    shown = with_local.forward_backward(batch, TEMP).displayed["dino_global_crops_loss"]
    batch["collated_local_crops"] = torch.zeros(0, 3, 0, 0)
    alone = without.forward_backward(batch, TEMP).displayed["dino_global_crops_loss"]
    torch.testing.assert_close(alone * 3, shown * 6, rtol=1e-5, atol=0)


def test_loss_weights_are_applied_but_not_shown() -> None:
    """Q15: weights scale what `backward` gets; shown values are the same, KoLeo's and iBOT's halved."""
    plain, weighted = tiny_model(), tiny_model(["dino.loss_weight=0.5", "ibot.loss_weight=3"])
    optimised: list[torch.Tensor] = []
    batch = tiny_batch(plain.cfg)
    shown = plain.forward_backward(batch, TEMP).displayed
    again = weighted.forward_backward(batch, TEMP, backward=optimised.append).displayed
    assert all(torch.equal(again[name], shown[name]) for name in shown)
    dino = shown["dino_local_crops_loss"] + shown["dino_global_crops_loss"]
    expected = 0.5 * dino + 2 * shown["koleo_loss"] + 3 * 2 * shown["ibot_loss"]
    torch.testing.assert_close(optimised[0], expected)
    assert all(p.grad is None for p in weighted.student.parameters())


def test_the_teacher_is_matched_across_crops() -> None:
    """Q18: with crop 2's images replaced, only crop 1's target changes, so the halves must be swapped."""
    model = tiny_model(["ibot.loss_weight=0"])
    batch = tiny_batch(model.cfg)
    targets = model.teacher_targets([batch], TEMP)[0]
    batch["collated_global_crops"][2:] += 1.0
    changed = model.teacher_targets([batch], TEMP)[0]
    first = model.teacher["dino_head"](
        model.teacher["backbone"](batch["collated_global_crops"][:2], is_training=True)["x_norm_clstoken"]
    )
    model.dino_loss.center.zero_()
    torch.testing.assert_close(targets.dino[1], torch.softmax(first / TEMP, -1))
    assert not torch.allclose(changed.dino[0], targets.dino[0])


def test_centres_follow_the_teacher() -> None:
    """After one step and the pending update both centres are a tenth of the mean teacher logits."""
    model = tiny_model([SEPARATE])
    batch = tiny_batch(model.cfg)
    model.forward_backward(batch, TEMP)
    model.dino_loss.apply_center_update()
    model.ibot_patch_loss.apply_center_update()
    with torch.no_grad():
        features = model.teacher["backbone"](batch["collated_global_crops"], is_training=True)
        cls_mean = model.teacher["dino_head"](features["x_norm_clstoken"]).mean(0)
        patches = features["x_norm_patchtokens"][batch["collated_masks"]]
        patch_mean = model.teacher["ibot_head"](patches).mean(0)
    torch.testing.assert_close(model.dino_loss.center[0], 0.1 * cls_mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.ibot_patch_loss.center[0, 0], 0.1 * patch_mean, rtol=1e-4, atol=1e-6)


def test_a_step_draws_no_random_number_without_drop_path() -> None:
    """No hidden draws: the generator is where it was."""
    model = tiny_model()
    batch = tiny_batch(model.cfg)
    state = torch.get_rng_state()
    model.forward_backward(batch, TEMP)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("overrides", [[], [SINKHORN], [SEPARATE], [SINKHORN, SEPARATE]])
def test_a_batch_without_masks_trains(overrides: list[str]) -> None:
    """The iBOT loss is 0, everything else finite, and the next step too (Q13)."""
    model = tiny_model([*overrides, "ibot.mask_sample_probability=0.01"])
    for seed in range(2):
        loss_dict = model.forward_backward(tiny_batch(model.cfg, seed=seed), TEMP).displayed
        assert loss_dict["ibot_loss"].item() == 0.0
        assert math.isfinite(sum(loss.item() for loss in loss_dict.values()))
    model.ibot_patch_loss.apply_center_update()
    assert model.ibot_patch_loss.center.isfinite().all()


def test_quirks_at_official_reach_the_losses() -> None:
    """`quirks.empty_mask_center=official` gives official's NaN centre after a batch without masks (Q13)."""
    model = tiny_model(["quirks.empty_mask_center=official", "ibot.mask_sample_probability=0.01"])
    model.forward_backward(tiny_batch(model.cfg), TEMP)
    model.ibot_patch_loss.apply_center_update()
    assert model.ibot_patch_loss.center.isnan().all()


def test_gradients_accumulate_until_they_are_cleared() -> None:
    """Two identical calls without zero_grad give twice the gradient (targets by Sinkhorn have no state)."""
    model = tiny_model([SINKHORN])
    batch = tiny_batch(model.cfg)
    model.forward_backward(batch, TEMP)
    once = gradients(model)
    model.forward_backward(batch, TEMP)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_the_state_dict_has_official_s_names() -> None:
    """Networks under student and teacher, and the two centres."""
    prefixes = {key.split(".")[0] for key in tiny_model([SEPARATE]).state_dict()}
    assert prefixes == {"student", "teacher", "dino_loss", "ibot_patch_loss"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dino.loss_weight=0", r"dino.loss_weight is 0.0, expected > 0"),
        ("train.centering=swav", "'swav', expected centering or sinkhorn_knopp"),
        ("ibot.mask_sample_probability=0", "expected both above 0; set ibot.loss_weight=0"),
        ("ibot.mask_ratio_min_max=[0,0]", "expected both above 0; set ibot.loss_weight=0"),
    ],
)
def test_an_impossible_configuration_is_an_error(override: str, message: str) -> None:
    """Q20 and its like are found before anything is built."""
    with pytest.raises(ValueError, match=message):
        tiny_model([override])


def test_other_local_crops_than_configured_are_an_error() -> None:
    """The number of rows says how many local crops an image has."""
    model = tiny_model()
    batch = tiny_batch(tiny_config(["crops.local_crops_number=3"]))
    with pytest.raises(ValueError, match=r"has 6 rows, expected .* 2 \* 2"):
        model.forward_backward(batch, TEMP)


def test_more_masked_patches_than_the_buffer_holds_are_an_error() -> None:
    """Masks of another generator overflow official's buffers; here the message says so."""
    model = tiny_model()
    batch = tiny_batch(model.cfg)
    batch["upperbound"] = batch["mask_indices_list"].shape[0] - 1
    with pytest.raises(ValueError, match="expected at most upperbound"):
        model.forward_backward(batch, TEMP)
