"""The edits that swap a group builder for `port`'s, and let the loop read the multipliers."""

from __future__ import annotations

import libcst as cst

from migrations.engine.edits import insert_after, insert_before, replace
from migrations.engine.model import Edit
from migrations.engine.source import SourceFile
from migrations.flow.groups import Group
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import attribute_chain, callee, find_all
from migrations.rules.m0006_weight_decay.reading import Reading
from migrations.rules.m0006_weight_decay.sites import Loop
from migrations.rules.m0007_layerwise.layers import Formula

__all__ = ["builder_of", "loop_edits", "multiplier", "swap_layerwise", "swap_pair"]

_ATOMS = (cst.Name, cst.Attribute, cst.Subscript, cst.Call, cst.Float, cst.Integer)
_DOC = '"""Groups by layer: the learning rate falls towards the input; biases, norms and gammas do not decay."""'


def multiplier(loop: Loop, value: cst.BaseExpression) -> str:
    """Return the key of the group that is a factor of a value; empty where none is."""
    reading = Reading.whole(loop)

    def factor(node: cst.BaseExpression) -> str:
        if isinstance(node, cst.Name) and node.value in reading.names:
            named = reading.names[node.value]
            return factor(named) if named is not node else ""
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Multiply):
            return factor(node.left) or factor(node.right)
        if isinstance(node, cst.IfExp):
            return factor(node.body) or factor(node.orelse)
        key = reading.key(node)
        return key if key != "lr" else ""

    return factor(value)


def builder_of(groups: list[Group], lookup: Lookup) -> tuple[SourceFile, cst.FunctionDef] | str:
    """Return the one function that writes the groups out of a module's parameters, or why there is none."""
    functions = {id(group.file.function(group.node)): group for group in groups}
    group = groups[0]
    function = group.file.function(group.node)
    if len(functions) != 1 or function is None:
        return "the groups are not written in one function"
    model = _model(function)
    reads = [c for c in find_all(function.body, cst.Call) if callee(c) == "named_parameters"]
    if not model or not reads or any(attribute_chain(call.func) != f"{model}.named_parameters" for call in reads):
        return f"`{function.name.value}` does not go through the parameters of its first argument"
    if find_all(function.body, cst.Yield) or len(find_all(function.body, cst.Return)) != 1:
        return f"`{function.name.value}` does not end in one `return`"
    meant = [d for d in lookup.definitions(function.name.value) if d.node is function]
    used = lookup.calls_of(meant[0]) if meant else []
    homes = {id(file.function(call)) for file, call in used}
    if len(homes) > 1:
        return f"`{function.name.value}` is called in {len(homes)} functions, maybe for other optimizers"
    return group.file, function


def swap_pair(file: SourceFile, function: cst.FunctionDef) -> tuple[Edit, ...]:
    """Make a function return `port`'s fused groups of its first argument."""
    call = f"port.optim.get_params_groups_with_decay({_model(function)}, lr_decay_rate=0.9, patch_embed_lr_mult=0.2)"
    return _body(file, function, [_DOC, f"groups = {call}", "return port.optim.fuse_params_groups(groups)"])


def swap_layerwise(formula: Formula) -> tuple[Edit, ...]:
    """Make a layer-wise builder return `port`'s groups, with its own parameters; empty where that does not fit."""
    function, file = formula.function, formula.file
    if function is None or "named_parameters" not in file.code(function):
        return ()
    names = [param.name.value for param in function.params.params]
    decay = attribute_chain(formula.power.left)
    keys = ('"lr_multiplier"', '"wd_multiplier"')
    if len(names) < 2 or decay not in names[1:] or any(key not in file.code(function) for key in keys):
        return ()
    factor = next((name for name in names[1:] if "patch" in name), "0.2")
    call = f"port.optim.get_params_groups_with_decay({names[0]}, lr_decay_rate={decay}, patch_embed_lr_mult={factor})"
    return _body(file, function, [_DOC, f"return {call}"])


def loop_edits(loop: Loop) -> tuple[Edit, ...]:
    """Multiply what a loop assigns as learning rate by the group's own multiplier."""
    edits = []
    for write in loop.writes:
        code = loop.file.code(write.value)
        wrapped = code if isinstance(write.value, _ATOMS) or write.value.lpar else f"({code})"
        edits.append(replace(loop.file, write.value, f'{wrapped} * {loop.group}["lr_multiplier"]'))
    return tuple(edits)


def _model(function: cst.FunctionDef) -> str:
    names = [param.name.value for param in (*function.params.posonly_params, *function.params.params)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    return names[0] if names else ""


def _body(file: SourceFile, function: cst.FunctionDef, lines: list[str]) -> tuple[Edit, ...]:
    """Put lines in the place of a function's statements, and import `port.optim`."""
    first, last = function.body.body[0], function.body.body[-1]
    begin, end = file.span(first)[0], file.span(last)[1]
    indent = file.data[file.line_span(file.line(first))[0] : begin].decode()
    body = Edit(file.path, begin, end, f"{file.newline}{indent}".join(lines))
    return (body, *_import(file))


def _import(file: SourceFile) -> tuple[Edit, ...]:
    code = "import port.optim"
    lines = [line for line in file.module.body if isinstance(line, cst.SimpleStatementLine)]
    imports = [line for line in lines if isinstance(line.body[0], cst.Import | cst.ImportFrom)]
    if any(file.code(line) == code for line in imports):
        return ()
    if imports:
        return (insert_after(file, imports[-1], code),)
    first, doc = file.module.body[0], file.module.get_docstring() is not None
    return (insert_after(file, first, f"\n{code}") if doc else insert_before(file, first, f"{code}\n\n"),)
