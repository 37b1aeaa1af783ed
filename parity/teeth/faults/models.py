"""Faults of the backbone."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Constant, Edit

__all__ = ["FAULTS"]

_VIT = "port.models.vision_transformer:DinoVisionTransformer."
_BLOCK = "port.models.block:"
_ATTENTION = "port.models.attention:Attention."
_POSITIONS = "port.models.position:resize_positions"
_QKV = "q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)"


def _backbone(
    id_: str,
    about: str,
    target: str,
    before: str,
    after: str,
    cause: str = "",
    recipe: str = "default",
    origin: str = "",
) -> Fault:
    return Fault(id_, about, (Edit(target, before, after),), (f"modules.backbone[{recipe}]",), cause, origin)


FAULTS = (
    Fault(
        "norm-eps",
        "layer norms with torch's eps",
        (Constant("port.models.layers:LAYER_NORM_EPS", 1e-5),),
        ("modules.backbone[default]",),
        r"native_layer_norm\(.*eps=1e-05.*eps=1e-06",
    ),
    _backbone(
        "gelu-tanh",
        "GELU by tanh",
        "port.models.ffn:Mlp.forward",
        "self.act(x)",
        'functional.gelu(x, approximate="tanh")',
    ),
    _backbone("relu", "ReLU for GELU", "port.models.ffn:Mlp.forward", "self.act(x)", "functional.relu(x)"),
    _backbone(
        "swiglu-gates",
        "gate and value swapped",
        "port.models.ffn:SwiGLU.forward",
        "silu(gate) * value",
        "silu(value) * gate",
        recipe="vitl14",
    ),
    _backbone(
        "swiglu-gelu",
        "GELU for SiLU",
        "port.models.ffn:SwiGLU.forward",
        "functional.silu(gate)",
        "functional.gelu(gate)",
        recipe="vitl14",
    ),
    _backbone(
        "qk-swapped",
        "queries and keys swapped",
        f"{_ATTENTION}_attend",
        _QKV,
        "k.transpose(1, 2), q.transpose(1, 2), v.transpose(1, 2)",
    ),
    _backbone(
        "kv-swapped",
        "keys and values swapped",
        f"{_ATTENTION}_attend",
        _QKV,
        "q.transpose(1, 2), v.transpose(1, 2), k.transpose(1, 2)",
    ),
    _backbone(
        "attention-scale",
        "scores by another scale",
        f"{_ATTENTION}_attend",
        "v.transpose(1, 2))",
        "v.transpose(1, 2), scale=0.26)",
    ),
    _backbone(
        "causal",
        "tokens see only earlier ones",
        f"{_ATTENTION}_attend",
        "v.transpose(1, 2))",
        "v.transpose(1, 2), is_causal=True)",
    ),
    _backbone(
        "mixed-sequences",
        "all crops of a size attend to each other",
        f"{_ATTENTION}forward",
        "self._attend(part, b, n)",
        "self._attend(part, 1, b * n)",
        r"port/models/attention\.py:\d+ in _attend",
    ),
    _backbone(
        "post-norm",
        "the feed-forward layer's input is not normed",
        f"{_BLOCK}Block._ffn_residual",
        "self.mlp(self.norm2(x))",
        "self.mlp(x)",
        r"port/models/ffn\.py:\d+ in forward",
    ),
    _backbone(
        "norm1-twice", "the first norm serves both", f"{_BLOCK}Block._ffn_residual", "self.norm2(x)", "self.norm1(x)"
    ),
    _backbone(
        "no-scale-2",
        "no LayerScale after the feed-forward layer",
        f"{_BLOCK}Block._forward_list",
        "gamma_of(self.ls2)",
        "None",
        r"port/models/block\.py:\d+ in _add_residual",
    ),
    _backbone(
        "scale-1-twice",
        "the first LayerScale serves both",
        f"{_BLOCK}Block._forward_list",
        "gamma_of(self.ls2)",
        "gamma_of(self.ls1)",
        r"port/models/block\.py:\d+ in _add_residual",
    ),
    _backbone(
        "subset-scale",
        "what survives is not scaled",
        f"{_BLOCK}get_branges_scales",
        "b / sample_subset_size",
        "1.0",
        r"port/models/block\.py:\d+ in _add_residual",
    ),
    _backbone(
        "subset-size",
        "the subset's size rounded",
        f"{_BLOCK}get_branges_scales",
        "int(b * (1 - sample_drop_ratio))",
        "-int(-b * (1 - sample_drop_ratio) // 1)",
        r"block\.py:\d+ in (get_branges_scales|_drop_add_residual_list|_add_residual)",
    ),
    _backbone(
        "subset-order",
        "the first samples survive",
        f"{_BLOCK}get_branges_scales",
        "torch.randperm(b, device=x.device)[:sample_subset_size]",
        "torch.randperm(b, device=x.device).sort().values[:sample_subset_size]",
        r"block\.py:\d+ in ",
    ),
    _backbone(
        "draw-order",
        "the second branch is drawn from the first one's draw",
        f"{_BLOCK}_drop_add_residual_list",
        "for x in x_list]\n",
        "for x in reversed(x_list)][::-1]\n",
        r"block\.py:\d+ in ",
    ),
    _backbone("positions-exact", "resized to the exact size", _POSITIONS, "if offset:", "if False:"),
    _backbone(
        "positions-bilinear",
        "resized bilinearly",
        _POSITIONS,
        'scale_factor=scale, mode="bicubic"',
        'scale_factor=scale, mode="bilinear"',
    ),
    _backbone(
        "positions-transposed",
        "rows and columns swapped",
        f"{_VIT}interpolate_pos_encoding",
        "(w // self.patch_size, h // self.patch_size)",
        "(h // self.patch_size, w // self.patch_size)",
        r"in (resize_positions|interpolate_pos_encoding|prepare_tokens_with_masks)\b|raises|RuntimeError",
    ),
    _backbone(
        "positions-missing",
        "tokens without positions",
        f"{_VIT}prepare_tokens_with_masks",
        "x + self.interpolate_pos_encoding(x, height, width)",
        "x + 0",
        r"port/models/(block|vision_transformer)\.py|native_layer_norm",
    ),
    _backbone(
        "mask-inverted",
        "the visible patches are masked",
        f"{_VIT}prepare_tokens_with_masks",
        "torch.where(masks.unsqueeze(-1)",
        "torch.where(~masks.unsqueeze(-1)",
        origin="masks negated by a library's convention",
    ),
    _backbone(
        "mask-ignored",
        "masks do not reach the student",
        f"{_VIT}prepare_tokens_with_masks",
        "if masks is not None:",
        "if False:",
        r"prepare_tokens_with_masks|operation",
        origin="masks not passed to the student",
    ),
    _backbone(
        "cls-last",
        "the last token for the CLS token",
        "port.models.features:split_tokens",
        "x_norm[:, 0]",
        "x_norm[:, -1]",
        r"features\.py:\d+ in split_tokens|x_norm_clstoken",
    ),
    _backbone(
        "patches-unnormed",
        "patch tokens before the norm",
        "port.models.features:split_tokens",
        "x_norm[:, num_registers + 1 :]",
        "x_prenorm[:, num_registers + 1 :]",
        r"features\.py:\d+ in split_tokens|x_norm_patchtokens",
    ),
    _backbone(
        "patch-order",
        "patches column by column",
        "port.models.patch_embed:PatchEmbed.forward",
        "x.flatten(2)",
        "x.transpose(2, 3).flatten(2)",
        r"port/models/|another order",
        origin="mask grid transposed",
    ),
    _backbone(
        "subset-always",
        "a tensor drops a subset at low rates too",
        f"{_BLOCK}Block._forward_tensor",
        "self.sample_drop_ratio > SUBSET_THRESHOLD",
        "self.sample_drop_ratio > 0.0",
        r"drop|randperm|_forward_tensor|branges",
    ),
)
