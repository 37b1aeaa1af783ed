"""The size of the crop that a transform makes, as the program writes it."""

from __future__ import annotations

import re
from functools import lru_cache

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.nodes import attribute_chain, callee, find_all, literal

__all__ = ["crop_size", "definitions"]

_CROP = re.compile(r"crop", re.IGNORECASE)
_SIZE = re.compile(r"size", re.IGNORECASE)
_DEPTH = 3


def crop_size(file: SourceFile, function: cst.FunctionDef, transform: cst.CSTNode) -> str | None:
    """Return the size argument of the crop within a transform: `224` or `global_crops_size`; None if none is found.

    Args:
        file: where the transform is used.
        function: where it is used.
        transform: `self.global_1`, or a name.
    """
    found = definitions(file, function, transform)
    sizes = {size for statement in found if (size := _size_in(file, statement, _DEPTH)) is not None}
    return sizes.pop() if len(sizes) == 1 else None


def definitions(
    file: SourceFile, function: cst.FunctionDef, transform: cst.CSTNode
) -> list[cst.Assign | cst.AnnAssign]:
    """Return the assignments that make a transform: of `self.x` in its class, of a name in its function or module."""
    chain = attribute_chain(transform)
    if not chain:  # a part of a call or subscript: nothing is known to bind it
        return []
    owner = next((n for n in file.ancestors(function) if isinstance(n, cst.ClassDef)), None)
    scopes = [owner] if chain.startswith("self.") else [function, file.module]
    for scope in scopes:
        if scope is None:
            continue
        if found := _assigned(scope).get(chain):
            return found
    return []


@lru_cache(maxsize=4096)
def _assigned(scope: cst.CSTNode) -> dict[str, list[cst.Assign | cst.AnnAssign]]:
    """Return the assignments in a scope by what they bind; kept, since a size is looked for through many names."""
    found: dict[str, list[cst.Assign | cst.AnnAssign]] = {}
    assigns: list[cst.Assign | cst.AnnAssign] = [*find_all(scope, cst.Assign), *find_all(scope, cst.AnnAssign)]
    for assign in assigns:
        for target in dict.fromkeys(_targets(assign)):
            if assign.value is not None:
                found.setdefault(target, []).append(assign)
    return found


def _targets(assign: cst.Assign | cst.AnnAssign) -> list[str]:
    targets = [t.target for t in assign.targets] if isinstance(assign, cst.Assign) else [assign.target]
    return [attribute_chain(target) for target in targets]


@lru_cache(maxsize=16384)
def _size_in(file: SourceFile, assign: cst.Assign | cst.AnnAssign, depth: int) -> str | None:
    """Return the size of the first crop in a definition, or in the definition of a name that it uses."""
    assert assign.value is not None
    calls = find_all(assign.value, cst.Call)
    for call in calls:
        if _CROP.search(callee(call)) and (given := _size_argument(call)) is not None:
            return _written(file, assign, given)
    for call in calls:
        sized = [a.value for a in call.args if a.keyword is not None and _is_crop_size(a.keyword.value)]
        if sized:
            return _written(file, assign, sized[0])
    function = file.function(assign)
    if depth and function is not None:
        for name in [*find_all(assign.value, cst.Name), *find_all(assign.value, cst.Attribute)]:
            for other in definitions(file, function, name):
                if other is not assign and (size := _size_in(file, other, depth - 1)) is not None:
                    return size
    return None


def _is_crop_size(keyword: str) -> bool:
    """`crop_size`, `global_crops_size`, `input_size`; not `kernel_size`."""
    return bool(_SIZE.search(keyword)) and not re.search(r"kernel|patch|batch", keyword)


def _size_argument(call: cst.Call) -> cst.BaseExpression | None:
    for arg in call.args:
        if arg.keyword is not None and _is_crop_size(arg.keyword.value):
            return arg.value
    plain = [arg for arg in call.args if arg.keyword is None and not arg.star]
    return plain[0].value if plain else None


def _written(file: SourceFile, assign: cst.CSTNode, size: cst.BaseExpression) -> str:
    """Return the size as written; a parameter with a literal default is that literal, as others may write it."""
    function = file.function(assign)
    if isinstance(size, cst.Name) and function is not None:
        for param in find_all(function.params, cst.Param):
            if param.name.value == size.value and (value := literal(param.default)) is not ...:
                return repr(value)
    return file.code(size)
