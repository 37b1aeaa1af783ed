from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from port.models.block import Block, get_branges_scales, pack, unpack

DOUBLE = torch.float64


def _block(**changes: Any) -> Block:
    """A block of 8 features, in double precision and with weights large enough to matter."""
    torch.manual_seed(0)
    block = Block(8, 2, **{"qkv_bias": True, **changes}).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=DOUBLE) * 0.3)
    return block


def _silence(linear: nn.Module) -> None:
    assert isinstance(linear, nn.Linear)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def _x(b: int, n: int) -> Tensor:
    return torch.randn(b, n, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(100 * b + n))


@pytest.mark.parametrize(
    ("batch", "rate", "size"),
    # Quirk Q33: what is left is truncated, so that the rate that takes effect depends on the batch.
    [
        (2, 0.3, 1),
        (4, 0.3, 2),
        (8, 0.3, 5),
        (16, 0.3, 11),
        (64, 0.3, 44),
        (2, 0.4, 1),
        (4, 0.4, 2),
        (8, 0.4, 4),
        (1, 0.3, 1),
        (8, 1.0, 1),
        (5, 0.0, 5),
    ],
)
def test_subset_sizes(batch: int, rate: float, size: int) -> None:
    """max(int(B * (1 - rate)), 1) samples, scaled by B / S, the first of a permutation."""
    torch.manual_seed(1)
    brange, scale = get_branges_scales(torch.zeros(batch, 3, 2), sample_drop_ratio=rate)
    torch.manual_seed(1)
    assert torch.equal(brange, torch.randperm(batch)[:size])
    assert scale == batch / size


