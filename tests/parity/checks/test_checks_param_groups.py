from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from forks import Fork, assert_no_alarm, assert_seen, check, fork, port
from omegaconf import DictConfig

from parity.adapters.official import OfficialStack
from parity.checks.param_groups import moments
from parity.recipes import RECIPES

Rows = dict[str, dict[str, Any]]
Change = Callable[[Rows, DictConfig], Any]

MAIN = ("default", "vitl14", "vitg14")
EPOCH = 10


@pytest.mark.parametrize("recipe", MAIN)
def test_the_reference_and_port_pass_bit_for_bit(official_stack: OfficialStack, recipe: str) -> None:
    """The rate and the decay of every parameter at six moments."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, "param_groups.small", recipe)
        assert_no_alarm(result)
        assert result.bitwise_equal >= result.compared - 1  # the recorded rule on registers compares a quotient


def test_real_architectures_pass(official_stack: OfficialStack) -> None:
    """ViT-L/16 as official builds it: 24 blocks in four chunks, on the meta device."""
    result = check(official_stack, port(), "param_groups.real", "default")
    assert_no_alarm(result)
    assert any("backbone.blocks.23.attn.qkv.weight" in c.name for c in result.comparisons)


def test_moments_are_the_turns_of_the_schedules() -> None:
    """First and last step, last frozen one, half and end of warm-up, and the middle."""
    config = next(r for r in RECIPES if r.name == "default").config()
    assert moments(config) == {
        "first": 0,
        "frozen": EPOCH - 1,
        "warm-up": EPOCH,
        "peak": 2 * EPOCH,
        "middle": 6 * EPOCH,
        "end": 12 * EPOCH - 1,
    }


def altered(change: Change) -> Any:
    """A fork whose rows were changed in place, at every iteration."""

    def parameter_groups(config: DictConfig, iterations: Sequence[int]) -> dict[int, Rows]:
        table: dict[int, Rows] = port().parameter_groups(config, iterations)
        for rows in table.values():
            change(rows, config)
        return table

    return fork(parameter_groups=parameter_groups)


def _decay(rows: Rows) -> float:
    return max(float(row["weight_decay"]) for row in rows.values())


def _plain_rows(rows: Rows) -> None:
    """Leave the rate and the decay alone, as a fork without official's multipliers offers them."""
    for row in rows.values():
        for extra in ("lr_multiplier", "wd_multiplier", "is_last_layer", "group"):
            row.pop(extra, None)


