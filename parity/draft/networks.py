"""Finds the class that is trained, a backbone and its heads, and what its parameters are called officially."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from parity.draft.configs import arguments_for
from parity.draft.definitions import Definition
from parity.draft.roles import SETTINGS, Roles, UnboundError, bind
from parity.draft.wiring import Found, call_lines, imported, place

__all__ = ["Network", "begun_groups", "network_of"]

_OFFICIAL = ((r"patch|ibot|mask|token", "ibot_head"), (r"class|cls|dino|head", "dino_head"))
_STUDENT: Roles = ((r"student\w*|model|network|net", "student"), *SETTINGS)


@dataclass(frozen=True)
class Network:
    """A class that holds a backbone and projection heads.

    Attributes:
        definition: the class.
        names: official's name by attribute, for attributes that are called otherwise.
    """

    definition: Definition
    names: dict[str, str]

    @property
    def told(self) -> str:
        """Where it is, and which of its attributes official calls otherwise."""
        renamed = ", ".join(f"{attribute} is official's {name}" for attribute, name in self.names.items())
        return f"{place(self.definition)}{': ' + renamed if renamed else ''}"


def network_of(found: Found) -> Network | None:
    """Return the first class of the fork that makes a projection head an attribute of its own beside a backbone."""
    head = found.best("head")
    if head is None:
        return None
    for definition in found.project.definitions():
        if definition.is_class and definition.home.own and definition.name != head.name:
            heads = [a for a, value in _attributes(definition) if _makes(value, head.name)]
            others = [a for a, value in _attributes(definition) if a not in heads and "backbone" in a.lower()]
            if heads and others:
                names = {a: official for a in dict.fromkeys(heads) if (official := _official(a)) not in ("", a)}
                names |= {a: "backbone" for a in others[:1] if a != "backbone"}
                return Network(definition, names)
    return None


def _attributes(definition: Definition) -> list[tuple[str, ast.expr]]:
    """Return what the constructor assigns to attributes of `self`."""
    node = definition.methods().get("__init__")
    return [
        (target.attr, part.value)
        for part in (ast.walk(node) if node is not None else ())
        if isinstance(part, ast.Assign)
        for target in part.targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    ]


def _makes(value: ast.expr, head: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == head for node in ast.walk(value))


def _official(attribute: str) -> str:
    return next((name for pattern, name in _OFFICIAL if re.search(pattern, attribute.lower())), "")


def begun_groups(found: Found) -> tuple[str, ...]:
    """Return the lines by which `parameter_groups` can begin: the network, its optimizer and the official names."""
    network, optimizer = network_of(found), found.best("optimizer")
    if network is None or optimizer is None:
        return ()
    try:
        arguments, _ = arguments_for(found, network.definition)
        known = {
            p.name: "arguments(config)" for p in optimizer.parameters() or () if p.name in ("args", "opts", "flags")
        }
        given = bind(optimizer.parameters() or (), _STUDENT, known)
    except UnboundError:
        return ()
    loop = found.best("training loop")
    where = place(loop) if loop is not None else "your training loop"
    return (
        "from parity.adapters.common import optimizer_rows",
        imported(network.definition),
        imported(optimizer),
        'with torch.device("meta"):',
        *(f"    {line}" for line in call_lines(f"student = {network.definition.name}", arguments)),
        *call_lines(f"optimizer = {optimizer.name}", given),
        "names = {id(p): official_name(name) for name, p in student.named_parameters()}",
        "table = {}",
        "for iteration in iterations:",
        f"    ...  # give optimizer.param_groups the rates of this iteration, as {where} does",
        "    table[iteration] = optimizer_rows(optimizer, names)",
        "return table",
    )
