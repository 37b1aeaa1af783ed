from __future__ import annotations

import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from weights_sources import features, images, make_backbone, make_source

from parity.adapters.official import OfficialStack
from port.weights import ExportSource, export_backbone, hub, load_backbone

# Optional libraries, which a type checker need not find.
timm: Any = importlib.import_module("timm")
transformers: Any = importlib.import_module("transformers")

# Settings of a run and the same of a backbone, as far as official of April 2023 has them.
OFFICIAL: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": ([], {}),
    "no LayerScale": (["student.layerscale=0"], {"init_values": None}),
    "gated": (["student.ffn_layer=swiglufused"], {"ffn_layer": "swiglufused"}),
    "no biases": (
        ["student.qkv_bias=false", "student.proj_bias=false", "student.ffn_bias=false"],
        {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
    ),
    "another size": ([], {"img_size": 24}),
}


@pytest.mark.parametrize("kind", OFFICIAL)
def test_official_code_loads_the_hub_layout(tmp_path: Path, official_stack: OfficialStack, kind: str) -> None:
    """Official's model takes the card's arguments and, strictly, the state dict; outputs are equal bit for bit."""
    overrides, changes = OFFICIAL[kind]
    source = make_source(tmp_path / "run", overrides, **changes)
    export_backbone(source, "hub", tmp_path / "out")
    card = json.loads((tmp_path / "out" / "backbone.json").read_text())
    kwargs = card["kwargs"]
    # Official of April 2023 knows neither; the backbone has what it does without them.
    later = {name: kwargs.pop(name) for name in ("num_register_tokens", "interpolate_antialias", "interpolate_offset")}
    assert later == {"num_register_tokens": 0, "interpolate_antialias": False, "interpolate_offset": 0.1}
    layers = official_stack._reference.module("layers")
    block = partial(layers.NestedTensorBlock, attn_class=layers.MemEffAttention)
    model = official_stack._reference.module("models.vision_transformer").DinoVisionTransformer(
        **kwargs, block_fn=block
    )
    model.load_state_dict(torch.load(tmp_path / "out" / "backbone.pth", weights_only=True), strict=True)
    for size in (16, 24, 32):
        found = zip(features(source.backbone, images(size)), features(model.eval(), images(size)), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in found), size
    assert card["patch_grid"] == [changes.get("img_size", 16) // 4] * 2


def test_the_hub_entry_is_named(tmp_path: Path) -> None:
    """For official's sizes; the entry of the giant sets the feed-forward layer itself."""
    source = make_source(tmp_path)
    small = _hub_call(replace(source, arch="vit_small_memeff"), tmp_path / "a")
    assert small is not None
    assert small.startswith('torch.hub.load("facebookresearch/dinov2", "dinov2_vits14", pretrained=False, img_size=16')
    assert "ffn_layer='mlp'" in small
    assert _hub_call(replace(source, arch="vit_giant2"), tmp_path / "b") is None  # an MLP is not the entry's
    gated = replace(source, arch="vit_giant2", facts=replace(source.facts, ffn="swiglufused"))
    giant = _hub_call(gated, tmp_path / "c")
    assert giant is not None
    assert '"dinov2_vitg14"' in giant
    assert "ffn_layer" not in giant
    assert _hub_call(source, tmp_path / "d") is None


def _hub_call(source: ExportSource, folder: Path) -> str | None:
    folder.mkdir()
    notes = hub.write(source, folder)
    call: str | None = json.loads((folder / "backbone.json").read_text())["hub"]
    assert (call or "DinoVisionTransformer with the kwargs") in notes[0]
    return call


@pytest.mark.parametrize("registers", [0, 4])
def test_transformers_loads_the_folder_by_itself(tmp_path: Path, registers: int) -> None:
    """`AutoModel` and `AutoImageProcessor` find everything in it."""
    overrides = [f"student.num_register_tokens={registers}"]
    source = make_source(tmp_path / "run", overrides, num_register_tokens=registers)
    export_backbone(source, "transformers", tmp_path / "out")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(model).__name__ == ("Dinov2WithRegistersModel" if registers else "Dinov2Model")
    with torch.inference_mode():
        tokens = model(images()).last_hidden_state
    cls_token, patches = features(source.backbone, images())
    torch.testing.assert_close(tokens[:, 0], cls_token, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens[:, 1 + registers :], patches, rtol=1e-4, atol=1e-4)


def test_transformers_prepares_images_as_official_s_evaluation(tmp_path: Path) -> None:
    """A grey image has official's mean subtracted and is divided by its standard deviation."""
    export_backbone(make_source(tmp_path / "run"), "transformers", tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    pixels = processor(Image.new("L", (30, 40), 51).convert("RGB"), return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 16, 16)
    expected = (0.2 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[0, :, 8, 8], expected)


def test_transformers_and_timm_can_be_trained_on(tmp_path: Path) -> None:
    """What was exported loads into a backbone again, equal but for the mask token that timm has not."""
    source = make_source(tmp_path / "run")
    for target, kept in (("transformers", ()), ("timm", ("mask_token",)), ("hub", ())):
        export_backbone(source, target, tmp_path / target)
        backbone = make_backbone(9)
        assert load_backbone(backbone, tmp_path / target).kept == kept
        for name, value in source.backbone.state_dict().items():
            assert name in kept or torch.equal(backbone.state_dict()[name], value), name


def test_timm_creates_the_model_from_the_folder(tmp_path: Path) -> None:
    """With the arguments that config.json holds, and no classifier."""
    source = make_source(tmp_path / "run", ["student.num_register_tokens=3"], num_register_tokens=3)
    exported = export_backbone(source, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert model.num_prefix_tokens == 4
    with torch.inference_mode():
        pooled = model(images())
    torch.testing.assert_close(pooled, features(source.backbone, images())[0], rtol=1e-4, atol=1e-4)
    assert tuple(timm.data.resolve_model_data_config(model)["input_size"]) == (3, 16, 16)
    assert any("no mask token" in note for note in exported.notes)


def _outputs(target: str, folder: Path, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return CLS and patch tokens of what the library loads from a folder."""
    with torch.inference_mode():
        if target == "timm":
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, dynamic_img_size=True).eval()
            tokens, first_patch = model.forward_features(batch), model.num_prefix_tokens
        else:
            model = transformers.AutoModel.from_pretrained(folder).eval()
            tokens = model(batch).last_hidden_state
            first_patch = 1 + getattr(model.config, "num_register_tokens", 0)
    return tokens[:, 0], tokens[:, first_patch:]


@pytest.mark.parametrize("target", ["transformers", "timm"])
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_other_sizes_agree_unless_a_note_says_that_they_differ(
    tmp_path: Path, target: str, registers: int, antialias: bool, offset: float
) -> None:
    """Larger, smaller, wider and taller images: equal to rounding where the library resizes positions as the backbone.

    Otherwise there is a note, and they do differ.
    """
    changes: dict[str, Any] = {"num_register_tokens": registers}
    changes |= {"interpolate_antialias": antialias, "interpolate_offset": offset}
    source = make_source(tmp_path / "run", [f"student.{name}={value}" for name, value in changes.items()], **changes)
    exported = export_backbone(source, target, tmp_path / "out")
    differs = [note for note in exported.notes if note.startswith("for images other than 16 pixels")]
    library_antialias = target == "timm" or registers > 0
    assert bool(differs) == (offset != 0 or antialias != library_antialias)
    for rows, columns in ((24, 24), (8, 12), (16, 32), (40, 20)):
        batch = torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))
        found = zip(_outputs(target, tmp_path / "out", batch), features(source.backbone, batch), strict=True)
        largest = max(float((theirs - ours).abs().max()) for theirs, ours in found)
        # Where only antialias differs, images that are no smaller than those learned are alike.
        shrinks = min(rows, columns) < 16
        if not differs:
            assert largest < 1e-5, (rows, columns)
        elif offset or shrinks:
            assert largest > 1e-2, (rows, columns)


@pytest.mark.parametrize(("target", "words"), [("transformers", "Dinov2"), ("timm", "DINOv2 models")])
def test_what_a_layout_cannot_express_is_an_error(tmp_path: Path, target: str, words: str) -> None:
    """The hub layout can; nothing is left behind."""
    source = make_source(tmp_path / "run", ["student.ffn_layer=identity"], ffn_layer="identity")
    with pytest.raises(ValueError, match=f"{words} .*no identity feed-forward layer: export to hub instead"):
        export_backbone(source, target, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert export_backbone(source, "hub", tmp_path / "out").verification is not None


def test_a_broken_ratio_is_an_error_for_transformers(tmp_path: Path) -> None:
    """Its configuration holds an integer."""
    source = make_source(tmp_path / "run")
    source = replace(source, size=replace(source.size, mlp_ratio=2.5))
    with pytest.raises(ValueError, match=r"mlp_ratio is an integer, the backbone's 2\.5; export to hub"):
        export_backbone(source, "transformers", tmp_path / "out")
