"""The whole objective in both forms: `official_order` and `fast` are one function, and `fast` computes fewer rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_training import tiny_batch, tiny_model
from torch import Tensor, nn

from port.kernels import KERNELS

SINKHORN = "train.centering=sinkhorn_knopp"
SEPARATE = "ibot.separate_head=true"
WAYS: tuple[list[str], ...] = (
    [],
    [SINKHORN],
    [SEPARATE],
    [SINKHORN, SEPARATE],
    ["crops.local_crops_number=0"],
    ["ibot.loss_weight=0"],
)


def step(overrides: Sequence[str], kernels: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return losses, gradients and centres of two batches, by name."""
    model = tiny_model([*overrides, f"kernels={kernels}"]).to(dtype)
    found: dict[str, Tensor] = {}
    for seed in range(2):
        batch = tiny_batch(model.cfg, n_images=3, seed=seed)
        for name in ("collated_global_crops", "collated_local_crops"):
            batch[name] = batch[name].to(dtype)
        losses = model.forward_backward(batch, 0.07)
        found |= {f"{seed} {name}": value for name, value in losses.displayed.items()}
        found[f"{seed} total"] = losses.total
    for name, parameter in model.student.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    for loss in (model.dino_loss, *([model.ibot_patch_loss] if model.do_ibot else [])):
        loss.apply_center_update()
        found[type(loss).__name__] = loss.center
    return found


@pytest.mark.parametrize("overrides", WAYS)
def test_both_forms_are_one_objective(overrides: list[str]) -> None:
    """In float64 losses, gradients and centres agree to rounding, but for what official's Sinkhorn does in float32."""
    official, fast = (step(overrides, kernels) for kernels in KERNELS)
    assert official.keys() == fast.keys()
    narrow = SINKHORN in overrides
    for name, value in official.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(fast[name], value, rtol=0, atol=(1e-5 if narrow else 1e-12) * max(scale, 1e-3))


@pytest.mark.parametrize("overrides", [[], [SINKHORN, SEPARATE], ["ibot.mask_sample_probability=0.01"]])
def test_single_precision_differs_by_rounding(overrides: list[str]) -> None:
    """In float32 too; a batch without masks among them."""
    official, fast = (step(overrides, kernels, torch.float32) for kernels in KERNELS)
    for name, value in official.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-3 * max(value.abs().max().item(), 1e-2))


def rows_through_heads(model: nn.Module, overrides: Sequence[str]) -> dict[str, list[int]]:
    """Return how many rows each head was given in a step."""
    rows: dict[str, list[int]] = {}

    def note(name: str) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows.setdefault(name, []).append(args[0].shape[-2])

        model.get_submodule(name).register_forward_pre_hook(hook)

    for name in ("teacher.dino_head", "student.dino_head", "teacher.ibot_head", "student.ibot_head"):
        if "ibot" not in name or SEPARATE in overrides:
            note(name)
    return rows


@pytest.mark.parametrize("overrides", [[], [SEPARATE]])
@pytest.mark.parametrize("kernels", KERNELS)
def test_no_padded_row_goes_through_a_head(overrides: list[str], kernels: str) -> None:
    """Official computes `upperbound` rows and drops what is above the masked patches (Q28); `fast` has only these.

    3 images have 6 global and 6 local CLS tokens.
    """
    model = tiny_model([*overrides, f"kernels={kernels}"])
    batch = tiny_batch(model.cfg, n_images=3)
    n_masked, padded = len(batch["mask_indices_list"]), batch["upperbound"]
    assert n_masked < padded
    patches = n_masked if kernels == "fast" else padded
    rows = rows_through_heads(model, overrides)
    model.forward_backward(batch, 0.07)
    if overrides:
        assert rows == {
            "teacher.dino_head": [6],
            "student.dino_head": [12],
            "teacher.ibot_head": [patches],
            "student.ibot_head": [patches],
        }
    else:
        assert rows == {"teacher.dino_head": [6 + patches], "student.dino_head": [12 + patches]}
