"""The prototype loss within a step: where its terms come from, where their gradients go, and its off switch."""

from __future__ import annotations

import math

import pytest
import torch
from checkpoint_runs import alike
from equal_steps import DoubleRun, double_batch
from tiny_training import tiny_batch, tiny_config, tiny_model
from torch import Tensor, nn

from parity.oracle import Float64Oracle
from port.data import Batch
from port.objective import Objective
from port.optim import PrototypeOptimizer
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep

ON = ("prototype.loss_weight=0.7", "prototype.teacher_loss_weight=0.4", "prototype.koleo_loss_weight=0.2")
ALONE = (*ON, "prototype.teacher_loss_weight=0", "prototype.koleo_loss_weight=0")
TEMPERATURE = 0.05


def batch_of(n_images: int = 3, seed: int = 0) -> Batch:
    """Return a batch in float64."""
    return double_batch(tiny_config(), n_images, seed)


def cross_entropy(target: Tensor, token: Tensor, bank: nn.Module) -> float:
    """Return one token's cross-entropy at temperature 0.1, by its definition."""
    assert isinstance(bank.weight, Tensor)
    assert isinstance(bank.bias, Tensor)
    direction = token / token.square().sum().sqrt()
    scores = [float(direction @ row + b) / 0.1 for row, b in zip(bank.weight, bank.bias, strict=True)]
    largest = max(scores)
    total = largest + math.log(sum(math.exp(score - largest) for score in scores))
    return -sum(float(t) * (score - total) for t, score in zip(target.tolist(), scores, strict=True))


def by_hand(model: SSLMetaArch, batch: Batch) -> dict[str, float]:
    """Return the terms of student and teacher, token by token from the backbones' tokens."""
    masks, bank = batch["collated_masks"], model.prototype_loss.bank
    teacher = model.teacher["backbone"](batch["collated_global_crops"], is_training=True)["x_norm_patchtokens"]
    student = model.student["backbone"](batch["collated_global_crops"], masks=masks, is_training=True)
    tokens = teacher.flatten(0, 1)
    q = torch.exp((tokens / tokens.norm(dim=1, keepdim=True) @ bank.weight.T + bank.bias) / TEMPERATURE)
    for _ in range(3):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    q = q.view(*masks.shape, -1)
    of_student = of_teacher = 0.0
    for i, row in enumerate(masks):
        for j in range(len(row)):
            of_teacher += cross_entropy(q[i, j], teacher[i, j], bank) / masks.numel()
            if row[j]:
                token = student["x_norm_patchtokens"][i, j]
                of_student += cross_entropy(q[i, j], token, bank) / int(row.sum()) / len(masks)
    return {"prototype_student_loss": of_student, "prototype_teacher_loss": of_teacher}


def test_terms_are_the_definition_s_from_the_backbones_tokens() -> None:
    """Masked student patches, 1/masked-count each, over the number of crops; all teacher patches, over their number."""
    model = DoubleRun(ON).model
    with Float64Oracle():
        shown = model.forward_backward(batch_of(), TEMPERATURE).displayed
        with torch.no_grad():
            expected = by_hand(model, batch_of())
    assert {name: float(shown[name]) for name in expected} == pytest.approx(expected, rel=1e-6)  # float32 weights


def reached(model: nn.Module) -> set[str]:
    """Return the parts of the model that a gradient other than 0 has reached."""
    names = [name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())]
    return {".".join(name.split(".")[:2]) for name in names}


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("prototype_student_loss", {"student.backbone"}),
        ("prototype_teacher_loss", {"prototype_loss.bank"}),
        ("prototype_koleo_loss", {"prototype_loss.bank"}),
        ("ibot_loss", {"student.backbone", "student.dino_head"}),
    ],
)
def test_each_term_s_gradient_has_its_place(term: str, parts: set[str]) -> None:
    """The student's term trains its backbone, the bank's two the bank; nothing reaches teacher or heads."""
    model = tiny_model([*ON, "kernels=official_order"])  # fast cross-entropies have one gradient, of their sum
    batch = tiny_batch(model.cfg)
    (targets,) = model.teacher_targets([batch], TEMPERATURE)
    model(batch, targets).optimised[term].backward()
    assert reached(model) == parts


