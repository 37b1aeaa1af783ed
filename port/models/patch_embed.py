"""From an image to one token per patch.

Shapes: B batch, C channels, N patches, D embedding dimension.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["PatchEmbed"]


class PatchEmbed(nn.Module):
    """Project square, non-overlapping patches linearly. Mirrors `dinov2/layers/patch_embed.py:25`.

    Args:
        img_size: side of a square image in pixels, or (height, width); it sets `num_patches`, while
            `forward` takes any multiple of the patch size.
        patch_size: side of a patch in pixels.
        in_chans: C.
        embed_dim: D.

    Raises:
        ValueError: the image is smaller than one patch.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if patch_size < 1 or min(height, width) < patch_size:
            raise ValueError(
                f"img_size is {height}x{width} and patch_size {patch_size}; the image must hold at least "
                "one patch in each direction"
            )
        self.img_size = (height, width)
        self.patch_size = (patch_size, patch_size)
        self.patches_resolution = (height // patch_size, width // patch_size)
        self.num_patches = self.patches_resolution[0] * self.patches_resolution[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images.

        Args:
            x: (B, C, height, width).

        Returns:
            (B, N, D), row by row of the patch grid.

        Raises:
            ValueError: height or width is not a multiple of the patch size.
        """
        height, width = x.shape[-2:]
        if height % self.patch_size[0] or width % self.patch_size[1]:
            raise ValueError(
                f"the image is {height}x{width}; both sides must be multiples of the patch size "
                f"{self.patch_size[0]}: crop, pad or resize it"
            )
        x = self.proj(x)  # (B, D, rows, columns)
        return x.flatten(2).transpose(1, 2)
