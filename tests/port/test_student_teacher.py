from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import ARCHITECTURES, tiny_config, tiny_model

from port.kernels import KERNELS
from port.models import DINOHead, DinoVisionTransformer, build_backbone, flat_blocks
from port.student_teacher import StudentTeacher


def test_networks_are_drawn_in_official_s_order() -> None:
    """Under one seed: teacher backbone, student backbone, then student and teacher of each head."""
    cfg = tiny_config(["ibot.separate_head=true"])
    torch.manual_seed(3)
    model = StudentTeacher(cfg, architectures=ARCHITECTURES)
    torch.manual_seed(3)
    backbones = [build_backbone(cfg.student, 16, architectures=ARCHITECTURES) for _ in range(2)]
    heads = [DINOHead(16, 12, hidden_dim=16, bottleneck_dim=8) for _ in range(2)]
    ibot_heads = [DINOHead(16, 10, hidden_dim=12, bottleneck_dim=6) for _ in range(2)]
    drawn = {
        "teacher.backbone": backbones[0],
        "student.backbone": backbones[1],
        "student.dino_head": heads[0],
        "teacher.dino_head": heads[1],
        "student.ibot_head": ibot_heads[0],
        "teacher.ibot_head": ibot_heads[1],
    }
    for name, module in drawn.items():
        found = model.get_submodule(name).state_dict()
        assert found.keys() == module.state_dict().keys()
        for key, value in module.state_dict().items():
            assert torch.equal(found[key], value), f"{name}.{key}"


@pytest.mark.parametrize(
    ("overrides", "heads"),
    [
        ([], {"backbone", "dino_head"}),
        (["ibot.separate_head=true"], {"backbone", "dino_head", "ibot_head"}),
        (["ibot.separate_head=true", "ibot.loss_weight=0"], {"backbone", "dino_head"}),
    ],
)
def test_a_separate_head_exists_only_for_ibot(overrides: list[str], heads: set[str]) -> None:
    """Without the loss there is no head, whatever `separate_head` says."""
    model = tiny_model(overrides)
    assert set(model.student) == set(model.teacher) == heads


