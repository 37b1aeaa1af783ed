from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from weights_sources import features, images, make_backbone, make_run, make_source

from parity.adapters.official import OfficialStack
from port.weights import TARGETS, ExportSource, export_backbone, load_backbone, open_source, targets
from port.weights.extras import require

# What a run can set, and its settings: the options of a backbone that layouts express in different ways.
KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": ([], {}),
    "registers": (["student.num_register_tokens=4"], {"num_register_tokens": 4}),
    "gated": (["student.ffn_layer=swiglufused"], {"ffn_layer": "swiglufused"}),
    "gated, registers": (
        ["student.ffn_layer=swiglufused", "student.num_register_tokens=2"],
        {"ffn_layer": "swiglufused", "num_register_tokens": 2},
    ),
    "no LayerScale": (["student.layerscale=0"], {"init_values": None}),
    "no biases": (
        ["student.qkv_bias=false", "student.proj_bias=false", "student.ffn_bias=false"],
        {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
    ),
    "one bias": (["student.proj_bias=false"], {"proj_bias": False}),
    "chunked": (["student.block_chunks=2"], {"block_chunks": 2}),
    "another size": ([], {"img_size": 24}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_layout_computes_what_the_backbone_computes(tmp_path: Path, target: str, kind: str) -> None:
    """Loaded by the real library: float64 equal to rounding, float32 to 1e-5 of the largest output."""
    overrides, changes = KINDS[kind]
    exported = export_backbone(make_source(tmp_path / "run", overrides, **changes), target, tmp_path / "out")
    result = exported.verification
    assert result is not None
    assert result.passed
    assert result.double < 1e-12 * result.scale
    assert result.single < 1e-5 * result.scale
    assert result.scale > 0.5  # outputs of nothing would agree too
    assert result.images[-1] == changes.get("img_size", 16)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == list(exported.files)
    assert exported.unverified == ""


@pytest.mark.parametrize("kind", ["plain", "no LayerScale", "gated", "no biases", "another size"])
def test_official_code_loads_the_hub_layout(tmp_path: Path, official_stack: OfficialStack, kind: str) -> None:
    """Official's model takes the card's arguments and, strictly, the state dict; outputs are equal bit for bit."""
    overrides, changes = KINDS[kind]
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
    notes = targets.hub.write(source, folder)
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
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 16, 16)
    assert any("no mask token" in note for note in exported.notes)


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


def _swap_queries_and_keys(state: dict[str, Tensor], query: str, key: str) -> None:
    state[query], state[key] = state[key], state[query]


def test_a_wrong_conversion_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries in the place of keys, beside a LayerScale that makes them count for little."""
    source = make_source(tmp_path / "run")
    with torch.no_grad():
        for name, parameter in source.backbone.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1e-5)
    right = targets.huggingface.to_transformers

    def wrong(source: ExportSource) -> dict[str, Tensor]:
        state = right(source)
        layer = "encoder.layer.1.attention.attention"
        _swap_queries_and_keys(state, f"{layer}.query.weight", f"{layer}.key.weight")
        return state

    monkeypatch.setattr(targets.huggingface, "to_transformers", wrong)
    with pytest.raises(ValueError, match=r"computes something else, and was not kept: max difference .* in float64"):
        export_backbone(source, "transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_tensor_that_transformers_does_not_take_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would otherwise be drawn at random, or left out, with a warning only."""
    right = targets.huggingface.to_transformers

    def wrong(source: ExportSource) -> dict[str, Tensor]:
        state = right(source)
        state["layernorm.gain"] = state.pop("layernorm.weight")
        return state

    monkeypatch.setattr(targets.huggingface, "to_transformers", wrong)
    with pytest.raises(ValueError, match=r"Dinov2Model does not take this backbone: .*layernorm"):
        export_backbone(make_source(tmp_path / "run"), "transformers", tmp_path / "out")


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_without_the_library_files_are_written_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """And the result says why; the files are those that are written with it."""

    def absent(module: str, purpose: str) -> Any:
        if module == library:
            raise ImportError(f"{purpose} needs {library}")
        return require(module, purpose)

    source = make_source(tmp_path / "run")
    export_backbone(source, library, tmp_path / "with")
    for layout in (targets.huggingface, targets.timm_layout):
        monkeypatch.setattr(layout, "require", absent)
    exported = export_backbone(source, library, tmp_path / "without")
    assert exported.verification is None
    assert exported.unverified == f"the {library} layout needs {library}"
    for name in exported.files:
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), name


@pytest.mark.parametrize("make", [lambda out: out.write_text("x"), lambda out: (out / "sub").mkdir(parents=True)])
def test_nothing_is_overwritten(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A file or a folder with content is an error; an empty folder is used."""
    source = make_source(tmp_path / "run")
    make(tmp_path / "out")
    with pytest.raises(FileExistsError, match="out exists and is not an empty folder; give a new one"):
        export_backbone(source, "hub", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "backbone.pth" in export_backbone(source, "hub", tmp_path / "empty").files


def test_an_unknown_target_is_an_error(tmp_path: Path) -> None:
    """With those there are."""
    with pytest.raises(ValueError, match="target is 'onnx'; expected one of hub, transformers, timm"):
        export_backbone(make_source(tmp_path / "run"), "onnx", tmp_path / "out")


def test_a_source_says_what_it_is(tmp_path: Path) -> None:
    """Flat, frozen, in evaluation mode, at the size that its positions were learned at."""
    source = make_source(tmp_path, ["student.block_chunks=3", "student.drop_path_rate=0.3"], img_size=24)
    assert (source.arch, source.image_size, source.network) == ("vit_test", 24, "teacher")
    assert source.file == tmp_path / "eval" / "training_11" / "teacher_checkpoint.pth"
    assert not source.backbone.training
    assert not any(parameter.requires_grad for parameter in source.backbone.parameters())
    assert "blocks.2.norm1.weight" in source.backbone.state_dict()


def test_a_checkpoint_without_its_configuration_is_an_error(tmp_path: Path) -> None:
    """Which says what network it holds."""
    torch.save(make_backbone().state_dict(), tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match=r"no configuration .*config\.yaml, .* give it with --config-file"):
        open_source(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"depth": 2}, "checkpoint: .* is of another architecture"),
        ({"num_register_tokens": 1}, "student.num_register_tokens=1"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_an_error(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    """An export of half a network is none."""
    with pytest.raises(ValueError, match=expected):
        make_source(tmp_path, **changes)


def test_a_backbone_without_mask_token_is_not_exported(tmp_path: Path) -> None:
    """It would be drawn at random."""
    state = make_backbone().state_dict()
    del state["mask_token"]
    from weights_sources import ARCHITECTURES

    run = make_run(tmp_path, {"teacher": state})
    with pytest.raises(ValueError, match="not in the file: mask_token; an export needs the whole backbone"):
        open_source(run, architectures=ARCHITECTURES)


def test_verification_is_of_masked_images_too(tmp_path: Path) -> None:
    """A wrong mask token is found."""
    source = make_source(tmp_path / "run")
    other = nn.Parameter(source.backbone.mask_token + 1)

    def load(folder: Path, dtype: torch.dtype) -> Any:
        backbone = make_backbone()
        backbone.mask_token = other
        return targets.hub.run_backbone(backbone.to(dtype))

    wrong = replace(TARGETS["hub"], load=load)
    result, _ = targets._verify(wrong, source, tmp_path)
    assert result is not None
    assert not result.passed
    unmasked, _ = targets._verify(replace(wrong, has_mask_token=False), source, tmp_path)
    assert unmasked is not None
    assert unmasked.passed
