"""Questions about the source of the opened reference, answered from its syntax trees: nothing is matched as text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache

from parity.reference import Reference

__all__ = ["attributes_read", "calls", "function", "keyword", "strings_read", "tree", "trees", "union_annotations"]


def trees(reference: Reference) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of every Python file that was verified."""
    for path, data in sorted(reference.files.items()):
        if path.endswith(".py"):
            yield path, _parsed(path, data)


def tree(reference: Reference, path: str) -> ast.Module:
    """Return the syntax tree of a file below `dinov2/`."""
    return _parsed(path, reference.files[f"dinov2/{path}"])


@lru_cache(maxsize=256)
def _parsed(path: str, data: bytes) -> ast.Module:
    """Parse a file once, however many questions are asked about it; nobody changes the tree."""
    return ast.parse(data, path)


def function(module: ast.Module, name: str) -> ast.FunctionDef:
    """Return a function of a module, wherever it is defined.

    Raises:
        LookupError: there is none.
    """
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"the reference has no function {name}")


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    """Return the calls of a function or method of this name below a node, in the order of their lines."""
    found = [n for n in ast.walk(node) if isinstance(n, ast.Call) and _last_name(n.func) == name]
    return sorted(found, key=lambda call: call.lineno)


def keyword(call: ast.Call, name: str) -> str:
    """Return the source of a keyword argument, or nothing."""
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), "")


def attributes_read(reference: Reference, *chain: str) -> list[str]:
    """Return `FILE:LINE` of every place that reads such a chain: `("train", "seed")` is `….train.seed`.

    A subscript by a constant counts as an attribute, as `cfg.train["seed"]` reads the same.
    """
    wanted = list(chain)
    return [
        f"{path}:{getattr(node, 'lineno', 0)}"
        for path, module in trees(reference)
        for node in ast.walk(module)
        if isinstance(getattr(node, "ctx", None), ast.Load) and _names(node)[-len(wanted) :] == wanted
    ]


def strings_read(reference: Reference, text: str) -> list[str]:
    """Return `FILE:LINE` of every use of a string other than as the key that is assigned to."""
    return [
        f"{path}:{node.lineno}"
        for path, module in trees(reference)
        for node in _loaded(module)
        if isinstance(node, ast.Constant) and node.value == text
    ]


def _loaded(module: ast.Module) -> list[ast.AST]:
    """Return the nodes of a module without the keys that are assigned to."""
    nodes = list(ast.walk(module))
    stored = {id(n.slice) for n in nodes if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store)}
    return [node for node in nodes if id(node) not in stored]


def union_annotations(reference: Reference) -> list[str]:
    """Return `FILE:LINE` of every annotation with `|` that Python evaluates when the function is defined."""
    found = []
    for path, module in trees(reference):
        if any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in module.body):
            continue
        for node in ast.walk(module):
            annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
            if isinstance(annotation, ast.AST) and any(_is_union(n) for n in ast.walk(annotation)):
                found.append(f"{path}:{getattr(node, 'lineno', 0)}")
    return found


def _is_union(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)


def _last_name(node: ast.AST) -> str:
    names = _names(node)
    return names[-1] if names else ""


def _names(node: ast.AST) -> list[str]:
    """Return the names of an attribute chain, outermost last; what is no name is left out."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [*_names(node.value), node.attr]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return [*_names(node.value), node.slice.value]
    return []
