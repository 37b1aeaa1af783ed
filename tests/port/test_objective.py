"""What is optimised and what is shown, from outputs given by hand: no network has a part in these numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tiny_training import tiny_batch, tiny_model
from torch import Tensor

from port.data import Batch
from port.losses import DINOLoss, KoLeoLoss, PrototypeLoss, iBOTPatchLoss
from port.models import LogitFactors
from port.outputs import Losses, StudentOutputs, TeacherTargets, mean_losses
from port.ssl_meta_arch import SSLMetaArch

K, D, N = 12, 16, 16
"""Prototypes of the one head, features, and patches of a global crop of the tiny model."""
PROTOTYPES = ("prototype.loss_weight=0.7", "prototype.n_prototypes=7")


def objective(overrides: Sequence[str] = ()) -> SSLMetaArch:
    """Return a model in float64."""
    return tiny_model(overrides).double()


def probabilities(*shape: int, seed: int) -> Tensor:
    """Return rows that sum to 1."""
    return torch.softmax(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), -1)


def logits(*shape: int, seed: int) -> Tensor:
    """Return normally distributed numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(model: SSLMetaArch, n_images: int = 3) -> tuple[Batch, TeacherTargets, StudentOutputs]:
    """Return a batch with the outputs of imagined networks for it."""
    batch = tiny_batch(model.cfg, n_images)
    n_masked = len(batch["mask_indices_list"])
    n_local = model.cfg.crops.local_crops_number
    targets = TeacherTargets(
        dino=probabilities(2, n_images, K, seed=1),
        ibot=probabilities(n_masked, K, seed=2) if model.do_ibot else None,
        patch_tokens=logits(2 * n_images, N, D, seed=3) if model.do_prototypes else None,
        assignments=None,
        temperature=0.3,
    )
    outputs = StudentOutputs(
        local_cls=logits(n_local * n_images, K, seed=4),
        global_cls=logits(2 * n_images, K, seed=5),
        masked_patches=logits(n_masked, K, seed=6) if model.do_ibot else None,
        global_cls_features=logits(2 * n_images, D, seed=7),
        masked_patch_features=logits(n_masked, D, seed=8),
    )
    return batch, targets, outputs


def in_factors(outputs: StudentOutputs) -> StudentOutputs:
    """Return the same logits as factors, of the unit matrix, which is the last layer of one head."""
    layer = torch.eye(K, dtype=torch.float64), torch.ones(K, 1, dtype=torch.float64)
    parts = (outputs.local_cls, outputs.global_cls, outputs.masked_patches)
    local_cls, global_cls, patches = (
        None if p is None else LogitFactors(p, *layer) for p in parts if not isinstance(p, LogitFactors)
    )
    assert local_cls is not None
    assert global_cls is not None
    return outputs._replace(local_cls=local_cls, global_cls=global_cls, masked_patches=patches)


def cross_entropy(target: Tensor, student: Tensor) -> float:
    """Return the cross-entropy of one row of logits at temperature 0.1, by its definition."""
    exponentials = [math.exp(value / 0.1) for value in student.tolist()]
    total = sum(exponentials)
    return -sum(float(t) * math.log(e / total) for t, e in zip(target.tolist(), exponentials, strict=True))


def by_hand(batch: Batch, targets: TeacherTargets, outputs: StudentOutputs, n_local: int = 2) -> dict[str, float]:
    """Return official's displayed values, pair by pair and patch by patch."""
    n_images = targets.dino.shape[1]
    n_terms = 2 + max(2 * n_local, 1)
    local = sum(
        cross_entropy(targets.dino[crop, i], outputs.local_cls[j * n_images + i])
        for j in range(n_local)
        for crop in range(2)
        for i in range(n_images)
    )
    # Targets come swapped, so that row by row they are the other crop's.
    both = sum(
        cross_entropy(targets.dino[crop, i], outputs.global_cls[crop * n_images + i])
        for crop in range(2)
        for i in range(n_images)
    )
    koleo = 0.0
    for half in outputs.global_cls_features.chunk(2):
        unit = half / half.norm(dim=1, keepdim=True)
        distances = torch.cdist(unit, unit) + 9 * torch.eye(n_images)
        koleo += 0.1 * -float(distances.min(1).values.log().mean())
    values = {"dino_local_crops_loss": local / n_images / n_terms} if n_local else {}
    values |= {"dino_global_crops_loss": both / n_images / n_terms, "koleo_loss": koleo / 2}
    if targets.ibot is not None and outputs.masked_patches is not None:
        masks = batch["collated_masks"]
        rows = batch["mask_indices_list"] // N
        ibot = sum(
            cross_entropy(targets.ibot[m], outputs.masked_patches[m]) / int(masks[row].sum())
            for m, row in enumerate(rows.tolist())
        )
        values["ibot_loss"] = ibot / len(masks) / 2
    return values


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """Return tensors as numbers."""
    return {name: float(value.detach()) for name, value in values.items()}


