"""Signatures of differences 0006 and 0007: which rule gives the subject's learning rates and weight decays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from parity.attribution.group_rules import attribute_rules
from parity.compare import missing
from parity.names import canonical_mapping
from parity.results import Comparison, Finding
from parity.stack import stack_name
from parity.tables import row

__all__ = ["attribute_groups", "recorded_rules"]

Rows = Mapping[str, Mapping[str, Any]]
Table = Mapping[int, Rows]

_FIX6 = "migration 0006 (schedule on every decayed group): python -m parity explain 0006"
_FIX7 = "migration 0007 (layer-wise lr decay): python -m parity explain 0007"
_GROUPS = "dinov2/utils/param_groups.py:56-89"
_CLOSE = 1e-9


def attribute_groups(
    config: DictConfig, reference: Table, subject: Table, when: Mapping[str, int]
) -> Iterator[Finding]:
    """Explain a parameter table that differs from official's.

    Args:
        config: the recipe.
        reference: official rows by iteration and name.
        subject: the subject's rows, canonical names; a module that failed maps to {'error': message}.
        when: iteration by moment, see `parity.checks.param_groups.moments`.
    """
    peak_official, peak_mine = reference[when["peak"]], subject[when["peak"]]
    yield from _failed_modules(peak_official, peak_mine)
    shared = [name for name in peak_official if name in peak_mine]
    if not shared:
        return
    yield from _uniform_lr(shared, peak_official, peak_mine)
    yield from _layer_rules(config, shared, peak_official, peak_mine)
    yield from _constant_wd(shared, reference, subject, when)
    yield from _group_parity(shared, peak_official, peak_mine)
    yield from _decayed_exceptions(shared, peak_official, peak_mine)
    yield from attribute_rules(shared, peak_official, peak_mine, config.optim.layerwise_decay)
    yield from _last_layer(shared, reference[when["frozen"]], subject[when["frozen"]])


def _failed_modules(official: Rows, mine: Rows) -> Iterator[Finding]:
    for module, values in mine.items():
        if "error" in values:
            count = sum(name.startswith(module + ".") for name in official)
            yield Finding(
                "0007",
                f"no groups for {module} ({count} parameters): {values['error']}. A head has no layers; official "
                "gives its parameters multiplier 1",
                _FIX7,
                "dinov2/utils/param_groups.py:57-71",
            )


def _uniform_lr(names: list[str], official: Rows, mine: Rows) -> Iterator[Finding]:
    rates = {official[name]["lr"] for name in names}
    if len({mine[name]["lr"] for name in names}) == 1 and len(rates) > 1:
        top = max(rates)
        wrong = sum(not _close(official[n]["lr"], mine[n]["lr"]) for n in names)
        lowest = min(names, key=lambda n: official[n]["lr"])
        yield Finding(
            "0007",
            f"one learning rate for all: {mine[names[0]]['lr']:.4g} at the peak for every parameter; official "
            f"multiplies it by {min(rates) / top:.4g} ({lowest}) to 1, so {wrong} of {len(names)} parameters differ",
            _FIX7,
            _GROUPS,
        )


def _layer_rules(config: DictConfig, names: list[str], official: Rows, mine: Rows) -> Iterator[Finding]:
    """Multipliers by layer: tokens in the wrong layer, chunk read as layer, a missing patch-embed factor."""
    base = max(official[name]["lr"] for name in names)
    factors = {n: (official[n]["lr"] / base, _multiplier(mine[n], base)) for n in names}
    wrong = {n: pair for n, pair in factors.items() if not _close(*pair)}
    scale = max(pair[1] for pair in factors.values())
    if len({pair[1] for pair in factors.values()}) == 1 or all(_close(o * scale, m) for o, m in factors.values()):
        # One rate for all is named elsewhere; all rates off by one factor is the schedule, not the layers.
        return
    tokens = [n for n in wrong if n.endswith(("mask_token", "register_tokens", "cls_token", "pos_embed"))]
    for name in tokens:
        left, right = wrong[name]
        yield Finding(
            "0007",
            f"{name} has multiplier {right:.4g}, official {left:.4g} ({_ratio(right, left)} times): embeddings and "
            "tokens belong to layer 0",
            _FIX7,
            "dinov2/utils/param_groups.py:26-41",
        )
    blocks = [n for n in names if ".blocks." in n]
    if blocks and config.student.block_chunks and sum(n in wrong for n in blocks) > len(blocks) // 2:
        distinct = len({f"{factors[n][1]:.9g}" for n in blocks})  # rates divided by the base round differently
        depth = len({n.split(".blocks.")[1].split(".")[0] for n in blocks})
        if distinct < depth:
            count = sum(n in wrong for n in names)
            yield Finding(
                "0007",
                f"chunked blocks: {depth} blocks have {distinct} multipliers, as many as chunks; the chunk index of "
                f"`blocks.CHUNK.LAYER.…` is read as the layer ({count} of {len(names)} parameters wrong)",
                _FIX7,
                "dinov2/utils/param_groups.py:41-46, 58-61",
            )
    patch = [n for n in wrong if "patch_embed" in n and not tokens]
    if patch:
        left, right = wrong[patch[0]]
        yield Finding(
            "0007",
            f"{patch[0]} has multiplier {right:.4g}, official {left:.4g}: decay ** (layers + 1) times "
            f"patch_embed_lr_mult {config.optim.patch_embed_lr_mult:g}",
            _FIX7,
            "dinov2/utils/param_groups.py:48, 86-87",
        )


def _constant_wd(names: list[str], reference: Table, subject: Table, when: Mapping[str, int]) -> Iterator[Finding]:
    """Decayed parameters whose weight decay the schedule never reaches."""
    first, last = reference[when["first"]], reference[when["end"]]
    decayed = [n for n in names if last[n]["weight_decay"] > 0]
    stuck = [
        n
        for n in decayed
        if len({subject[i][n]["weight_decay"] for i in subject if n in subject[i]}) == 1
        and not _close(subject[when["end"]][n]["weight_decay"], last[n]["weight_decay"])
    ]
    if not stuck:
        return
    value = subject[when["end"]][stuck[0]]["weight_decay"]
    start, end = first[stuck[0]]["weight_decay"], last[stuck[0]]["weight_decay"]
    modules = sorted({n.split(".")[0] for n in stuck})
    times = f"{end / value:.3g} times less than intended at the end" if value else "none at all"
    yield Finding(
        "0006",
        f"{len(stuck)} of {len(decayed)} decayed parameters ({', '.join(modules)}) keep weight decay {value:g} at "
        f"every step; official's schedule takes all of them from {start:.3g} to {end:.3g}: {times}",
        _FIX6,
        "dinov2/train/train.py:112-119",
    )


def _group_parity(names: list[str], official: Rows, mine: Rows) -> Iterator[Finding]:
    """`if i % 2 == 0` on a list of groups that does not alternate."""
    if any("group" not in mine[n] for n in names):
        return
    top = max(official[n]["weight_decay"] for n in names)
    follows = all(_close(mine[n]["weight_decay"], top) == (mine[n]["group"] % 2 == 0) for n in names)
    wrong = sum(not _close(official[n]["weight_decay"], mine[n]["weight_decay"]) for n in names)
    if follows and wrong:
        groups = 1 + max(mine[n]["group"] for n in names)
        yield Finding(
            "0006",
            f"weight decay follows the parity of the group index (`i % 2 == 0`), which fits six alternating groups "
            f"but not these {groups}: wrong for {wrong} of {len(names)} parameters",
            "give each group its wd_multiplier and set weight_decay = wd * wd_multiplier",
            "dinov2/train/train.py:112-119",
        )


def _decayed_exceptions(names: list[str], official: Rows, mine: Rows) -> Iterator[Finding]:
    """Parameters that official never decays: biases, norms, LayerScale."""
    kinds = {"gamma": "LayerScale gamma", "norm": "norm", ".bias": "bias"}
    for pattern, label in kinds.items():
        exempt = [n for n in names if pattern in n and official[n]["weight_decay"] == 0]
        decayed = [n for n in exempt if mine[n].get("wd_multiplier", mine[n]["weight_decay"]) > 0]
        if decayed:
            yield Finding(
                "0007",
                f"{len(decayed)} of {len(exempt)} {label} parameters are decayed (first: {decayed[0]}, weight decay "
                f"multiplier 1); official never decays them",
                _FIX7,
                "dinov2/utils/param_groups.py:83-84",
            )


def _last_layer(names: list[str], official: Rows, mine: Rows) -> Iterator[Finding]:
    frozen = [n for n in names if "last_layer" in n and official[n]["lr"] == 0 and mine[n]["lr"] > 0]
    if frozen and any(official[n]["lr"] > 0 for n in names):
        yield Finding(
            "0007",
            f"the last layer is not frozen: {frozen[0]} has lr {mine[frozen[0]]['lr']:.4g} in the first epoch, "
            "official 0 (the gradients and Adam's moments go on, Q41)",
            _FIX7,
            "dinov2/train/train.py:98-100, 115-119",
        )


def recorded_rules(
    subject: Any, config: DictConfig, reference: Any, peak: int, official: Rows
) -> Iterator[Comparison | Finding]:
    """Judge register tokens where the reference predates them, by the rule that official code has had since.

    Official b8931f7 puts `register_tokens` in layer 0 beside `cls_token` (`dinov2/utils/param_groups.py:32,40`),
    so their row must equal the one that the reference gives to `cls_token`.
    """
    if "registers" in reference.features or config.student.num_register_tokens:
        return
    if "registers" not in getattr(subject, "features", ("registers",)):
        return  # the subject says, as the reference does, that it has no registers whose layer could be wrong
    config = config.copy()
    config.student.num_register_tokens = 4
    rows = canonical_mapping(subject.parameter_groups(config, [peak])[peak], stack_name(subject))
    name, expected = "backbone.register_tokens", official["backbone.cls_token"]
    label = f"recorded rule/{name}"
    if name not in rows:
        yield missing(label, in_subject=False)
        return
    mine = rows[name] if isinstance(rows[name], Mapping) else {"lr": rows[name][0], "weight_decay": rows[name][1]}
    base = max(values["lr"] for values in official.values())
    rates = [_multiplier(mine, base), mine["weight_decay"]]
    wanted = [_multiplier({"lr": expected["lr"]}, base), expected["weight_decay"]]
    comparison = row(
        label, wanted, rates, bitwise=False, note="lr multiplier, weight decay; official b8931f7: as cls_token"
    )
    yield comparison
    if not comparison.passed:
        yield Finding(
            "0007",
            f"register_tokens have multiplier {rates[0]:.4g}, official b8931f7 {wanted[0]:.4g} "
            f"({_ratio(rates[0], wanted[0])} times): layer 0, as cls_token. This reference predates registers: judged "
            "by the rule recorded from b8931f7",
            _FIX7,
            "dinov2/utils/param_groups.py:32, 40 at b8931f7",
        )


def _multiplier(values: Mapping[str, Any], base: float) -> float:
    """The subject's own multiplier where it says so: its loop may overwrite the rate afterwards."""
    return float(values["lr_multiplier"] if "lr_multiplier" in values else values["lr"] / base if base else 0.0)


def _ratio(left: float, right: float) -> str:
    return f"{left / right:.3g}" if right else "infinitely many"


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= _CLOSE * max(abs(left), abs(right))
