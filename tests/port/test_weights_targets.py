from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weights_sources import ARCHITECTURES, make_backbone, make_run, make_source

from port.weights import TARGETS, ExportSource, export_backbone, huggingface, open_source, targets, timm_layout
from port.weights.extras import require
from port.weights.verify import run_backbone

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


def _swap_queries_and_keys(state: dict[str, Tensor], query: str, key: str) -> None:
    state[query], state[key] = state[key], state[query]


def test_a_wrong_conversion_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries in the place of keys, beside a LayerScale that makes them count for little."""
    source = make_source(tmp_path / "run")
    with torch.no_grad():
        for name, parameter in source.backbone.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1e-5)
    right = huggingface.to_transformers

    def wrong(source: ExportSource) -> dict[str, Tensor]:
        state = right(source)
        layer = "encoder.layer.1.attention.attention"
        _swap_queries_and_keys(state, f"{layer}.query.weight", f"{layer}.key.weight")
        return state

    monkeypatch.setattr(huggingface, "to_transformers", wrong)
    with pytest.raises(ValueError, match=r"computes something else, and was not kept: max difference .* in float64"):
        export_backbone(source, "transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_tensor_that_transformers_does_not_take_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would otherwise be drawn at random, or left out, with a warning only."""
    right = huggingface.to_transformers

    def wrong(source: ExportSource) -> dict[str, Tensor]:
        state = right(source)
        state["layernorm.gain"] = state.pop("layernorm.weight")
        return state

    monkeypatch.setattr(huggingface, "to_transformers", wrong)
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
    for layout in (huggingface, timm_layout):
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
        return run_backbone(backbone.to(dtype))

    wrong = replace(TARGETS["hub"], load=load)
    result, _ = targets._verify(wrong, source, tmp_path)
    assert result is not None
    assert not result.passed
    unmasked, _ = targets._verify(replace(wrong, has_mask_token=False), source, tmp_path)
    assert unmasked is not None
    assert unmasked.passed
