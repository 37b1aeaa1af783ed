from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from parity.attribution.param_groups import attribute_groups, recorded_rules
from parity.results import Comparison, Finding

Rows = dict[str, dict[str, Any]]
Table = dict[int, Rows]

WHEN = {"first": 0, "frozen": 9, "peak": 20, "end": 99}
WEIGHT_DECAY = {0: 0.04, 9: 0.05, 20: 0.1, 99: 0.4}
RATE = {0: 1e-5, 9: 5e-4, 20: 1e-3, 99: 1e-6}
DECAY, PATCH = 0.5, 0.2
OPTIM = {"patch_embed_lr_mult": PATCH, "layerwise_decay": DECAY}
BLOCKS = [f"backbone.blocks.{layer}.{kind}" for layer in range(4) for kind in ("attn.qkv.weight", "ls1.gamma")]
# Four blocks: embeddings are layer 0, block i layer i + 1, everything else layer 5 (multiplier 1).
MULTIPLIERS = {
    "backbone.cls_token": DECAY**5,
    "backbone.pos_embed": DECAY**5,
    "backbone.mask_token": DECAY**5,
    "backbone.patch_embed.proj.weight": DECAY**5 * PATCH,
    "backbone.patch_embed.proj.bias": DECAY**5 * PATCH,
    **{name: DECAY ** (4 - int(name.split(".")[2])) for name in BLOCKS},
    "backbone.norm.weight": 1.0,
    "backbone.norm.bias": 1.0,
    "dino_head.mlp.0.weight": 1.0,
    "dino_head.mlp.0.bias": 1.0,
    "dino_head.last_layer.weight_v": 1.0,
}
EXEMPT = ("bias", "norm.weight", "gamma")
LAST = "dino_head.last_layer.weight_v"
DECAYED = [name for name in MULTIPLIERS if not name.endswith(EXEMPT)]


def _config(**student: Any) -> DictConfig:
    config = OmegaConf.create({"student": {"block_chunks": 2, "num_register_tokens": 0, **student}, "optim": OPTIM})
    assert isinstance(config, DictConfig)
    return config


def _official() -> Table:
    return {
        i: {
            name: {
                "lr": 0.0 if name == LAST and i <= WHEN["frozen"] else RATE[i] * multiplier,
                "weight_decay": WEIGHT_DECAY[i] if name in DECAYED else 0.0,
            }
            for name, multiplier in MULTIPLIERS.items()
        }
        for i in WHEN.values()
    }


def _findings(change: Callable[[int, Rows], None] | None = None, config: DictConfig | None = None) -> list[Finding]:
    """What is said of official's table once `change(iteration, rows)` has made it the subject's."""
    subject = copy.deepcopy(_official())
    for iteration, rows in subject.items():
        if change is not None:
            change(iteration, rows)
    return list(attribute_groups(config or _config(), _official(), subject, WHEN))


def test_an_equal_table_is_not_accused() -> None:
    """No finding for official's own numbers, whatever else a subject tells about its groups."""
    assert _findings() == []

    def described(iteration: int, rows: Rows) -> None:
        for index, (name, row) in enumerate(rows.items()):
            row |= {
                "group": index,
                "lr_multiplier": MULTIPLIERS[name],
                "wd_multiplier": float(name in DECAYED),
                "is_last_layer": name == LAST,
            }

    assert _findings(described) == []
    assert _findings(config=_config(block_chunks=0)) == []


def test_rounding_is_not_accused() -> None:
    """The same rates as a running product differ in the last digit only."""

    def rounded(iteration: int, rows: Rows) -> None:
        for row in rows.values():
            row["lr"] *= 1 + 1e-15
            row["weight_decay"] *= 1 - 1e-15

    assert _findings(rounded) == []


def test_another_base_rate_is_not_blamed_on_the_layers() -> None:
    """All rates twice as large is a schedule: no token is accused of a wrong layer."""

    def doubled(iteration: int, rows: Rows) -> None:
        for row in rows.values():
            row["lr"] *= 2

    assert _findings(doubled) == []


def test_one_rate_for_all_is_named() -> None:
    """Every parameter at the base rate: 0007, with the smallest multiplier and the number of wrong ones."""

    def uniform(iteration: int, rows: Rows) -> None:
        for name, row in rows.items():
            row["lr"] = row["lr"] if name == LAST else RATE[iteration]

    (finding,) = _findings(uniform)
    assert finding.id == "0007"
    wrong = sum(m != 1.0 for m in MULTIPLIERS.values())
    assert "one learning rate for all: 0.001" in finding.sentence
    assert "by 0.00625 (backbone.patch_embed.proj.weight) to 1" in finding.sentence
    assert f"so {wrong} of {len(MULTIPLIERS)} parameters differ" in finding.sentence


