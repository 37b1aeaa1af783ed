"""Wires masks, the numbers of patches asked for, and the batch."""

from __future__ import annotations

import ast
import re

from parity.draft.configs import layout_of
from parity.draft.definitions import Definition
from parity.draft.roles import Roles, UnboundError, bind
from parity.draft.wiring import Found, Gap, Wired, call_lines, called_with, imported, literals, place

__all__ = ["wire_collate", "wire_make_mask", "wire_mask_counts"]

_COUNT = r"num_masking_patches|n_masking_patches|num_masked.*|n_masked.*|num_patches_to_mask|target.*"
_GRID: Roles = (
    (r"input_size|window_size|grid_size|size|shape|grid", "input_size"),
    (r"h|height|n_patches_h|h_patches|grid_h|rows", "input_size[0]"),
    (r"w|width|n_patches_w|w_patches|grid_w|cols", "input_size[1]"),
    (_COUNT, "num_masking_patches"),
    (r"max_num_patches|max_patches(_per_block)?", "max_num_patches"),
    (r"mask_ratio|ratio|mask_prob(ability)?", "num_masking_patches / (input_size[0] * input_size[1])"),
    (r"batch_size|n_rows|bs|b", "1"),
    (r"n_patches|n_tokens|num_patches|num_tokens", "input_size[0] * input_size[1]"),
    (r"device", '"cpu"'),
)

_COLLATE: Roles = (
    (r"samples(_list)?|batch|inputs|data", "samples"),
    (r"mask_ratio(_tuple|_min_max|_range)?", "ratios"),
    (r"mask_ratio_min|min_mask_ratio", "ratios[0]"),
    (r"mask_ratio_max|max_mask_ratio", "ratios[1]"),
    (r"mask_(sample_)?prob(ability)?", "probability"),
    (r"dtype", "dtype"),
    (r"n_tokens|num_tokens|n_patches|num_patches", "n_tokens"),
    (r"mask(ing)?_gen(erator)?", "mask_generator"),
)


def wire_make_mask(found: Found) -> Wired | Gap:
    """`make_mask`: a generator's call, or a function that draws masks."""
    generator = found.best("mask generator")
    if generator is None:
        return Gap("no mask generator was found, by the name MaskingGenerator or by get_shape, _mask and __call__")
    try:
        if not generator.is_class:
            if not any(_asks(p.name) for p in generator.parameters() or ()):
                return Gap(f"{place(generator)} takes neither a number of patches nor a ratio", (place(generator),))
            arguments = bind(generator.parameters() or (), _GRID)
            return Wired((imported(generator), *call_lines(f"return {generator.name}", arguments)), (place(generator),))
        given = generator.parameters("__call__")
        if given is None:
            return Gap(f"{place(generator)} cannot be called", (place(generator),))
        call = bind(given, _GRID)
        # A count that the call takes is for each mask; the constructor's would be a default for it.
        asked = any("=num_masking_patches" in argument for argument in call)
        made = [p for p in generator.parameters() or () if p.required or not (asked and re.fullmatch(_COUNT, p.name))]
        arguments = bind(made, _GRID, literals(found.project, generator))
    except UnboundError as error:
        return Gap(f"{place(generator)}: {error}", (place(generator),))
    lines = (imported(generator), *call_lines(f"generator = {generator.name}", arguments))
    return Wired((*lines, *call_lines("return generator", call)), (place(generator, "__call__"),))


def _asks(name: str) -> bool:
    """Return whether a parameter says how many patches are to be masked."""
    return re.fullmatch(rf"{_COUNT}|mask_ratio|ratio", name) is not None


def _collate_call(collate: Definition) -> list[str]:
    """Return the call of a collate function with the values that official's takes, by name.

    Raises:
        UnboundError: one of its parameters is none of them.
    """
    return call_lines(f"return {collate.name}", bind(collate.parameters() or (), _COLLATE))


def wire_mask_counts(found: Found) -> Wired | Gap:
    """`mask_counts`: what the collate function asks of a mask generator that only records."""
    collate = found.best("collate")
    if collate is None:
        return Gap("no collate function was found that takes a mask generator")
    try:
        call = _collate_call(collate)
    except UnboundError as error:
        return Gap(f"{place(collate)}: {error}", (place(collate),))
    if not any("=mask_generator" in line for line in call):
        return Gap(f"{place(collate)} takes no mask generator that could be asked", (place(collate),))
    return Wired(
        (
            imported(collate),
            "",
            "def collated(samples, ratios, probability, dtype, n_tokens, mask_generator):",
            *(f"    {line}" for line in call),
            "",
            "return recorded_counts(collated, n_rows, n_tokens, mask_ratio_min_max, mask_probability)",
        ),
        (place(collate),),
        (),
        frozenset({"recorded_counts"}),
    )


def wire_collate(found: Found) -> Wired | Gap:
    """`collate`: as the fork's own training loop builds it, so that the cap on masks is the fork's too."""
    layout = layout_of(found)
    if not isinstance(layout, str):
        return Wired(
            (
                "collated = collate_of_official_training(layout(config), scaled(config))",
                "return collated([(sample, ()) for sample in samples], dtype=dtype)",
            ),
            (place(layout.loop),),
            ("the collate function and the mask generator that the fork's own training loop builds",),
            frozenset({"collate_of_official_training", "layout", "scaled"}),
        )
    collate, generator = found.best("collate"), found.best("mask generator")
    places = tuple(place(d) for d in (collate, generator) if d is not None)
    if collate is None or generator is None:
        lacking = "collate function that takes a mask generator" if collate is None else "mask generator"
        return Gap(f"no {lacking} was found", places)
    built = [f"{generator.name}({_arguments(c)})" for c in called_with(found.project, generator.name)]
    try:
        call = _collate_call(collate)
    except UnboundError as error:
        return Gap(f"{place(collate)}: {error}", places)
    begin = (
        imported(collate),
        imported(generator),
        "side = config.crops.global_crops_size // config.student.patch_size",
        "samples = [(sample, ()) for sample in samples]",
        "ratios, probability = tuple(config.ibot.mask_ratio_min_max), config.ibot.mask_sample_probability",
        f"n_tokens, mask_generator = side * side, {built[0] if built else generator.name + '(...)'}",
        *call,
    )
    where = "; ".join(built) or "nowhere that could be read"
    return Gap(
        f"how the fork builds its mask generator, with which cap, stands in code of its own: {where}", places, begin
    )


def _arguments(call: ast.Call) -> str:
    parts = [ast.unparse(a) for a in call.args] + [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
    return ", ".join(parts)