def test_only_the_student_learns() -> None:
    """No parameter of the teacher requires a gradient."""
    model = tiny_model()
    assert all(p.requires_grad for p in model.student.parameters())
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_the_teacher_starts_different_until_synchronised() -> None:
    """Q44: two draws; a copy makes them equal without sharing memory."""
    model = tiny_model()
    student, teacher = model.student.state_dict(), model.teacher.state_dict()
    assert not torch.equal(student["backbone.pos_embed"], teacher["backbone.pos_embed"])
    model.synchronise_teacher()
    for key, value in model.student.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[key], value), key
        assert model.teacher.state_dict()[key].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_teacher_moves_by_the_momentum(kernels: str) -> None:
    """It becomes 0.75 t + 0.25 s for every parameter, heads included; the student stays."""
    model = tiny_model(["ibot.separate_head=true", f"kernels={kernels}"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.update_teacher(0.75)
    for name, parameter in model.teacher.named_parameters():
        expected = 0.75 * before[f"teacher.{name}"] + 0.25 * before[f"student.{name}"]
        torch.testing.assert_close(parameter, expected)
        assert not torch.equal(parameter, before[f"teacher.{name}"])
    for name, parameter in model.student.named_parameters():
        assert torch.equal(parameter, before[f"student.{name}"])


def test_momentum_one_keeps_the_teacher() -> None:
    """At the end of the schedule the teacher no longer moves."""
    model = tiny_model()
    before = model.teacher["backbone"].get_parameter("pos_embed").clone()
    model.update_teacher(1.0)
    assert torch.equal(model.teacher["backbone"].get_parameter("pos_embed"), before)


def test_the_teacher_is_always_in_evaluation_mode() -> None:
    """Q45: train() returns the model and leaves the teacher; eval() works."""
    model = tiny_model()
    assert model.train() is model
    assert model.student["backbone"].training
    assert not any(module.training for module in model.teacher.modules())
    assert model.eval() is model
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("kernels", KERNELS)
def test_what_is_kept_is_kept_bit_for_bit(kernels: str) -> None:
    """A frozen part is not averaged, not even with itself; to keep all is no error; a momentum of 1 moves nothing."""
    model = tiny_model([f"kernels={kernels}"])
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}

    def moved() -> set[str]:
        now = model.teacher.state_dict()
        return {name.partition(".")[0] for name, value in now.items() if not torch.equal(value, before[name])}

    model.update_teacher(0.5, keep=("backbone", "dino_head"))
    model.update_teacher(1.0)
    assert moved() == set()
    model.update_teacher(0.5, keep=("backbone",))
    assert moved() == {"dino_head"}


def test_the_fast_average_is_as_accurate() -> None:
    """In float32 it is no further from float64's average than official's two steps are, over all parameters."""
    errors = []
    for kernels in KERNELS:
        model = tiny_model([f"kernels={kernels}"])
        before = {name: value.double() for name, value in model.state_dict().items()}
        model.update_teacher(0.994)
        squares = [
            (value - 0.994 * before[f"teacher.{name}"] - (1 - 0.994) * before[f"student.{name}"]).square().sum()
            for name, value in model.teacher.named_parameters()
        ]
        errors.append(torch.stack(squares).sum().sqrt().item())
    assert 0 < errors[1] <= 1.1 * errors[0]


def test_parameter_groups_cover_the_student_once() -> None:
    """Every student parameter is in exactly one group; groups are fused per submodule and use foreach."""
    model = tiny_model(["ibot.separate_head=true", "kernels=official_order"])
    groups = model.get_params_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.student.parameters())
    assert all(group["foreach"] is True for group in groups)
    # Each head: decayed, biases, last layer.
    assert [len(group["params"]) for group in groups[-6:]] == [3, 3, 2, 3, 3, 2]
    assert [group["is_last_layer"] for group in groups[-6:]] == [False, False, True] * 2


def test_the_fast_form_has_the_same_groups_and_another_kernel() -> None:
    """Only the options that choose AdamW's kernel differ."""
    groups = [tiny_model([f"kernels={kernels}"]).get_params_groups() for kernels in KERNELS]
    assert [len(group["params"]) for group in groups[0]] == [len(group["params"]) for group in groups[1]]
    chosen = ("params", "foreach", "fused")
    plain = [[{k: v for k, v in group.items() if k not in chosen} for group in form] for form in groups]
    assert plain[0] == plain[1]
    assert all(group["fused"] for group in groups[1])


@pytest.mark.parametrize("wrapped", [True, False])
def test_pretrained_weights_reach_the_student(tmp_path: Path, wrapped: bool) -> None:
    """Q46: a state dict is taken bare, as released, or under `model`."""
    cfg = tiny_config()
    weights = build_backbone(cfg.student, 16, architectures=ARCHITECTURES).state_dict()
    file = tmp_path / "backbone.pth"
    torch.save({"model": weights} if wrapped else weights, file)
    cfg.student.pretrained_weights = str(file)
    model = StudentTeacher(cfg, architectures=ARCHITECTURES)
    for key, value in model.student["backbone"].state_dict().items():
        assert torch.equal(value, weights[key])


def test_weights_of_something_else_are_an_error(tmp_path: Path) -> None:
    """Official loads nothing, silently; here the names are compared."""
    file = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="has no key of this backbone"):
        tiny_model([f"student.pretrained_weights={file}"])


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_configuration_decides_the_blocks_form(kernels: str) -> None:
    """Of student and teacher."""
    model = tiny_model([f"kernels={kernels}"])
    for part in (model.student, model.teacher):
        backbone = part["backbone"]
        assert isinstance(backbone, DinoVisionTransformer)
        assert {block.fast for block in flat_blocks(backbone.blocks)} == {kernels == "fast"}
