"""One transformer block of official code and one of `port`, as stacks, and a computation that runs either."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parity.adapters.official import OfficialStack
from parity.judge import Failed, in_float64
from parity.results import Finding
from parity.trace.locate import locate
from port.models.block import Block

__all__ = ["BlockStack", "blocks", "differences", "found", "toy"]

_DIM = 16
_RATE = 0.5


@dataclass
class BlockStack:
    """A stack that offers one block (D = 16, 2 heads, drop path 0.5).

    Attributes:
        name: for messages.
        make: builds the block.
    """

    name: str
    make: Callable[[], nn.Module]


def blocks(official: OfficialStack) -> tuple[BlockStack, BlockStack]:
    """Return official's block and `port`'s; official code must be open, as it is with the fixture that is given."""
    layers = importlib.import_module("dinov2.layers")
    assert Path(str(layers.__file__)).is_relative_to(official.root)

    def theirs() -> nn.Module:
        block: nn.Module = layers.NestedTensorBlock(
            _DIM,
            num_heads=2,
            qkv_bias=True,
            init_values=0.5,
            drop_path=_RATE,
            attn_class=layers.MemEffAttention,
            norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
        )
        return block

    def mine() -> nn.Module:
        return Block(_DIM, 2, qkv_bias=True, init_values=0.5, drop_path=_RATE)

    return BlockStack("official", theirs), BlockStack("port", mine)


def differences(reference: object, subject: object, *, training: bool = True, both: bool = False) -> Failed | None:
    """Run one block on both sides, and return what differs, None where nothing does.

    Args:
        reference: official's block.
        subject: the other.
        training: whether drop path draws.
        both: whether two batches of other sizes are given as a list, (4, 5, D) and (6, 3, D), or only the first.
    """
    generator = torch.Generator().manual_seed(2)
    state = {f"weight {n}": torch.randn(p.shape, generator=generator) * 0.4 for n, p in _state(subject).items()}
    x = {
        f"x {i}": torch.randn(n, m, _DIM, generator=generator) for i, (n, m) in enumerate([(4, 5), (6, 3)][: 1 + both])
    }

    def compute(stack: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block: nn.Module = stack.make().double().train(training)
        block.load_state_dict({n.removeprefix("weight "): t for n, t in given.items() if n.startswith("weight")})
        leaves = [given[name].clone().requires_grad_() for name in given if name.startswith("x ")]
        torch.manual_seed(5)
        outputs = block(leaves)
        torch.stack([(out.sin() * out.exp().cos()).sum() for out in outputs]).sum().backward()
        gradients = {f"gradient of {n}": p.grad for n, p in block.named_parameters() if p.grad is not None}
        inputs = {f"gradient of x {i}": leaf.grad for i, leaf in enumerate(leaves) if leaf.grad is not None}
        return {**{f"out {i}": out.detach() for i, out in enumerate(outputs)}, **gradients, **inputs}

    return _failed("block", reference, subject, compute, {**state, **x})


def _state(stack: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = stack.make().state_dict()
    return found


def _failed(
    prefix: str,
    reference: object,
    subject: object,
    compute: Callable[..., Mapping[str, Tensor]],
    inputs: dict[str, Tensor],
) -> Failed | None:
    theirs, mine = in_float64(compute, reference, inputs), in_float64(compute, subject, inputs)
    names = [n for n in theirs if n in mine and not torch.allclose(theirs[n], mine[n], rtol=1e-9, atol=1e-13)]
    return Failed(prefix, subject, compute, inputs, tuple(names)) if names else None


def toy(
    theirs: Callable[[Tensor], Tensor | Sequence[Tensor]], mine: Callable[[Tensor], Tensor | Sequence[Tensor]]
) -> list[Finding]:
    """Return what is found of two functions of x (6, 8) and its gradient, official's first."""

    def compute(stack: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = given["x"].clone().requires_grad_()
        torch.manual_seed(3)
        y = stack(x)
        (gradient,) = torch.autograd.grad(y.sin().sum(), x)
        return {"y": y.detach(), "gradient": gradient}

    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    return found(_failed("toy", theirs, mine, compute, {"x": x}), theirs)


def found(failed: Failed | None, reference: object, **options: int) -> list[Finding]:
    """Return what is found of a computation that must have failed."""
    assert failed is not None, "nothing differs"
    return locate(failed, reference, **options)
