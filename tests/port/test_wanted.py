"""Rows of the tokens that the losses need, against official's way: all features, then indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import tiny_batch, tiny_model

from port.data.batches import N_GLOBAL_CROPS
from port.models import DinoVisionTransformer
from port.wanted import cls_rows, patch_rows


def backbone(registers: int) -> DinoVisionTransformer:
    """Return a small backbone in evaluation mode."""
    torch.manual_seed(0)
    return DinoVisionTransformer(16, 4, embed_dim=8, depth=1, num_heads=2, num_register_tokens=registers).eval()


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
def test_rows_are_those_of_the_features(registers: int, size: tuple[int, int]) -> None:
    """CLS tokens and patches of all crops, in any order, square or not, behind registers or not."""
    model = backbone(registers)
    crops = torch.randn(3, 3, *size)
    n_patches = size[0] * size[1] // 16
    indices = torch.tensor([3 * n_patches - 1, 0, n_patches, 5])
    features: Any = model(crops, is_training=True)
    patches = features["x_norm_patchtokens"].flatten(0, 1)
    found: Any = model(
        crops, is_training=True, rows=torch.cat((cls_rows(model, crops), patch_rows(model, crops, indices)))
    )
    torch.testing.assert_close(found[:3], features["x_norm_clstoken"])
    torch.testing.assert_close(found[3:], patches[indices])


def test_no_patch_is_no_row() -> None:
    """A batch without masks."""
    rows = patch_rows(backbone(0), torch.zeros(2, 3, 16, 16), torch.zeros(0, dtype=torch.int64))
    assert (rows.shape, rows.dtype) == ((0,), torch.int64)


def tokens_computed(kernels: str, overrides: list[str]) -> dict[str, int]:
    """Return how many tokens go through the last feed-forward layer of each network in a step."""
    model = tiny_model([f"kernels={kernels}", *overrides])
    seen: dict[str, int] = {}
    for name in ("student", "teacher"):
        network: Any = getattr(model, name)["backbone"]
        network.norm.register_forward_hook(
            lambda module, args, out, name=name: seen.__setitem__(name, seen.get(name, 0) + out[..., 0].numel())
        )
    model.forward_backward(tiny_batch(model.cfg, n_images=3), 0.07)
    return seen


def test_the_last_norm_sees_wanted_tokens_only() -> None:
    """6 global CLS tokens, the masked patches and 6 local CLS tokens of 3 images; official's order has all of them."""
    model = tiny_model()
    batch = tiny_batch(model.cfg, n_images=3)
    n_masked = len(batch["mask_indices_list"])
    all_global = batch["collated_masks"].numel() + N_GLOBAL_CROPS * 3
    n_local = len(batch["collated_local_crops"])
    all_local = n_local * (1 + (batch["collated_local_crops"].shape[-1] // 4) ** 2)
    assert tokens_computed("fast", []) == {"teacher": 6 + n_masked, "student": 6 + n_masked + n_local}
    assert tokens_computed("official_order", []) == {"teacher": all_global, "student": all_global + all_local}
    # Without iBOT there are CLS tokens only; the prototype loss assigns all of the teacher's patches.
    assert tokens_computed("fast", ["ibot.loss_weight=0"]) == {"teacher": 6, "student": 6 + n_local}
    with_prototypes = tokens_computed("fast", ["prototype.loss_weight=1", "prototype.n_prototypes=7"])
    assert with_prototypes == {"teacher": all_global, "student": 6 + n_masked + n_local}
