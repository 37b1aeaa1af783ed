"""Wires what belongs to a run: schedules, defaults, parameter groups, initial state, a step and a hundred."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from parity.draft.configs import Layout, arguments_for, layout_of
from parity.draft.definitions import Definition, Function
from parity.draft.networks import begun_groups, network_of
from parity.draft.roles import UnboundError
from parity.draft.wiring import Found, Gap, Wired, call_lines, imported, place

__all__ = [
    "wire_default_config",
    "wire_distributed_step",
    "wire_init_state",
    "wire_parameter_groups",
    "wire_recipe_configs",
    "wire_schedules",
    "wire_start_state",
    "wire_training_step",
    "wire_training_trajectory",
]

_KEYS = (
    ("last_layer_lr", ("last_layer", "lastlayer")),
    ("teacher_temp", ("temp",)),
    ("momentum", ("mom", "ema")),
    ("wd", ("wd", "weight_decay")),
    ("lr", ("lr", "learning_rate")),
)
_STEP = ("return run_official_step(layout(config), scaled(config), state, batch, iteration, seed)",)
_RECIPES = ("vitl16_short", "vitl14", "vitg14")


def wire_schedules(found: Found) -> Wired | Gap:
    """`schedules`: every value of what the fork's builder returns."""
    builder = found.best("schedules")
    if builder is None:
        return Gap("no function was found that builds the schedules (build_schedulers)")
    keys = _returned_keys(builder)
    if not keys:
        return Gap(
            f"{place(builder)} returns neither a tuple nor a dict whose names tell the schedules", (place(builder),)
        )
    try:
        arguments, uses = arguments_for(found, builder)
    except UnboundError as error:
        return Gap(f"{place(builder)}: {error}", (place(builder),))
    remarks = []
    rows = [f'    "{key}": values(built[{index}]),' for key, index in keys.items()]
    if "last_layer_lr" not in keys and "lr" in keys:
        rows.append(f'    "last_layer_lr": values(built[{keys["lr"]}]),')
        remarks.append("the last layer has no schedule of its own, so that it follows the learning rate's")
    lines = [imported(builder), *(["config = scaled(config)"] if "scaled" in uses else [])]
    lines += [*call_lines(f"built = {builder.name}", arguments), "return {", *rows, "}"]
    return Wired(tuple(lines), (place(builder),), tuple(remarks), uses | {"values"})


def _returned_keys(builder: Definition) -> dict[str, str]:
    """Return the index, as source, of each schedule in what a builder returns; empty where that is not told."""
    node = builder.node
    assert isinstance(node, Function)
    returned = [part.value for part in _own(node) if isinstance(part, ast.Return) and part.value is not None]
    value = returned[-1] if returned else None
    if isinstance(value, ast.Name):
        assigned = [p.value for p in _own(node) if isinstance(p, ast.Assign) and _names(p.targets) == [value.id]]
        value = assigned[-1] if assigned else None
    named: list[tuple[str, str]] = []
    if isinstance(value, ast.Tuple | ast.List):
        named = [(ast.unparse(element), str(i)) for i, element in enumerate(value.elts)]
    elif isinstance(value, ast.Dict):
        named = [(str(k.value), repr(k.value)) for k in value.keys if isinstance(k, ast.Constant)]
    elif isinstance(value, ast.Call) and getattr(value.func, "id", "") == "dict":
        named = [(k.arg, repr(k.arg)) for k in value.keywords if k.arg]
    found: dict[str, str] = {}
    for name, index in named:
        key = next((key for key, words in _KEYS if any(word in name.lower() for word in words)), None)
        if key is not None and key not in found:
            found[key] = index.replace("'", '"')
    return found


def _own(node: Function) -> Iterator[ast.AST]:
    """Yield what a function does itself, in order, functions that it defines left out."""
    for part in ast.iter_child_nodes(node):
        stack = [part]
        while stack:
            at = stack.pop(0)
            yield at
            if not isinstance(at, Function | ast.Lambda):
                stack[:0] = ast.iter_child_nodes(at)


def _names(targets: list[ast.expr]) -> list[str]:
    return [target.id for target in targets if isinstance(target, ast.Name)]


def wire_default_config(found: Found) -> Wired | Gap:
    """`default_config`: the YAML file of defaults."""
    defaults = _default_files(found)
    if not defaults:
        return Gap("no YAML file of defaults with official's keys was found (ssl_default_config.yaml)")
    body = (f'return OmegaConf.to_container(OmegaConf.load(FORK_PATH / "{defaults[0]}"))',)
    return Wired(body, tuple(defaults[:1]), (), frozenset({"OmegaConf"}))


def _default_files(found: Found) -> list[str]:
    return [name for name in found.yaml_files if "default" in name.rsplit("/", 1)[-1] and "ssl" in name]


