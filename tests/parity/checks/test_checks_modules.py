from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import Change, Fork, assert_no_alarm, assert_seen, check, fork, port
from omegaconf import DictConfig
from torch import Tensor, nn

from parity import states
from parity.adapters.official import OfficialStack
from parity.checks.modules import load_weights
from parity.errors import SubjectError
from port.models import attention, block, dino_head, fast_block, ffn, layers, patch_embed, position, vision_transformer

MAIN = ("default", "vitl14", "vitg14")


@pytest.mark.parametrize("recipe", MAIN)
@pytest.mark.parametrize("name", ["init", "backbone", "head"])
def test_the_reference_and_port_pass_bit_for_bit(official_stack: OfficialStack, name: str, recipe: str) -> None:
    """Initial values, outputs and every gradient, in fp32 and in fp64."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, f"modules.{name}", recipe)
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared


def test_a_long_run_takes_more_crops(official_stack: OfficialStack) -> None:
    """Low drop path, evaluation of one tensor, an oblong image and one patch; all bit for bit."""
    result = check(official_stack, port(), "modules.backbone", "default", quick=False)
    assert_no_alarm(result)
    cases = {c.name.split("/")[1] for c in result.comparisons}
    assert {"tensor, drop path 0.05", "tensor, evaluation", "tensor, oblong", "tensor, one patch"} < cases


def _layer_norm_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LAYER_NORM_EPS", 1e-5)


def _gelu_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        mapped: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return mapped

    monkeypatch.setattr(ffn.Mlp, "forward", forward)


def _attend(order: tuple[int, int, int] = (0, 1, 2), scale: float | None = None, by_hand: bool = False) -> Change:
    """Attention with parts of the linear in another order, or another scale, or written out."""

    def attend(self: Any, qkv: Tensor, b: int, n: int) -> Tensor:
        parts = qkv.view(b, n, *qkv.shape[1:]).unbind(2)
        q, k, v = (parts[i].transpose(1, 2) for i in order)
        if by_hand:
            weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q * q.shape[-1] ** -0.5, k), dim=-1)
            x = torch.einsum("bhij,bhjd->bhid", weights, v)
        else:
            x = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return x.transpose(1, 2).reshape(b * n, -1)

    return lambda monkeypatch: monkeypatch.setattr(attention.Attention, "_attend", attend)


def _mixed_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token of a packed row sees every other, as without the block-diagonal mask."""
    forward = attention.Attention.forward
    monkeypatch.setattr(attention.Attention, "forward", lambda self, x, groups=None: forward(self, x))


def _unscaled_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = block.get_branges_scales
    monkeypatch.setattr(block, "get_branges_scales", lambda x, ratio=0.0: (scales(x, ratio)[0], 1.0))


def _rounded_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    def scales(x: Tensor, ratio: float = 0.0) -> tuple[Tensor, float]:
        size = max(math.ceil(len(x) * (1 - ratio)), 1)
        return torch.randperm(len(x))[:size], len(x) / size

    monkeypatch.setattr(block, "get_branges_scales", scales)


def _no_drop_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "get_branges_scales", lambda x, ratio=0.0: (torch.randperm(len(x)).sort().values, 1.0))


def _scaled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.LayerScale, "forward", lambda self, x: x * self.gamma**2)
    for form in (block, fast_block):
        monkeypatch.setattr(form, "gamma_of", lambda scale: scale.gamma**2)


def _resized_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    def resize(pos_embed: Tensor, grid: Any, *, antialias: bool, offset: float) -> Tensor:
        return position.resize_positions(pos_embed, grid, antialias=antialias, offset=0.0)

    monkeypatch.setattr(vision_transformer, "resize_positions", resize)


def _resized_bilinearly(monkeypatch: pytest.MonkeyPatch) -> None:
    interpolate = F.interpolate

    def bilinear(x: Tensor, **options: Any) -> Tensor:
        return interpolate(x, **{**options, "mode": "bilinear"})

    # Not in torch's module itself, which official code uses too.
    monkeypatch.setattr(position, "functional", SimpleNamespace(interpolate=bilinear))


