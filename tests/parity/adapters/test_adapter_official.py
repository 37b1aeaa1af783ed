from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from parity import states
from parity.adapters.common import optimizer_rows
from parity.adapters.official import OfficialStack
from parity.adapters.official_step import collate_of_official_training, options_of_official_loader
from parity.checks.gradients import flat_step, step_inputs
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from parity.reference import open_reference
from port.models import Architecture

DEFAULT = RECIPES[0]


def _official(stack: OfficialStack, module: str) -> Any:
    return stack._reference.module(module)


def test_april_2023_has_neither_feature(official_stack: OfficialStack) -> None:
    """Registers came in October 2023, rates in double precision in October 2024."""
    assert official_stack.features == frozenset()
    assert (official_stack.root / "dinov2" / "train" / "train.py").is_file()


def test_small_architectures_stand_beside_official_s(official_stack: OfficialStack) -> None:
    """Names that official lacks are added; its own functions stay."""
    transformer = _official(official_stack, "models.vision_transformer")
    model = transformer.vit_parity5(patch_size=16)
    assert (model.n_blocks, model.embed_dim, model.num_heads) == (5, 48, 3)
    assert transformer.vit_large.__module__ == "dinov2.models.vision_transformer"
    assert set(SMALL_ARCHITECTURES) > {"vit_small", "vit_large"}


def test_an_architecture_of_official_s_name_does_not_replace_it(official_stack: OfficialStack) -> None:
    """`vit_small` stays official's, whatever sizes are given for the name."""
    wrong = {"vit_small": Architecture(embed_dim=8, depth=1, num_heads=1)}
    again = OfficialStack(official_stack._reference, wrong)
    assert _official(again, "models.vision_transformer").vit_small(patch_size=16).embed_dim == 384


def test_official_collate_is_built_once_for_a_configuration(official_stack: OfficialStack) -> None:
    """Equal configurations share it; another crop size has one of its own."""
    config, other = DEFAULT.config(), DEFAULT.config()
    other.crops.global_crops_size = 112
    before = len(official_stack._collate_cache)
    for each in (config, config.copy(), other):
        official_stack.collate(states.samples(2, 1, 1, 1, 0), each, torch.float32)
    assert len(official_stack._collate_cache) - before == 2


def test_the_collate_function_is_official_s_own(official_stack: OfficialStack) -> None:
    """A partial of `collate_data_and_cast`, with the mask generator that `do_train` built."""
    collate: Any = collate_of_official_training(official_stack._reference, DEFAULT.config())
    assert collate.func is _official(official_stack, "data").collate_data_and_cast
    generator = collate.keywords["mask_generator"]
    assert (generator.get_shape(), generator.max_num_patches) == ((6, 6), 18.0)


def test_what_official_gives_to_its_loader_is_read(official_stack: OfficialStack) -> None:
    """Official's own words for a run that is resumed at iteration 7: its seed, its batch, and the collate function."""
    config = RECIPES[0].config()
    options = options_of_official_loader(official_stack._reference, config, start=7)
    assert options["seed"] == 7
    assert options["batch_size"] == config.train.batch_size_per_gpu
    assert options["drop_last"] is True
    assert options["collate_fn"].func is official_stack._reference.module("data.collate").collate_data_and_cast
    assert options_of_official_loader(official_stack._reference, config)["seed"] == 0


def test_official_functions_are_as_before_after_a_step(official_stack: OfficialStack) -> None:
    """What touches files is replaced while the loop runs, and put back."""
    train = _official(official_stack, "train.train")
    names = ("build_optimizer", "FSDPCheckpointer", "MetricLogger", "PeriodicCheckpointer", "make_data_loader")
    before = {name: getattr(train, name) for name in names}
    config, inputs, batch = step_inputs(official_stack, DEFAULT, "generic")
    flat_step(official_stack, config, inputs, batch, 25)
    assert {name: getattr(train, name) for name in names} == before