def _decayed_biases(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for name, row in rows.items():
        if name.endswith(".bias"):
            row["weight_decay"] = _decay(rows)


def _decayed_scales(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for name, row in rows.items():
        if name.endswith("gamma"):
            row["weight_decay"] = _decay(rows)


def _undecayed_tokens(rows: Rows, config: DictConfig) -> None:
    for name in ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed"):
        rows[name]["weight_decay"] = 0.0


def _undecayed_lengths(rows: Rows, config: DictConfig) -> None:
    rows["dino_head.last_layer.weight_g"]["weight_decay"] = 0.0


def _plain_patch_embedding(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for name, row in rows.items():
        if "patch_embed" in name:
            row["lr"] /= config.optim.patch_embed_lr_mult


def _chunk_as_layer(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for name, row in rows.items():
        if ".blocks." in name:
            layer, chunk = (int(name.split(".")[3]), int(name.split(".")[2]))
            row["lr"] *= config.optim.layerwise_decay ** (layer - chunk)


def _one_rate(rows: Rows, config: DictConfig) -> None:
    top = rows["backbone.norm.weight"]["lr"]
    _plain_rows(rows)
    for row in rows.values():
        row["lr"] = top


def _one_layer_off(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for name, row in rows.items():
        if ".blocks." in name:
            row["lr"] *= config.optim.layerwise_decay


def _token_at_full_rate(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    rows["backbone.mask_token"]["lr"] = rows["backbone.norm.weight"]["lr"]


def _constant_decay(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for row in rows.values():
        row["weight_decay"] = config.optim.weight_decay if row["weight_decay"] > 0 else 0.0


def _trained_last_layer(rows: Rows, config: DictConfig) -> None:
    _plain_rows(rows)
    for name, row in rows.items():
        if "last_layer" in name:
            row["lr"] = rows["backbone.norm.weight"]["lr"]


def _failed_head(rows: Rows, config: DictConfig) -> None:
    for name in [n for n in rows if n.startswith("dino_head")]:
        del rows[name]
    rows["dino_head"] = {"error": "AttributeError: 'DINOHead' has no attribute 'blocks'"}


@pytest.mark.parametrize(
    ("change", "first", "finding", "words"),
    [
        (_decayed_biases, r"^first/backbone.*bias$", "0007", "bias parameters are decayed"),
        (_decayed_scales, r"^first/backbone.blocks.*gamma$", "0007", "LayerScale gamma parameters are decayed"),
        (_undecayed_tokens, "^first/backbone.cls_token$", None, ""),
        (_undecayed_lengths, "^first/dino_head.last_layer.weight_g$", None, ""),
        (_plain_patch_embedding, "/backbone.patch_embed", "0007", "times patch_embed_lr_mult 0.2"),
        (_chunk_as_layer, r"^(frozen|warm-up)/backbone.blocks.1", "0007", "4 blocks have 2 multipliers"),
        (_one_rate, "/backbone.cls_token", "0007", "one learning rate for all"),
        (_one_layer_off, r"/backbone.blocks.0", None, ""),
        (_token_at_full_rate, "/backbone.mask_token", "0007", "backbone.mask_token has multiplier 1"),
        (_constant_decay, r"/backbone", "0006", "keep weight decay 0.04 at every step"),
        (_trained_last_layer, "^frozen/dino_head.last_layer", "0007", "the last layer is not frozen"),
        (_failed_head, "^first/dino_head", "0007", "no groups for dino_head (8 parameters): AttributeError"),
        (lambda rows, config: rows.pop("backbone.mask_token"), "^first/backbone.mask_token$", None, ""),
        (lambda rows, config: rows.update(extra=dict(rows["backbone.cls_token"])), "^first/extra$", None, ""),
    ],
)
def test_a_faulty_table_is_seen(
    official_stack: OfficialStack, change: Change, first: str, finding: str | None, words: str
) -> None:
    """Multipliers of rate and decay, and parameters that are missing, left over or without groups."""
    result = check(official_stack, altered(change), "param_groups.small", "default")
    assert_seen(result, first, finding, words)
    assert any(exhibit.kind == "table" for exhibit in result.exhibits)


def test_a_last_layer_that_is_only_marked_wrongly_is_seen(official_stack: OfficialStack) -> None:
    """The mark is compared where a stack offers it: rates may agree after the freeze by chance."""

    def unmarked(rows: Rows, config: DictConfig) -> None:
        rows["dino_head.last_layer.weight_v"]["is_last_layer"] = False

    result = check(official_stack, altered(unmarked), "param_groups.small", "default")
    assert_seen(result, "^first/dino_head.last_layer.weight_v/is_last_layer$")


def test_every_moment_is_compared(official_stack: OfficialStack) -> None:
    """A rate that is wrong at the last step alone is found there alone."""

    def parameter_groups(config: DictConfig, iterations: Sequence[int]) -> dict[int, Rows]:
        table: dict[int, Rows] = port().parameter_groups(config, iterations)
        table[moments(config)["end"]]["backbone.norm.weight"]["lr"] *= 1 + 1e-9
        return table

    result = check(official_stack, fork(parameter_groups=parameter_groups), "param_groups.small", "default")
    assert [c.name for c in result.diverged] == ["end/backbone.norm.weight"]


def test_register_tokens_are_judged_by_the_recorded_rule(official_stack: OfficialStack) -> None:
    """April 2023 has none; a fork that trains them at the full rate is measured against b8931f7's rule."""

    def fast(rows: Rows, config: DictConfig) -> None:
        if "backbone.register_tokens" in rows:
            _plain_rows(rows)
            rows["backbone.register_tokens"]["lr"] = rows["backbone.norm.weight"]["lr"]

    result = check(official_stack, altered(fast), "param_groups.small", "default")
    assert_seen(result, "^recorded rule/backbone.register_tokens$", "0007", "register_tokens have multiplier 1")
    assert len(result.diverged) == 1


def test_a_fork_without_registers_fails_the_recorded_rule_unless_it_says_so(official_stack: OfficialStack) -> None:
    """Parameters without a group would not be trained; only a stack that declares its features may lack them."""

    def without(rows: Rows, config: DictConfig) -> None:
        rows.pop("backbone.register_tokens", None)

    subject = altered(without)
    assert_seen(check(official_stack, subject, "param_groups.small", "default"), "^recorded rule/")
    subject.features = frozenset()
    assert_no_alarm(check(official_stack, subject, "param_groups.small", "default"))


def _as_pairs(rows: Rows, config: DictConfig) -> None:
    for name, row in rows.items():
        rows[name] = (row["lr"], row["weight_decay"])  # type: ignore[assignment] # the contract allows pairs


def _wrapped(rows: Rows, config: DictConfig) -> None:
    for name in list(rows):
        rows[f"module.{name}"] = rows.pop(name)


def _compiled(rows: Rows, config: DictConfig) -> None:
    for name in list(rows):
        module, _, rest = name.partition(".")
        rows[f"{module}._orig_mod._fsdp_wrapped_module.{rest}"] = rows.pop(name)


def _parametrised(rows: Rows, config: DictConfig) -> None:
    for name in list(rows):
        for ending, original in ((".weight_g", "original0"), (".weight_v", "original1")):
            if name.endswith(ending):
                rows[name.replace(ending, f".parametrizations.weight.{original}")] = rows.pop(name)


def _unchunked(rows: Rows, config: DictConfig) -> None:
    for name in list(rows):
        if ".blocks." in name:
            parts = name.split(".")
            rows[".".join(parts[:2] + parts[3:])] = rows.pop(name)


def _one_group_each(rows: Rows, config: DictConfig) -> None:
    for index, row in enumerate(rows.values()):
        row["group"] = index


def _running_product(rows: Rows, config: DictConfig) -> None:
    """Multipliers by repeated multiplication from the last layer down."""
    top = rows["backbone.norm.weight"]["lr"]
    depth = 1 + max(int(n.split(".")[3]) for n in rows if ".blocks." in n)
    for name, row in rows.items():
        if not name.startswith("backbone.") or name.startswith("backbone.norm"):
            continue
        layer = 1 + int(name.split(".")[3]) if ".blocks." in name else 0
        rate = top
        for _ in range(depth + 1 - layer):
            rate = rate * config.optim.layerwise_decay
        row["lr"] = rate * config.optim.patch_embed_lr_mult if "patch_embed" in name else rate


SPELLINGS = [
    _as_pairs, _wrapped, _compiled, _parametrised, _unchunked, _one_group_each, _running_product,
]  # fmt: skip


@pytest.mark.parametrize("recipe", ["default", "vitl14"])
@pytest.mark.parametrize("change", SPELLINGS)
def test_other_spellings_and_orders_raise_no_alarm(official_stack: OfficialStack, change: Change, recipe: str) -> None:
    """Pairs, wrapped or unchunked names, a group for each parameter, and multipliers as a running product."""
    assert_no_alarm(check(official_stack, altered(change), "param_groups.small", recipe))


def test_two_spellings_of_one_parameter_are_an_error(official_stack: OfficialStack) -> None:
    """Which of both is meant cannot be told; the check ends with the name, and is not passed."""

    def twice(rows: Rows, config: DictConfig) -> None:
        rows["module.backbone.cls_token"] = dict(rows["backbone.cls_token"])

    result = check(official_stack, altered(twice), "param_groups.small", "default")
    assert result.status == "error"
    assert "two tensors called 'backbone.cls_token'" in result.reason


def test_an_unchunked_fork_passes_at_real_size(official_stack: OfficialStack) -> None:
    """Names alone differ between 24 blocks in a row and in four chunks."""

    class Flat(Fork):
        def parameter_groups(self, config: DictConfig, iterations: Sequence[int]) -> dict[int, Rows]:
            config = config.copy()
            config.student.block_chunks = 0
            return super().parameter_groups(config, iterations)

    assert_no_alarm(check(official_stack, Flat(), "param_groups.real", "default"))
