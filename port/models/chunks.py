"""Blocks in chunks, the units that a sharding wrapper takes at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from port.models.block import Block

__all__ = ["BlockChunk", "chunk_blocks", "flat_blocks", "run_blocks"]


class BlockChunk(nn.ModuleList):
    """Consecutive blocks, after one identity for each block of the earlier chunks.

    So a block's index in its chunk is its index in the backbone, and its parameters are called
    `blocks.CHUNK.INDEX`. Mirrors `dinov2/models/vision_transformer.py:38`.
    """

    def forward(self, x: Tensor | list[Tensor], rows: Tensor | list[Tensor] | None = None) -> Tensor | list[Tensor]:
        """Run the blocks in order on a batch (B, N, D) or a list of such; `rows` are of the last, see `Block`."""
        return run_blocks(self, x, rows)


def run_blocks(
    blocks: nn.ModuleList, x: Tensor | list[Tensor], rows: Tensor | list[Tensor] | None = None
) -> Tensor | list[Tensor]:
    """Run a list's blocks in order, or its chunks; the last is told which tokens are wanted, see `Block`."""
    for i, block in enumerate(blocks):
        x = block(x) if rows is None or i < len(blocks) - 1 else block(x, rows)
    return x


def chunk_blocks(blocks: Sequence[Block], block_chunks: int) -> nn.ModuleList:
    """Distribute blocks over chunks of `depth // block_chunks`; a remainder makes further chunks (quirk Q38).

    Mirrors `dinov2/models/vision_transformer.py:154`.

    Raises:
        ValueError: there are fewer blocks than chunks.
    """
    if not 1 <= block_chunks <= len(blocks):
        raise ValueError(f"block_chunks is {block_chunks}; expected 0 (flat) to the depth, {len(blocks)}")
    size = len(blocks) // block_chunks
    chunks = nn.ModuleList()
    for start in range(0, len(blocks), size):
        earlier = [nn.Identity() for _ in range(start)]
        chunks.append(BlockChunk([*earlier, *blocks[start : start + size]]))
    return chunks


def flat_blocks(blocks: nn.ModuleList) -> list[nn.Module]:
    """Return the blocks of a flat or chunked list in order, without identities."""
    flat: list[nn.Module] = []
    for module in blocks:
        chunk = list(module)[len(flat) :] if isinstance(module, BlockChunk) else [module]
        flat.extend(chunk)
    return flat