def _resized_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are taken as learned wherever there are as many patches, in whatever shape."""
    interpolate = vision_transformer.DinoVisionTransformer.interpolate_pos_encoding

    def faulty(self: Any, x: Tensor, w: int, h: int) -> Tensor:
        return self.pos_embed if x.shape[1] == self.pos_embed.shape[1] else interpolate(self, x, w, h)

    monkeypatch.setattr(vision_transformer.DinoVisionTransformer, "interpolate_pos_encoding", faulty)


def _mask_after_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = vision_transformer.DinoVisionTransformer.prepare_tokens_with_masks

    def faulty(self: Any, x: Tensor, masks: Tensor | None = None) -> Tensor:
        tokens = prepare(self, x, None)
        if masks is None:
            return tokens
        patches = torch.where(masks.unsqueeze(-1), self.mask_token.unsqueeze(0), tokens[:, 1:])
        return torch.cat((tokens[:, :1], patches), dim=1)

    monkeypatch.setattr(vision_transformer.DinoVisionTransformer, "prepare_tokens_with_masks", faulty)


def _inverted_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = vision_transformer.DinoVisionTransformer.prepare_tokens_with_masks
    monkeypatch.setattr(
        vision_transformer.DinoVisionTransformer,
        "prepare_tokens_with_masks",
        lambda self, x, masks=None: prepare(self, x, None if masks is None else ~masks),
    )


def _gates_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        value, gate = self.w12(x).chunk(2, dim=-1)
        swapped: Tensor = self.w3(F.silu(gate) * value)
        return swapped

    monkeypatch.setattr(ffn.SwiGLU, "forward", forward)


def _post_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block.Block, "_ffn_residual", lambda self, x, groups=None: self.norm2(self.mlp(x)))


TRAINED = "^backbone/packed, training/crop 0 "


@pytest.mark.parametrize(
    ("change", "first", "recipe"),
    [
        (_layer_norm_eps, TRAINED, "default"),
        (_gelu_tanh, TRAINED, "default"),
        (_attend((1, 0, 2)), TRAINED, "default"),
        (_attend((0, 2, 1)), TRAINED, "vitl14"),
        (_attend(scale=0.26), TRAINED, "vitl14"),
        (_attend(scale=16**-0.5 * (1 + 1e-9)), TRAINED, "default"),
        (_mixed_sequences, TRAINED, "default"),
        (_unscaled_subset, TRAINED, "default"),
        (_rounded_subset, TRAINED, "default"),
        (_no_drop_path, TRAINED, "vitl14"),
        (_scaled_twice, TRAINED, "default"),
        (_resized_exactly, "^backbone/packed, training/crop 1 ", "default"),
        (_resized_bilinearly, "^backbone/packed, training/crop 1 ", "vitl14"),
        (_resized_by_count, "^backbone/tensor, same count/crop 0 ", "default"),
        (_mask_after_positions, TRAINED, "default"),
        (_inverted_mask, TRAINED, "vitl14"),
        (_gates_swapped, TRAINED, "vitl14"),
        (_post_norm, TRAINED, "default"),
    ],
)
def test_a_faulty_backbone_is_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, change: Change, first: str, recipe: str
) -> None:
    """The first output that a fault reaches is named, by size alone: the fork claims no bit."""
    change(monkeypatch)
    assert_seen(check(official_stack, fork(), "modules.backbone", recipe, to_first=True), first)


def test_a_growing_drop_path_rate_is_seen(official_stack: OfficialStack) -> None:
    """Official's recipes drop at the same rate in every block."""

    def build(config: DictConfig) -> nn.Module:
        config = config.copy()
        config.student.drop_path_uniform = False
        return port().build_backbone(config)

    assert_seen(
        check(official_stack, fork(build_backbone=build), "modules.backbone", "default", to_first=True), TRAINED
    )


def _without_bias(config: DictConfig) -> nn.Module:
    config = config.copy()
    config.student.qkv_bias = False
    return port().build_backbone(config)


def test_a_missing_bias_is_seen(official_stack: OfficialStack) -> None:
    """Its gradient is missing on one side, and the outputs differ, as no bias of the generic state is zero."""
    result = check(official_stack, fork(build_backbone=_without_bias), "modules.backbone", "default")
    assert_seen(result, "gradient of blocks.0.attn.qkv.bias$")
    assert any("crop 0 x_norm_clstoken" in c.name for c in result.diverged)


def _head(change: Callable[[Any, Tensor], Tensor]) -> Change:
    return lambda monkeypatch: monkeypatch.setattr(dino_head.DINOHead, "forward", change)


def _eps(value: float) -> Change:
    def forward(self: Any, x: Tensor) -> Tensor:
        logits: Tensor = self.last_layer(F.normalize(self.mlp(x), dim=-1, eps=value))
        return logits

    return _head(forward)