def test_the_teacher_has_no_gradient_after_a_step() -> None:
    """All terms together: not even zeros are kept for the teacher, and its tokens carry no graph."""
    model = tiny_model(ON)
    (targets,) = model.teacher_targets([tiny_batch(model.cfg)], TEMPERATURE)
    assert targets.patch_tokens is not None
    assert not targets.patch_tokens.requires_grad
    model.forward_backward(tiny_batch(model.cfg), TEMPERATURE)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def changed(run: DoubleRun, batch: Batch, iteration: int) -> set[str]:
    """Carry out an iteration and return the parts of the model that it changed."""
    before = run.result()
    run.advance([[batch]], start=iteration)
    after = run.result()
    names = [
        name for name, value in after.items() if name.startswith("model.") and not torch.equal(value, before[name])
    ]
    return {".".join(name.split(".")[1:3]) for name in names}


def test_the_bank_has_a_schedule_of_its_own() -> None:
    """Warm-up from 0 to base_lr * sqrt(images / 1024), then a cosine to min_lr; the student's is another."""
    overrides = ["prototype.base_lr=0.2", "prototype.min_lr=0.01", "prototype.warmup_epochs=1"]
    run = DoubleRun([*ON, *overrides], images=16)
    assert run.step.prototypes is not None
    peak = 0.2 * math.sqrt(16 / 1024)
    # Two iterations of warm-up, its end included, then eight of cosine.
    expected = [0.0, peak, *(0.01 + (peak - 0.01) * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)), 0.01]
    rates = []
    for iteration in range(11):
        run.step.prototypes.prepare(iteration)
        rates.append(run.optimizers["prototypes"].param_groups[0]["lr"])
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[1:10] != [run.step.schedules.at(i).lr for i in range(1, 10)]


def test_the_bank_waits_while_its_rate_is_0() -> None:
    """Iteration 0 of both warm-ups moves neither bank nor student; from iteration 1 on both move."""
    run = DoubleRun(ON)
    first = changed(run, batch_of(), 0)
    assert first == {"dino_loss.center", "ibot_patch_loss.center", "teacher.backbone", "teacher.dino_head"}
    later = changed(run, batch_of(seed=1), 1)
    assert {"prototype_loss.bank", "student.backbone", "teacher.backbone"} <= later


def test_the_bank_takes_adamw_s_step() -> None:
    """From the gradient of its own two terms: the first step is its rate in the gradient's direction, unclipped."""
    run, same = DoubleRun([*ON, "optim.clip_grad=1.0e-6"]), DoubleRun(ON)
    bank, weight = run.model.prototype_loss.bank, same.model.prototype_loss.bank.weight
    before = bank.weight.detach().clone()
    with Float64Oracle():
        same.model.forward_backward(batch_of(), run.step.schedules.at(3).teacher_temp)
    assert weight.grad is not None
    run.advance([[batch_of()]], start=3)
    rate = run.optimizers["prototypes"].param_groups[0]["lr"]
    expected = before - rate * weight.grad / (weight.grad.abs() + 1e-8)
    torch.testing.assert_close(bank.weight.detach(), expected, rtol=1e-10, atol=1e-12)


def test_weight_decay_of_the_bank_is_its_own() -> None:
    """One step with decay 0.5 and without: the difference is rate * 0.5 * weight, whatever the student's decay."""
    with_decay, without = DoubleRun([*ON, "prototype.weight_decay=0.5"]), DoubleRun([*ON, "optim.weight_decay=0.9"])
    before = without.model.prototype_loss.bank.weight.detach().clone()
    after = []
    for run in (with_decay, without):
        run.advance([[batch_of()]], start=1)
        after.append(run.model.prototype_loss.bank.weight.detach())
    rate = with_decay.optimizers["prototypes"].param_groups[0]["lr"]
    torch.testing.assert_close(after[1] - after[0], rate * 0.5 * before, rtol=1e-9, atol=1e-12)


