"""Rules that hold for every parameter of a kind: recognised by their numbers, and silent about others."""

from __future__ import annotations

import pytest

from parity.attribution.group_rules import attribute_rules
from parity.results import Finding

DECAY = 0.9
DEPTH = 3
NAMES = [
    "backbone.cls_token",
    *(f"backbone.blocks.{i}.attn.qkv.{what}" for i in range(DEPTH) for what in ("weight", "bias")),
]

Rows = dict[str, dict[str, float]]


def official() -> Rows:
    """Rates by hand: tokens are layer 0, block i is layer i + 1 of DEPTH + 1; biases do not decay."""
    rows = {"backbone.cls_token": {"lr": DECAY**4, "weight_decay": 0.04}}
    for name in NAMES[1:]:
        layer = int(name.split(".")[2]) + 1
        rows[name] = {"lr": DECAY ** (DEPTH + 1 - layer), "weight_decay": 0.0 if name.endswith("bias") else 0.04}
    return rows


def found(mine: Rows, decay: float = DECAY) -> list[Finding]:
    """Return what is said of rows beside official's."""
    return list(attribute_rules(NAMES, official(), mine, decay))


@pytest.mark.parametrize(
    ("shift", "words"), [(-1, "1 layer too low"), (1, "1 layer too high"), (-2, "2 layers too low")]
)
def test_blocks_counted_from_another_end_are_named(shift: int, words: str) -> None:
    """Every block off by one power of the decay, tokens as official's: difference 0007."""
    mine = official()
    for name in NAMES[1:]:
        mine[name]["lr"] *= DECAY**-shift
    (finding,) = found(mine)
    assert finding.id == "0007"
    assert words in finding.sentence


def test_decay_for_every_parameter_is_named() -> None:
    """Biases included: the schedule is not multiplied, difference 0006."""
    mine = {name: {**rates, "weight_decay": 0.04} for name, rates in official().items()}
    (finding,) = found(mine)
    assert finding.id == "0006"
    assert "so 3 of 7 decay that official leaves alone" in finding.sentence


def _scaled(mine: Rows) -> None:
    for rates in mine.values():
        rates["lr"] *= 0.9


def _one_block(mine: Rows) -> None:
    mine["backbone.blocks.1.attn.qkv.weight"]["lr"] *= 0.9


def _by_half(mine: Rows) -> None:
    for name in NAMES[1:]:
        mine[name]["lr"] *= 0.95


def _zero(mine: Rows) -> None:
    for name in NAMES[1:]:
        mine[name]["lr"] = 0.0


@pytest.mark.parametrize("change", [lambda mine: None, _scaled, _one_block, _by_half, _zero])
def test_what_is_no_shift_is_left_alone(change: object) -> None:
    """Equal rates, another schedule, one wrong block, a factor that is no power of the decay, and frozen blocks."""
    mine = official()
    change(mine)  # type: ignore[operator] # one of the functions above
    assert found(mine) == []


def test_without_layerwise_decay_nothing_is_shifted() -> None:
    """A decay of 1 has no layers."""
    mine = official()
    for name in NAMES[1:]:
        mine[name]["lr"] *= 0.9
    assert found(mine, decay=1.0) == []


def test_one_weight_decay_for_all_that_official_gives_to_all_is_none() -> None:
    """Where official exempts nobody there is nothing to say."""
    rows = {name: {"lr": 1.0, "weight_decay": 0.04} for name in NAMES}
    assert list(attribute_rules(NAMES, rows, rows, DECAY)) == []
