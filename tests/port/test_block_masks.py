"""Block masks from a number of rows and a grid, as official's collate draws them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from parity.adapters.official import OfficialStack
from port.data.block_masks import draw_block_masks


@pytest.mark.parametrize(("side", "n_rows"), [(14, 32), (16, 7), (37, 4)])
def test_masks_are_officials(official_stack: OfficialStack, side: int, n_rows: int) -> None:
    """Seeded alike, the masks are those of official's collate, and the generator is left in the same state."""
    from dinov2.data.collate import collate_data_and_cast
    from dinov2.data.masking import MaskingGenerator

    crop = torch.zeros(1, 1, 1)
    samples: list[list[dict[str, Any]]] = [[{"global_crops": [crop], "local_crops": [crop]}]] * n_rows
    # Official's own arithmetic of the cap, train/train.py:172, for patches of 14 pixels.
    cap = 0.5 * (side * 14) // 14 * (side * 14) // 14
    random.seed(11)
    batch = collate_data_and_cast(
        samples, (0.1, 0.5), 0.5, torch.float32, side * side, MaskingGenerator((side, side), max_num_patches=cap)
    )
    state = random.getstate()
    random.seed(11)
    assert torch.equal(draw_block_masks(n_rows, (side, side)), batch["collated_masks"])
    assert random.getstate() == state


def test_half_of_the_rows_are_masked_between_the_ratios() -> None:
    """Of 40 rows, 20 are masked; none by more than half of 10 x 20 patches."""
    random.seed(0)
    counts = draw_block_masks(40, (10, 20)).sum(-1)
    assert int((counts > 0).sum()) == 20
    assert int(counts.max()) <= 100


def test_no_row_is_an_error() -> None:
    """An empty batch is named, not answered with an error of torch's."""
    with pytest.raises(ValueError, match="n_rows is 0, expected the number of global crops"):
        draw_block_masks(0, (14, 14))
