"""What a fork's functions take as their configuration: official's nested keys, or command-line flags."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from parity.draft.definitions import Definition, Function, Parameter
from parity.draft.roles import CONFIG_NAMES, FLAGS_NAMES, SETTINGS, UnboundError, bind, role_of
from parity.draft.wiring import Found, place

__all__ = ["Flags", "Layout", "arguments_for", "flags_of", "layout_of"]

_SECTIONS = frozenset(
    ("student", "teacher", "optim", "crops", "dino", "ibot", "train", "compute_precision", "evaluation", "MODEL")
)
_LOOP_NAMES = (
    "build_optimizer", "build_schedulers", "apply_optim_scheduler", "FSDPCheckpointer", "PeriodicCheckpointer",
    "MetricLogger", "make_dataset", "make_data_loader",
)  # fmt: skip
_MODEL_METHODS = ("forward_backward", "get_params_groups", "update_teacher")


@dataclass(frozen=True)
class Layout:
    """A training loop that kept official's: the definitions by which parity can run it as it stands.

    Attributes:
        loop: `do_train`.
        model: `SSLMetaArch`.
        transformer: the class of the backbone, beside whose constructors a small architecture is registered.
    """

    loop: Definition
    model: Definition
    transformer: Definition


def layout_of(found: Found) -> Layout | str:
    """Return the fork's official-like training loop, or what it lacks."""
    loop = found.official("training loop", "do_train")
    model = found.official("model", "SSLMetaArch")
    transformer = found.best("vision transformer")
    if loop is None or model is None or transformer is None:
        lacking = "do_train" if loop is None else "SSLMetaArch" if model is None else "vision transformer"
        own = found.best("training loop")
        instead = f" (it trains by {place(own)})" if own is not None and loop is None else ""
        return f"the fork has no {lacking}{instead}, so that its training cannot be run as official's is"
    absent = [name for name in _LOOP_NAMES if name not in found.project.names(loop.module)]
    absent += [f"{model.name}.{name}" for name in _MODEL_METHODS if name not in model.methods()]
    if absent:
        return f"{place(loop)} lacks {', '.join(absent)}, by which parity runs official's loop on a CPU"
    return Layout(loop, model, transformer)


@dataclass(frozen=True)
class Flags:
    """The command-line flags that a fork's functions read.

    Attributes:
        parser: the function that makes the parser; None where none was found.
        known: flag to expression in `config`.
        defaults: flags of no role, which keep the parser's defaults.
        lacking: flags that are read and have neither a role nor a default.
    """

    parser: Definition | None
    known: dict[str, str]
    defaults: tuple[str, ...]
    lacking: tuple[str, ...]


def flags_of(found: Found) -> Flags:
    """Return every flag that the fork declares or reads as `args.NAME`."""
    parser = found.best("flags")
    declared = set(_declared(parser)) if parser is not None else set()
    read = {name for module in found.project.modules for name in _read(module.tree)}
    names = sorted(declared | read)
    known = {name: value for name in names if (value := role_of(name, SETTINGS)) is not None}
    rest = [name for name in names if name not in known]
    defaults = tuple(name for name in rest if name in declared)
    return Flags(parser, known, defaults, tuple(name for name in rest if name not in declared))


def _declared(parser: Definition) -> Iterator[str]:
    for call in ast.walk(parser.node):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument" and call.args:
            names = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            long = next((n for n in names if n.startswith("--")), names[0] if names else "")
            if long:
                yield long.lstrip("-").replace("-", "_")


def _read(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and FLAGS_NAMES.fullmatch(node.value.id)
        ):
            yield node.attr


def arguments_for(found: Found, definition: Definition, method: str = "") -> tuple[list[str], frozenset[str]]:
    """Return the arguments of a call that takes a configuration or settings by name, and the helpers that it uses.

    Raises:
        UnboundError: a parameter is not known, or a configuration has another structure than official's.
    """
    parameters = definition.parameters(method) or ()
    node = definition.methods().get(method or "__init__") if definition.is_class else definition.node
    assert node is None or isinstance(node, Function)
    known: dict[str, str] = {}
    uses: set[str] = set()
    for parameter in parameters:
        given = _configuration(found, parameter, node)
        if given:
            known[parameter.name] = given
            uses.add("scaled" if given == "config" else "arguments")
    bound = bind(parameters, SETTINGS, known)
    if any("config.optim.lr" in argument for argument in bound):
        uses.add("scaled")  # parity's own configuration has 0 there
    return bound, frozenset(uses)


def _configuration(found: Found, parameter: Parameter, node: Function | None) -> str:
    """Return what to give to a parameter that takes a whole configuration; empty where it is no such parameter.

    Raises:
        UnboundError: it is one, of a structure that parity does not know.
    """
    name = parameter.name.lower()
    if not (CONFIG_NAMES.fullmatch(name) or FLAGS_NAMES.fullmatch(name)) or node is None:
        return ""
    chains = list(_chains(node, parameter.name))
    nested = [chain for chain in chains if chain[0] in _SECTIONS]
    if chains and len(nested) == len(chains):
        return "config"
    if nested or not chains:
        if not chains and CONFIG_NAMES.fullmatch(name):
            return "config"  # passed on whole, to be read elsewhere
        raise UnboundError(parameter)
    flags = flags_of(found)
    if FLAGS_NAMES.fullmatch(name) and not {chain[0] for chain in chains} & set(flags.lacking):
        return "arguments(config)"
    raise UnboundError(parameter)


def _chains(node: ast.AST, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the attributes read of a name, `cfg.optim.lr` and `cfg.optim["lr"]` as `("optim", "lr")`."""
    inner: set[int] = set()
    for part in ast.walk(node):
        if not isinstance(part, ast.Attribute | ast.Subscript) or id(part) in inner:
            continue
        chain: list[str] = []
        at: ast.expr = part
        while isinstance(at, ast.Attribute | ast.Subscript):
            inner.add(id(at))
            if isinstance(at, ast.Attribute):
                chain.append(at.attr)
            elif isinstance(at.slice, ast.Constant):
                chain.append(str(at.slice.value))
            at = at.value
        if isinstance(at, ast.Name) and at.id == name and chain:
            yield tuple(reversed(chain))
