"""The edits that swap a generator for `port`'s."""

from __future__ import annotations

import libcst as cst

from migrations.engine.edits import insert_after, insert_before, replace
from migrations.engine.model import Edit
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.calls import parameters
from migrations.flow.nodes import argument, attribute_chain, find_all
from migrations.rules.m0003_masks.blocks import Generator
from migrations.rules.m0003_masks.draws import Draw, shape_of

__all__ = ["import_edit", "swap_class", "swap_draw"]

_KNOWN = ("num_masking_patches", "min_num_patches", "min_aspect", "max_aspect")
_METHODS = frozenset(("__init__", "__call__", "__repr__", "get_shape", "_mask"))


def import_edit(file: SourceFile, module: str, name: str, alias: str = "") -> list[Edit]:
    """Return the edit that imports a name below a file's other imports; none where it is imported already."""
    line = f"from {module} import {name}" + (f" as {alias}" if alias else "")
    if line in file.text.splitlines():
        return []
    body = list(file.module.body)
    lines = [s for s in body if isinstance(s, cst.SimpleStatementLine)]
    imports = [s for s in lines if isinstance(s.body[0], cst.Import | cst.ImportFrom)]
    if imports:
        return [insert_after(file, imports[-1], line)]
    return [insert_before(file, body[0], line)] if body else []


def swap_draw(one: Draw) -> tuple[list[Edit], str]:
    """Return the edits that put official's block masks in a draw's place, and what they assume.

    No edits where the array's rows and grid are not written where it is drawn.
    """
    file, shape = one.file, shape_of(one.file, one.node)
    if one.kind != "bernoulli" or shape is None:
        return [], ""
    sides, made = shape
    rows = file.code(sides[0])
    height, width, assumed = _grid(file, sides[1:])
    if not height:
        return [], ""
    code = f"draw_block_masks({rows}, ({height}, {width}), mask_ratio_min_max=(0.1, 0.5), mask_sample_probability=0.5)"
    if len(sides) == 3:
        code += f".view({rows}, {height}, {width})"
    device = argument(made, "device")
    root = attribute_chain(made.func).split(".")[0]
    if device is not None:
        code += f".to({file.code(device)})"
    elif root in ("np", "numpy"):
        code += ".numpy()"
    return [*import_edit(file, "port.data.block_masks", "draw_block_masks"), replace(file, one.node, code)], assumed


def _grid(file: SourceFile, sides: list[cst.BaseExpression]) -> tuple[str, str, str]:
    """Return height and width as they are written, and what that assumes."""
    if len(sides) == 2:
        return file.code(sides[0]), file.code(sides[1]), ""
    number = sides[0]
    found = resolve(file, number) if isinstance(number, cst.Name) else []
    product = found[0].value if len(found) == 1 and found[0].kind == "assign" else number
    if isinstance(product, cst.BinaryOperation) and isinstance(product.operator, cst.Multiply):
        return file.code(product.left), file.code(product.right), ""
    if find_all(number, cst.Call):
        return "", "", ""
    code = file.code(number)
    base = code if isinstance(number, cst.Name | cst.Attribute | cst.Subscript | cst.Integer) else f"({code})"
    side = f"int({base} ** 0.5)"
    return side, side, f"assumes that the {code} patches are a square grid"


def swap_class(one: Generator) -> list[Edit]:
    """Return the edits that make a class of generators a kind of `port`'s, with its own name and arguments.

    None where the class does more than draw, or is not at the top of its file.
    """
    file, owner = one.file, one.owner
    if owner is None or not isinstance(file.parent(owner), cst.Module) or owner.bases or owner.decorators:
        return []
    methods = {m.name.value: m for m in find_all(owner, cst.FunctionDef)}
    init, call = methods.get("__init__"), methods.get("__call__")
    if not set(methods) <= _METHODS or init is None or call is None:
        return []
    names = parameters(init)
    size = names[0] if names else ""
    if not size or not set(names[1:]) <= set(_KNOWN) or len(parameters(call)) != 1:
        return []
    base = "MaskingGenerator" if owner.name.value != "MaskingGenerator" else "OfficialMaskingGenerator"
    taken = file.newline.join(_class_lines(one, base, init, call, size, names[1:]))
    alias = base if base != "MaskingGenerator" else ""
    return [*import_edit(file, "port.data.masking", "MaskingGenerator", alias), replace(file, owner, taken)]


def _class_lines(
    one: Generator, base: str, init: cst.FunctionDef, call: cst.FunctionDef, size: str, passed: list[str]
) -> list[str]:
    file, owner = one.file, one.owner
    assert owner is not None
    count = parameters(call)[0]
    flat = any(word in file.code(call) for word in (".flatten()", ".ravel()", ".reshape(-1)", ".view(-1)"))
    arguments = "".join(f", {name}={name}" for name in passed)
    lines = [
        f"class {owner.name.value}({base}):",
        f'    """Official block masks, capped at half the grid{", flat" if flat else ""}."""',
        "",
        f"    def __init__({file.code(init.params)}):",
        f"        height, width = {size} if isinstance({size}, tuple) else ({size}, {size})",
        f"        super().__init__((height, width), max_num_patches=height // 2 * width{arguments})",
    ]
    if flat:
        lines += [
            "",
            f"    def __call__({file.code(call.params)}):",
            f"        return super().__call__({count}).flatten()",
        ]
    return lines
