from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weights_sources import features, images, make_backbone, make_network

from port.models import DinoVisionTransformer
from port.weights import load_backbone, load_training_weights
from port.weights.facts import Facts, facts_of, first_conflict

# Optional libraries, which a type checker need not find.
save_file = importlib.import_module("safetensors.torch").save_file

State = dict[str, Tensor]


def _prefixed(state: Mapping[str, Tensor], prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


WRAPPED: dict[str, Any] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "iteration": 3},
    "state_dict": lambda state: {"state_dict": _prefixed(state, "module.")},
    "backbone": lambda state: _prefixed(state, "backbone."),
    "teacher": lambda state: {"teacher": _prefixed(state, "backbone.")},
    "teacher, flat": lambda state: _prefixed(state, "teacher.backbone."),
    "both networks": lambda state: {
        "model": {**_prefixed(state, "teacher.backbone."), "student.backbone.cls_token": torch.zeros(1)}
    },
    "compiled": lambda state: {"teacher": _prefixed(state, "backbone._orig_mod.")},
}


def _same(backbone: nn.Module, other: nn.Module) -> bool:
    pairs = zip(backbone.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _saved(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    return file


@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_every_wrapper_is_understood(tmp_path: Path, wrapper: str, chunks: int) -> None:
    """A chunked file loads into a flat backbone, under whatever names stand before its own."""
    released = make_backbone(1, block_chunks=chunks)
    backbone = make_backbone(2)
    report = load_backbone(backbone, _saved(tmp_path, WRAPPED[wrapper](released.state_dict())))
    assert _same(backbone, released)
    assert (report.spelling, report.resized_from, report.kept, report.ignored) == ("official", None, (), ())


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_flat_file_loads_into_chunks(tmp_path: Path, chunks: int) -> None:
    """Block i of the file is block i of the backbone."""
    released, backbone = make_backbone(1), make_backbone(2, block_chunks=chunks)
    load_backbone(backbone, _saved(tmp_path, released.state_dict()))
    for ours, theirs in zip(features(backbone, images()), features(released, images()), strict=True):
        assert torch.equal(ours, theirs)


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    """Values are converted to the backbone's type."""
    released, backbone = make_backbone(1).half(), make_backbone(2)
    save_file(dict(released.state_dict()), tmp_path / "w.safetensors")
    load_backbone(backbone, tmp_path / "w.safetensors")
    assert backbone.norm.weight.dtype == torch.float32
    assert torch.equal(backbone.norm.weight, released.norm.weight.float())


def test_a_classifier_is_ignored_and_reported(tmp_path: Path) -> None:
    """It is on top of the backbone, not in it."""
    state = {**make_backbone(1).state_dict(), "head.weight": torch.ones(5, 48), "head.bias": torch.ones(5)}
    report = load_backbone(make_backbone(), _saved(tmp_path, state))
    assert report.ignored == ("head.weight", "head.bias")


def test_a_missing_mask_token_is_kept_and_reported(tmp_path: Path) -> None:
    """Training can start from the backbone's own."""
    state = make_backbone(1).state_dict()
    del state["mask_token"]
    backbone = make_backbone(2)
    before = backbone.mask_token.clone()
    report = load_backbone(backbone, _saved(tmp_path, state))
    assert report.kept == ("mask_token",)
    assert "not in the file: mask_token" in str(report)
    assert torch.equal(backbone.mask_token, before)
    assert torch.equal(backbone.cls_token, state["cls_token"])


@pytest.mark.parametrize("registers", [0, 4])
def test_released_positions_are_resized_to_the_run_s_grid(tmp_path: Path, registers: int) -> None:
    """Afterwards an image of the run's size gives what the unresized weights give for it."""
    options = {"num_register_tokens": registers, "interpolate_offset": 0.0 if registers else 0.1}
    options["interpolate_antialias"] = bool(registers)
    released = make_backbone(1, img_size=148, **options)
    backbone = make_backbone(2, img_size=64, **options)
    report = load_backbone(backbone, _saved(tmp_path, released.state_dict()))
    assert (report.resized_from, report.resized_to) == ((37, 37), (16, 16))
    assert "positions resized from 37×37 to 16×16" in str(report)
    for ours, theirs in zip(features(backbone, images(64)), features(released, images(64)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("heads", [(), ("dino_head",), ("ibot_head",), ("dino_head", "ibot_head")])
def test_heads_are_loaded_where_the_file_has_them(tmp_path: Path, heads: tuple[str, ...]) -> None:
    """The rest keep their values and are reported, to be warmed up."""
    saved, network = make_network(1), make_network(2)
    before = copy.deepcopy(network)
    keep = ("backbone", *heads)
    state = {name: value for name, value in saved.state_dict().items() if name.startswith(keep)}
    report = load_training_weights(network, _saved(tmp_path, {"teacher": state}))
    missing = tuple(head for head in ("dino_head", "ibot_head") if head not in heads)
    assert (report.found, report.missing) == (keep, missing)
    for part in keep:
        assert _same(network[part], saved[part]), part
    for part in missing:
        assert _same(network[part], before[part]), part
    assert ("starting anew: " in str(report)) == bool(missing)
    assert f"heads in the file: {', '.join(heads) or 'none'}" in str(report)


def test_a_head_that_the_network_lacks_is_not_read(tmp_path: Path) -> None:
    """A file with separate heads starts a run with one."""
    saved, network = make_network(1), make_network(2)
    del network["ibot_head"]
    report = load_training_weights(network, _saved(tmp_path, saved.state_dict()))
    assert (report.found, report.missing) == (("backbone", "dino_head"), ())


def test_a_head_of_another_shape_changes_nothing(tmp_path: Path) -> None:
    """The error names the tensor, both shapes and the settings; the backbone is untouched too."""
    saved, network = make_network(1), make_network(2)
    saved["dino_head"] = nn.Linear(48, 9)
    before = copy.deepcopy(network)
    with pytest.raises(ValueError, match=r"weight is \(9, 48\) in the file, \(7, 48\) in the model.*head_n_prototypes"):
        load_training_weights(network, _saved(tmp_path, saved.state_dict()))
    assert _same(network, before)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "width": (
        {"embed_dim": 96},
        r"the file is 96 features, 3 blocks \(nearest: vit_demo with 192 and 4\), the model 48 features, 3 blocks "
        r".*\(cls_token is \(1, 1, 96\) in the file and \(1, 1, 48\) in the model\)",
    ),
    "deeper": (
        {"depth": 4},
        r"the file is 48 features, 4 blocks .*\(blocks\.3\.norm1\.weight is \(48,\) in the file and absent in the",
    ),
    "shallower": ({"depth": 2}, r"\(blocks\.2\.norm1\.weight is absent in the file and \(48,\) in the model\)"),
    "patch": (
        {"patch_size": 8, "img_size": 32},
        r"patch size 8 in the file, 4 in the model \(patch_embed\.proj\.weight is \(48, 3, 8, 8\) in the file and "
        r"\(48, 3, 4, 4\) in the model\); .* set student\.patch_size=8$",
    ),
    "registers": (
        {"num_register_tokens": 4},
        r"\(register_tokens is \(1, 4, 48\) in the file and absent in the model\); .*student\.num_register_tokens=4",
    ),
    "ffn": (
        {"ffn_layer": "swiglufused"},
        r"feed-forward layer swiglufused in the file, mlp in the model .*student\.ffn_layer=swiglufused",
    ),
    "layer scale": ({"init_values": None}, r"LayerScale no in the file, yes in the model .*student\.layerscale=0"),
    "bias": ({"qkv_bias": False}, r"qkv_bias no in the file.*\(blocks\.0\.attn\.qkv\.bias is absent.*qkv_bias=false"),
    "hidden": ({"mlp_ratio": 2.0}, r"mlp\.fc1\.weight is \(96, 48\) in the file, \(192, 48\) in the model"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_architecture_is_an_error_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    """It names the setting, the file, a tensor with both shapes, and what to set."""
    changes, expected = OTHERS[kind]
    file = _saved(tmp_path, make_backbone(1, **changes).state_dict())
    network = make_network(2)
    before = copy.deepcopy(network)
    with pytest.raises(ValueError, match=expected) as error:
        load_training_weights(network, file)
    assert str(error.value).startswith(f"MODEL.WEIGHTS: {file}")
    with pytest.raises(ValueError, match=expected):
        load_backbone(network["backbone"], file)
    assert _same(network, before)


def test_registers_missing_from_the_file_are_an_error(tmp_path: Path) -> None:
    """Released weights have registers or not, and the setting says which."""
    file = _saved(tmp_path, make_backbone(1).state_dict())
    with pytest.raises(ValueError, match=r"register_tokens is absent in the file and \(1, 4, 48\) in the model"):
        load_backbone(make_backbone(2, num_register_tokens=4), file)


def _without(name: str) -> State:
    state = make_backbone(1).state_dict()
    del state[name]
    return dict(state)


BROKEN: dict[str, tuple[State, str]] = {
    "missing": (_without("blocks.1.norm1.bias"), r"does not fit: blocks\.1\.norm1\.bias is missing"),
    "essential": (_without("cls_token"), r"lacks cls_token; expected a whole backbone"),
    "extra": (
        {**_without("mask_token"), "blocks.1.adapter.weight": torch.ones(1)},
        r"blocks\.1\.adapter\.weight has no place in the model",
    ),
    "not finite": (
        {**_without("norm.bias"), "norm.bias": torch.full((48,), float("nan"))},
        r"norm\.bias has values that are not finite",
    ),
    "quantised": (
        {**_without("norm.bias"), "norm.bias": torch.ones(48, dtype=torch.int8)},
        r"norm\.bias is torch\.int8, expected floating point \(dequantise",
    ),
    "complex": (
        {**_without("norm.bias"), "norm.bias": torch.ones(48, dtype=torch.complex64)},
        r"norm\.bias is torch\.complex64, expected floating point",
    ),
    "flat tensor": (
        {**_without("cls_token"), "cls_token": torch.ones(48)},
        r"cls_token has 1 dimensions \(48,\), expected 3",
    ),
    "no square": (
        {**_without("pos_embed"), "pos_embed": torch.ones(1, 8, 48)},
        r"7 learned positions are not a square grid",
    ),
    "many": (
        {k: v for k, v in make_backbone(1).state_dict().items() if ".norm2." not in k},
        r"blocks\.1\.norm2\.weight is missing; and 3 more$",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_named(tmp_path: Path, kind: str) -> None:
    """And nothing has been written."""
    state, expected = BROKEN[kind]
    backbone = make_backbone(2)
    before = copy.deepcopy(backbone)
    with pytest.raises(ValueError, match=expected):
        load_backbone(backbone, _saved(tmp_path, state))
    assert _same(backbone, before)


def test_a_damaged_file_is_named_with_its_setting(tmp_path: Path) -> None:
    """The user sees which key to mend."""
    (tmp_path / "w.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^student\.pretrained_weights: .*w\.pth is damaged"):
        load_backbone(make_backbone(), tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match=r"^MODEL\.WEIGHTS: no file or folder .*gone\.pth"):
        load_training_weights(make_network(), tmp_path / "gone.pth")


def test_a_wrapped_backbone_is_an_error(tmp_path: Path) -> None:
    """Weights are loaded before a backbone is wrapped."""
    with pytest.raises(TypeError, match="expected a DinoVisionTransformer, not yet wrapped; got Sequential"):
        load_backbone(nn.Sequential(make_backbone()), _saved(tmp_path, make_backbone().state_dict()))


@pytest.mark.parametrize(
    ("size", "exact", "nearest"),
    [((384, 12), "vit_small", "vit_small"), ((1024, 20), None, "vit_large"), ((1536, 40), "vit_giant2", "vit_giant2")],
)
def test_the_nearest_architecture(size: tuple[int, int], exact: str | None, nearest: str) -> None:
    """By the factors between widths and depths."""
    facts = Facts(*size, 14, 0, "mlp", layer_scale=True, qkv_bias=True, proj_bias=True, ffn_bias=True)
    assert (facts.arch, facts.nearest_arch) == (exact, nearest)
    assert nearest in str(facts)


def test_facts_are_read_from_shapes() -> None:
    """Each as the backbone was built."""
    built: DinoVisionTransformer = make_backbone(
        num_register_tokens=2, ffn_layer="swiglu", init_values=None, qkv_bias=False, proj_bias=False, ffn_bias=False
    )
    assert facts_of(built.state_dict()) == Facts(48, 3, 4, 2, "swiglufused", False, False, False, False)
    assert facts_of(make_backbone(ffn_layer="identity").state_dict()).ffn == "identity"


def test_other_grids_are_no_conflict() -> None:
    """Positions can be resized; another width cannot."""
    state = {"pos_embed": torch.ones(1, 5, 8), "norm.weight": torch.ones(8)}
    assert first_conflict(state, {**state, "pos_embed": torch.ones(1, 10, 8)}) is None
    assert first_conflict(state, {"pos_embed": torch.ones(1, 5, 9)}) is not None