def test_displayed_values_are_official_s_by_hand() -> None:
    """In official's order: DINO over 2 + 4 terms, KoLeo with its weight and halved, iBOT halved."""
    model = objective()
    found = model.losses(*given(model)).displayed
    expected = by_hand(*given(model))
    assert list(found) == list(expected)
    assert numbers(found) == pytest.approx(expected, rel=1e-6)  # weights of masks are float32


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dino.loss_weight=0.5", "ibot.loss_weight=3.0"],
        ["crops.local_crops_number=0"],
        ["ibot.loss_weight=0"],
        ["dino.koleo_loss_weight=0"],
        list(PROTOTYPES),
    ],
)
def test_logits_as_factors_give_the_same(overrides: Sequence[str]) -> None:
    """All values, in their order, and the gradient of the total by the logits, which is all that has one."""
    model = objective(overrides)
    batch, targets, outputs = given(model)
    outputs = outputs._replace(global_cls=outputs.global_cls.requires_grad_())  # type: ignore[union-attr] # a tensor here
    by_logits, by_factors = model.losses(batch, targets, outputs), model.losses(batch, targets, in_factors(outputs))
    for kind in ("optimised", "displayed"):
        expected, found = (numbers(getattr(losses, kind)) for losses in (by_logits, by_factors))
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, rel=1e-12)
    totals = (by_logits.total, by_factors.total)
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=1e-12)
    wanted, gradient = (torch.autograd.grad(total, outputs.global_cls)[0] for total in totals)
    torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dino_weight", [1.0, 0.5])
@pytest.mark.parametrize("ibot_weight", [1.0, 3.0])
def test_optimised_values_have_their_weights(dino_weight: float, ibot_weight: float) -> None:
    """KoLeo and iBOT count twice what is shown (Q15); the weights of DINO and iBOT are not shown."""
    model = objective([f"dino.loss_weight={dino_weight}", f"ibot.loss_weight={ibot_weight}"])
    losses = model.losses(*given(model))
    shown = by_hand(*given(model))
    assert numbers(losses.displayed) == pytest.approx(shown, rel=1e-6)
    factors = {
        "dino_local_crops_loss": dino_weight,
        "dino_global_crops_loss": dino_weight,
        "koleo_loss": 2.0,
        "ibot_loss": 2 * ibot_weight,
    }
    expected = {name: factors[name] * value for name, value in shown.items()}
    assert numbers(losses.optimised) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [(), PROTOTYPES, ("ibot.loss_weight=0",), ("dino.koleo_loss_weight=0", "dino.loss_weight=0.3", *PROTOTYPES)],
)
def test_the_total_is_the_sum_of_the_optimised(overrides: tuple[str, ...]) -> None:
    """Whatever is on: nothing else is differentiated, and each displayed value has its addend."""
    model = objective(overrides)
    losses = model.losses(*given(model)).detached()
    assert float(losses.total) == pytest.approx(sum(numbers(losses.optimised).values()), rel=1e-14)
    assert list(losses.optimised) == list(losses.displayed)


def test_one_local_term_is_counted_without_local_crops() -> None:
    """Q19: the global term is divided by 2 + 1."""
    model = objective(["crops.local_crops_number=0"])
    batch = tiny_batch(objective().cfg, 3)
    _, targets, outputs = given(objective())
    losses = model.losses(batch, targets, outputs._replace(local_cls=torch.zeros(0, K)))
    assert numbers(losses.displayed) == pytest.approx(by_hand(batch, targets, outputs, n_local=0), rel=1e-6)


