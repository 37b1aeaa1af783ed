from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from forks import assert_no_alarm, assert_seen, check, fork, port
from torch import nn

from parity.adapters.official import OfficialStack
from parity.adapters.port import PortStack
from port.models.vision_transformer import DinoVisionTransformer

_get = DinoVisionTransformer.get_intermediate_layers


@pytest.mark.parametrize("recipe", ["default", "vitl14", "vitg14"])
def test_the_reference_and_port_pass_bit_for_bit(official_stack: OfficialStack, recipe: str) -> None:
    """In chunks, also where depth leaves a shorter one, and in one list; 6 results each, in fp32 and in fp64."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, "modules.features", recipe)
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared
        names = {comparison.name.rpartition("/")[0] for comparison in result.comparisons}
        assert {name.split("/")[1] for name in names} == {"no chunks", "2 chunks"}


def _one_block_late(self: Any, x: Any, n: Any = 1, **options: Any) -> Any:
    return _get(self, x, [i + 1 for i in n] if isinstance(n, list) else n, **options)


def _always_normed(self: Any, x: Any, n: Any = 1, norm: bool = True, **options: Any) -> Any:
    return _get(self, x, n, **options)


def _maps_transposed(self: Any, x: Any, n: Any = 1, reshape: bool = False, **options: Any) -> Any:
    found = _get(self, x, n, reshape=reshape, **options)
    return tuple((maps.mT.contiguous(), token) for maps, token in found) if reshape else found


def _no_class_token(self: Any, x: Any, n: Any = 1, return_class_token: bool = False, **options: Any) -> Any:
    return _get(self, x, n, **options)


@pytest.mark.parametrize(
    ("changed", "first"),
    [
        (_one_block_late, "blocks 0 and 2, as maps, with CLS token/0/patches"),
        (_always_normed, "last two blocks, no norm/0/patches"),
        (_maps_transposed, "blocks 0 and 2, as maps, with CLS token/0/patches"),
        (_no_class_token, "blocks 0 and 2, as maps, with CLS token/0/CLS token"),
    ],
)
def test_features_made_otherwise_diverge(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, changed: Callable[..., Any], first: str
) -> None:
    """Of other blocks, normed although not asked for, with rows and columns swapped, without the CLS token."""
    monkeypatch.setattr(DinoVisionTransformer, "get_intermediate_layers", changed)
    assert_seen(check(official_stack, fork(), "modules.features", "default", to_first=True), f"^features/.*{first}")


def test_a_plain_call_gives_the_normed_cls_token(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork whose plain call returns the token before the final norm diverges."""
    forward = DinoVisionTransformer.forward

    def unnormed(self: Any, x: Any, masks: Any = None, **options: Any) -> Any:
        if options:
            return forward(self, x, masks, **options)
        return self.forward_features(x)["x_prenorm"][:, 0]

    monkeypatch.setattr(DinoVisionTransformer, "forward", unnormed)
    assert_seen(
        check(official_stack, fork(), "modules.features", "default", to_first=True), "^features/no chunks/CLS token"
    )


def test_a_backbone_without_the_method_is_not_run(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never passed; the reason names the method and the stack. Official code builds its own backbone all the same."""

    def bare(self: PortStack, config: Any) -> nn.Module:
        return nn.Linear(1, 1)

    monkeypatch.setattr(PortStack, "build_backbone", bare)
    result = check(official_stack, fork(), "modules.features", "default")
    assert result.status == "not_run"
    assert result.reason == "the backbone of fork has no get_intermediate_layers"
