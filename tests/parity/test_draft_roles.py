from __future__ import annotations

import math
import re

import pytest
from omegaconf import DictConfig

from parity.draft.definitions import Parameter
from parity.draft.recognise import PARTS
from parity.draft.roles import SETTINGS, UnboundError, bind, head_roles, role_of
from parity.recipes import RECIPES


@pytest.fixture(scope="module")
def config() -> DictConfig:
    """The configuration of the recipe `default`."""
    return RECIPES[0].config()


@pytest.mark.parametrize(("pattern", "expression"), SETTINGS)
def test_every_setting_is_a_key_of_officials_configuration(config: DictConfig, pattern: str, expression: str) -> None:
    """The expressions that drafts hold can be evaluated, parity's own additions included; none gives nothing."""
    assert eval(expression, {"config": config, "tuple": tuple}) is not None  # noqa: S307 - the drafter's own table


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_every_size_of_a_head_is_a_key(config: DictConfig, kind: str) -> None:
    """Of the loss that the head belongs to."""
    for _, expression in head_roles(kind):
        assert eval(expression, {"config": config}) > 0  # noqa: S307 - the drafter's own table


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("embed_dim", "config.architecture.embed_dim"),
        ("n_local_crops", "config.crops.local_crops_number"),
        ("num_local_crops", "config.crops.local_crops_number"),
        ("local_crops_number", "config.crops.local_crops_number"),
        ("OFFICIAL_EPOCH_LENGTH", "config.train.OFFICIAL_EPOCH_LENGTH"),
        ("niter_per_ep", "config.train.OFFICIAL_EPOCH_LENGTH"),
        ("out_dim", "config.dino.head_n_prototypes"),
        ("patch_out_dim", "config.ibot.head_n_prototypes"),
        ("ibot_head_n_prototypes", "config.ibot.head_n_prototypes"),
        ("teacher_temp", "config.teacher.teacher_temp"),
        ("warmup_teacher_temp", "config.teacher.warmup_teacher_temp"),
        ("warmup_teacher_temp_epochs", "config.teacher.warmup_teacher_temp_epochs"),
        ("warmup_epochs", "config.optim.warmup_epochs"),
        ("weight_decay", "config.optim.weight_decay"),
        ("weight_decay_end", "config.optim.weight_decay_end"),
        ("lr", "config.optim.lr"),
        ("base_lr", "config.optim.base_lr"),
        ("shared_head", "not config.ibot.separate_head"),
        ("global_crops_size", "config.crops.global_crops_size"),
        ("global_crop_size", "config.crops.global_crops_size"),
        ("drop_path_rate", "config.student.drop_path_rate"),
        ("layerscale", "config.student.layerscale"),
        ("init_values", "config.student.layerscale"),
        ("mask_sample_probability", "config.ibot.mask_sample_probability"),
    ],
)
def test_names_mean_what_forks_mean_by_them(name: str, expression: str) -> None:
    """Whole names: `weight_decay` is not `weight_decay_end`."""
    assert role_of(name, SETTINGS) == expression


@pytest.mark.parametrize("name", ["my_lr_rule", "depth_of_head", "temp", "weights", "", "student_temp", "lr_schedule"])
def test_other_names_mean_nothing(name: str) -> None:
    """A name that only contains a known one is not it."""
    assert role_of(name, SETTINGS) is None


def test_binding_keeps_the_order_and_the_defaults() -> None:
    """Known values by name come first, then roles; what has neither keeps its default; positional-only has no name."""
    parameters = [
        Parameter("a", required=True, positional_only=True),
        Parameter("lr", required=True),
        Parameter("extra", required=False),
        Parameter("lr_again", required=False),
    ]
    roles = ((r"a", "1"), (r"lr", "config.optim.lr"))
    assert bind(parameters, roles, {"lr_again": "2"}) == ["1", "lr=config.optim.lr", "lr_again=2"]


def test_a_required_parameter_without_a_role_is_named() -> None:
    """The caller leaves the capability to do, and says which argument it was."""
    with pytest.raises(UnboundError, match="`queue` has no default and no meaning"):
        bind([Parameter("queue", required=True)], SETTINGS)


def test_values_that_a_role_gives_are_what_official_trains_with(config: DictConfig) -> None:
    """One number by hand: the whole length of the small default recipe is 12 epochs of 10 iterations."""
    expression = role_of("total_iters", SETTINGS)
    assert expression is not None
    assert eval(expression, {"config": config}) == 120  # noqa: S307 - the drafter's own table
    expression = role_of("mask_ratio_min", SETTINGS)
    assert expression is not None
    assert math.isclose(eval(expression, {"config": config}), 0.1)  # noqa: S307 - as above


def test_officials_names_are_found_by_their_own_patterns() -> None:
    """A part's pattern knows official's name, and the pattern that excludes does not."""
    for name, part in PARTS.items():
        assert re.search(part.alike, part.official.lower()), name
        assert not re.search(part.unlike, part.official.lower()), name
