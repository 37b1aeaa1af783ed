from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tiny_backbone import DOUBLE, images, tiny_backbone
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from port.models import DinoVisionTransformer, ffn, flat_blocks
from port.models.fused import scaled_linear

ROWS = [torch.tensor([0, 17, 18, 3, 3]), torch.tensor([4, 0, 2])]


def _sequences(features: Any) -> Tensor:
    """All normed tokens of a batch, end to end: CLS, registers, patches of the first sample, and so on."""
    parts = [features["x_norm_clstoken"].unsqueeze(1), features["x_norm_regtokens"], features["x_norm_patchtokens"]]
    return torch.cat(parts, dim=1).flatten(0, 1)


def _gradients(outputs: list[Tensor], model: DinoVisionTransformer) -> list[Tensor]:
    upstream = [torch.linspace(-1, 2, y.numel(), dtype=DOUBLE).view(y.shape) for y in outputs]
    names = [p for name, p in model.named_parameters() if name != "pos_embed" or model.num_register_tokens == 0]
    found = torch.autograd.grad(outputs, names, upstream, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(names, found, strict=True)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop_path_rate": 0.3, "drop_path_uniform": True, "init_values": 0.1},
        {"drop_path_rate": 0.05, "num_register_tokens": 2},
        {"block_chunks": 2, "drop_path_rate": 0.3},
        {"block_chunks": 1, "num_register_tokens": 1},
        {"depth": 1, "drop_path_rate": 0.5, "drop_path_uniform": True},
    ],
)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_wanted_rows_are_tokens_of_the_features(
    fast: bool, changes: dict[str, Any], listed: bool, recompute: bool
) -> None:
    """The features' tokens at these indices, with their gradients, masks and random numbers."""
    model = tiny_backbone(**changes, fast=fast)
    if recompute:
        for block in flat_blocks(model.blocks):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    masks = torch.zeros(3, 16, dtype=torch.bool)
    masks[1, 2:9] = True
    x: Any = [images(3), images(2, 8)] if listed else images(3)
    given: Any = [masks, None] if listed else masks
    rows: Any = ROWS if listed else ROWS[0]
    torch.manual_seed(4)
    features: Any = model(x, given, is_training=True)
    everything = [_sequences(f) for f in (features if listed else [features])]
    expected = [tokens[r] for tokens, r in zip(everything, ROWS, strict=False)]
    state = torch.get_rng_state()
    torch.manual_seed(4)
    found: Any = model(x, given, is_training=True, rows=rows)
    assert torch.equal(torch.get_rng_state(), state)
    found = found if listed else [found]
    for tokens, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(tokens, wanted, rtol=1e-11, atol=1e-11)
    for gradient, wanted in zip(_gradients(found, model), _gradients(expected, model), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fast", [True, False])
def test_both_forms_have_the_same_parameters_and_start_alike(fast: bool) -> None:
    """The argument reaches every block, and draws no random number."""
    model = tiny_backbone(fast=fast, block_chunks=2)
    plain = tiny_backbone(block_chunks=2)
    assert [block.fast for block in flat_blocks(model.blocks)] == [fast, fast]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_the_last_block_computes_wanted_tokens_only(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its feed-forward layer sees 8 tokens and not 3 * 17 + 2 * 5."""
    seen: list[int] = []
    plain = scaled_linear

    def note(inputs: list[Tensor], *args: Any, **options: Any) -> Tensor:
        seen.append(sum(len(x) for x in inputs))
        return plain(inputs, *args, **options)

    monkeypatch.setattr(ffn, "scaled_linear", note)
    tiny_backbone(fast=True, block_chunks=chunks)([images(3), images(2, 8)], is_training=True, rows=ROWS)
    assert seen == [61, 8]


def test_no_row_at_all() -> None:
    """An empty choice gives an empty result, in both forms."""
    none = torch.zeros(0, dtype=torch.int64)
    for fast in (True, False):
        assert tiny_backbone(fast=fast)(images(2), is_training=True, rows=none).shape == (0, 8)
        both = tiny_backbone(fast=fast)([images(2), images(1, 8)], is_training=True, rows=[none, ROWS[1]])
        assert [tuple(y.shape) for y in both] == [(0, 8), (3, 8)]


@pytest.mark.parametrize(
    ("listed", "rows", "message"),
    [
        (True, ROWS[0], "rows are one tensor; expected a list of 2 tensors"),
        (True, ROWS[:1], "rows are a list of 1; expected a list of 2 tensors"),
        (False, ROWS, "rows are a list of 2; expected one tensor"),
        (False, torch.tensor([[1]]), r"rows are torch.int64 of shape \(1, 1\); expected int64"),
        (False, torch.tensor([1.0]), r"rows are torch.float32 of shape \(1,\); expected int64"),
        (True, [ROWS[0], torch.tensor([True])], "rows are torch.bool"),
    ],
)
def test_rows_that_do_not_fit_are_refused(listed: bool, rows: Any, message: str) -> None:
    """A boolean mask among them, which would count as indices 0 and 1."""
    x: Any = [images(3), images(2, 8)] if listed else images(3)
    with pytest.raises(ValueError, match=message):
        tiny_backbone()(x, is_training=True, rows=rows)


def test_rows_need_a_training_call() -> None:
    """Without `is_training` the result is the CLS token, of which nothing can be chosen."""
    with pytest.raises(ValueError, match="rows choose among the features: pass is_training=True"):
        tiny_backbone()(images(2), rows=ROWS[0])


def test_a_list_of_masks_must_be_as_long_with_rows_too() -> None:
    """As without them."""
    with pytest.raises(ValueError, match="2 batches but 1 masks"):
        tiny_backbone()([images(3), images(2, 8)], [None], is_training=True, rows=ROWS)
