"""The backbones a configuration can name, and their construction from its `student` section."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from port.config_schema import StudentConfig
from port.models.vision_transformer import DinoVisionTransformer

__all__ = ["ARCHITECTURES", "Architecture", "build_backbone", "build_model"]


@dataclass(frozen=True)
class Architecture:
    """The size of a backbone.

    Attributes:
        embed_dim: features of a token.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden features of a feed-forward layer / embed_dim.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "vit_tiny": Architecture(embed_dim=192, depth=12, num_heads=3),  # the port's own, for small machines
        "vit_demo": Architecture(embed_dim=192, depth=4, num_heads=3),  # the port's own, for the built-in demonstration
        "vit_small": Architecture(embed_dim=384, depth=12, num_heads=6),
        "vit_base": Architecture(embed_dim=768, depth=12, num_heads=12),
        "vit_large": Architecture(embed_dim=1024, depth=24, num_heads=16),
        "vit_giant2": Architecture(embed_dim=1536, depth=40, num_heads=24),
    }
)
"""The backbones of `dinov2/models/vision_transformer.py:341-397`, and two more."""


def _find(arch: str, architectures: Mapping[str, Architecture]) -> Architecture:
    name = arch.removesuffix("_memeff")
    if name in architectures:
        return architectures[name]
    nearest = difflib.get_close_matches(name, architectures, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"student.arch is {arch!r}; expected one of {', '.join(architectures)}{hint}")


def build_backbone(
    student_cfg: StudentConfig,
    img_size: int,
    *,
    drop_path: bool = False,
    fast: bool = False,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> DinoVisionTransformer:
    """Build one backbone: a teacher or a frozen feature extractor without drop path, a student with it.

    Args:
        student_cfg: the configuration's `student` section, or any object with its attributes, such as
            an OmegaConf node.
        img_size: side in pixels of the images for which positions are learned.
        drop_path: whether the section's stochastic depth applies.
        fast: whether its blocks have the fast form, see `port.kernels`.
        architectures: sizes by name.

    Raises:
        ValueError: `student_cfg.arch` is not a name in `architectures`; or see `DinoVisionTransformer`.
    """
    size = _find(student_cfg.arch, architectures)
    return DinoVisionTransformer(
        img_size=img_size,
        patch_size=student_cfg.patch_size,
        embed_dim=size.embed_dim,
        depth=size.depth,
        num_heads=size.num_heads,
        mlp_ratio=size.mlp_ratio,
        qkv_bias=student_cfg.qkv_bias,
        ffn_bias=student_cfg.ffn_bias,
        proj_bias=student_cfg.proj_bias,
        drop_path_rate=student_cfg.drop_path_rate if drop_path else 0.0,
        drop_path_uniform=student_cfg.drop_path_uniform if drop_path else False,
        init_values=student_cfg.layerscale,
        ffn_layer=student_cfg.ffn_layer,
        block_chunks=student_cfg.block_chunks,
        num_register_tokens=student_cfg.num_register_tokens,
        interpolate_antialias=student_cfg.interpolate_antialias,
        interpolate_offset=student_cfg.interpolate_offset,
        fast=fast,
    )


def build_model(
    student_cfg: StudentConfig,
    img_size: int,
    *,
    fast: bool = False,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> tuple[DinoVisionTransformer, DinoVisionTransformer, int]:
    """Build student and teacher backbones of the same size. Mirrors `dinov2/models/__init__.py:14`.

    The two start with different weights, as in official (quirk Q44): copy the student's into the teacher.

    Args:
        student_cfg: see `build_backbone`.
        img_size: side in pixels of a global crop.
        fast: see `build_backbone`.
        architectures: sizes by name.

    Returns:
        Student (with drop path), teacher (without) and the features of a token.

    Raises:
        ValueError: see `build_backbone`.
    """
    # The teacher comes first: this is the order of official's random numbers.
    teacher = build_backbone(student_cfg, img_size, fast=fast, architectures=architectures)
    student = build_backbone(student_cfg, img_size, drop_path=True, fast=fast, architectures=architectures)
    return student, teacher, student.embed_dim
