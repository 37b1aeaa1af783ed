"""What official's transformer blocks and backbone do: drop path, chunks, scales, initial values."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from parity.quirks.evidence.tools import CallCounter, Observation, raised
from parity.reference import Reference

__all__ = ["chunks", "draws", "initial_values", "layer_scale", "subset", "two_drop_paths"]

_DIM = 8


def _block(reference: Reference, rate: float) -> Any:
    """Return a block in training mode."""
    layers = reference.module("layers")
    block: nn.Module = layers.NestedTensorBlock(
        _DIM, num_heads=2, init_values=0.5, drop_path=rate, attn_class=layers.MemEffAttention
    )
    return block.train()


def subset(reference: Reference) -> Observation:
    """Ask for the subset of batches of several sizes at rates 0.3 and 0.4."""
    draw = reference.module("layers.block").get_branges_scales
    expected = {
        (0.3, 2): 1,
        (0.3, 4): 2,
        (0.3, 8): 5,
        (0.3, 16): 11,
        (0.4, 2): 1,
        (0.4, 3): 1,
        (0.4, 5): 3,
        (0.4, 8): 4,
    }
    kept, scaled = {}, True
    for rate, batch in expected:
        rows, scale = draw(torch.zeros(batch, 1, 1), rate)
        kept[rate, batch] = len(set(rows.tolist()))
        scaled &= math.isclose(scale, batch / kept[rate, batch])
    parts = []
    for rate in (0.3, 0.4):
        shares = [f"{1 - n / batch:.1%} of {batch}" for (asked, batch), n in kept.items() if asked == rate]
        parts.append(f"at {rate:g}: {', '.join(shares)}")
    return Observation(kept == expected and scaled, f"rows dropped {'; '.join(parts)}")


def two_drop_paths(reference: Reference) -> Observation:
    """Pass a tensor and a list through a block at rates 0.05 and 0.2, and count what draws and what drops."""
    found = {}
    x = torch.randn(4, 3, _DIM)
    for rate in (0.05, 0.2):
        block = _block(reference, rate)
        for form, given in (("tensor", x), ("list", [x])):
            found[form, rate] = _dropping(block, given)
    parts = [f"{form} at {rate:g}: {_in_words(calls)}" for (form, rate), calls in found.items()]
    classic = found.pop(("tensor", 0.05))
    confirmed = classic == {"drop_path1": 2} and all(calls == {"randperm": 2} for calls in found.values())
    return Observation(confirmed, "; ".join(parts))


def _dropping(block: Any, given: Tensor | list[Tensor]) -> dict[str, int]:
    """Return how often a forward pass calls the block's DropPath layers and draws a permutation."""
    calls: Counter[str] = Counter()
    names = ("drop_path1", "drop_path2")
    hooks = [getattr(block, name).register_forward_hook(lambda *_, name=name: calls.update([name])) for name in names]
    permutations = CallCounter("randperm")
    with permutations:
        block(given)
    for hook in hooks:
        hook.remove()
    return dict(calls + permutations.calls)


def _in_words(calls: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in calls.items()) or "nothing is dropped"


def layer_scale(reference: Reference) -> Observation:
    """Take away ls1, set ls2 to 0, silence attention: a block that asks ls2 adds nothing to a list's tensors."""
    block = _block(reference, 0.2)
    block.ls1 = nn.Identity()
    x = torch.randn(5, 3, _DIM)
    with torch.no_grad():
        block.ls2.gamma.zero_()
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
        (changed,) = block([x])
    largest = float((changed - x).abs().max())
    return Observation(largest > 0, f"the feed-forward layer adds up to {largest:.2g} past an ls2 of 0")


def draws(reference: Reference) -> Observation:
    """Pass two groups of crops through a block, and count the permutations that it draws."""
    block = _block(reference, 0.2)
    counter = CallCounter("randperm")
    with counter:
        block([torch.randn(4, 3, _DIM), torch.randn(6, 2, _DIM)])
    n, devices = counter.calls["randperm"], ", ".join(sorted(counter.devices))
    return Observation(n == 4 and devices == "cpu", f"{n} permutations for 2 groups and 2 residuals, on {devices}")


def _backbone(reference: Reference, depth: int, block_chunks: int) -> Any:
    return reference.module("models.vision_transformer").DinoVisionTransformer(
        img_size=16, patch_size=4, embed_dim=_DIM, depth=depth, num_heads=2, block_chunks=block_chunks
    )


def chunks(reference: Reference) -> Observation:
    """Build 12 blocks in 5 chunks, 3 blocks in 4, and read the default of the class."""
    transformer = reference.module("models.vision_transformer").DinoVisionTransformer
    default = inspect.signature(transformer).parameters["block_chunks"].default
    made = len(_backbone(reference, 12, 5).blocks)
    names = [name for name, _ in _backbone(reference, 1, 1).named_parameters() if "blocks" in name]
    too_many = raised(lambda: _backbone(reference, 3, 4), ValueError)
    confirmed = default == 1 and made == 6 and names[0].startswith("blocks.0.0.") and too_many is not None
    more = "works" if too_many is None else f"raises {type(too_many).__name__}"
    seen = f"default {default} ({names[0]}); 12 blocks in 5 chunks make {made}; 3 blocks in 4 chunks: {more}"
    return Observation(confirmed, seen)


@torch.no_grad()
def initial_values(reference: Reference) -> Observation:
    """Build a backbone and measure its initial values, and how large positions become on a grid of another size."""
    model = _backbone(reference, 1, 0)
    projection, linear = model.patch_embed.proj, model.blocks[0].mlp.fc1
    conv, bound = float(projection.weight.std()), 1 / math.sqrt(3 * 4 * 4)
    biased, token = float(projection.bias.abs().max()), float(model.mask_token.abs().max())
    confirmed = math.isclose(conv, bound / math.sqrt(3), rel_tol=0.15) and biased > 0 and token == 0
    confirmed &= math.isclose(float(linear.weight.std()), 0.02, rel_tol=0.25)
    first, second = _names_of_sides(model)
    confirmed &= (first, second) == ("w", "h")
    seen = (
        f"patch projection std {conv:.3f} (nn.Conv2d's {bound / math.sqrt(3):.3f}; linears 0.02), "
        f"mask_token {token:g}; the height is called {first}"
    )
    return Observation(confirmed, seen)


def _names_of_sides(model: Any) -> tuple[str, str]:
    """Return the names under which `interpolate_pos_encoding` takes an image's height and width."""
    received: list[Tensor | int] = []
    names = list(inspect.signature(model.interpolate_pos_encoding).parameters)[-2:]
    interpolate = model.interpolate_pos_encoding

    def interpolate_pos_encoding(x: Tensor, *sides: Tensor | int) -> Tensor:
        received.extend(sides)
        positions: Tensor = interpolate(x, *sides)
        return positions

    model.interpolate_pos_encoding = interpolate_pos_encoding
    model(torch.zeros(1, 3, 16, 8))
    return (names[0], names[1]) if received == [16, 8] else (names[1], names[0])