def wire_recipe_configs(found: Found) -> Wired | Gap:
    """`recipe_configs`: the YAML files of official's three recipes over the defaults."""
    defaults = _default_files(found)
    files = {name: path for path in found.yaml_files for name in _RECIPES if path.rsplit("/", 1)[-1] == f"{name}.yaml"}
    if not defaults or not files:
        return Gap(f"no YAML files called {', '.join(f'{name}.yaml' for name in _RECIPES)} were found beside defaults")
    rows = [f'    "{name}": "{path}",' for name, path in files.items()]
    body = (
        "files = {",
        *rows,
        "}",
        f'defaults = OmegaConf.load(FORK_PATH / "{defaults[0]}")',
        "merged = {name: OmegaConf.merge(defaults, OmegaConf.load(FORK_PATH / file)) for name, file in files.items()}",
        "return {name: OmegaConf.to_container(config) for name, config in merged.items()}",
    )
    return Wired(body, tuple(files.values()), (), frozenset({"OmegaConf"}))


def _pieces(found: Found) -> tuple[str, ...]:
    """Return where the pieces of a step are, for the person who puts them together."""
    parts = ("model", "optimizer", "parameter groups", "scheduler of groups", "schedules", "training loop")
    network = network_of(found)
    pieces = tuple(_where(found.best(part)) for part in parts if found.best(part) is not None)
    return (*((network.told,) if network is not None else ()), *pieces)


def _where(definition: Definition | None) -> str:
    assert definition is not None
    names = ", ".join(p.name for p in definition.parameters() or ())
    return f"{place(definition)}({'' if definition.is_class else names})"


def _by_layout(
    found: Found, lines: tuple[str, ...], uses: set[str], remark: str, begun: tuple[str, ...] = ()
) -> Wired | Gap:
    """Wire a capability by the fork's own training loop, where that kept official's; else leave it, `begun`."""
    layout = layout_of(found)
    if isinstance(layout, str):
        return Gap(layout, _pieces(found), begun)
    return Wired(lines, tuple(_sources(layout)), (remark,), frozenset({"layout", "scaled", *uses}))


def _sources(layout: Layout) -> Iterator[str]:
    yield from (place(layout.loop), place(layout.model))


def wire_parameter_groups(found: Found) -> Wired | Gap:
    """`parameter_groups`: the model's groups in the fork's optimizer under the fork's schedules."""
    lines = ("return run_official_groups(layout(config), scaled(config), iterations)",)
    remark = "groups, optimizer and schedules as the training loop uses them"
    return _by_layout(found, lines, {"run_official_groups"}, remark, begun_groups(found))


def wire_init_state(found: Found) -> Wired | Gap:
    """`init_state`: the state of the fork's model as it is built."""
    layout = layout_of(found)
    if isinstance(layout, str):
        return Gap(layout, _pieces(found))
    lines = (
        imported(layout.model),
        "layout(config)",
        "torch.manual_seed(seed)",
        f"model = {layout.model.name}(scaled(config))",
        "return {name: value.detach().clone() for name, value in model.state_dict().items()}",
    )
    return Wired(lines, (place(layout.model),), (), frozenset({"layout", "scaled", "torch"}))


def wire_start_state(found: Found) -> Wired | Gap:
    """`start_state`: the state of the fork's model as its training prepares it."""
    built = wire_init_state(found)
    layout = layout_of(found)
    if isinstance(built, Gap) or isinstance(layout, str):
        return built
    *lines, state = built.body
    prepared = "prepare_for_distributed_training"
    if prepared not in layout.model.methods():
        return Gap(f"{place(layout.model)} has no {prepared}", _pieces(found))
    return replace(built, body=(*lines, f"model.{prepared}()", state))


def wire_distributed_step(found: Found) -> Wired | Gap:
    """`distributed_step`: one iteration of the fork's own loop on each rank."""
    remark = "one iteration on each rank, gradients averaged in place of FSDP"
    return _by_layout(found, _STEP, {"run_official_step"}, remark)


def wire_training_step(found: Found) -> Wired | Gap:
    """`training_step`: one iteration of the fork's own loop."""
    remark = "the fork's own training loop for one iteration; only what touches files, CUDA and FSDP is replaced"
    return _by_layout(found, _STEP, {"run_official_step"}, remark)


def wire_training_trajectory(found: Found) -> Wired | Gap:
    """`training_trajectory`: the fork's own loop over many iterations."""
    lines = ("return run_official_trajectory(layout(config), scaled(config), state, batches, snapshots, seed)",)
    return _by_layout(found, lines, {"run_official_trajectory"}, "the fork's own training loop, iteration by iteration")
