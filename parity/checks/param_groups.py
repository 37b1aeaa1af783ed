"""Family `param_groups`: the effective (lr, weight decay) of every parameter by name, over the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from parity.attribution.param_groups import attribute_groups, recorded_rules
from parity.checks.base import Check, Context, Observation
from parity.compare import exact, missing
from parity.names import canonical_mapping
from parity.recipes import with_architecture
from parity.results import Comparison, Exhibit
from parity.stack import claims_bitwise, stack_name
from parity.tables import row
from port.config import load_recipe

__all__ = ["CHECKS", "moments"]

Rows = Mapping[str, Mapping[str, Any]]

_GROUPS = ("dinov2/utils/param_groups.py:13-103", "dinov2/train/train.py:58-60, 112-119")


def moments(config: DictConfig) -> dict[str, int]:
    """Return the iterations at which rows are compared; `frozen` is the last with the last layer at lr 0."""
    epoch = config.train.OFFICIAL_EPOCH_LENGTH
    frozen = max(config.optim.freeze_last_layer_epochs * epoch - 1, 0)
    warmup, total = config.optim.warmup_epochs * epoch, config.optim.epochs * epoch
    return {
        "first": 0,
        "frozen": frozen,
        "warm-up": warmup // 2,
        "peak": warmup,
        "middle": total // 2,
        "end": total - 1,
    }


def _small(context: Context) -> Iterator[Observation]:
    """The recipe's small model, chunked as the recipe says."""
    recipe = context.required_recipe()
    yield from _table(context, recipe.config())


def _real(context: Context) -> Iterator[Observation]:
    """The recipe's real architecture, built without memory on the meta device."""
    recipe = context.required_recipe()
    config = recipe.config()
    real = load_recipe(recipe.base)
    for key in ("student", "dino", "ibot", "optim", "teacher", "crops", "train"):
        config[key] = real[key]
    yield from _table(context, with_architecture(config))


def _table(context: Context, config: DictConfig) -> Iterator[Observation]:
    when = moments(config)
    iterations = sorted(set(when.values()))
    reference = context.reference.parameter_groups(config, iterations)
    subject = context.subject.parameter_groups(config, iterations)
    bitwise = claims_bitwise(context.subject)
    diverged = False
    for label, iteration in when.items():
        rows = _checked(subject.get(iteration, {}), stack_name(context.subject))
        comparisons = list(_rows(label, reference[iteration], rows, bitwise=bitwise))
        diverged |= not all(c.passed for c in comparisons)
        yield from comparisons
    if diverged:
        subjects = {i: _checked(subject.get(i, {}), stack_name(context.subject)) for i in iterations}
        yield from attribute_groups(config, reference, subjects, when)
        yield _exhibit(reference[when["peak"]], subjects[when["peak"]])
    if config.optim.layerwise_decay != 1.0:
        yield from recorded_rules(context.subject, config, context.reference, when["peak"], reference[when["peak"]])


def _checked(rows: Mapping[str, Any], owner: str) -> dict[str, dict[str, Any]]:
    """Accept `(lr, weight_decay)` pairs beside mappings, and strip wrappers from the names."""
    spelled = {
        name: dict(value) if isinstance(value, Mapping) else {"lr": value[0], "weight_decay": value[1]}
        for name, value in rows.items()
    }
    return canonical_mapping(spelled, owner)


def _rows(label: str, reference: Rows, subject: Rows, *, bitwise: bool) -> Iterator[Comparison]:
    for name, official in reference.items():
        mine = subject.get(name)
        if mine is None:
            why = subject.get(name.split(".")[0], {}).get("error", "")
            yield Comparison(
                f"{label}/{name}", "T0", False, False, reference=_pair(official), subject="missing", note=str(why)
            )
            continue
        yield row(
            f"{label}/{name}",
            [official["lr"], official["weight_decay"]],
            [mine["lr"], mine["weight_decay"]],
            bitwise=bitwise,
            note="lr, weight decay",
        )
        if "is_last_layer" in mine:
            yield exact(f"{label}/{name}/is_last_layer", bool(official["is_last_layer"]), bool(mine["is_last_layer"]))
    for name in subject:
        if name not in reference and "error" not in subject[name]:
            yield missing(f"{label}/{name}", in_subject=True)


def _pair(values: Mapping[str, Any]) -> str:
    return f"{values['lr']:.6g}, {values['weight_decay']:.6g}"


def _exhibit(reference: Rows, subject: Rows) -> Exhibit:
    """At the peak: one row per distinct pair of (lr, wd) on both sides, with a name and how many share it."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for name, official in reference.items():
        mine = subject.get(name)
        key = (
            f"{official['lr']:.4g}",
            f"{mine['lr']:.4g}" if mine else "missing",
            f"{official['weight_decay']:.4g}",
            f"{mine['weight_decay']:.4g}" if mine else "missing",
        )
        grouped.setdefault(key, []).append(name)
    differing = [(key, names) for key, names in grouped.items() if key[0] != key[1] or key[2] != key[3]]
    rows = [
        {
            "parameter": names[0] + (f"  (+{len(names) - 1})" if len(names) > 1 else ""),
            "lr official": key[0],
            "lr yours": key[1],
            "wd official": key[2],
            "wd yours": key[3],
        }
        for key, names in differing[:24]
    ]
    hidden = len(differing) - len(rows)
    title = "effective (lr, weight decay) at the peak, where they differ"
    return Exhibit("table", title + (f" ({hidden} more rows in the JSON report)" if hidden > 0 else ""), tuple(rows))


CHECKS = (
    Check(
        "param_groups.small",
        "L2",
        "effective (lr, wd) of every parameter of the small models: first, warm-up, peak, middle, end",
        _GROUPS,
        ("parameter_groups",),
        _small,
        recipes="all",
    ),
    Check(
        "param_groups.real",
        "L2",
        "the same at the recipe's real size (ViT-L/16, ViT-L/14, ViT-g/14)",
        _GROUPS,
        ("parameter_groups",),
        _real,
        recipes="main",
    ),
)
