"""Wires the backbone and the heads."""

from __future__ import annotations

import ast

from parity.draft.configs import arguments_for
from parity.draft.definitions import Definition, Function, Project, statements
from parity.draft.roles import SETTINGS, Roles, UnboundError, bind, head_roles, role_of
from parity.draft.wiring import Found, Gap, Wired, call_lines, imported, literals, place

__all__ = ["factory_keywords", "wire_build_backbone", "wire_build_head"]


def wire_build_backbone(found: Found) -> Wired | Gap:
    """`build_backbone`: the fork's own function that builds its transformer, else the class itself."""
    transformer = found.best("vision transformer")
    if transformer is None:
        return Gap("no vision transformer was found, by the name DinoVisionTransformer or by its arguments")
    for builder in _builders(found.project, transformer):
        try:
            arguments, uses = arguments_for(found, builder)
        except UnboundError:
            continue
        body = (imported(builder), *_scaled(uses), *call_lines(f"return {builder.name}", arguments))
        return Wired(body, (place(builder), place(transformer)), (), uses)
    try:
        known = {**literals(found.project, transformer), **factory_keywords(found.project, transformer)}
        arguments = bind(transformer.parameters() or (), SETTINGS, known)
    except UnboundError as error:
        return Gap(f"{place(transformer)}: {error}", (place(transformer),))
    through = [_as_module(transformer)] if any("_module." in argument for argument in arguments) else []
    lines = [imported(transformer), *through]
    return Wired(
        (*lines, *call_lines(f"return {transformer.name}", arguments)),
        (place(transformer),),
        (),
        frozenset({"import_module"} if len(lines) > 1 else ()),
    )


def _scaled(uses: frozenset[str]) -> tuple[str, ...]:
    return ("config = scaled(config)",) if "scaled" in uses else ()


def _as_module(transformer: Definition) -> str:
    return f'_module = import_module("{transformer.module.name}")'


def _builders(project: Project, transformer: Definition) -> list[Definition]:
    """Return the fork's functions that return a transformer of settings they are given, rather than of one size."""
    return [
        found
        for found in project.definitions()
        if isinstance(found.node, Function) and found.home.own and _returns(found.node, transformer.name)
        # A constructor of one size passes the rest on: `vit_large(patch_size=16, **kwargs)`.
        and found.node.args.kwarg is None and found.parameters()
    ]  # fmt: skip


def _returns(node: Function, name: str) -> bool:
    """Return whether a function returns a call of `name`, directly or by a variable."""
    bound = {
        target.id
        for part in ast.walk(node)
        if isinstance(part, ast.Assign) and _calls(part.value, name)
        for target in part.targets
        if isinstance(target, ast.Name)
    }
    returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
    return any(_calls(value, name) or (isinstance(value, ast.Name) and value.id in bound) for value in returned)


def _calls(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == name


def factory_keywords(project: Project, transformer: Definition) -> dict[str, str]:
    """Return the keywords that the fork's constructors of one size (`vit_large`) give beside sizes.

    They are what distinguishes the fork's models from the class's defaults, `block_fn` in official code. Names of the
    module are reached through `_module`. Only what all these constructors agree on is returned.
    """
    known = {parameter.name for parameter in transformer.parameters() or ()}
    names = project.names(transformer.module)
    seen: list[dict[str, str]] = []
    for node in statements(transformer.module.tree.body):
        if isinstance(node, Function) and node.args.kwarg is not None and _returns(node, transformer.name):
            call = next(
                part for part in ast.walk(node) if isinstance(part, ast.Call) and _calls(part, transformer.name)
            )
            given = {k.arg: k.value for k in call.keywords if k.arg in known and role_of(k.arg or "", SETTINGS) is None}
            seen.append({str(name): _reached(value, names) for name, value in given.items()})
    return {name: value for name, value in seen[0].items() if all(o.get(name) == value for o in seen)} if seen else {}


def _reached(value: ast.expr, names: set[str]) -> str:
    """Return an expression with the module's names written as attributes of `_module`."""

    class Through(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return ast.Attribute(ast.Name("_module"), node.id) if node.id in names else node

    return ast.unparse(Through().visit(ast.parse(ast.unparse(value), mode="eval").body))


def wire_build_head(found: Found) -> Wired | Gap:
    """`build_head`: the projection head of either loss."""
    head = found.best("head")
    if head is None:
        return Gap("no projection head was found, by the name DINOHead or by in_dim, out_dim and bottleneck_dim")
    roles: Roles = tuple((pattern, value.replace("config.KIND", "sizes")) for pattern, value in head_roles("KIND"))
    try:
        arguments = bind(head.parameters() or (), roles, literals(found.project, head))
    except UnboundError as error:
        return Gap(f"{place(head)}: {error}", (place(head),))
    bound = {argument.split("=")[0] for argument in arguments if "sizes." in argument}
    given = ", ".join(sorted(bound))
    remark = "" if len(bound) == 4 else f"of the sizes that official configures, it takes only {given}"
    return Wired(
        (
            imported(head),
            'sizes = config.dino if kind == "dino" else config.ibot',
            *call_lines(f"return {head.name}", arguments),
        ),
        (place(head),),
        (remark,) if remark else (),
    )
