from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import port.models.block
from port.models.block import Block, blocks_in_official_order

DOUBLE = torch.float64
WAYS: tuple[dict[str, Any], ...] = (
    {"init_values": 0.1},
    {},
    {"init_values": 0.1, "drop_path": 0.3},
    {"drop_path": 0.3},
    {"init_values": 0.1, "drop_path": 0.05},
    {"drop_path": 1.0, "init_values": 0.1},
    {"qkv_bias": False, "proj_bias": False, "ffn_bias": False, "drop_path": 0.3},
    {"init_values": 0.1, "ffn_layer": "swiglu", "drop_path": 0.3},
    {"ffn_layer": "swiglu"},
    {"init_values": 0.1, "ffn_layer": "identity"},
    {"ffn_layer": "identity", "drop_path": 0.3},
)


def _pair(dtype: torch.dtype = DOUBLE, **changes: Any) -> tuple[Block, Block]:
    """A block in official's order and the same in the fast form, with weights large enough to matter."""
    torch.manual_seed(0)
    block = Block(8, 2, **{"qkv_bias": True, **changes}).to(dtype)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=dtype) * 0.3)
    fast = Block(8, 2, **{"qkv_bias": True, **changes}, fast=True).to(dtype)
    fast.load_state_dict(block.state_dict())
    return block, fast


def _batches(dtype: torch.dtype = DOUBLE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, 3, 8), (2, 3, 8), (6, 2, 8)]
    return [torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_() for shape in shapes]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ROWS = [torch.tensor([0, 11, 4, 4]), torch.zeros(0, dtype=torch.int64), torch.tensor([9])]


def _results(
    block: Callable[..., Any], parameters: Sequence[Tensor], *, listed: bool, wanted: bool, dtype: torch.dtype = DOUBLE
) -> list[Tensor]:
    """Outputs, gradients of inputs and parameters, and the state of the random numbers, from one seed."""
    x_list = _batches(dtype) if listed else _batches(dtype)[:1]
    rows: Any = None if not wanted else (ROWS if listed else ROWS[0])
    torch.manual_seed(5)
    out = block(list(x_list) if listed else x_list[0], *([rows] if wanted else []))
    outputs = out if listed else [out]
    upstream = [torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape) for y in outputs]
    gradients = torch.autograd.grad(outputs, [*x_list, *parameters], upstream)
    return [*outputs, *gradients, torch.get_rng_state()]


