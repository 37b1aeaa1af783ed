"""How many images pass through whom: every patch embedding of a step, counted where torch executes it.

No name mapping is needed and nothing of the subject is changed: a dispatch mode sees each convolution whose
stride is its kernel, which is what a patch embedding is. Teacher and student are told apart by whether
gradients are recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PatchCensus"]


class PatchCensus(TorchDispatchMode):
    """Counts the images that patch embeddings see while it is active.

    Attributes:
        rows: number of images by (`student` or `teacher`, height, width).
        calls: number of calls, same keys.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.rows: Counter[tuple[str, int, int]] = Counter()
        self.calls: Counter[tuple[str, int, int]] = Counter()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.convolution.default and _is_patch_embedding(args[1], args[3], args[6]):
            images, weight = args[0], args[1]
            who = "student" if weight.requires_grad and torch.is_grad_enabled() else "teacher"
            key = (who, int(images.shape[2]), int(images.shape[3]))
            self.rows[key] += int(images.shape[0])
            self.calls[key] += 1
        return func(*args, **dict(kwargs or {}))


def _is_patch_embedding(weight: torch.Tensor, stride: Sequence[int], transposed: bool) -> bool:
    """Whether a convolution cuts its input into patches: its stride is its kernel, and the kernel is no point."""
    kernel = list(weight.shape[2:])
    return list(stride) == kernel and max(kernel) > 1 and not transposed
