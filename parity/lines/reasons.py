"""Why a run leaves lines of official code: by file and by function, so that it holds for several commits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REASONS", "Reason", "reason_for"]


@dataclass(frozen=True)
class Reason:
    """Why lines are left.

    Attributes:
        file: official file below `dinov2/`.
        owner: qualified name of the innermost function or class around the lines; empty at a module's top.
        why: one sentence.
        text: what a line must contain; empty for every line of the owner that is left.
        elsewhere: whether the lines belong to another model than the one that is trained, and do not count.
    """

    file: str
    owner: str
    why: str
    text: str = ""
    elsewhere: bool = False


_TEXT = "part of official's dino.txt, which training never builds"
_ABSENT = "only where xformers is not installed, without which official does not train"
_REFUSED = "refuses what no recipe asks for"
_UNUSED = "nothing in training calls it"

REASONS: tuple[Reason, ...] = (
    Reason("train/ssl_meta_arch.py", "", _ABSENT),
    Reason(
        "train/ssl_meta_arch.py",
        "SSLMetaArch.__init__",
        "weights to start from, read from a path by torch.load; checkpoint.weights compares what is read",
        "chkpt",
    ),
    Reason("train/ssl_meta_arch.py", "SSLMetaArch.__init__", "a log line about weights to start from", "pretrained"),
    Reason(
        "train/ssl_meta_arch.py",
        "SSLMetaArch.__init__",
        "DINO off: official then fails while it is built, for want of a head",
        "not using DINO",
    ),
    Reason("train/ssl_meta_arch.py", "SSLMetaArch.forward", _REFUSED),
    Reason("train/ssl_meta_arch.py", "SSLMetaArch.backprop_loss", "fp16 loss scaling needs CUDA", "fp16_scaler"),
    Reason("train/ssl_meta_arch.py", "SSLMetaArch.forward_backward.get_teacher_output", _REFUSED),
    Reason("train/ssl_meta_arch.py", "SSLMetaArch.prepare_for_distributed_training", _REFUSED),
    Reason("loss/ibot_patch_loss.py", "", "only with an xformers that still has cross_entropy"),
    Reason("loss/ibot_patch_loss.py", "lossfunc", "only with an xformers that still has cross_entropy"),
    Reason("data/masking.py", "MaskingGenerator.__init__", "one side for a square grid: training gives both"),
    Reason("data/masking.py", "MaskingGenerator.__repr__", _UNUSED),
    Reason("data/transforms.py", "MaybeToTensor.__call__", "an image that is a tensor already: official decodes files"),
    Reason("data/samplers.py", "EpochSampler.__len__", _UNUSED),
    Reason(
        "utils/param_groups.py",
        "get_vit_lr_decay_rate",
        "names below `backbone`: training gives each submodule by itself",
    ),
    Reason(
        "utils/param_groups.py",
        "get_params_groups_with_decay",
        "models of other kinds: training gives a backbone, which counts its blocks, or a head, which has none",
    ),
    Reason("layers/attention.py", "", _ABSENT),
    Reason("layers/attention.py", "Attention.init_weights", _TEXT, elsewhere=True),
    Reason("layers/attention.py", "MemEffAttention.forward", "refuses a bias that attention without xformers lacks"),
    *(
        Reason("layers/block.py", f"CausalAttentionBlock.{method}", _TEXT, elsewhere=True)
        for method in ("__init__", "init_weights", "forward")
    ),
    Reason("layers/block.py", "", _ABSENT),
    Reason("layers/block.py", "NestedTensorBlock.forward", "refuses what is neither a tensor nor a list"),
    Reason("layers/dino_head.py", "_build_mlp", "heads of one layer or with batch norm, which no recipe has"),
    Reason("layers/drop_path.py", "drop_path", "a rate of 0, for which official builds no DropPath"),
    Reason("layers/patch_embed.py", "make_2tuple", "a pair of sides: configurations give one number"),
    Reason("layers/patch_embed.py", "PatchEmbed.forward", "patches as a map: official flattens them"),
    Reason("layers/patch_embed.py", "PatchEmbed.flops", _UNUSED),
    Reason("layers/swiglu_ffn.py", "", _ABSENT),
    *(
        Reason("layers/swiglu_ffn.py", f"SwiGLUFFNAligned.{method}", _TEXT, elsewhere=True)
        for method in ("__init__", "forward")
    ),
    Reason("models/vision_transformer.py", "named_apply", "children before parents: official takes parents first"),
    Reason("models/vision_transformer.py", "DinoVisionTransformer.__init__", _REFUSED),
)


def reason_for(file: str, owner: str, text: str) -> Reason | None:
    """Return why a line is left: of the reasons for its function the one that names most of the line; None if none.

    Args:
        file: official file below `dinov2/`.
        owner: see `Reason`.
        text: the line.
    """
    fitting = [r for r in REASONS if (r.file, r.owner) == (file, owner) and r.text in text]
    return max(fitting, key=lambda r: len(r.text)) if fitting else None
