from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_batch, tiny_model
from torch import nn
from two_ranks import run_on_two_ranks

from port.optim import PrototypeOptimizer, build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import GradientStage, TrainStep


def training(*overrides: str, **arguments: Any) -> tuple[SSLMetaArch, TrainStep]:
    """Return a tiny model and its step."""
    model = tiny_model(overrides)
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    return model, TrainStep(model, optimizer, build_schedulers(model.cfg), model.cfg, **arguments)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a state dict."""
    return {key: value.clone() for key, value in module.state_dict().items()}


class Recorder:
    """A gradient hook that keeps what it is shown."""

    def __init__(self) -> None:
        self.norms: dict[str, dict[str, float]] = {}
        self.order: list[str] = []

    def __call__(self, stage: GradientStage, student: nn.ModuleDict) -> None:
        """Keep the gradient norm of each submodule."""
        self.order.append(stage)
        self.norms[stage] = {}
        for key, module in student.items():
            squares = [p.grad.square().sum() for p in module.parameters() if p.grad is not None]
            self.norms[stage][key] = float(torch.stack(squares).sum().sqrt())


def test_schedules_are_applied_first() -> None:
    """Iteration 3 sets each group's lr and weight decay from the schedules and its multipliers."""
    _, step = training()
    step(tiny_batch(step.model.cfg), 3)
    now = step.schedules.at(3)
    for group in step.optimizer.param_groups:
        base = now.last_layer_lr if group["is_last_layer"] else now.lr
        assert group["lr"] == base * group["lr_multiplier"]
        assert group["weight_decay"] == now.wd * group["wd_multiplier"]


def test_student_moves_and_teacher_follows() -> None:
    """The teacher's step uses the student after the optimizer: t = m t + (1 - m) s_new."""
    model, step = training()
    student, teacher = snapshot(model.student), snapshot(model.teacher)
    step(tiny_batch(model.cfg), 4)
    m = step.schedules.momentum[4]
    for name, parameter in model.student.named_parameters():
        assert not torch.equal(parameter, student[name]), name
        expected = m * teacher[name] + (1 - m) * parameter
        torch.testing.assert_close(model.teacher.get_parameter(name), expected)


def test_the_last_layer_waits_for_its_epoch() -> None:
    """Q41: during the first epoch its rate is 0 while all else moves."""
    model, step = training()
    before = snapshot(model.student)
    step(tiny_batch(model.cfg), 1)
    moved = {key for key, value in model.student.state_dict().items() if not torch.equal(value, before[key])}
    assert "dino_head.last_layer.weight_v" not in moved
    assert "dino_head.last_layer.weight_g" not in moved
    assert "dino_head.mlp.0.weight" in moved


def test_each_submodule_is_clipped_by_its_own_norm() -> None:
    """Q40: norms after clipping are at most the limit, per submodule, and directions are kept."""
    recorder = Recorder()
    model, step = training("optim.clip_grad=0.01", on_gradients=[recorder])
    step(tiny_batch(model.cfg), 3)
    assert recorder.order == ["gradients", "clipped_gradients"]
    for key, norm in recorder.norms["gradients"].items():
        assert norm > 0.01
        assert recorder.norms["clipped_gradients"][key] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("clip_grad", ["0", "1.0e+6"])
def test_small_gradients_are_not_clipped(clip_grad: str) -> None:
    """0 turns clipping off, a large limit never bites; hooks are called all the same."""
    recorder = Recorder()
    model, step = training(f"optim.clip_grad={clip_grad}", on_gradients=[recorder])
    step(tiny_batch(model.cfg), 3)
    assert recorder.norms["clipped_gradients"] == recorder.norms["gradients"]


def test_gradients_do_not_outlive_a_step() -> None:
    """Each iteration starts from none: the same batch at lr 0 shows the same gradients twice."""
    recorder = Recorder()
    model, step = training("train.centering=sinkhorn_knopp", on_gradients=[recorder])
    model.synchronise_teacher()
    batch = tiny_batch(model.cfg)
    step(batch, 0)  # lr and weight decay times lr are 0, and the teacher equals the student
    first = recorder.norms["gradients"]
    step(batch, 0)
    assert recorder.norms["gradients"] == pytest.approx(first, rel=1e-3)