def test_a_token_in_the_wrong_layer_is_named() -> None:
    """The document's rule leaves mask_token at multiplier 1, 32 times official's 1/32."""

    def forgotten(iteration: int, rows: Rows) -> None:
        rows["backbone.mask_token"]["lr"] = RATE[iteration]

    (finding,) = _findings(forgotten)
    assert finding.id == "0007"
    assert "backbone.mask_token has multiplier 1, official 0.03125 (32 times)" in finding.sentence


def test_the_chunk_index_read_as_layer_is_named() -> None:
    """Four blocks in two chunks with two multipliers; a fork without chunks is told nothing of chunks."""

    def chunked(iteration: int, rows: Rows) -> None:
        for name in BLOCKS:
            rows[name]["lr"] = RATE[iteration] * DECAY ** (4 - int(name.split(".")[2]) // 2)

    (finding,) = _findings(chunked)
    wrong = sum(int(name.split(".")[2]) > 0 for name in BLOCKS)
    assert "chunked blocks: 4 blocks have 2 multipliers" in finding.sentence
    assert f"({wrong} of {len(MULTIPLIERS)} parameters wrong)" in finding.sentence
    assert _findings(chunked, _config(block_chunks=0)) == []


def test_another_decay_rate_is_not_blamed_on_the_chunks() -> None:
    """Wrong multipliers, but one for each block: the layers are counted, so chunks are not the cause."""

    def slower(iteration: int, rows: Rows) -> None:
        for name in BLOCKS:
            rows[name]["lr"] = RATE[iteration] * 0.6 ** (4 - int(name.split(".")[2]))

    assert _findings(slower) == []


def test_a_forgotten_patch_embedding_factor_is_named() -> None:
    """Multiplier decay ** 5 without the 0.2."""

    def plain(iteration: int, rows: Rows) -> None:
        for name in rows:
            if "patch_embed" in name:
                rows[name]["lr"] /= PATCH

    (finding,) = _findings(plain)
    assert "backbone.patch_embed.proj.weight has multiplier 0.03125, official 0.00625" in finding.sentence
    assert "patch_embed_lr_mult 0.2" in finding.sentence


def test_a_subject_s_own_multiplier_is_believed() -> None:
    """Where a loop overwrites the rate, the multiplier that the groups hold names the cause."""

    def overwritten(iteration: int, rows: Rows) -> None:
        for name, row in rows.items():
            row["lr_multiplier"] = 1.0 if name == "backbone.cls_token" else MULTIPLIERS[name]

    (finding,) = _findings(overwritten)
    assert "backbone.cls_token has multiplier 1" in finding.sentence


def test_weight_decay_that_stays_is_named() -> None:
    """All decayed backbone parameters keep 0.04 while official goes to 0.4, ten times as much."""

    def stuck(iteration: int, rows: Rows) -> None:
        for name in DECAYED:
            if name.startswith("backbone"):
                rows[name]["weight_decay"] = 0.04

    (finding,) = _findings(stuck)
    count = sum(name.startswith("backbone") for name in DECAYED)
    assert finding.id == "0006"
    assert f"{count} of {len(DECAYED)} decayed parameters (backbone) keep weight decay 0.04" in finding.sentence
    assert "from 0.04 to 0.4: 10 times less than intended at the end" in finding.sentence


def test_no_weight_decay_at_all_is_named() -> None:
    """Zero throughout: no ratio can be given."""

    def none(iteration: int, rows: Rows) -> None:
        rows[LAST]["weight_decay"] = 0.0

    (finding,) = _findings(none)
    assert finding.id == "0006"
    assert finding.sentence.endswith("none at all")


def _by_parity(iteration: int, rows: Rows) -> None:
    for index, row in enumerate(rows.values()):
        row["group"] = index
        row["weight_decay"] = WEIGHT_DECAY[iteration] if index % 2 == 0 else 0.0


def test_weight_decay_by_the_parity_of_the_group_is_named() -> None:
    """`if i % 2 == 0` fits groups that alternate, and these do not."""
    parity = [f for f in _findings(_by_parity) if "parity of the group index" in f.sentence]
    assert [f.id for f in parity] == ["0006"]
    wrong = sum((index % 2 == 0) != (name in DECAYED) for index, name in enumerate(MULTIPLIERS))
    assert f"wrong for {wrong} of {len(MULTIPLIERS)} parameters" in parity[0].sentence


def test_alternating_groups_are_not_accused_of_their_parity() -> None:
    """Where even groups are the decayed ones, `i % 2 == 0` is right."""

    def alternating(iteration: int, rows: Rows) -> None:
        for name, row in rows.items():
            row["group"] = 0 if name in DECAYED else 1

    assert _findings(alternating) == []


@pytest.mark.parametrize(
    ("ending", "label", "count"),
    [("ls1.gamma", "LayerScale gamma", 4), ("norm.weight", "norm", 2), ("mlp.0.bias", "bias", 3)],
)
def test_decayed_exceptions_are_named(ending: str, label: str, count: int) -> None:
    """LayerScale, norms and biases are never decayed by official."""

    def decayed(iteration: int, rows: Rows) -> None:
        for name in rows:
            if name.endswith(ending):
                rows[name]["weight_decay"] = WEIGHT_DECAY[iteration]

    (finding,) = _findings(decayed)
    wrong = sum(name.endswith(ending) for name in MULTIPLIERS)
    assert finding.id == "0007"
    assert f"{wrong} of {count} {label} parameters are decayed" in finding.sentence


def test_a_last_layer_that_is_not_frozen_is_named() -> None:
    """Rate 5e-4 in the first epoch, official 0."""

    def thawed(iteration: int, rows: Rows) -> None:
        rows[LAST]["lr"] = RATE[iteration]

    (finding,) = _findings(thawed)
    assert finding.id == "0007"
    assert f"the last layer is not frozen: {LAST} has lr 0.0005" in finding.sentence


def test_a_module_without_groups_is_named() -> None:
    """The document's rule raises on a head: its error is quoted, with the number of parameters."""

    def failed(iteration: int, rows: Rows) -> None:
        for name in [n for n in rows if n.startswith("dino_head.")]:
            del rows[name]
        rows["dino_head"] = {"error": "AttributeError: no attribute 'blocks'"}

    (finding,) = _findings(failed)
    assert "no groups for dino_head (3 parameters): AttributeError: no attribute 'blocks'" in finding.sentence


def test_a_table_without_common_names_has_no_finding() -> None:
    """Nothing can be explained; the missing rows themselves are failed comparisons elsewhere."""

    def renamed(iteration: int, rows: Rows) -> None:
        for name in list(rows):
            rows[f"encoder.{name}"] = rows.pop(name)

    assert _findings(renamed) == []


def test_several_faults_are_all_named() -> None:
    """One fault does not hide another."""

    def both(iteration: int, rows: Rows) -> None:
        rows["backbone.mask_token"]["lr"] = RATE[iteration]
        rows[LAST]["weight_decay"] = 0.04

    assert sorted(f.id for f in _findings(both)) == ["0006", "0007"]


def _recorded(rows: Rows, *, has_registers: bool = False, registers: int = 0) -> list[Comparison | Finding]:
    asked: list[int] = []

    def parameter_groups(config: DictConfig, iterations: list[int]) -> Table:
        asked.append(config.student.num_register_tokens)
        return {20: rows}

    subject = SimpleNamespace(name="fork", parameter_groups=parameter_groups)
    config = _config(num_register_tokens=registers)
    reference = SimpleNamespace(features=frozenset({"registers"} if has_registers else ()))
    found = list(recorded_rules(subject, config, reference, 20, _official()[20]))
    assert asked in ([], [4])
    assert config.student.num_register_tokens == registers
    return found


TOKENS = "backbone.register_tokens"


@pytest.mark.parametrize("name", [TOKENS, f"module.{TOKENS}", f"_orig_mod.{TOKENS}"])
def test_registers_in_layer_0_pass_the_recorded_rule(name: str) -> None:
    """Decay ** 5 and the scheduled weight decay, as cls_token has them, under any wrapper."""
    (comparison,) = _recorded({name: {"lr": 1e-3 / 32, "weight_decay": 0.1}})
    assert isinstance(comparison, Comparison)
    assert comparison.passed
    assert comparison.name == f"recorded rule/{TOKENS}"


def test_registers_at_the_full_rate_are_named() -> None:
    """Multiplier 1 is 32 times official's."""
    comparison, finding = _recorded({TOKENS: {"lr": 1e-3, "weight_decay": 0.1}})
    assert isinstance(comparison, Comparison)
    assert isinstance(finding, Finding)
    assert not comparison.passed
    assert "register_tokens have multiplier 1, official b8931f7 0.03125 (32 times)" in finding.sentence


def test_missing_registers_fail() -> None:
    """A subject without the parameter lacks something."""
    (comparison,) = _recorded({})
    assert isinstance(comparison, Comparison)
    assert (comparison.passed, comparison.note) == (False, "the subject lacks it")


@pytest.mark.parametrize(("has_registers", "registers"), [(True, 0), (False, 4)])
def test_the_recorded_rule_stands_aside_where_registers_are_compared(has_registers: bool, registers: int) -> None:
    """A reference that has registers, or a recipe that uses them, needs no recorded rule."""
    assert _recorded({}, has_registers=has_registers, registers=registers) == []
