from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from parity.census import PatchCensus


class Tiny(nn.Module):
    """A patch embedding of 4 x 4 pixels, and what else a backbone may convolve with."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 5, kernel_size=4, stride=4)
        self.overlapping = nn.Conv2d(3, 3, kernel_size=3, stride=1, padding=1)
        self.halving = nn.Conv2d(3, 3, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """One number per image."""
        x = x + self.overlapping(x) + self.halving(x).mean()
        patches: Tensor = self.patch_embed(x)
        return patches.flatten(1).mean(1)


@pytest.fixture
def student() -> Tiny:
    """A model whose weights want gradients."""
    return Tiny()


def test_student_and_teacher_are_counted_apart(student: Tiny) -> None:
    """A step as official's: 6 masked global crops and 9 local ones for the student, 6 global for the teacher."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    with PatchCensus() as census:
        with torch.no_grad():
            teacher(torch.zeros(6, 3, 16, 16))
        loss = student(torch.zeros(6, 3, 16, 16)).sum() + student(torch.zeros(9, 3, 8, 8)).sum()
        loss.backward()
    assert census.rows == {("teacher", 16, 16): 6, ("student", 16, 16): 6, ("student", 8, 8): 9}
    assert census.calls == {("teacher", 16, 16): 1, ("student", 16, 16): 1, ("student", 8, 8): 1}
    assert student.patch_embed.weight.grad is not None


def test_rows_and_calls_add_up(student: Tiny) -> None:
    """Two calls of 4 images are 8 rows in 2 calls."""
    with PatchCensus() as census:
        student(torch.zeros(4, 3, 8, 8))
        student(torch.zeros(4, 3, 8, 8))
    assert census.rows["student", 8, 8] == 8
    assert census.calls["student", 8, 8] == 2


def test_a_forward_without_gradients_is_a_teacher_s(student: Tiny) -> None:
    """A teacher whose parameters want gradients is told by `no_grad`, a frozen one by its parameters."""
    with PatchCensus() as census:
        with torch.no_grad():
            student(torch.zeros(2, 3, 8, 8))
        student.requires_grad_(False)(torch.zeros(3, 3, 8, 8))
    assert census.rows == {("teacher", 8, 8): 5}


def test_overlapping_convolutions_are_not_patch_embeddings() -> None:
    """A stem of 3 x 3 convolutions with stride 2 embeds no patches."""
    with PatchCensus() as census:
        nn.Conv2d(3, 3, 3, stride=2, padding=1)(torch.zeros(2, 3, 8, 8))
    assert not census.rows


def test_rectangular_images_keep_height_and_width(student: Tiny) -> None:
    """The key is (who, height, width)."""
    with PatchCensus() as census:
        student(torch.zeros(1, 3, 8, 12))
    assert list(census.rows) == [("student", 8, 12)]


def test_counting_changes_nothing(student: Tiny) -> None:
    """Outputs and gradients are bitwise those of an uncounted step."""
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def step() -> tuple[Tensor, Tensor]:
        output = student(images)
        (gradient,) = torch.autograd.grad(output.sum(), student.patch_embed.weight)
        return output, gradient

    plain = step()
    with PatchCensus():
        counted = step()
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))
