from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from migrations.document import NOT_OFFERED, DocumentStack
from migrations.document.masking import BlockMaskGenerator
from migrations.legacy import LegacyStack
from parity.stack import CAPABILITIES, capabilities_of, claims_bitwise, stack_name
from port.config import load_recipe
from port.models import Architecture

TINY = {"tiny": Architecture(embed_dim=24, depth=2, num_heads=2)}


def config(recipe: str) -> DictConfig:
    """A recipe on a tiny backbone without chunks."""
    return load_recipe(recipe, ["student.arch=tiny", "student.block_chunks=0"])


def test_every_capability_is_offered_or_excused() -> None:
    """No capability is both, none is neither, and every excuse is one line."""
    offered = set(capabilities_of(DocumentStack()))
    assert offered == {
        "make_mask",
        "mask_counts",
        "collate",
        "augment",
        "ibot_loss",
        "parameter_groups",
        "prototype_loss",
    }
    assert offered | set(NOT_OFFERED) == set(CAPABILITIES)
    assert not offered & set(NOT_OFFERED)
    assert all(reason and "\n" not in reason for reason in DocumentStack.not_offered.values())


def test_the_third_view_is_gone_and_the_others_are_the_fork_s() -> None:
    """Section 2 removes the view that is made last: the others, and what is drawn for them, stay."""
    settings, image = config("vitl16_short"), Image.effect_noise((60, 50), 64).convert("RGB")
    settings.crops.local_crops_number = 2
    made = []
    for stack in (DocumentStack(), LegacyStack()):
        torch.manual_seed(3)
        made.append(stack.augment(image, settings, 3))
    assert [len(crops["global_crops"]) for crops in made] == [2, 3]
    for key in ("global_crops", "local_crops"):
        assert all(torch.equal(a, b) for a, b in zip(made[0][key][:2], made[1][key][:2], strict=True))


def test_the_stack_describes_itself() -> None:
    """Its name, its one mode, and no claim to official's last bit."""
    stack = DocumentStack()
    assert (stack_name(stack), claims_bitwise(stack)) == ("document", False)
    assert stack.prototype_modes == ("masked",)


def test_the_reason_for_no_training_step_names_each_failure() -> None:
    """Imports, indexing, weights, heads and buffers."""
    reason = NOT_OFFERED["training_step"]
    assert all(word in reason for word in ("imports", "indexed", "[B] weights", "heads", "upperbound"))


def test_make_mask_does_not_apply_the_cap() -> None:
    """The same seed gives the same mask whatever `max_num_patches` is, and the generator's own."""
    masks = []
    for cap in (98.0, 5.0):
        random.seed(1)
        masks.append(DocumentStack().make_mask((14, 14), 58, cap))
    random.seed(1)
    own = BlockMaskGenerator((14, 14))(58)
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], own)


def test_mask_counts_are_those_of_section_3() -> None:
    """One image has no masked row at all."""
    assert DocumentStack().mask_counts(2, 196, (0.1, 0.5), 0.5) == [0, 0]


@pytest.mark.parametrize(("recipe", "heads"), [("vitl16_short", {"dino_head"}), ("vitl14", {"dino_head", "ibot_head"})])
def test_heads_map_to_their_error(recipe: str, heads: set[str]) -> None:
    """Each head's groups fail, and the backbone's are there beside them."""
    table = DocumentStack(TINY).parameter_groups(config(recipe), [0])[0]
    error = {"error": "AttributeError: 'DINOHead' object has no attribute 'blocks'"}
    assert {name: row for name, row in table.items() if "error" in row} == dict.fromkeys(heads, error)
    assert sum(name.startswith("backbone.") for name in table) == len(table) - len(heads)


def test_table_overwrites_layer_wise_rates() -> None:
    """Multipliers are reported as built; the rate applied is the schedule's for every parameter."""
    cfg = config("vitl16_short")
    table = DocumentStack(TINY).parameter_groups(cfg, [0, 1000])
    rows = [row for row in table[1000].values() if "error" not in row]
    # 1000 of 12,499 steps to 0.004 * sqrt(64 / 1024).
    assert sorted({row["lr"] for row in rows}) == pytest.approx([0.001 * 1000 / 12_499])
    assert table[1000]["backbone.patch_embed.proj.weight"]["lr_multiplier"] == pytest.approx(0.9**3 * 0.2)
    assert {row["lr"] for row in table[0].values() if "error" not in row} == {0.0}


def test_table_decays_by_position() -> None:
    """Even groups follow the schedule, odd ones keep AdamW's 0.01, biases among them."""
    cfg = config("vitl16_short")
    last = cfg.optim.epochs * cfg.train.OFFICIAL_EPOCH_LENGTH - 1
    rows = DocumentStack(TINY).parameter_groups(cfg, [last])[last]
    decays = {row["group"]: row["weight_decay"] for row in rows.values() if "error" not in row}
    assert sorted(decays) == list(range(len(decays)))
    assert [decays[i] for i in range(1, len(decays), 2)] == [0.01] * (len(decays) // 2)
    assert [decays[i] for i in range(0, len(decays), 2)] == pytest.approx([0.4] * ((len(decays) + 1) // 2), abs=1e-6)


def test_the_configuration_is_left_alone() -> None:
    """The scaled learning rate is written into a copy."""
    cfg = config("vitl16_short")
    DocumentStack(TINY).parameter_groups(cfg, [0])
    assert cfg.optim.lr == 0.0
