"""The head's last product, made by the head or left to the caller; parity compares the rest with official code."""

from __future__ import annotations

import pytest
import torch

from port.models import DINOHead, LogitFactors


@pytest.mark.parametrize("shape", [(5, 6), (1, 4, 6), (0, 6)])
def test_the_factors_product_is_the_logits(shape: tuple[int, ...]) -> None:
    """Features of length 1 times the last layer's weight, bit for bit; lengths and directions get gradients."""
    torch.manual_seed(0)
    head = DINOHead(6, 9, hidden_dim=8, bottleneck_dim=4)
    with torch.no_grad():
        head.last_layer.weight_g.uniform_(0.5, 2)
    tokens = torch.randn(shape)
    logits, factors = head(tokens), head(tokens, factors=True)
    assert isinstance(factors, LogitFactors)
    weight = torch._weight_norm(factors.weight_v, factors.weight_g, 0)
    assert torch.equal(torch.nn.functional.linear(factors.features, weight), logits)
    torch.testing.assert_close(factors.features.norm(dim=-1), torch.ones(shape[:-1]))
    torch.testing.assert_close(weight.norm(dim=1, keepdim=True), head.last_layer.weight_g)
    assert torch.equal(factors.logits(), logits)
    weight.sum().backward()
    assert head.last_layer.weight_g.grad is not None
    assert head.last_layer.weight_v.grad is not None
