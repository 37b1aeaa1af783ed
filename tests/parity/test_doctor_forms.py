from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.adapters.official import OfficialStack
from parity.doctor_forms import examine_attention, examine_ibot


class _Attending:
    """A stack whose attention with xformers is the given function of official's result without."""

    def __init__(self, official: OfficialStack, change: Any) -> None:
        self._official, self._change = official, change

    def attention(self, x: Tensor, num_heads: int, *, xformers: bool) -> Tensor:
        found = self._official.attention(x, num_heads, xformers=False)
        changed: Tensor = self._change(found) if xformers else found
        return changed


def test_what_stands_for_xformers_is_official_s_own_attention(official_stack: OfficialStack) -> None:
    """In float64, to rounding."""
    found = examine_attention(official_stack)
    assert (found.name, found.tier, found.passed) == ("doctor/attention", "T1", True)
    assert found.error is not None
    assert found.error < 1e-15
    assert found.note.startswith("attention differs from official's own without xformers by ")


@pytest.mark.parametrize("change", [lambda y: y * (1 + 1e-9), lambda y: y.flip(1), lambda y: y.float().double()])
def test_a_wrong_stand_in_is_found(official_stack: OfficialStack, change: Any) -> None:
    """Scaled by a billionth, with rows in another order, or computed in single precision."""
    assert not examine_attention(_Attending(official_stack, change)).passed


def test_attention_without_xformers_is_the_formula(official_stack: OfficialStack) -> None:
    """By algebra: softmax of the scaled products of queries and keys, with the same weights, head by head."""
    x = torch.randn(1, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    found = official_stack.attention(x, 2, xformers=False)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        qkv = torch.nn.Linear(8, 24).double()
        projection = torch.nn.Linear(8, 8).double()
    q, k, v = qkv(x).view(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = F.softmax(q @ k.transpose(-2, -1) / 4**0.5, dim=-1)
    expected = projection((weights @ v).transpose(1, 2).reshape(1, 5, 8))
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-14)


def test_the_loss_of_masked_tokens_is_that_of_whole_crops(official_stack: OfficialStack) -> None:
    """With weights given, and with none."""
    found = examine_ibot(official_stack)
    assert (found.name, found.tier, found.passed) == ("doctor/ibot", "T1", True)
    assert found.error is not None
    assert found.error < 1e-14


class _Losing:
    """A stack whose loss of masked tokens is changed."""

    def __init__(self, official: OfficialStack, change: Any) -> None:
        self._official, self._change = official, change

    def ibot_dense(self, *given: Tensor) -> Tensor:
        return self._official.ibot_dense(*given)

    def ibot_loss(self, *given: Any) -> Tensor:
        changed: Tensor = self._change(self._official, given)
        return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda official, g: official.ibot_loss(*g) * (1 + 1e-9),
        lambda official, g: official.ibot_loss(g[0].flip(0), *g[1:]),
        lambda official, g: official.ibot_loss(*g[:4], None if g[4] is None else torch.ones_like(g[4])),
    ],
)
def test_another_reading_of_the_arguments_is_found(official_stack: OfficialStack, change: Any) -> None:
    """Scaled by a billionth, rows in another order, or weights that are not used."""
    assert not examine_ibot(_Losing(official_stack, change)).passed


def test_the_loss_of_whole_crops_is_the_formula(official_stack: OfficialStack) -> None:
    """By hand: one crop, two patches of two prototypes, the first masked: cross-entropy at temperature 0.1."""
    student = torch.tensor([[[0.1, 0.0], [5.0, 1.0]]], dtype=torch.float64)
    teacher = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]], dtype=torch.float64)
    found = official_stack.ibot_dense(student, teacher, torch.tensor([[True, False]]))
    # Logits 1 and 0: log-softmax is -log(1 + 1/e) and -log(1 + e).
    expected = 0.25 * math.log(1 + math.exp(-1)) + 0.75 * math.log(1 + math.e)
    assert float(found) == pytest.approx(expected, rel=1e-14)