def test_the_bank_is_in_no_group_of_the_student() -> None:
    """Each trained parameter has one optimizer: the student's has no bank, the bank's nothing else."""
    run = DoubleRun(ON)
    owners = [
        {id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in run.optimizers.values()
    ]
    assert owners[0] == {id(p) for p in run.model.student.parameters()}
    assert owners[1] == {id(p) for p in run.model.prototype_loss.parameters()}
    assert not owners[0] & owners[1]


def test_gradients_of_the_bank_do_not_outlive_a_step() -> None:
    """At rate 0 the same batch gives the same gradient twice, not its double."""
    run = DoubleRun(["prototype.base_lr=0", "prototype.min_lr=0", *ON])
    run.model.synchronise_teacher()  # and it stays: the student's rate is 0 too
    found = []
    for _ in range(2):
        run.advance([[batch_of()]], start=0)
        gradient = run.model.prototype_loss.bank.weight.grad
        assert gradient is not None
        found.append(gradient.clone())
    assert float(run.optimizers["prototypes"].param_groups[0]["lr"]) == 0.0
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_the_student_is_trained_by_the_term() -> None:
    """The step with the term differs from the one without in the backbone, and not in a loss that it does not touch."""
    off, on = DoubleRun(), DoubleRun(ALONE)
    on.model.load_state_dict(off.model.state_dict(), strict=False)  # the bank is drawn in between
    first, second = off.advance([[batch_of()]], start=3)[0], on.advance([[batch_of()]], start=3)[0]
    for name, value in first.losses.displayed.items():
        torch.testing.assert_close(second.losses.displayed[name], value, rtol=1e-12, atol=0)
    assert second.gradient_norms["dino_head"] == pytest.approx(float(first.gradient_norms["dino_head"]), rel=1e-10)
    assert abs(second.gradient_norms["backbone"] - first.gradient_norms["backbone"]) > 1e-3


def test_the_loss_works_without_ibot() -> None:
    """Masked student patches come from the same forward; the term is the one with iBOT on."""
    with_ibot, without = DoubleRun(ON), DoubleRun([*ON, "ibot.loss_weight=0"])
    shown = [run.advance([[batch_of()]], start=0)[0].losses.displayed for run in (with_ibot, without)]
    assert "ibot_loss" not in shown[1]
    name = "prototype_student_loss"
    assert shown[1][name].isfinite()
    without.model.load_state_dict(with_ibot.model.state_dict(), strict=False)
    with Float64Oracle():
        values = [run.model.forward_backward(batch_of(), TEMPERATURE).displayed[name] for run in (with_ibot, without)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)


def without_prototypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the code path away: whatever of it were reached would raise."""

    def reached(*_: object, **__: object) -> object:
        raise AssertionError("the prototype loss is off")

    monkeypatch.setattr(Objective, "_add_prototype_terms", reached)
    monkeypatch.setattr("port.objective.PrototypeLoss", reached)
    monkeypatch.setattr(PrototypeOptimizer, "__init__", reached)


def trained(cfg_overrides: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what three float32 steps of two micro-batches end with."""
    run = DoubleRun(cfg_overrides)
    run.model.float()
    for iteration in range(1, 4):
        run.step.run([tiny_batch(run.model.cfg, seed=10 * iteration + i) for i in range(2)], iteration)
    return run.result()


@pytest.mark.parametrize("overrides", [(), ("train.centering=sinkhorn_knopp", "ibot.separate_head=true")])
def test_off_by_default_and_without_a_trace(monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]) -> None:
    """Weight 0, its other options at anything: bit for bit the steps of a program without the code path."""
    assert tiny_config().prototype.loss_weight == 0
    off = trained((*overrides, "prototype.teacher_loss_weight=5", "prototype.koleo_loss_weight=3"))
    without_prototypes(monkeypatch)
    assert alike(off, trained(overrides))
    assert not any("prototype" in name for name in off)


def test_the_step_without_a_bank_has_no_optimizer_for_it() -> None:
    """`TrainStep` takes none by default."""
    run = DoubleRun()
    assert run.step.prototypes is None
    assert list(run.optimizers) == ["student"]
    assert isinstance(run.step, TrainStep)
