"""Parameter names in checkpoints: one flat spelling, whatever wrapped, chunked or nested the network."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["HEADS", "canonical", "canonical_state", "split_parts"]

HEADS = ("dino_head", "ibot_head")
NETWORKS = ("teacher", "student")

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUTER = re.compile(r"^(?:(?:model|state_dict)\.)+")
_CHUNKED = re.compile(r"(^|\.)blocks\.\d+\.(\d+)\.")
_PARAMETRIZED = re.compile(r"\.parametrizations\.weight\.original([01])$")


def canonical(name: str) -> str:
    """Return the unwrapped, unchunked spelling of a name, weight normalisation as `weight_g` and `weight_v`.

    `model.module.backbone.blocks.1.7.attn.qkv.weight` becomes `backbone.blocks.7.attn.qkv.weight`.
    """
    name = _OUTER.sub("", _WRAPPERS.sub("", name))
    name = _CHUNKED.sub(r"\1blocks.\2.", name)
    return _PARAMETRIZED.sub(lambda match: ".weight_" + "gv"[int(match.group(1))], name)


def canonical_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under canonical names.

    Where some are under `model` or `state_dict`, the rest (an optimizer's, say) is left out.

    Raises:
        ValueError: two names are the same once unwrapped.
    """
    renamed: dict[str, Tensor] = {}
    outer = {name: value for name, value in state.items() if _OUTER.match(_WRAPPERS.sub("", name))}
    for name, value in (outer or state).items():
        target = canonical(name)
        if target in renamed:
            raise ValueError(f"two tensors are called {target!r} once wrappers and chunks are stripped, e.g. {name!r}")
        renamed[target] = value
    return renamed


def split_parts(
    state: Mapping[str, Tensor], network: str | None = None
) -> tuple[dict[str, dict[str, Tensor]], str | None]:
    """Find a network in a state with canonical names, and take it apart.

    Args:
        state: a bare backbone; a network (`backbone.…`, `dino_head.…`, `ibot_head.…`); or both networks
            (`teacher.backbone.…`, `student.backbone.…`).
        network: `teacher` or `student`; None for the teacher where there is one.

    Returns:
        The tensors of `backbone`, `dino_head` and `ibot_head`, empty where absent, and the network that they
        are of, None where the names do not say.

    Raises:
        ValueError: `network` was asked for, and the file has only the other one.
    """
    present = [name for name in NETWORKS if any(key.startswith(f"{name}.") for key in state)]
    if network and present and network not in present:
        raise ValueError(f"it holds the {present[0]} only, not the {network}")
    chosen = (network or present[0]) if present else None
    if chosen:
        state = _below(state, f"{chosen}.")
    heads = {head: _below(state, f"{head}.") for head in HEADS}
    backbone = _below(state, "backbone.")
    if not backbone:
        backbone = {key: value for key, value in state.items() if key.partition(".")[0] not in HEADS}
    return {"backbone": backbone, **heads}, chosen


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
