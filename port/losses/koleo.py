"""KoLeo loss: keeps the features of a batch apart by the distance to the nearest neighbour.

Shapes: B samples, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from port.losses.precision import autocast_off, widened

__all__ = ["KoLeoLoss"]


class KoLeoLoss(nn.Module):
    """Kozachenko-Leonenko differential entropy estimator (`dinov2/loss/koleo_loss.py:18`)."""

    def __init__(self) -> None:
        super().__init__()
        self.pdist = nn.PairwiseDistance(2, eps=1e-8)

    @torch.no_grad()
    def pairwise_NNs_inner(self, x: Tensor) -> Tensor:  # noqa: N802 - official's name
        """Return the index of each sample's nearest neighbour (`dinov2/loss/koleo_loss.py:25`).

        The diagonal is set to -1, the least cosine there is, not below it: a sample whose only neighbours are
        exactly opposite may find itself (Q4).

        Args:
            x: (B, D), rows of unit length.

        Returns:
            int64 (B,).
        """
        dots = torch.mm(x, x.t())
        dots.fill_diagonal_(-1)
        return torch.max(dots, dim=1).indices

    def forward(self, student_output: Tensor, eps: float = 1e-8) -> Tensor:
        """Return minus the mean log distance to the nearest neighbour (`dinov2/loss/koleo_loss.py:37`).

        Args:
            student_output: features (B, D), of any length; autocast is off inside, and half precision is widened,
                where official's stays half (Q2).
            eps: lower bound of norms and offset of distances; it would be 0 in float16.

        Returns:
            Scalar.
        """
        with autocast_off(student_output.device):
            student_output = normalize(widened(student_output), eps=eps, p=2, dim=-1)
            neighbours = self.pairwise_NNs_inner(student_output)
            distances = self.pdist(student_output, student_output[neighbours])
            return -torch.log(distances + eps).mean()
