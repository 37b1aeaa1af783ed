from __future__ import annotations

import pytest

from parity.errors import UsageError
from parity.recipes import RECIPES, SMALL_ARCHITECTURES, Recipe, select_recipes

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
SMALL = [recipe for recipe in RECIPES if not recipe.heavy]


def _named(name: str) -> Recipe:
    return BY_NAME[name]


def test_names_are_unique_and_each_variant_has_its_recipe() -> None:
    """`--recipe NAME` means one thing, and a variant is listed under a recipe."""
    assert len(BY_NAME) == len(RECIPES)
    mains = [recipe.name for recipe in RECIPES if not recipe.is_variant]
    assert mains == ["default", "vitl14", "vitg14"]
    assert all(recipe.group in mains for recipe in RECIPES)
    assert all(recipe.about for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_configurations_hold_their_changes(recipe: Recipe) -> None:
    """Each changed key has its value, the batch size is set, and no fp16 scaler or evaluation interferes."""
    config = recipe.config()
    for key, value in recipe.changes.items():
        section, name = key.split(".")
        assert config[section][name] == value, key
    assert config.train.batch_size_per_gpu == recipe.batch_size
    assert config.compute_precision.grad_scaler is False
    assert config.evaluation.eval_period_iterations == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_sizes_fit(recipe: Recipe) -> None:
    """Crops are whole patches, the architecture exists, the iteration lies inside the run, or is the step after it."""
    config = recipe.config()
    for size in (config.crops.global_crops_size, config.crops.local_crops_size):
        assert size % config.student.patch_size == 0
    assert config.student.arch in SMALL_ARCHITECTURES
    steps = config.optim.epochs * config.train.OFFICIAL_EPOCH_LENGTH
    assert 0 <= recipe.iteration < steps or (recipe.name, recipe.iteration) == ("default-finished", steps)


@pytest.mark.parametrize("recipe", SMALL, ids=lambda r: r.name)
def test_small_recipes_are_stepped_in_the_phase_they_say(recipe: Recipe) -> None:
    """Past warm-up and freeze, so that the last layer trains; the warm-up variant inside both."""
    config = recipe.config()
    epoch = config.train.OFFICIAL_EPOCH_LENGTH
    ends = (config.optim.warmup_epochs * epoch, config.optim.freeze_last_layer_epochs * epoch)
    inside = recipe.name == "default-warmup"
    assert (recipe.iteration < min(ends)) is inside
    assert (recipe.iteration >= max(ends)) is not inside


def test_the_families_keep_official_s_choices() -> None:
    """What separates official's families survives the shrinking (spec: shared head and decay, or neither)."""
    default, vitl14, vitg14 = (_named(n).config() for n in ("default", "vitl14", "vitg14"))
    assert [c.ibot.separate_head for c in (default, vitl14, vitg14)] == [False, True, True]
    assert [c.train.centering for c in (default, vitl14, vitg14)] == ["centering", "sinkhorn_knopp", "sinkhorn_knopp"]
    assert [c.optim.layerwise_decay for c in (default, vitl14, vitg14)] == [0.9, 1.0, 1.0]
    assert [c.optim.weight_decay_end for c in (default, vitl14, vitg14)] == [0.4, 0.2, 0.2]
    assert default.student.ffn_layer == "mlp"
    assert all(c.student.ffn_layer.startswith("swiglu") for c in (vitl14, vitg14))
    assert [c.student.patch_size for c in (default, vitl14, vitg14)] == [16, 14, 14]


def test_widths_that_could_be_mixed_up_differ() -> None:
    """DINO and iBOT heads differ in every size, so that a head used for the other fails by shape."""
    config = _named("vitl14").config()
    for size in ("head_n_prototypes", "head_hidden_dim", "head_bottleneck_dim"):
        assert config.dino[size] != config.ibot[size]


def test_the_depths_divide_into_chunks_and_do_not() -> None:
    """Depth 4 and depth 5, in two chunks."""
    for name, rest in (("vitl14", 0), ("vitg14", 1)):
        config = _named(name).config()
        assert SMALL_ARCHITECTURES[config.student.arch].depth % config.student.block_chunks == rest


def test_official_architectures_are_reachable_too() -> None:
    """The small sizes are added to official's, not put in their place."""
    assert {"vit_small", "vit_base", "vit_large", "vit_giant2"} <= set(SMALL_ARCHITECTURES)


def test_a_configuration_is_a_copy() -> None:
    """Changing one leaves the recipe and the next configuration as they were."""
    config = _named("default").config()
    config.optim.epochs = 999
    assert _named("default").config().optim.epochs == 12


def _names(*asked: str, quick: bool = False) -> list[str]:
    return [recipe.name for recipe in select_recipes(asked, quick=quick)]


def test_without_names_all_are_chosen() -> None:
    """In the order of the table; quick leaves the variants out."""
    assert _names() == [recipe.name for recipe in RECIPES]
    assert _names(quick=True) == ["default", "vitl14", "vitg14"]


def test_a_recipe_brings_its_variants() -> None:
    """`vitl14` takes its variants along, unless the run is quick."""
    assert _names("vitl14") == ["vitl14", "vitl14-shared", "vitl14-unmasked", "vitl14-centering"]
    assert _names("vitl14", quick=True) == ["vitl14"]


@pytest.mark.parametrize("quick", [False, True])
def test_a_variant_named_is_taken_alone(quick: bool) -> None:
    """A name given is a name meant, quick or not."""
    assert _names("default-batch1", quick=quick) == ["default-batch1"]
    assert _names("vitg14", "default-full", quick=quick) == ["vitg14", "default-full"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """The message holds the name, the known ones and a guess; no guess where nothing is near."""
    with pytest.raises(UsageError, match=r"unknown recipe 'vitl4', expected one of default, .*did you mean 'vitl14'"):
        select_recipes(["default", "vitl4"], quick=False)
    with pytest.raises(UsageError) as refused:
        select_recipes(["zzz"], quick=True)
    assert "did you mean" not in str(refused.value)


def test_configurations_give_the_sizes_of_their_architecture() -> None:
    """A user's stack, which does not know parity's small architectures, can build them from numbers."""
    (recipe,) = select_recipes(("vitg14",), quick=True)
    config = recipe.config()
    assert config.student.arch == "vit_parity5"
    assert config.architecture == {"embed_dim": 48, "depth": 5, "num_heads": 3, "mlp_ratio": 4.0}
