from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weights_sources import features, images, make_backbone

from port.weights import load_backbone
from port.weights.dialects import to_official

# Optional libraries, which a type checker need not find.
timm: Any = importlib.import_module("timm")
transformers: Any = importlib.import_module("transformers")


def _randomised(model: nn.Module) -> Any:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def _transformers(*, registers: int = 0, swiglu: bool = False) -> Any:
    options = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 16, "patch_size": 4}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**options, num_register_tokens=registers, use_swiglu_ffn=swiglu)
        return _randomised(transformers.Dinov2WithRegistersModel(config))
    return _randomised(transformers.Dinov2Model(transformers.Dinov2Config(**options, use_swiglu_ffn=swiglu)))


@torch.inference_mode()
def _transformers_features(model: Any, batch: Tensor, registers: int) -> tuple[Tensor, Tensor]:
    tokens = model(pixel_values=batch).last_hidden_state
    return tokens[:, 0], tokens[:, 1 + registers :]


def _close(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("registers", "swiglu"), [(0, False), (4, False), (0, True), (4, True)])
def test_a_folder_of_transformers_computes_the_same(tmp_path: Path, registers: int, swiglu: bool) -> None:
    """`save_pretrained`, then `load_backbone`: the same tokens in double precision."""
    model = _transformers(registers=registers, swiglu=swiglu)
    model.save_pretrained(tmp_path)
    backbone = make_backbone(num_register_tokens=registers, ffn_layer="swiglufused" if swiglu else "mlp")
    report = load_backbone(backbone, tmp_path)
    assert (report.spelling, report.kept, report.ignored) == ("transformers", (), ())
    _close(
        features(backbone.double(), images().double()),
        _transformers_features(model.double(), images().double(), registers),
    )


@pytest.mark.parametrize("registers", [0, 4])
def test_a_state_dict_of_transformers_computes_the_same(tmp_path: Path, registers: int) -> None:
    """Its modules' names, which are not its files' names since version 5; a classifier's prefix is stripped."""
    model = _transformers(registers=registers)
    prefix = "dinov2_with_registers." if registers else "dinov2."
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({**state, "classifier.weight": torch.ones(2, 96)}, tmp_path / "w.pth")
    backbone = make_backbone(num_register_tokens=registers)
    report = load_backbone(backbone, tmp_path / "w.pth")
    assert (report.spelling, report.ignored) == ("transformers", ("classifier.weight",))
    _close(
        features(backbone.double(), images().double()),
        _transformers_features(model.double(), images().double(), registers),
    )


TIMM: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("vit_small_patch14_dinov2", {}, {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}, {"num_register_tokens": 4}),
    # timm's ratio is of both halves of the gated layer: 2 * 128 / 48.
    "gated": ("vit_giant_patch14_dinov2", {"mlp_ratio": 256.25 / 48}, {"ffn_layer": "swiglufused"}),
    "gated, registers": (
        "vit_giant_patch14_reg4_dinov2",
        {"mlp_ratio": 256.25 / 48},
        {"ffn_layer": "swiglufused", "num_register_tokens": 4},
    ),
}


@pytest.mark.parametrize("kind", TIMM)
def test_weights_of_timm_compute_the_same(tmp_path: Path, kind: str) -> None:
    """Its state dict, with positions that registers leave the CLS token out of."""
    name, arguments, changes = TIMM[kind]
    sizes: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}
    model = _randomised(timm.create_model(name, pretrained=False, **{**sizes, **arguments}))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    backbone = make_backbone(**changes)
    report = load_backbone(backbone, tmp_path / "w.pth")
    assert report.kept == ("mask_token",)
    # Without registers and gates the two libraries' names are the same.
    assert report.spelling == ("official" if kind == "plain" else "timm")
    with torch.inference_mode():
        tokens = model.double().forward_features(images().double())
    theirs = tokens[:, 0], tokens[:, model.num_prefix_tokens :]
    _close(features(backbone.double(), images().double()), theirs)


def test_official_names_stay() -> None:
    """Nothing is renamed, and no tensor is copied."""
    state = make_backbone(num_register_tokens=4, ffn_layer="swiglufused").state_dict()
    renamed, spelling = to_official(state)
    assert spelling == "official"
    assert all(renamed[name] is value for name, value in state.items())
    assert renamed.keys() == state.keys()


@pytest.mark.parametrize(("n", "spelling"), [(16, "timm"), (17, "official"), (2, "official"), (1, "official")])
def test_positions_tell_timm_s_from_official_s(n: int, spelling: str) -> None:
    """A square number of them lacks the CLS token's; where both could be, official's reading is taken."""
    renamed, found = to_official({"pos_embed": torch.ones(1, n, 3), "cls_token": torch.ones(1, 1, 3)})
    assert found == spelling
    assert renamed["pos_embed"].shape[1] == (n + 1 if spelling == "timm" else n)


def test_a_missing_cls_position_is_zero() -> None:
    """Timm has added it to the token."""
    renamed, _ = to_official({"pos_embed": torch.ones(1, 4, 3), "cls_token": torch.ones(1, 1, 3)})
    assert renamed["pos_embed"][0].tolist() == [[0, 0, 0], *[[1, 1, 1]] * 4]
