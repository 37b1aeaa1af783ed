from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parity.states import generic_state, images, logits, samples


def _initial() -> dict[str, Tensor]:
    """The degenerate values of official's initialisation, by official's names."""
    student = {
        "backbone.cls_token": torch.zeros(1, 1, 64),
        "backbone.mask_token": torch.zeros(1, 64),
        "backbone.pos_embed": torch.zeros(1, 9, 64),
        "backbone.blocks.0.norm1.weight": torch.ones(64),
        "backbone.blocks.0.norm1.bias": torch.zeros(64),
        "backbone.blocks.0.attn.qkv.weight": 0.02 * torch.randn(192, 64, generator=torch.Generator().manual_seed(1)),
        "backbone.blocks.0.attn.qkv.bias": torch.zeros(192),
        "backbone.blocks.0.ls1.gamma": torch.full((64,), 1e-5),
        "dino_head.last_layer.weight_g": torch.ones(96, 1),
        "dino_head.last_layer.weight_v": torch.full((96, 24), 0.02),
    }
    state = {f"student.{name}": value for name, value in student.items()}
    state |= {f"teacher.{name}": value.clone() for name, value in student.items()}
    return {**state, "dino_loss.center": torch.zeros(1, 96), "ibot_patch_loss.center": torch.zeros(1, 1, 80)}


def test_names_shapes_and_order_are_kept() -> None:
    """The generic state can be loaded wherever the initial one can."""
    initial = _initial()
    state = generic_state(initial, 0)
    assert list(state) == list(initial)
    assert all(state[n].shape == t.shape and state[n].dtype is torch.float32 for n, t in initial.items())


def test_nothing_is_degenerate() -> None:
    """No element is 0, 1 or 1e-5, and no tensor is constant, where all initial values but two are."""
    for name, tensor in generic_state(_initial(), 0).items():
        for special in (0.0, 1.0, 1e-5):
            assert not (tensor == special).any(), name
        assert tensor.std() > 1e-3, name


@pytest.mark.parametrize(
    ("name", "mean", "spread"),
    [
        ("backbone.blocks.0.ls1.gamma", 0.5, 0.2),
        ("backbone.blocks.0.norm1.weight", 1.0, 0.2),
        ("dino_head.last_layer.weight_g", 1.0, 0.1),
        ("backbone.blocks.0.attn.qkv.bias", 0.0, 0.1),
        ("backbone.pos_embed", 0.0, 0.2),
        ("backbone.blocks.0.attn.qkv.weight", 0.0, 0.06),
    ],
)
def test_each_kind_has_its_own_size(name: str, mean: float, spread: float) -> None:
    """Mean and spread are those of the kind, within four standard errors."""
    tensor = generic_state(_initial(), 0)[f"student.{name}"]
    error = spread / tensor.numel() ** 0.5
    assert abs(float(tensor.mean()) - mean) < 4 * error
    assert float(tensor.std()) == pytest.approx(spread, rel=0.35)


def test_the_teacher_is_near_the_student_but_not_equal() -> None:
    """A few per cent away, so that EMA and a swapped teacher show."""
    state = generic_state(_initial(), 0)
    for name, tensor in state.items():
        if name.startswith("student."):
            teacher = state[name.replace("student.", "teacher.")]
            distance = float((teacher - tensor).norm() / tensor.norm())
            assert 0.005 < distance < 0.04, name


def test_the_seed_decides_and_order_does_not() -> None:
    """The same seed gives the same state for a reordered mapping, another seed another."""
    initial = _initial()
    first = generic_state(initial, 3)
    again = generic_state(dict(reversed(initial.items())), 3)
    assert all(torch.equal(first[n], again[n]) for n in initial)
    other = generic_state(initial, 4)
    assert not any(torch.equal(first[n], other[n]) for n in initial)


def test_the_initial_state_and_the_global_generator_are_left_alone() -> None:
    """Every draw comes from a generator of its own."""
    initial = _initial()
    before, stream = {n: t.clone() for n, t in initial.items()}, torch.get_rng_state()
    generic_state(initial, 0)
    images((1, 3, 4, 4), 0)
    logits(2, 3, 0)
    samples(1, 4, 2, 1, 0)
    assert all(torch.equal(initial[n], before[n]) for n in initial)
    assert torch.equal(torch.get_rng_state(), stream)


def test_images_and_logits_are_float32_of_the_asked_shape_and_size() -> None:
    """Images have unit variance as after normalisation; logits scale with `scale`."""
    pixels, outputs = images((2, 3, 32, 32), 1), logits(50, 200, 1)
    assert pixels.shape == (2, 3, 32, 32)
    assert outputs.shape == (50, 200)
    assert pixels.dtype is outputs.dtype is torch.float32
    assert float(pixels.std()) == pytest.approx(1.0, abs=0.05)
    assert float(outputs.std()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(logits(50, 200, 1, scale=0.2), 2 * outputs)
    assert torch.equal(pixels, images((2, 3, 32, 32), 1))
    assert not torch.equal(pixels, images((2, 3, 32, 32), 2))


def test_samples_are_as_the_augmentation_makes_them() -> None:
    """Two global and n local crops each, no two alike."""
    batch = samples(3, 14, 7, 2, seed=0)
    assert len(batch) == 3
    crops = [c for sample in batch for c in (*sample["global_crops"], *sample["local_crops"])]
    shapes = [tuple(c.shape) for c in crops]
    assert shapes == [(3, 14, 14), (3, 14, 14), (3, 7, 7), (3, 7, 7)] * 3
    first_pixels = {float(c[0, 0, 0]) for c in crops}
    assert len(first_pixels) == 12
    assert samples(1, 14, 7, 0, seed=0)[0]["local_crops"] == []
