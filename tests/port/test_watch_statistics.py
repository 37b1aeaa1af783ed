from __future__ import annotations

import math

import pytest
import torch
from tiny_training import tiny_batch, tiny_model
from torch import nn

from port.optim import build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep
from port.watch.statistics import GradientStatistics, LogitStatistics, gradient_norms, to_floats


def stepping(model: SSLMetaArch, gradients: GradientStatistics | None = None) -> TrainStep:
    """Return the step of a model."""
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    hooks = [gradients] if gradients is not None else []
    return TrainStep(model, optimizer, build_schedulers(model.cfg), model.cfg, on_gradients=hooks)


def test_gradient_norms_by_part() -> None:
    """Each part has the root of its squares' sum, and all parts together the whole's."""
    model = tiny_model(["ibot.separate_head=true"])
    model.forward_backward(tiny_batch(model.cfg), 0.05)
    norms = to_floats(gradient_norms(model.student))
    assert list(norms) == [
        "gradient_norm/backbone.cls_token",
        "gradient_norm/backbone.pos_embed",
        "gradient_norm/backbone.mask_token",
        "gradient_norm/backbone.patch_embed",
        "gradient_norm/backbone.blocks.0",
        "gradient_norm/backbone.blocks.1",
        "gradient_norm/backbone.norm",
        "gradient_norm/dino_head.mlp",
        "gradient_norm/dino_head.last_layer",
        "gradient_norm/ibot_head.mlp",
        "gradient_norm/ibot_head.last_layer",
    ]
    gradients = [p.grad for p in model.student.get_submodule("backbone.blocks.1").parameters() if p.grad is not None]
    by_hand = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    assert norms["gradient_norm/backbone.blocks.1"] == pytest.approx(by_hand, rel=1e-5)
    whole = nn.utils.get_total_norm([p.grad for p in model.student.parameters() if p.grad is not None])
    assert math.sqrt(sum(norm**2 for norm in norms.values())) == pytest.approx(float(whole), rel=1e-5)


def test_blocks_in_chunks_are_told_apart() -> None:
    """A chunked backbone's blocks keep both numbers of their names."""
    model = tiny_model(["student.block_chunks=2"])
    model.forward_backward(tiny_batch(model.cfg), 0.05)
    names = [name for name in gradient_norms(model.student) if "blocks" in name]
    assert names == ["gradient_norm/backbone.blocks.0.0", "gradient_norm/backbone.blocks.1.1"]


def test_gradient_statistics_are_from_before_clipping() -> None:
    """The step's hook keeps the unclipped norms, only when due, and gives them out once."""
    statistics = GradientStatistics()
    model = tiny_model(["optim.clip_grad=0.001"])
    step = stepping(model, statistics)
    report = step.run(tiny_batch(model.cfg), 3)
    values = statistics.values()
    backbone = math.sqrt(sum(value**2 for name, value in values.items() if "backbone" in name))
    assert backbone == pytest.approx(float(report.gradient_norms["backbone"]), rel=1e-5)
    assert statistics.values() == {}
    statistics.due = False
    step.run(tiny_batch(model.cfg), 4)
    assert statistics.values() == {}


def test_logit_statistics_by_hand() -> None:
    """Norm, spread and entropy of two known rows, for the student at temperature 0.1."""
    model = tiny_model()
    model.student["dino_head"] = nn.Identity()
    statistics = LogitStatistics(model, teacher_temp=0.05)
    rows = torch.zeros(2, 12)
    rows[1, 0] = 12.0
    model.student["dino_head"](rows.unsqueeze(0))
    values = statistics.values()
    assert values["logits/student.dino_head.norm"] == pytest.approx(6.0)
    # The second row: mean 1, mean square 12, so a standard deviation of sqrt(11).
    assert values["logits/student.dino_head.std"] == pytest.approx(math.sqrt(11) / 2)
    assert values["logits/student.dino_head.entropy"] == pytest.approx(math.log(12) / 2)


def test_the_teacher_is_centred_and_sharpened() -> None:
    """Logits equal to the centre have the entropy of uniform outputs, ln K, at the teacher's own temperature."""
    model = tiny_model()
    model.teacher["dino_head"] = nn.Identity()
    statistics = LogitStatistics(model, teacher_temp=0.05)
    model.dino_loss.center = torch.linspace(-1, 1, 12).unsqueeze(0)
    model.teacher["dino_head"](model.dino_loss.center.clone())
    assert statistics.values()["logits/teacher.dino_head.entropy"] == pytest.approx(math.log(12))
    model.teacher["dino_head"](model.dino_loss.center + torch.tensor([[0.05 * math.log(11)] + [0.0] * 11]))
    # Half the probability on one prototype, half spread over eleven.
    expected = 0.5 * math.log(2) + 0.5 * math.log(22)
    assert statistics.values()["logits/teacher.dino_head.entropy"] == pytest.approx(expected, rel=1e-5)


def test_watching_changes_no_number() -> None:
    """Losses and parameters after three steps are bit for bit those of an unwatched run."""
    models = [tiny_model(["ibot.separate_head=true", "student.drop_path_rate=0.3"]) for _ in range(2)]
    statistics = LogitStatistics(models[0], 0.05)
    for model, gradients in zip(models, (GradientStatistics(), None), strict=True):
        torch.manual_seed(5)
        step = stepping(model, gradients)
        for iteration in range(3):
            step(tiny_batch(model.cfg, seed=iteration), iteration)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
    values = statistics.values()
    roles = {name.removeprefix("logits/").rpartition(".")[0] for name in values}
    assert roles == {"student.dino_head", "student.ibot_head", "teacher.dino_head", "teacher.ibot_head"}
    assert all(math.isfinite(value) for value in values.values())


def test_nothing_is_measured_when_not_due_or_removed() -> None:
    """Off, the hooks keep nothing; removed, the model has none."""
    model = tiny_model()
    statistics = LogitStatistics(model, 0.05)
    statistics.due = False
    model.forward_backward(tiny_batch(model.cfg), 0.05)
    assert statistics.values() == {}
    statistics.due = True
    statistics.remove()
    model.forward_backward(tiny_batch(model.cfg), 0.05)
    assert statistics.values() == {}


def test_many_rows_are_sampled_evenly() -> None:
    """Of 600 rows each third is looked at: the last as well as the first."""
    model = tiny_model()
    model.student["dino_head"] = nn.Identity()
    statistics = LogitStatistics(model, 0.05)
    rows = torch.zeros(600, 12)
    rows[::3, 0] = 1.0
    model.student["dino_head"](rows)
    assert statistics.values()["logits/student.dino_head.norm"] == pytest.approx(1.0)
