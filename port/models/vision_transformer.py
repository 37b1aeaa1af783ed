"""The backbone: patches, tokens, transformer blocks, a final norm.

Shapes: B batch, C channels, N patches, R register tokens, D embedding dimension. A sequence is
[CLS, R registers, N patches]. State-dict names are official's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from port.models.block import Block
from port.models.chunks import chunk_blocks, flat_blocks, run_blocks
from port.models.features import Features, check_call, masks_of, split_tokens
from port.models.layers import layer_norm
from port.models.patch_embed import PatchEmbed
from port.models.position import resize_positions

__all__ = ["DinoVisionTransformer"]


class DinoVisionTransformer(nn.Module):
    """A vision transformer for one batch of images or for a list of batches of several sizes.

    Mirrors `dinov2/models/vision_transformer.py:45`; official's three factory arguments (`embed_layer`,
    `act_layer`, `block_fn`), which no configuration reaches, are left out.

    Args:
        img_size: side of a square image in pixels, or (height, width), for which positions are learned.
        patch_size: likewise of a patch.
        in_chans: C.
        embed_dim: D.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden features of the feed-forward layers / D.
        qkv_bias, ffn_bias, proj_bias: whether the linears for queries, keys and values, those of the feed-forward
            layers, and attention's output linears have biases.
        drop_path_rate: stochastic depth rate of the last block, in [0, 1].
        drop_path_uniform: whether all blocks have that rate; else it grows linearly from 0.
        init_values: initial LayerScale; None or 0 for none.
        ffn_layer: one of `port.models.ffn.FFN_LAYERS`.
        block_chunks: number of `BlockChunk`s; 0 for a flat list.
        num_register_tokens: R.
        interpolate_antialias, interpolate_offset: see `resize_positions`.
        fast: see `port.kernels`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        ffn_bias: bool = True,
        proj_bias: bool = True,
        drop_path_rate: float = 0.0,
        drop_path_uniform: bool = False,
        init_values: float | None = None,
        ffn_layer: str = "mlp",
        block_chunks: int = 1,
        num_register_tokens: int = 0,
        interpolate_antialias: bool = False,
        interpolate_offset: float = 0.1,
        fast: bool = False,
    ) -> None:
        super().__init__()
        if num_register_tokens < 0:
            raise ValueError(f"num_register_tokens is {num_register_tokens}; expected 0 or more")
        self.num_features = self.embed_dim = embed_dim
        self.num_tokens = 1
        self.n_blocks = depth
        self.num_heads = num_heads
        self.patch_size = patch_size
        self.num_register_tokens = num_register_tokens
        self.interpolate_antialias = interpolate_antialias
        self.interpolate_offset = interpolate_offset

        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        num_patches = self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + self.num_tokens, embed_dim))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, num_register_tokens, embed_dim)) if num_register_tokens else None
        )

        new_block = partial(Block, embed_dim, num_heads, mlp_ratio=mlp_ratio, init_values=init_values, fast=fast)
        new_block = partial(new_block, qkv_bias=qkv_bias, proj_bias=proj_bias, ffn_bias=ffn_bias, ffn_layer=ffn_layer)
        first_rate = drop_path_rate if drop_path_uniform else 0.0
        blocks = [new_block(drop_path=rate) for rate in np.linspace(first_rate, drop_path_rate, depth).tolist()]
        self.chunked_blocks = block_chunks != 0
        self.blocks = chunk_blocks(blocks, block_chunks) if block_chunks else nn.ModuleList(blocks)
        self.norm = layer_norm(embed_dim)
        self.head = nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.init_weights()

    def init_weights(self) -> None:
        """Draw positions, tokens and linears; the patch projection keeps nn.Conv2d's own (quirk Q47).

        Mirrors `dinov2/models/vision_transformer.py:173`, in the order of its random numbers.
        """
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def interpolate_pos_encoding(self, x: Tensor, w: int, h: int) -> Tensor:
        """Return positions (1, 1 + N, D) for tokens x (B, 1 + N, D) of an image of w by h pixels.

        They are resized unless the grid is the learned one; see `resize_positions` for errors. Mirrors
        `dinov2/models/vision_transformer.py:180`, whose names are swapped: w is the height (quirk Q47).
        """
        learned = self.pos_embed.shape[1] - 1
        if x.shape[1] - 1 == learned and w == h:
            return self.pos_embed
        return resize_positions(
            self.pos_embed,
            (w // self.patch_size, h // self.patch_size),
            antialias=self.interpolate_antialias,
            offset=self.interpolate_offset,
        ).to(x.dtype)

    def prepare_tokens_with_masks(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """Turn images into sequences. Mirrors `dinov2/models/vision_transformer.py:214`.

        Args:
            x: (B, C, height, width).
            masks: bool (B, N), True where the mask token replaces a patch.

        Returns:
            (B, 1 + R + N, D). Registers have no position.
        """
        height, width = x.shape[-2:]
        x = self.patch_embed(x)  # (B, N, D)
        if masks is not None:
            if masks.shape != x.shape[:2]:
                raise ValueError(f"masks are {tuple(masks.shape)}; the images have patches {tuple(x.shape[:2])}")
            x = torch.where(masks.unsqueeze(-1), self.mask_token.to(x.dtype).unsqueeze(0), x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.interpolate_pos_encoding(x, height, width)
        if self.register_tokens is not None:
            x = torch.cat((x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]), dim=1)
        return x

    def forward_features_list(
        self, x_list: Sequence[Tensor], masks_list: Sequence[Tensor | None] | None = None
    ) -> list[Features]:
        """Run batches of several sizes together. Mirrors `dinov2/models/vision_transformer.py:235`."""
        masks_list = masks_of(x_list, masks_list)
        x = [self.prepare_tokens_with_masks(x, masks) for x, masks in zip(x_list, masks_list, strict=True)]
        for block in self.blocks:
            x = block(x)
        n = self.num_register_tokens
        return [split_tokens(x, self.norm(x), n, masks) for x, masks in zip(x, masks_list, strict=True)]

    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> Features:
        """Run one batch. Mirrors `dinov2/models/vision_transformer.py:255`."""
        x = self.prepare_tokens_with_masks(x, masks)
        for block in self.blocks:
            x = block(x)
        return split_tokens(x, self.norm(x), self.num_register_tokens, masks)

    def _forward_rows(self, x: Any, masks: Any, rows: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        prepare = self.prepare_tokens_with_masks
        tokens = list(map(prepare, x, masks_of(x, masks))) if isinstance(x, list) else prepare(x, masks)
        y: Any = run_blocks(self.blocks, tokens, rows)
        return list(map(self.norm, y)) if isinstance(y, list) else cast("Tensor", self.norm(y))

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, Tensor], ...]:
        """Return patch tokens after some blocks. Mirrors `dinov2/models/vision_transformer.py:299`.

        Args:
            x: (B, C, height, width).
            n: the last n blocks, or the indices of blocks from 0; results come in the order of the blocks.
            reshape: return (B, D, rows, columns) instead of (B, N, D).
            return_class_token: return pairs of patch tokens and CLS token (B, D).
            norm: whether to apply the final norm.

        Raises:
            ValueError: a block that does not exist is asked for.
        """
        wanted = range(self.n_blocks - n, self.n_blocks) if isinstance(n, int) else n
        if not set(wanted) <= set(range(self.n_blocks)):
            raise ValueError(f"n is {n}; expected at most {self.n_blocks} blocks, or indices below that")
        rows, columns = (side // self.patch_size for side in x.shape[-2:])
        outputs = []
        x = self.prepare_tokens_with_masks(x)
        for i, block in enumerate(flat_blocks(self.blocks)):
            x = block(x)
            if i in wanted:
                outputs.append(self.norm(x) if norm else x)
        class_tokens = [out[:, 0] for out in outputs]
        patches = [out[:, 1 + self.num_register_tokens :] for out in outputs]
        if reshape:
            patches = [p.unflatten(1, (rows, columns)).permute(0, 3, 1, 2).contiguous() for p in patches]
        return tuple(zip(patches, class_tokens, strict=True)) if return_class_token else tuple(patches)

    def forward(
        self,
        x: Tensor | list[Tensor],
        masks: Tensor | list[Tensor | None] | None = None,
        *,
        is_training: bool = False,
        rows: Tensor | list[Tensor] | None = None,
    ) -> Tensor | Features | list[Features] | list[Tensor]:
        """Run a batch (B, C, height, width) or a list. Mirrors `dinov2/models/vision_transformer.py:325`.

        Args:
            x: images; the batches of a list may differ in size.
            masks: bool (B, N), True where the mask token replaces a patch; for a list, a list of such or None.
            is_training: whether to return all features.
            rows: the tokens that are wanted, see `Block`; in the fast form the last block computes these alone.

        Returns:
            `Features` while training; with `rows` these tokens (R, D), normed; for a list, a list of one or the other.
            Else the normed CLS token (B, D).

        Raises:
            ValueError, TypeError: see `check_call`.
        """
        check_call(x, masks, rows, is_training=is_training)
        if rows is not None:
            return self._forward_rows(x, masks, rows)
        if isinstance(x, list):
            return self.forward_features_list(x, cast("list[Tensor | None] | None", masks))
        features = self.forward_features(x, cast("Tensor | None", masks))
        return features if is_training else cast("Tensor", self.head(features["x_norm_clstoken"]))
