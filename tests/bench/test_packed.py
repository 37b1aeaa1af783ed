from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.packed import VarlenAttention, use_varlen, varlen_missing
from bench.settings import Settings
from port.models.attention import Attention


class Kernel:
    """Computes what `torch.nn.attention.varlen.varlen_attn` documents, a sequence at a time, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], int]] = []
        self.bounds: list[int] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
        """Attend within the sequences between bounds (S + 1,): queries, keys and values (T, H, d) to (T, H, d)."""
        assert cu_q is cu_k
        assert cu_q.dtype == torch.int32
        assert max_q == max_k
        self.calls.append((cu_q.tolist(), max_q))
        self.bounds.append(cu_q.data_ptr())
        lengths = cu_q.diff().tolist()
        parts = [x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)]
        outputs = [scaled_dot_product_attention(*part) for part in zip(*parts, strict=True)]
        return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.fixture
def attention() -> Attention:
    """Four heads of three features, with random weights."""
    torch.manual_seed(0)
    return Attention(12, num_heads=4, qkv_bias=True)


def test_one_kernel_computes_what_a_call_per_length_does(attention: Attention) -> None:
    """Three sequences of 5 tokens and two of 2: the same numbers, forwards and backwards."""
    row, groups = torch.randn(1, 19, 12, requires_grad=True), [(3, 5), (2, 2)]
    expected = attention(row, groups)
    (wanted,) = torch.autograd.grad(expected.square().sum(), row)
    kernel = Kernel()
    use_varlen(attention, kernel)
    actual = attention(row, groups)
    (gradient,) = torch.autograd.grad(actual.square().sum(), row)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradient, wanted)
    assert kernel.calls == [([0, 5, 10, 15, 17, 19], 5)]


def test_bounds_are_sent_to_the_device_once(attention: Attention) -> None:
    """Every step has the same groups; a new tensor each time would be a transfer each time."""
    kernel = Kernel()
    use_varlen(attention, kernel)
    for _ in range(3):
        attention(torch.randn(1, 19, 12), [(3, 5), (2, 2)])
    attention(torch.randn(1, 5, 12), [(1, 5)])
    assert len(set(kernel.bounds[:3])) == 1
    assert [longest for _, longest in kernel.calls] == [5, 5, 5, 5]


def test_a_batch_of_one_length_stays_as_it_is(attention: Attention) -> None:
    """The teacher's batches are not packed."""
    x = torch.randn(2, 5, 12)
    expected, kernel = attention(x), Kernel()
    use_varlen(attention, kernel)
    assert torch.equal(attention(x), expected)
    assert kernel.calls == []


def test_parameters_keep_their_names(attention: Attention) -> None:
    """Weights are loaded as into `port`'s own."""
    names = set(attention.state_dict())
    use_varlen(attention, Kernel())
    assert isinstance(attention, VarlenAttention)
    assert set(attention.state_dict()) == names


def test_a_cpu_has_no_such_kernel() -> None:
    """The reason is told, and where the run is."""
    assert varlen_missing(Settings()) == "variable-length attention needs CUDA; this run is on a CPU"


def test_full_precision_has_no_such_kernel() -> None:
    """Flash attention is written for half precision."""
    cuda = replace(Settings(), device="cuda")
    assert varlen_missing(cuda) == "variable-length attention needs bf16; this run is in fp32"