def _close(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    for tensor, other in zip(found, expected, strict=True):
        scale = other.double().abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(tensor, other, rtol=0, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_both_forms_are_one_block(way: dict[str, Any], training: bool, listed: bool, wanted: bool) -> None:
    """Outputs, all gradients and the random numbers drawn, in float64, for all tokens and for some."""
    official, fast = (
        _results(block.train(training), list(block.parameters()), listed=listed, wanted=wanted)
        for block in _pair(**way)
    )
    _close(fast, official)


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_those_of_the_full_output(way: dict[str, Any]) -> None:
    """The wanted tokens of the flattened batch, whose gradient reaches what made them."""
    _, block = _pair(**way)

    def by_index(x: Any, rows: list[Tensor]) -> list[Tensor]:
        return [y.flatten(0, 1)[r] for y, r in zip(block(x), rows, strict=True)]

    parameters = list(block.parameters())
    found, expected = (_results(call, parameters, listed=True, wanted=True) for call in (block, by_index))
    _close(found, expected)
    assert [tuple(y.shape) for y in found[:3]] == [(4, 8), (0, 8), (1, 8)]


@pytest.mark.parametrize("way", [{}, {"drop_path": 0.3, "init_values": 0.1}])
def test_no_wanted_token_is_a_gradient_of_zero(way: dict[str, Any]) -> None:
    """Every parameter still has one, for which several processes wait."""
    _, block = _pair(**way)
    out = block(_batches(), [torch.zeros(0, dtype=torch.int64)] * 3)
    torch.autograd.backward(out, [torch.ones_like(y) for y in out])
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_recomputing_changes_no_bit(rate: float, listed: bool, wanted: bool) -> None:
    """Under activation checkpointing, with random numbers too."""
    _, block = _pair(init_values=0.1, drop_path=rate)
    parameters = list(block.parameters())
    expected = _results(block, parameters, listed=listed, wanted=wanted)
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    assert all(map(torch.equal, _results(block, parameters, listed=listed, wanted=wanted), expected))


@pytest.mark.parametrize("way", [*WAYS[:3], *WAYS[-4:]])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_the_same_dtypes(
    way: dict[str, Any], listed: bool, wanted: bool, dtype: torch.dtype
) -> None:
    """Outputs and gradients have the dtypes of official's order, and its values but for half precision's rounding."""
    official, fast = (
        _results(
            torch.autocast("cpu", dtype=dtype)(block),
            list(block.parameters()),
            listed=listed,
            wanted=wanted,
            dtype=torch.float32,
        )
        for block in _pair(torch.float32, **way)
    )
    assert [t.dtype for t in fast] == [t.dtype for t in official]
    _close(fast, official, 0.03)


def _kept_per_token(block: Block, width: int, listed: bool) -> float:
    """Numbers of activations, in units of D, that wait for the backward pass for each token that is computed."""
    x = torch.randn(6, 10, width, requires_grad=True)
    inputs = [x, torch.randn(10, 4, width, requires_grad=True)] if listed else x
    parameters = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        block(inputs)
    share = 0.5 if block.sample_drop_ratio else 1.0
    tokens = (100 if listed else 60) * share
    return sum(t.untyped_storage().nbytes() // t.element_size() for t in kept.values()) / tokens / width


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("listed", [True, False])
def test_half_as_much_is_kept(rate: float, listed: bool) -> None:
    """Two inputs of norms, queries, keys, values, what was attended to, and hidden features: 10 D, and a few numbers.

    Official's order keeps some 19 D: normed tokens, scaled residuals and a GELU besides.
    """
    width = 64
    kept = [
        _kept_per_token(Block(width, 2, qkv_bias=True, init_values=0.1, drop_path=rate, fast=fast), width, listed)
        for fast in (False, True)
    ]
    assert kept[0] > 18
    assert 10 < kept[1] < 10.5


def test_the_subsets_are_drawn_by_the_module_s_global(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per batch and branch, attention's first, of whole batches; `bench` puts its own in place."""
    seen: list[tuple[int, ...]] = []

    def draw(x: Tensor, sample_drop_ratio: float = 0.0) -> tuple[Tensor, float]:
        seen.append((*x.shape[:2],))
        return torch.arange(1), float(len(x))

    monkeypatch.setattr(port.models.block, "get_branges_scales", draw)
    _, block = _pair(drop_path=0.3)
    for rows in (None, ROWS):
        seen.clear()
        block(_batches(), rows)
        assert seen == 2 * [(4, 3), (2, 3), (6, 2)]


def test_a_second_derivative_is_an_error() -> None:
    """With the way out in its message."""
    _, block = _pair()
    x = _batches()[0]
    with pytest.raises(RuntimeError, match="kernels=official_order has"):
        torch.autograd.grad(block(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(rate: float) -> None:
    """Of wanted tokens of two batches, by the batches."""
    _, block = _pair(drop_path=rate, init_values=0.1)

    def outputs(first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        return tuple(block([first, second], [torch.tensor([1, 3, 0]), torch.tensor([2])]))

    first, _, second = _batches()
    assert torch.autograd.gradcheck(outputs, (first, second), fast_mode=True)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_no_shape_depends_on_numbers(rate: float) -> None:
    """On tensors without numbers, forward and backward run: a GPU need not be waited for."""
    with FakeTensorMode():
        block = Block(8, 2, init_values=0.1, drop_path=rate, fast=True)
        x = [torch.randn(4, 3, 8, requires_grad=True), torch.randn(6, 2, 8, requires_grad=True)]
        out = block(x, [torch.randint(12, (5,)), torch.randint(12, (2,))])
        torch.autograd.backward(out, [torch.ones_like(y) for y in out])
        assert [tuple(y.shape) for y in out] == [(5, 8), (2, 8)]
        assert all(p.grad is not None and p.grad.shape == p.shape for p in block.parameters())


def test_a_copy_has_the_form_and_a_block_is_official_s_unless_asked() -> None:
    """`fast` is no part of the state, and is kept by a copy."""
    official, fast = _pair()
    assert not official.fast
    assert copy.deepcopy(fast).fast
    assert list(official.state_dict()) == list(fast.state_dict())


def test_layers_are_called_in_official_s_order_only() -> None:
    """For a while, within a larger model, and also where an error ends it; blocks that are not fast stay so."""
    official, fast = _pair()
    model = torch.nn.Sequential(official, fast)
    called: list[str] = []
    fast.mlp.register_forward_hook(lambda *_: called.append("mlp"))
    fast(_batches())
    assert not called

    def fail() -> None:
        with blocks_in_official_order(model):
            fast(_batches())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert called == ["mlp"]
    assert (official.fast, fast.fast) == (False, True)


# Importing torch 2.11's own compiler warns.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("wanted", [True, False])
def test_a_block_compiles_whole(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph, backward pass and all, with the same numbers but for rounding; subsets are given, not drawn.

    The compiler may draw random numbers in another order. Its graphs are run as they are: making C++ of them takes a
    minute, and `test_compiled_blocks_train` does it.
    """
    monkeypatch.setattr(
        port.models.block,
        "get_branges_scales",
        lambda x, sample_drop_ratio: (torch.arange(len(x) // 2, device=x.device), 2.0),
    )
    _, block = _pair(torch.float32, init_values=0.1, drop_path=0.5)
    parameters = list(block.parameters())
    expected = _results(block, parameters, listed=True, wanted=wanted, dtype=torch.float32)
    block.compile(fullgraph=True, backend="aot_eager")
    found = _results(block, parameters, listed=True, wanted=wanted, dtype=torch.float32)
    _close(found[:-1], expected[:-1], 1e-5)
