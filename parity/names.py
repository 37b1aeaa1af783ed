"""Parameter names: one spelling for the same tensor, whatever wrapped or chunked it.

Official spells a block `blocks.3.…`, `blocks.0.3.…` (chunked, `dinov2/models/vision_transformer.py:154-161`),
adds `_fsdp_wrapped_module.` under FSDP (`dinov2/utils/param_groups.py:73`); DDP adds `module.`, torch.compile
`_orig_mod.`; and weight normalisation is `weight_g`, `weight_v` or `parametrizations.weight.original0/1`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from parity.errors import SubjectError

__all__ = ["canonical", "canonical_mapping"]

Value = TypeVar("Value")

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_CHUNKED = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")
_PARAMETRIZED = re.compile(r"\.parametrizations\.weight\.original([01])$")


def canonical(name: str) -> str:
    """Return the unwrapped, unchunked, old-style spelling of a parameter name.

    `module.backbone.blocks.1.7.attn.qkv.weight` becomes `backbone.blocks.7.attn.qkv.weight`;
    `dino_head.last_layer.parametrizations.weight.original0` becomes `dino_head.last_layer.weight_g`.
    """
    name = _WRAPPERS.sub("", name)
    name = _CHUNKED.sub(r"\1blocks.\2.", name)
    return _PARAMETRIZED.sub(lambda match: ".weight_" + "gv"[int(match.group(1))], name)


def canonical_mapping(values: Mapping[str, Value], owner: str) -> dict[str, Value]:
    """Return `values` under canonical names.

    Raises:
        SubjectError: two names of `owner` denote the same tensor once unwrapped.
    """
    renamed: dict[str, Value] = {}
    for name, value in values.items():
        target = canonical(name)
        if target in renamed:
            raise SubjectError(
                f"{owner} has two tensors called {target!r} once wrappers and chunks are stripped "
                f"(the second is {name!r}); expected one: rename one of them in the adapter"
            )
        renamed[target] = value
    return renamed