def test_patches_weigh_by_their_own_crop() -> None:
    """In iBOT, with patches of unlike losses: a crop with few masked patches counts as much as one with many."""
    model = objective()
    batch, targets, outputs = given(model)
    rows = batch["mask_indices_list"] // N
    counts = {int(row): int((rows == row).sum()) for row in rows.unique()}
    assert len(set(counts.values())) > 1
    assert isinstance(outputs.masked_patches, Tensor)
    contributions = []
    for row in counts:
        chosen = (rows == row).unsqueeze(1)
        # Uniform logits elsewhere; targets there sum to 1, so each other patch adds log K.
        only = torch.where(chosen, outputs.masked_patches, torch.zeros(()))
        shown = model.losses(batch, targets, outputs._replace(masked_patches=only)).displayed["ibot_loss"]
        others = math.log(K) * (len(counts) - 1)
        contributions.append(2 * len(batch["collated_masks"]) * float(shown) - others)
    whole = model.losses(batch, targets, outputs).displayed["ibot_loss"]
    assert 2 * len(batch["collated_masks"]) * float(whole) == pytest.approx(sum(contributions), rel=1e-6)


def test_prototype_terms_come_last_with_their_weights() -> None:
    """Official's four are as they were; then student, teacher and KoLeo of the bank, shown without their weights."""
    weights = {"student": 0.7, "teacher": 0.4, "koleo": 0.2}
    model = objective(
        [*PROTOTYPES, f"prototype.teacher_loss_weight={weights['teacher']}", "prototype.koleo_loss_weight=0.2"]
    )
    losses = model.losses(*given(model)).detached()
    official = by_hand(*given(model))
    assert list(losses.displayed) == [*official, *(f"prototype_{name}_loss" for name in weights)]
    assert numbers({name: losses.displayed[name] for name in official}) == pytest.approx(official, rel=1e-6)
    for name, weight in weights.items():
        key = f"prototype_{name}_loss"
        assert float(losses.optimised[key]) == pytest.approx(weight * float(losses.displayed[key]), rel=1e-6)
        assert abs(float(losses.displayed[key])) > 1e-3


def test_losses_exist_where_their_weight_does() -> None:
    """Official's losses by default; no prototypes, and nothing of what is switched off."""
    model = objective()
    assert (type(model.dino_loss), type(model.koleo_loss)) == (DINOLoss, KoLeoLoss)
    assert type(model.ibot_patch_loss) is iBOTPatchLoss
    assert not hasattr(model, "prototype_loss")
    other = objective([*PROTOTYPES, "dino.koleo_loss_weight=0", "ibot.loss_weight=0"])
    assert type(other.prototype_loss) is PrototypeLoss
    assert not hasattr(other, "koleo_loss")
    assert not hasattr(other, "ibot_patch_loss")


def example(value: float) -> Losses:
    """Return losses of one number."""
    x = torch.tensor(value, requires_grad=True)
    return Losses(4 * x, {"a": x, "b": 3 * x}, {"a": 2 * x})


def test_the_mean_over_micro_batches() -> None:
    """Of total, optimised and displayed values alike, by name and in their order."""
    mean = mean_losses([example(1.0), example(2.0), example(6.0)]).detached()
    assert (float(mean.total), numbers(mean.optimised), numbers(mean.displayed)) == (
        12.0,
        {"a": 3.0, "b": 9.0},
        {"a": 6},
    )
    assert list(mean.optimised) == ["a", "b"]


def test_one_micro_batch_is_its_own_mean() -> None:
    """The same object: no bit can differ from official's."""
    losses = example(0.1)
    assert mean_losses([losses]) is losses


def test_detached_losses_keep_their_values() -> None:
    """Values and names stay, the graph goes."""
    losses = example(1.5)
    detached = losses.detached()
    values = [detached.total, *detached.optimised.values(), *detached.displayed.values()]
    assert not any(value.requires_grad for value in values)
    assert (numbers(detached.optimised), numbers(detached.displayed)) == ({"a": 1.5, "b": 4.5}, {"a": 3.0})
    assert losses.total.requires_grad
