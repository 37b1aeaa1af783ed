"""The points at which stacks are compared: weights, images and logits, drawn from generators of their own.

Never only at initialisation: LayerScale of 1e-5 and zero biases hide faults (swapped q and k, a missing qkv
bias), and a zero mask token is ill-conditioned. The `generic` state moves every tensor to a place where
nothing is 0, 1 or 1e-5, and the teacher a little away from the student; `init` stays beside it for parity of
the initialisation itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["generic_state", "images", "logits", "samples"]


def generic_state(initial: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return a non-degenerate state with the names and shapes of `initial`.

    Args:
        initial: `student.…`, `teacher.…` and `….center` tensors, float32.
        seed: of the draws; the same seed gives the same state for equal names and shapes.
    """
    generator = torch.Generator().manual_seed(20_000 + seed)
    state: dict[str, Tensor] = {}
    for name in sorted(initial):
        if not name.startswith("teacher."):
            state[name] = _generic(name, initial[name], generator)
    for name in sorted(initial):
        if name.startswith("teacher."):
            student = state["student." + name.removeprefix("teacher.")]
            noise = torch.randn(student.shape, generator=generator)
            state[name] = student + 0.02 * student.abs().mean() * noise
    return {name: state[name] for name in initial}


def _generic(name: str, initial: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(initial.shape, generator=generator)
    if name.endswith("gamma"):
        return 0.5 + 0.2 * noise
    if name.endswith("weight_g"):
        return 1.0 + 0.1 * noise
    if "norm" in name and name.endswith("weight"):
        return 1.0 + 0.2 * noise
    if name.endswith(("bias", "center")):
        return 0.1 * noise
    if name.endswith(("cls_token", "mask_token", "pos_embed", "register_tokens")):
        return 0.2 * noise
    # Three times the initial spread: attention is neither uniform nor saturated.
    return 3.0 * initial + 0.01 * noise


def images(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return normalised images, float32, of the given shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(30_000 + seed))


def logits(rows: int, prototypes: int, seed: int, scale: float = 0.1) -> Tensor:
    """Return head outputs (rows, prototypes), float32; official's are bounded by the norm of `weight_g`."""
    generator = torch.Generator().manual_seed(40_000 + seed)
    return scale * torch.randn((rows, prototypes), generator=generator)


def samples(count: int, global_size: int, local_size: int, n_local: int, seed: int) -> list[dict[str, list[Tensor]]]:
    """Return `count` samples as the augmentation makes them: two global crops and `n_local` local ones."""
    return [
        {
            "global_crops": [images((3, global_size, global_size), seed + 1000 * i + j) for j in range(2)],
            "local_crops": [images((3, local_size, local_size), seed + 1000 * i + 10 + j) for j in range(n_local)],
        }
        for i in range(count)
    ]
