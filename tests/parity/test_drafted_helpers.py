from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from parity.adapters import drafted
from parity.recipes import select_recipes


def test_the_learning_rate_follows_officials_rule() -> None:
    """base_lr times the root of the batch over 1024, in a copy: parity's own configuration keeps its 0."""
    config = select_recipes(("default",), quick=True)[0].config()
    given = drafted.scaled(config)
    assert given.optim.lr == config.optim.base_lr * math.sqrt(config.train.batch_size_per_gpu / 1024)
    assert config.optim.lr == 0
    config.optim.scaling_rule = "linear"
    with pytest.raises(ValueError, match="'linear', expected 'sqrt_wrt_1024'"):
        drafted.scaled(config)


def test_flags_keep_a_parsers_defaults() -> None:
    """What is given replaces them; a flag that the command line would require does not end the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=8)
    found = drafted.flags(parser, {"depth": 4})
    assert (found.data, found.depth, found.width) == (None, 4, 8)
    assert vars(drafted.flags(None, {"a": 1})) == {"a": 1}


def test_losses_take_the_dtype_of_their_logits() -> None:
    """A module's centre in float32 would round a comparison in float64; what is no module is left alone."""
    loss = drafted.typed(nn.BatchNorm1d(2), torch.zeros(1, dtype=torch.float64))
    assert loss.running_mean is not None
    assert loss.running_mean.dtype is torch.float64
    other = object()
    assert drafted.typed(other, torch.zeros(1)) is other


def test_tokens_are_spread_to_their_places() -> None:
    """In the order of the masks' true elements, zeros elsewhere; gradients come back to the tokens alone."""
    tokens = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    whole = drafted.spread(tokens, torch.tensor([[False, True, True], [True, False, False]]))
    assert whole.squeeze(-1).tolist() == [[0, 1, 2], [3, 0, 0]]
    (whole * torch.arange(6.0).reshape(2, 3, 1)).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.flatten().tolist() == [1, 2, 3]


def test_masks_become_grids() -> None:
    """Row by row; the elements that are true keep their order."""
    masks = torch.tensor([[True, False, False, True]])
    assert drafted.squared(masks).tolist() == [[[True, False], [False, True]]]


@pytest.mark.parametrize(("shape", "expected"), [((1, 4), (3, 4)), ((1, 1, 4), (1, 3, 4))])
def test_a_centre_of_three_dimensions_takes_batches_of_three(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """As official's iBOT loss does; the targets come back flat for both."""

    class Loss:
        center = torch.zeros(shape)
        given: tuple[int, ...] = ()

        def softmax_center_teacher(self, batch: torch.Tensor, teacher_temp: float) -> torch.Tensor:
            self.given = tuple(batch.shape)
            return batch * teacher_temp

        def update_center(self, batch: torch.Tensor) -> None:
            self.center = self.center + 1

        def apply_center_update(self) -> None:
            self.center = self.center * 10

    loss = Loss()
    targets, center = drafted.centered(loss, [torch.ones(3, 4)], 0.5)
    assert loss.given == expected
    assert torch.equal(targets[0], torch.full((3, 4), 0.5))
    assert center.tolist() == [10.0] * 4


def test_values_of_schedules() -> None:
    """Kept in an attribute as official does, or the sequence itself; always float64."""
    assert drafted.values(SimpleNamespace(schedule=[1, 2])).tolist() == [1.0, 2.0]
    found = drafted.values(np.array([1, 2], dtype=np.float32))
    assert found.dtype == np.float64


def test_an_architecture_is_registered_beside_others() -> None:
    """With the recipe's sizes and what the fork's own constructors give; one of that name stays."""
    module = ModuleType("vits")
    module.__dict__["Net"] = dict
    config = OmegaConf.create({"student": {"arch": "vit_tiny"}, "architecture": {"depth": 4}})
    drafted.register_architecture(module, "Net", config, block_fn="b")
    assert module.__dict__["vit_tiny"](patch_size=14) == {"depth": 4, "block_fn": "b", "patch_size": 14}
    module.__dict__["vit_tiny"] = "kept"
    drafted.register_architecture(module, "Net", config)
    assert module.__dict__["vit_tiny"] == "kept"


def test_a_layout_stands_for_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the fork's modules by official's names, with parameters listed where FSDP is not there to do it."""
    (tmp_path / "parity_layout_train.py").write_text("x = 1\n")
    (tmp_path / "parity_layout_arch.py").write_text("def get_fsdp_modules(module): raise ValueError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    layout = drafted.OfficialLayout("parity_layout_train", "parity_layout_arch")
    assert layout.module("train.train").x == 1
    (plain,) = layout.module("train.ssl_meta_arch").get_fsdp_modules(nn.Linear(2, 3))
    assert [tuple(p.shape) for p in plain.params] == [(3, 2), (3,)]
    with pytest.raises(KeyError):
        layout.module("loss")
    for name in ("parity_layout_train", "parity_layout_arch"):
        monkeypatch.delitem(sys.modules, name)