def test_pack_and_unpack_are_inverse() -> None:
    """A row holds the batches end to end, and is cut back into them."""
    batches = [_x(2, 3), _x(1, 3), _x(4, 2)]
    row, groups = pack(batches)
    assert row.shape == (1, 17, 8)
    assert groups == [(3, 3), (4, 2)]
    assert torch.equal(row[0, 3:6], batches[0][1])
    assert all(torch.equal(a, b) for a, b in zip(unpack(row, batches), batches, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("init_values", [None, 0.1])
def test_a_block_with_silent_branches_is_the_identity(training: bool, rate: float, init_values: float | None) -> None:
    """With the last linears of both branches at zero, tensors and lists pass unchanged."""
    block = _block(drop_path=rate, init_values=init_values).train(training)
    _silence(block.attn.proj)
    _silence(block.mlp.get_submodule("fc2"))
    x = _x(4, 3)
    assert torch.equal(block(x), x)
    assert all(torch.equal(a, b) for a, b in zip(block([x, _x(2, 2)]), [x, _x(2, 2)], strict=True))


def test_the_residuals_are_pre_norm_and_in_sequence() -> None:
    """The sum x + ls1(attn(norm1(x))), then the same with ls2, mlp and norm2 on the sum."""
    block = _block(init_values=0.1)
    x = _x(3, 4)
    middle = x + block.attn(block.norm1(x)) * block.ls1.gamma
    expected = middle + block.mlp(block.norm2(middle)) * block.ls2.gamma
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("init_values", [None, 0, 1e-5])
def test_layer_scale_is_present_only_with_a_value(init_values: float | None) -> None:
    """None and 0 leave it out."""
    block = Block(8, 2, init_values=init_values)
    names = [name for name, _ in block.named_parameters() if name.startswith("ls")]
    assert names == (["ls1.gamma", "ls2.gamma"] if init_values else [])


def test_the_parameters_have_official_names_in_official_order() -> None:
    """A block's names, written out by hand."""
    assert [name for name, _ in Block(8, 2, qkv_bias=True, init_values=1e-5).named_parameters()] == [
        "norm1.weight",
        "norm1.bias",
        "attn.qkv.weight",
        "attn.qkv.bias",
        "attn.proj.weight",
        "attn.proj.bias",
        "ls1.gamma",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
        "ls2.gamma",
    ]


@pytest.mark.parametrize("init_values", [None, 0.1])
def test_a_tensor_above_a_tenth_computes_a_subset(init_values: float | None) -> None:
    """At 0.3 and B = 4, two samples per branch get twice their residual and the others none."""
    block = _block(drop_path=0.3, init_values=init_values)
    x = _x(4, 3)
    torch.manual_seed(5)
    first, second = torch.randperm(4)[:2], torch.randperm(4)[:2]
    expected = x.clone()
    expected[first] += 2 * block.ls1(block.attn(block.norm1(x[first])))
    expected[second] += 2 * block.ls2(block.mlp(block.norm2(expected[second].clone())))
    torch.manual_seed(5)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_a_tensor_up_to_a_tenth_drops_classically(rate: float) -> None:
    """Bernoulli factors per sample, drawn for attention and then for the feed-forward layer (quirk Q34)."""
    block = _block(drop_path=rate)
    x = _x(6, 3)
    torch.manual_seed(2)
    first, second = (torch.empty(6, 1, 1, dtype=DOUBLE).bernoulli_(1 - rate) / (1 - rate) for _ in range(2))
    middle = x + first * block.attn(block.norm1(x))
    expected = middle + second * block.mlp(block.norm2(middle))
    torch.manual_seed(2)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize("init_values", [None, 0.1])
def test_a_list_computes_a_subset_of_each_batch_at_any_rate(rate: float, init_values: float | None) -> None:
    """One permutation per batch and branch, all of a branch before it is computed; scale B / S each."""
    block = _block(drop_path=rate, init_values=init_values)
    batches = [_x(4, 3), _x(6, 2)]
    sizes = [max(int(b.shape[0] * (1 - rate)), 1) for b in batches]
    expected = [b.clone() for b in batches]
    torch.manual_seed(7)
    for norm, branch, scale in ((block.norm1, block.attn, block.ls1), (block.norm2, block.mlp, block.ls2)):
        subsets = [torch.randperm(len(b))[:size] for b, size in zip(batches, sizes, strict=True)]
        for out, subset, size in zip(expected, subsets, sizes, strict=True):
            out[subset] += len(out) / size * scale(branch(norm(out[subset].clone())))
    after = torch.get_rng_state()
    torch.manual_seed(7)
    for got, want in zip(block(batches), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_a_list_equals_separate_calls_without_drop_path(rate: float, training: bool) -> None:
    """In evaluation or at rate 0, packing changes nothing and no random number is drawn."""
    block = _block(drop_path=rate, init_values=0.1).train(training)
    batches = [_x(3, 4), _x(2, 4), _x(5, 2)]
    before = torch.get_rng_state()
    for got, alone in zip(block(batches), batches, strict=True):
        torch.testing.assert_close(got, block(alone), rtol=1e-12, atol=1e-13)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_no_sample_sees_another(rate: float) -> None:
    """Changing one sample of one batch changes that sample's output alone."""
    block = _block(drop_path=rate)
    batches = [_x(3, 4), _x(4, 2)]
    torch.manual_seed(1)
    before = block(batches)
    batches[1] = batches[1].clone()
    batches[1][2] += 1.0
    torch.manual_seed(1)
    after = block(batches)
    assert torch.equal(after[0], before[0])
    assert (after[1] != before[1]).flatten(1).any(dim=1).tolist() == [False, False, True, False]


def test_gradients_are_those_of_finite_differences() -> None:
    """The packed path with subsets and LayerScale is differentiated correctly."""
    block = _block(drop_path=0.3, init_values=0.1)

    def outputs(first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        return tuple(block([first, second]))

    inputs = (_x(2, 2).requires_grad_(), _x(3, 1).requires_grad_())
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)


def test_an_identity_feed_forward_adds_the_norm() -> None:
    """With ffn_layer identity and attention silent, the block adds norm2(x)."""
    block = _block(ffn_layer="identity")
    _silence(block.attn.proj)
    x = _x(2, 3)
    torch.testing.assert_close(block(x), x + block.norm2(x), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    """The error names the rate."""
    with pytest.raises(ValueError, match=f"drop_path is {rate}"):
        Block(8, 2, drop_path=rate)
