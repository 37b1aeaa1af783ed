from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.reference import open_reference
from parity.reference.isolation import imported_modules
from parity.reference.loader import VerifiedFinder
from parity.reference.substitutes.xformers import (
    BlockDiagonalMask,
    index_select_cat,
    memory_efficient_attention,
    scaled_index_add,
    unbind,
    xformers_modules,
)

SEQLENS = [5, 5, 3, 3, 3, 5, 1]


@pytest.fixture(scope="session")
def real_xformers(real_xformers_folder: Path) -> Iterator[ModuleType]:
    """`xformers.ops` of the real package, imported once; it is registered with torch from then on."""
    sys.path.insert(0, str(real_xformers_folder))
    before = set(sys.modules)
    try:
        yield importlib.import_module("xformers.ops")
    finally:
        sys.path.remove(str(real_xformers_folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "xformers":
                del sys.modules[name]


def _qkv(total: int, heads: int = 2, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, total, heads, width)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def _dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention by its definition, on (B, N, H, d)."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * scale
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_packed_attention_equals_dense_attention_with_the_mask(scale: float | None) -> None:
    """Grouped attention equals softmax(QKᵀ + mask)V over all tokens, values and gradients (fp64)."""
    mask = BlockDiagonalMask.from_seqlens(SEQLENS)
    total = sum(SEQLENS)
    q, k, v = _qkv(total)
    weights = torch.linspace(-1, 1, total * 8, dtype=torch.float64).reshape(1, total, 2, 4)
    packed = memory_efficient_attention(q, k, v, attn_bias=mask, scale=scale)
    additive = mask.materialize((total, total), dtype=torch.float64)
    dense = _dense(q, k, v, additive, 0.5 if scale is None else scale)
    torch.testing.assert_close(packed, dense, rtol=1e-12, atol=1e-13)
    ours = torch.autograd.grad((packed * weights).sum(), (q, k, v))
    theirs = torch.autograd.grad((dense * weights).sum(), (q, k, v))
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-13)


def test_packed_attention_equals_each_sequence_on_its_own() -> None:
    """Each sequence alone gives the numbers that it gives in its group, whatever kernel is named."""
    mask = BlockDiagonalMask.from_seqlens(SEQLENS)
    q, k, v = (x.detach() for x in _qkv(sum(SEQLENS)))
    packed = memory_efficient_attention(q, k, v, attn_bias=mask, op="any kernel")
    alone = [
        memory_efficient_attention(*parts)
        for parts in zip(*(x.split_with_sizes(SEQLENS, dim=1) for x in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-14, atol=1e-15)


def test_unmasked_attention_equals_its_definition() -> None:
    """Without a mask, each row of the batch is its own sequence; the scale is d ** -0.5."""
    q, k, v = (x.detach().reshape(3, 4, 2, 4) for x in _qkv(12))
    found = memory_efficient_attention(q, k, v)
    torch.testing.assert_close(found, _dense(q, k, v, None, 0.5), rtol=1e-12, atol=1e-13)


def test_attention_refuses_what_it_does_not_support() -> None:
    """Another number of dimensions or another kind of bias is named, not guessed at."""
    x = torch.zeros(1, 4, 8)
    with pytest.raises(ValueError, match=r"\(1, 4, 8\), expected \(B, N, H, d\)"):
        memory_efficient_attention(x, x, x)
    x = torch.zeros(1, 4, 2, 8)
    bias: Any = torch.zeros(4, 4)
    with pytest.raises(TypeError, match="attn_bias is a Tensor"):
        memory_efficient_attention(x, x, x, attn_bias=bias)


def test_mask_matches_the_real_one(real_xformers: ModuleType) -> None:
    """from_seqlens, from_tensor_list, split and materialize return what the real class returns."""
    real = importlib.import_module("xformers.ops.fmha.attn_bias").BlockDiagonalMask
    tensors = [torch.randn(2, 5, 3), torch.randn(4, 3, 3), torch.randn(1, 1, 3)]
    ours, packed = BlockDiagonalMask.from_tensor_list(tensors)
    theirs, expected = real.from_tensor_list(tensors)
    assert torch.equal(packed, expected)
    assert list(ours._batch_sizes or ()) == list(theirs._batch_sizes) == [2, 4, 1]
    for mine, real_part, original in zip(ours.split(packed), theirs.split(packed), tensors, strict=True):
        assert torch.equal(mine, real_part)
        assert torch.equal(mine, original)
    shape = (2, 3, 23, 23)
    assert torch.equal(ours.materialize(shape), theirs.materialize(shape))
    ours, theirs = BlockDiagonalMask.from_seqlens(SEQLENS), real.from_seqlens(SEQLENS)
    x = torch.randn(1, sum(SEQLENS), 2)
    for sizes in (None, [2, 3, 1, 1]):
        ours._batch_sizes = theirs._batch_sizes = sizes
        pairs = list(zip(ours.split(x), theirs.split(x), strict=True))
        assert len(pairs) == (7 if sizes is None else 4)
        assert all(torch.equal(mine, expected) for mine, expected in pairs)
    for mask in (ours, theirs):
        with pytest.raises(ValueError, match="shape"):
            mask.split(torch.randn(1, 3, 2))
    assert real_xformers.fmha.BlockDiagonalMask is real


def test_indexing_matches_what_xformers_documents(real_xformers: ModuleType) -> None:
    """The line of equivalent code in the real functions' own documentation gives the substitutes' results."""
    names = {"torch": torch, "zip": zip}
    x, index, source, scaling = _index_add_inputs()
    line = _documented(real_xformers.scaled_index_add)
    env = {**names, "input": x, "src": source, "scaling": scaling, "indices": index, "alpha": 1.5}
    assert torch.equal(eval(line, env), scaled_index_add(x, index, source, scaling, 1.5))  # noqa: S307 - xformers' own line
    sources, indices = [torch.randn(4, 3), torch.randn(5, 2)], [torch.tensor([2, 0]), torch.tensor([4, 1, 3])]
    line = _documented(real_xformers.index_select_cat)
    env = {**names, "sources": sources, "indices": indices}
    assert torch.equal(eval(line, env), index_select_cat(sources, indices))  # noqa: S307 - as above


def _documented(function: Any) -> str:
    lines = [line.strip() for line in function.__doc__.splitlines()]
    return str(next(line for line in lines if line.startswith("return torch."))).removeprefix("return ")


def _index_add_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 2, generator=generator)
    source = torch.randn(2, 3, 2, generator=generator)
    return x, torch.tensor([3, 1]), source, torch.tensor([0.5, -2.0])


def test_a_group_of_no_sequences_is_empty() -> None:
    """No local crops (Q19): the group splits into (0, 1, D) and adds nothing; the others are as without it."""
    crops = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    mask, packed = BlockDiagonalMask.from_tensor_list([crops, torch.zeros(0, 5, 4)])
    first, second = mask.split(packed)
    assert torch.equal(first, crops)
    assert second.shape == (0, 1, 4)
    assert torch.equal(scaled_index_add(crops, torch.zeros(0, dtype=torch.long), second), crops)


def test_scaled_index_add_by_hand() -> None:
    """Rows 3 and 1 gain alpha · scaling · source, the others stay, and the input is not overwritten."""
    x, index, source, scaling = _index_add_inputs()
    before = x.clone()
    found = scaled_index_add(x, index, source, scaling, alpha=2.0)
    expected = before.clone()
    for row, at in enumerate((3, 1)):
        for token in range(3):
            for column in range(2):
                expected[at, token, column] += 2.0 * scaling[column] * source[row, token, column]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(x, before)
    plain = scaled_index_add(x, index, source)
    torch.testing.assert_close(plain[3], before[3] + source[0])


def test_index_select_cat_and_unbind_by_hand() -> None:
    """Selected rows come flattened, source by source; unbind gives the slices."""
    a, b = torch.arange(6).reshape(3, 2), torch.arange(10, 19).reshape(3, 3)
    found = index_select_cat([a, b], [torch.tensor([2, 0]), torch.tensor([1])])
    assert found.tolist() == [4, 5, 0, 1, 13, 14, 15]
    assert [x.tolist() for x in unbind(a, 1)] == [[0, 2, 4], [1, 3, 5]]


def test_out_of_place_equals_in_place_in_official_drop_path(
    official_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official's residual list gives bit-equal outputs and gradients where its input is overwritten as on a GPU."""

    def in_place(x: Tensor, index: Tensor, source: Tensor, scaling: Tensor | None = None, alpha: float = 1.0) -> Tensor:
        return x.index_add_(0, index, source if scaling is None else source * scaling, alpha=alpha)

    def run(block: ModuleType) -> list[Tensor]:
        torch.manual_seed(0)
        leaves = [torch.randn(4, 5, 8, requires_grad=True), torch.randn(6, 3, 8, requires_grad=True)]
        gamma = torch.full((8,), 0.1, requires_grad=True)
        x_list = [leaf * 1.0 for leaf in leaves]
        for _ in range(2):
            x_list = block.drop_add_residual_stochastic_depth_list(
                x_list, lambda x, attn_bias=None: x.square(), sample_drop_ratio=0.4, scaling_vector=gamma
            )
        loss = sum(((x**2).sum() for x in x_list), torch.zeros(()))
        return [*x_list, *torch.autograd.grad(loss, [*leaves, gamma])]

    with open_reference(str(official_root)) as reference:
        block = reference.module("layers.block")
        ours = run(block)
        monkeypatch.setattr(block, "scaled_index_add", in_place)
        theirs = run(block)
    assert len(ours) == 5
    assert all(torch.equal(mine, expected) for mine, expected in zip(ours, theirs, strict=True))


def test_mask_refuses_keys_of_other_lengths() -> None:
    """Cross-attention is not what official code asks for; it is refused rather than computed wrongly."""
    assert BlockDiagonalMask.from_seqlens([2, 3], [2, 3], device="cpu").seqlens == (2, 3)
    with pytest.raises(NotImplementedError, match=r"\[3, 2\] differs from q_seqlen \[2, 3\]"):
        BlockDiagonalMask.from_seqlens([2, 3], [3, 2])


def test_modules_lack_what_official_code_replaces_itself() -> None:
    """SwiGLU and cross_entropy raise ImportError, so official's own fall-backs run; the rest imports."""
    with imported_modules(VerifiedFinder(Path(), {}, {}), "dinov2", xformers_modules()):
        ops = importlib.import_module("xformers.ops")
        assert ops.fmha.BlockDiagonalMask is BlockDiagonalMask
        for name in ("SwiGLU", "cross_entropy"):
            with pytest.raises(ImportError, match=name):
                exec(f"from xformers.ops import {name}", {})  # noqa: S102 - the import statement is what is tested
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("xformers.components")
        assert importlib.util.find_spec("xformers") is not None