def _lengths_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dino_head.WeightNormLinear, "weight", property(lambda self: F.normalize(self.weight_v, dim=1)))


def _tanh_gelus(self: Any, x: Tensor) -> Tensor:
    for layer in self.mlp:
        x = F.gelu(x, approximate="tanh") if isinstance(layer, nn.GELU) else layer(x)
    logits: Tensor = self.last_layer(F.normalize(x, dim=-1))
    return logits


def _last_gelu(self: Any, x: Tensor) -> Tensor:
    logits: Tensor = self.last_layer(F.normalize(F.gelu(self.mlp(x)), dim=-1))
    return logits


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (_head(lambda self, x: self.last_layer(self.mlp(x))), "dino/generic/logits"),
        (_head(_last_gelu), "dino/generic/logits"),
        (_head(lambda self, x: self.last_layer(F.normalize(self.mlp(x), dim=0))), "dino/generic/logits"),
        (_eps(1e-6), "dino/bottleneck near zero/logits"),
        (_head(_tanh_gelus), "dino/generic/logits"),
        (_lengths_ignored, "dino/generic/gradient of last_layer.weight_g"),
    ],
)
def test_a_faulty_head_is_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, change: Change, first: str
) -> None:
    """Normalisation, its axis and epsilon, activations, and the lengths of the prototypes."""
    change(monkeypatch)
    assert_seen(check(official_stack, fork(), "modules.head", "vitl14", to_first=True), f"^head/{first}$")


def test_one_head_for_both_losses_is_seen(official_stack: OfficialStack) -> None:
    """The iBOT head of a separate recipe has other sizes: weights of its own cannot be loaded into DINO's."""
    subject = fork(build_head=lambda config, kind: port().build_head(config, "dino"))
    result = check(official_stack, subject, "modules.head", "vitl14")
    assert result.status == "error"
    assert "mlp.0.weight has shape (64, 48), official has shape (56, 48)" in result.reason
    assert not result.diverged


def _init(change: Callable[[dict[str, Tensor]], Any]) -> Any:
    def init_state(config: DictConfig, seed: int) -> dict[str, Tensor]:
        state = port().init_state(config, seed)
        change(state)
        return state

    return fork(init_state=init_state)


QKV = "student.backbone.blocks.0.0.attn.qkv.weight"


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda s: s[QKV].mul_(0.5), "student.backbone.blocks.0.attn.qkv.weight"),
        (lambda s: s["student.backbone.blocks.0.0.ls1.gamma"].fill_(1.0), "student.backbone.blocks.0.ls1.gamma"),
        (lambda s: s["student.backbone.norm.bias"].add_(1e-8), "student.backbone.norm.bias"),
        (lambda s: s["teacher.dino_head.last_layer.weight_g"].fill_(0.1), "teacher.dino_head.last_layer.weight_g"),
        (lambda s: s["student.backbone.cls_token"].normal_(std=0.02), "student.backbone.cls_token"),
        (lambda s: s.pop("dino_loss.center"), "dino_loss.center"),
        (lambda s: s.update({"student.backbone.extra": torch.zeros(1)}), "student.backbone.extra"),
        (lambda s: s.update({QKV: s[QKV].double()}), "student.backbone.blocks.0.attn.qkv.weight"),
        (lambda s: s.update({QKV: s[QKV].t()}), "student.backbone.blocks.0.attn.qkv.weight"),
        (lambda s: s.update({"student.backbone.mask_token": torch.randn(1, 48)}), "student.backbone.mask_token"),
    ],
)
def test_a_faulty_initialisation_is_seen(official_stack: OfficialStack, change: Any, first: str) -> None:
    """Spread, constants, names, types and shapes; the one tensor and no other."""
    result = check(official_stack, _init(change), "modules.init", "default")
    assert_seen(result, f"^init/{first}$")
    assert len(result.diverged) == 1


@pytest.mark.parametrize("seed", range(3))
def test_another_order_of_random_numbers_raises_no_alarm(official_stack: OfficialStack, seed: int) -> None:
    """Without a claim on bits, constants must agree and spreads within their sampling error."""
    subject = fork(init_state=lambda config, _: port().init_state(config, 100 + seed))
    result = check(official_stack, subject, "modules.init", "default")
    assert_no_alarm(result)
    assert result.bitwise_equal < result.compared
    subject.claims_bitwise = True
    assert_seen(check(official_stack, subject, "modules.init", "default"), "^init/")


