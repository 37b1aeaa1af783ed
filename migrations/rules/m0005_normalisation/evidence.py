"""What shows that a name holds a mask over tokens, or features of all tokens, and its place where it is unpacked."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import Binding

__all__ = ["acts_as_mask", "arity", "is_dense", "is_mask", "position"]

_MASK_NAME = re.compile(r"(?i)mask(?!ed(?!_pos))")
"""`student_masked` are tokens, `bool_masked_pos` is a mask."""

_OTHER_MASK = re.compile(
    r"(?i)attn|attention|pad|causal|key|segm|pixel|loss_mask|mask_?(token|ratio|weight|gen|prob|feat)"
)


def is_mask(name: str) -> bool:
    """Whether a name is one that masks over tokens have."""
    return bool(_MASK_NAME.search(name)) and not _OTHER_MASK.search(name)


def acts_as_mask(file: SourceFile, node: cst.Name, found: list[Binding]) -> bool:
    """Whether a name of unseen origin is called a mask, or used as only a mask is."""
    opaque = (b.kind in ("parameter", "loop", "unpack") or isinstance(b.value, cst.Call | cst.Subscript) for b in found)
    if not all(opaque):
        return False
    scope = file.function(node)
    text = file.code(scope) if scope is not None else file.text
    methods = r"\.(bool|nonzero|count_nonzero|logical_not)\("
    used = re.search(rf"~\s*{node.value}\b|\b{node.value}({methods}|\.dtype (==|is) torch\.bool)", text)
    return is_mask(node.value) or used is not None


def is_dense(file: SourceFile, node: cst.BaseExpression) -> bool:
    """Whether a tensor has rows of tokens: three sides are read off it, or its first two are flattened."""
    scope = file.function(node)
    if scope is None or not isinstance(node, cst.Name | cst.Attribute):
        return False
    name = re.escape(file.code(node))
    three = rf"\w+\s*,\s*\w+\s*,\s*\w+\s*=\s*{name}\.(shape\b|size\(\))"
    return bool(re.search(rf"{three}|\b{name}\b[^=\n]*\.flatten\(0, 1\)", file.code(scope)))


def _targets(binding: Binding) -> list[cst.BaseExpression]:
    target = binding.node.targets[0].target if isinstance(binding.node, cst.Assign) else None
    return [element.value for element in target.elements] if isinstance(target, cst.Tuple | cst.List) else []


def arity(binding: Binding) -> int:
    """Return how many names an unpacked tuple has."""
    return len(_targets(binding))


def position(binding: Binding) -> int:
    """Return the place of a name in an unpacked tuple; -1 where it has none."""
    names = [target.value if isinstance(target, cst.Name) else "" for target in _targets(binding)]
    return names.index(binding.name) if binding.name in names else -1