def test_losses_are_those_of_the_model() -> None:
    """On one rank: forward_backward's values, detached."""
    model, step = training()
    losses = step(tiny_batch(model.cfg), 0)
    same = tiny_model()
    expected = same.forward_backward(tiny_batch(same.cfg), step.schedules.teacher_temp[0]).displayed
    assert list(losses) == list(expected)
    for name, loss in losses.items():
        assert torch.equal(loss, expected[name])
        assert not loss.requires_grad


def test_nan_stops_before_anything_is_updated() -> None:
    """Q55: the terms are named, and student, teacher and optimizer are as before."""
    model, step = training()
    batch = tiny_batch(model.cfg)
    batch["collated_local_crops"][0] = float("nan")
    before = snapshot(model.student), snapshot(model.teacher)
    with pytest.raises(FloatingPointError, match=r"iteration 7: dino_local_crops_loss = nan, expected"):
        step(batch, 7)
    for module, state in zip((model.student, model.teacher), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert not step.optimizer.state


def test_a_bank_whose_gradient_overflows_stops_the_step() -> None:
    """Losses and the student's gradients are finite; the bank's is not, and neither bank nor student moves."""
    model, step = training("prototype.loss_weight=0.5", "prototype.n_prototypes=6")
    step.prototypes = PrototypeOptimizer(model.prototype_loss, model.cfg, 2)
    before = snapshot(model)
    model.prototype_loss.bank.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match=r"^prototype_loss = (inf|nan), expected finite gradient norms"):
        step(tiny_batch(model.cfg), 7)
    centres = {name for name in before if name.endswith("center")}  # their update waits for the next step
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before.keys() - centres)


def test_a_scaled_loss_gives_the_unscaled_step() -> None:
    """A scaler changes the loss by a power of two, which unscaling takes back exactly."""
    plain, scaled = Recorder(), Recorder()
    reference, plain_step = training(on_gradients=[plain])
    plain_step(tiny_batch(reference.cfg), 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model, step = training(scaler=scaler, on_gradients=[scaled])
    step(tiny_batch(model.cfg), 3)
    for stage, norms in plain.norms.items():
        assert scaled.norms[stage] == pytest.approx(norms, rel=1e-5)
    for key, value in reference.student.state_dict().items():
        torch.testing.assert_close(model.student.state_dict()[key], value)


def test_several_steps_lower_the_loss() -> None:
    """Ten steps on one batch, targets nearly fixed: the DINO and iBOT terms fall."""
    model, step = training("optim.freeze_last_layer_epochs=0", "train.centering=sinkhorn_knopp")
    batch = tiny_batch(model.cfg)
    history = [step(batch, iteration) for iteration in range(10)]
    for name in ("dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss"):
        assert history[-1][name] < history[0][name]


def _step_on_rank(rank: int, folder: Path) -> None:
    model, step = training()
    batch = tiny_batch(model.cfg, seed=rank)
    alone = {name: loss.detach() for name, loss in model.forward_backward(batch, 0.04).displayed.items()}
    losses = step(batch, 0)
    batch["collated_local_crops"][0] = float("nan") if rank == 1 else 0.0
    try:
        step(batch, 1)
        raised = ""
    except FloatingPointError as error:
        raised = str(error)
    torch.save((alone, losses, raised), folder / f"rank{rank}")


def test_two_ranks_see_the_mean_and_stop_together(tmp_path: Path) -> None:
    """Losses are averaged over ranks, and NaN on rank 1 stops rank 0 as well."""
    run_on_two_ranks(_step_on_rank, tmp_path)
    (alone_0, losses_0, raised_0), (alone_1, losses_1, raised_1) = (
        torch.load(tmp_path / f"rank{rank}") for rank in range(2)
    )
    for name, loss in losses_0.items():
        assert torch.equal(loss, losses_1[name])
    name = "koleo_loss"  # the one that has no state between calls
    torch.testing.assert_close(losses_0[name], (alone_0[name] + alone_1[name]) / 2)
    assert "dino_local_crops_loss = nan" in raised_0
    assert raised_0 == raised_1