def test_weights_of_other_shapes_or_names_are_refused() -> None:
    """The message names the tensor, both shapes, and what to do."""
    module = nn.Linear(2, 3)
    with pytest.raises(SubjectError, match=r"fork: weight has shape \(3, 2\), official has shape \(2, 3\) under"):
        load_weights(module, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, "fork")
    with pytest.raises(SubjectError, match=r"fork: bias has shape .*, official has no tensor under 'bias'; give"):
        load_weights(module, {"weight": torch.zeros(3, 2)}, "fork")
    load_weights(module, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, "fork")
    assert float((module.weight.sum() + module.bias.sum()).detach()) == 9.0


class _HandLayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight + self.bias


def _hand_norm_and_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.fc1(x)
        mapped: Tensor = self.fc2(0.5 * x * (1 + torch.erf(x / math.sqrt(2))))
        return mapped

    for module in (block, vision_transformer):
        monkeypatch.setattr(module, "layer_norm", lambda dim: _HandLayerNorm(dim, eps=1e-6))
    monkeypatch.setattr(ffn.Mlp, "forward", forward)


def _hand_head(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.mlp(x)
        x = x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        v, g = self.last_layer.weight_v, self.last_layer.weight_g
        return torch.einsum("mb,kb->mk", x, v * (g / v.square().sum(1, keepdim=True).sqrt()))

    monkeypatch.setattr(dino_head.DINOHead, "forward", forward)


def _linear_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch embedding as a matrix product over unfolded patches."""

    def forward(self: Any, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.proj.kernel_size, stride=self.proj.stride).transpose(1, 2)
        tokens: Tensor = patches @ self.proj.weight.flatten(1).t() + self.proj.bias
        return tokens

    monkeypatch.setattr(patch_embed.PatchEmbed, "forward", forward)


class Flat(Fork):
    """Blocks in a row where the recipe asks for chunks, under a wrapper's names."""

    def build_backbone(self, config: DictConfig) -> nn.Module:
        """Without chunks."""
        config = config.copy()
        config.student.block_chunks = 0
        return _Wrapped(super().build_backbone(config))

    def init_state(self, config: DictConfig, seed: int) -> dict[str, Tensor]:
        """Without chunks, with the names of torch's parametrizations."""
        config = config.copy()
        config.student.block_chunks = 0
        state = super().init_state(config, seed)
        for name in [n for n in state if n.endswith((".weight_g", ".weight_v"))]:
            index = "gv".index(name[-1])
            state[f"{name[:-9]}.parametrizations.weight.original{index}"] = state.pop(name)
        return {f"module.{name}": tensor for name, tensor in state.items()}


class _Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


@pytest.fixture(params=range(3))
def draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Other weights, images and tokens, three times."""
    seed = int(request.param)
    for name, place in (("generic_state", 1), ("images", 1), ("logits", 2)):
        inner = getattr(states, name)

        def moved(*args: Any, inner: Any = inner, place: int = place, **kwargs: Any) -> Any:
            changed = list(args)
            changed[place] += 1000 * seed
            return inner(*changed, **kwargs)

        monkeypatch.setattr(states, name, moved)
    return seed


def test_a_rewritten_backbone_raises_no_alarm(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    """Attention, LayerNorm, GELU and patch embedding written out, at three draws of weights and images."""
    for change in (_attend(by_hand=True), _hand_norm_and_gelu, _linear_patches):
        change(monkeypatch)
    result = check(official_stack, fork(), "modules.backbone", MAIN[draws])
    assert_no_alarm(result)
    assert result.bitwise_equal < result.compared


def test_a_rewritten_head_raises_no_alarm(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    """Normalisation and weight norm written out, at three draws, also where the bottleneck is nearly zero."""
    _hand_head(monkeypatch)
    result = check(official_stack, fork(), "modules.head", MAIN[draws])
    assert_no_alarm(result)
    assert result.bitwise_equal < result.compared


@pytest.mark.parametrize("name", ["modules.init", "modules.backbone"])
def test_an_unchunked_wrapped_fork_raises_no_alarm(official_stack: OfficialStack, name: str) -> None:
    """Names differ by `module.`, by the chunk, and by torch's parametrizations, and mean the same."""
    assert_no_alarm(check(official_stack, Flat(), name, "default"))
