from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from port.models.attention import Attention, group_equal_lengths


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([], []),
        ([(2, 5)], [(2, 5)]),
        ([(2, 5), (3, 5), (4, 2)], [(5, 5), (4, 2)]),
        ([(2, 5), (4, 2), (3, 5)], [(2, 5), (4, 2), (3, 5)]),
        ([(1, 3), (1, 3), (1, 3)], [(3, 3)]),
    ],
)
def test_only_neighbours_of_equal_length_are_merged(
    shapes: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    """Equal lengths that are apart stay apart, so that the row keeps its order."""
    assert group_equal_lengths(shapes) == expected


def _one_feature(wq: float, wk: float, wv: float, wo: float) -> Attention:
    attention = Attention(1, num_heads=1)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.tensor([[wq], [wk], [wv]]))
        attention.proj.weight.fill_(wo)
        attention.proj.bias.fill_(0.25)
    return attention


def test_two_tokens_by_hand() -> None:
    """Tokens 1 and 2 with one feature: softmax of q k, times v, projected."""
    wq, wk, wv, wo = 0.5, 2.0, 3.0, -1.0
    tokens = (1.0, 2.0)
    expected = []
    for query in tokens:
        weights = [math.exp(wq * query * wk * key) for key in tokens]
        mixed = sum(w * wv * value for w, value in zip(weights, tokens, strict=True)) / sum(weights)
        expected.append(wo * mixed + 0.25)
    out = _one_feature(wq, wk, wv, wo)(torch.tensor(tokens).view(1, 2, 1))
    assert out.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_scores_are_divided_by_the_root_of_the_head_dimension() -> None:
    """Four features in one head, all queries and keys 1: a score is 4 / sqrt(4) = 2 against 0."""
    attention = Attention(4, num_heads=1, proj_bias=False)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.cat([torch.ones(4, 4) / 4, torch.ones(4, 4) / 4, torch.eye(4)]))
        attention.proj.weight.copy_(torch.eye(4))
    x = torch.stack([torch.ones(4), torch.tensor([1.0, -1.0, 1.0, -1.0])]).unsqueeze(0)  # means 1 and 0
    share = math.exp(2) / (math.exp(2) + 1)
    out = attention(x)[0]
    assert out[0].tolist() == pytest.approx([1.0, 2 * share - 1, 1.0, 2 * share - 1], rel=1e-6)
    assert out[1].tolist() == pytest.approx([1.0, 0.0, 1.0, 0.0], abs=1e-6)


def test_heads_are_consecutive_features() -> None:
    """With values passed through, changing one head's queries changes only that head's features."""
    torch.manual_seed(0)
    attention = Attention(6, num_heads=3)
    with torch.no_grad():
        attention.proj.weight.copy_(torch.eye(6))
    x = torch.randn(1, 4, 6)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[2:4] += 1.0  # queries of the second head
    changed = (attention(x) != before).flatten(0, 1).any(dim=0)
    assert changed.tolist() == [False, False, True, True, False, False]


def test_one_sequence_does_not_see_another() -> None:
    """Changing any token of one packed sequence leaves every other sequence's output as it was."""
    torch.manual_seed(0)
    attention = Attention(8, num_heads=2, qkv_bias=True)
    groups = [(2, 3), (3, 2)]
    starts = [0, 3, 6, 8, 10, 12]
    row = torch.randn(1, 12, 8)
    before = attention(row, groups)
    for start, end in pairwise(starts):
        other = row.clone()
        other[:, start] += 1.0
        changed = (attention(other, groups) != before).any(dim=-1)[0]
        assert changed.tolist() == [start <= i < end for i in range(12)]


def test_a_packed_row_equals_its_sequences_alone() -> None:
    """Each sequence of a row gets what it gets as a batch of one."""
    torch.manual_seed(0)
    attention = Attention(8, num_heads=2, qkv_bias=True).double()
    row = torch.randn(1, 13, 8, dtype=torch.float64)
    pieces = row.split([5, 2, 2, 4], dim=1)
    expected = torch.cat([attention(piece) for piece in pieces], dim=1)
    torch.testing.assert_close(attention(row, [(1, 5), (2, 2), (1, 4)]), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("qkv_bias", "proj_bias", "names"),
    [
        (True, True, ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]),
        (False, True, ["qkv.weight", "proj.weight", "proj.bias"]),
        (True, False, ["qkv.weight", "qkv.bias", "proj.weight"]),
    ],
)
def test_biases_follow_their_switches(qkv_bias: bool, proj_bias: bool, names: list[str]) -> None:
    """Names are official's, queries, keys and values in one linear."""
    attention = Attention(8, 2, qkv_bias=qkv_bias, proj_bias=proj_bias)
    assert [name for name, _ in attention.named_parameters()] == names
    assert attention.qkv.weight.shape == (24, 8)


@pytest.mark.parametrize(("shape", "groups"), [((1, 5, 8), [(2, 3)]), ((2, 3, 8), [(2, 3)]), ((1, 4, 8), [])])
def test_groups_must_account_for_the_row(shape: tuple[int, ...], groups: list[tuple[int, int]]) -> None:
    """Groups that leave tokens over, or come with a batch that is not packed, are refused."""
    with pytest.raises(ValueError, match="do not add up"):
        Attention(8, 2)(torch.zeros(shape), groups)


def test_heads_must_divide_the_dimension() -> None:
    """The error names both numbers."""
    with pytest.raises(ValueError, match="num_heads is 3; it must divide the embedding dimension 8"):
        Attention(8, 3)