def test_a_step_leaves_no_file(official_stack: OfficialStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Official writes its metrics into a folder that is gone afterwards; the working directory stays empty."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(tmp_path)
    config, inputs, batch = step_inputs(official_stack, DEFAULT, "generic")
    flat_step(official_stack, config, inputs, batch, 25)
    assert os.listdir(tmp_path) == ["scratch"]  # noqa: PTH208 # the names alone, hidden ones included
    assert list(scratch.iterdir()) == []


def test_exactly_one_iteration_is_run(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader hands over one batch, so the model's own forward_backward is called once, at that iteration."""
    calls: list[float] = []
    arch = _official(official_stack, "train.ssl_meta_arch").SSLMetaArch
    inner = arch.forward_backward

    def counted(self: Any, images: Any, teacher_temp: float) -> Any:
        calls.append(teacher_temp)
        return inner(self, images, teacher_temp)

    monkeypatch.setattr(arch, "forward_backward", counted)
    config, inputs, batch = step_inputs(official_stack, DEFAULT, "generic")
    flat_step(official_stack, config, inputs, batch, 25)
    expected = official_stack.schedules(config)["teacher_temp"][25]
    assert calls == [expected]


def test_the_iteration_decides_rates_and_freeze(official_stack: OfficialStack) -> None:
    """Inside the first epoch the last layer has rate 0 and does not move, later it does."""
    config, inputs, batch = step_inputs(official_stack, DEFAULT, "generic")
    start = inputs["state student.dino_head.last_layer.weight_g"]
    for iteration, still in ((3, True), (25, False)):
        after = flat_step(official_stack, config, inputs, batch, iteration)
        assert torch.equal(after["parameters/student.dino_head.last_layer.weight_g"], start) is still


def test_clipping_is_read_before_and_after(official_stack: OfficialStack) -> None:
    """Each submodule's clipped norm is at most 3, and gradients below that are the same twice."""
    config, inputs, batch = step_inputs(official_stack, DEFAULT, "generic")
    config.optim.clip_grad = 0.01
    after = flat_step(official_stack, config, inputs, batch, 25)
    for module in ("backbone", "dino_head"):
        norms = [
            torch.stack([t.norm() for n, t in after.items() if n.startswith(f"{part}/{module}.")]).norm()
            for part in ("gradients", "clipped_gradients")
        ]
        assert norms[0] > 0.01
        assert float(norms[1]) == pytest.approx(0.01, rel=1e-3)


def test_the_pending_centre_update_is_applied(official_stack: OfficialStack) -> None:
    """Official would apply it in the next step (Q14); centres of a Sinkhorn recipe stay."""
    for recipe, moves in ((RECIPES[0], True), (RECIPES[1], False)):
        config, inputs, batch = step_inputs(official_stack, recipe, "generic")
        after = flat_step(official_stack, config, inputs, batch, 25)
        for name in ("dino_loss.center", "ibot_patch_loss.center"):
            assert torch.equal(after[f"centers/{name}"], inputs[f"state {name}"]) is not moves


def test_a_state_with_another_name_is_refused(official_stack: OfficialStack) -> None:
    """Official loads strictly: a missing tensor is an error, not a random one."""
    config = DEFAULT.config()
    state = official_stack.init_state(config, 0)
    batch = official_stack.collate(states.samples(3, 96, 48, 3, 0), config, torch.float32)
    state["student.backbone.cls"] = state.pop("student.backbone.cls_token")
    with pytest.raises(RuntimeError, match=r"student\.backbone\.cls_token"):
        official_stack.training_step(config, state, batch, 25, 0)


def test_official_functions_get_a_copy_of_the_configuration(official_stack: OfficialStack) -> None:
    """Official scales `optim.lr` in place; the caller's configuration stays."""
    config = DEFAULT.config()
    before = OmegaConf.to_yaml(config)
    official_stack.schedules(config)
    official_stack.parameter_groups(config, [0])
    official_stack.init_state(config, 0)
    official_stack.build_head(config, "ibot")
    assert OmegaConf.to_yaml(config) == before


def test_rows_of_an_optimizer() -> None:
    """Rate, decay and group of every parameter by name, and the multipliers where a group has them."""
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups: list[dict[str, Any]] = [
        {"params": [first], "lr_multiplier": 0.5, "is_last_layer": True},
        {"params": [second]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.2)
    assert optimizer_rows(optimizer, {id(first): "a", id(second): "b"}) == {
        "a": {"lr": 0.1, "weight_decay": 0.2, "lr_multiplier": 0.5, "is_last_layer": True, "group": 0},
        "b": {"lr": 0.1, "weight_decay": 0.2, "group": 1},
    }


def test_real_sizes_are_built_without_memory(official_stack: OfficialStack) -> None:
    """ViT-L/16 under official's configuration: 24 blocks, on the meta device, rates of drop path included."""
    config = DEFAULT.config()
    config.student.arch = "vit_large"
    rows = official_stack.parameter_groups(config, [0])[0]
    assert len({name.split(".")[2] for name in rows if ".blocks." in name}) == 24


def test_a_closed_reference_cannot_be_used() -> None:
    """The error says that it is closed."""
    with open_reference("pypi") as reference:
        stack = OfficialStack(reference, SMALL_ARCHITECTURES)
    with pytest.raises(RuntimeError, match="closed reference"):
        stack.koleo_loss(torch.ones(2, 3))
