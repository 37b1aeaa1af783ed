"""What both built-in stacks answer about data: crops, steps, views, files and orders; and how official is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torchvision import transforms

from parity.adapters.official import OfficialStack
from parity.adapters.official_data import SAMPLER_KINDS, data_of_official_training
from parity.adapters.port import PortStack
from parity.adapters.transform_steps import images_after, leaves, step_name
from parity.photographs import encoded, photographs
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from parity.seeding import seeded

STEPS = ["crop", "flip", "jitter", "grayscale", "blur"]


@pytest.fixture(params=["official", "port"])
def stack(request: pytest.FixtureRequest, official_stack: OfficialStack) -> Any:
    """Each of the two built-in stacks."""
    return official_stack if request.param == "official" else PortStack(SMALL_ARCHITECTURES)


@pytest.fixture
def config() -> DictConfig:
    """The small default recipe."""
    return RECIPES[0].config()


@pytest.fixture
def image() -> Image.Image:
    """A real image."""
    return next(iter(photographs(1))).image


def test_crops_have_official_s_keys_numbers_and_sizes(stack: Any, config: DictConfig, image: Image.Image) -> None:
    """Two global crops of 96 pixels and three local ones of 48, normalised; the inputs stay as they were."""
    kept, pixels = config.copy(), image.tobytes()
    seeded(3)
    crops = stack.augment(image, config, 3)
    assert [list(crop.shape) for crop in crops["global_crops"]] == [[3, 96, 96]] * 2
    assert [list(crop.shape) for crop in crops["local_crops"]] == [[3, 48, 48]] * 3
    assert {crop.dtype for crop in [*crops["global_crops"], *crops["local_crops"]]} == {torch.float32}
    assert min(float(crop.min()) for crop in crops["global_crops"]) < 0 < float(crops["global_crops"][0].max())
    assert (config, image.tobytes()) == (kept, pixels)


def test_crops_repeat_by_seed(stack: Any, config: DictConfig, image: Image.Image) -> None:
    """The same seed gives the same crops, another one others."""
    made = []
    for seed in (4, 4, 5):
        seeded(seed)
        made.append(stack.augment(image, config, seed)["local_crops"][2])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_the_configuration_decides_the_crops(stack: Any, config: DictConfig, image: Image.Image) -> None:
    """Sizes and numbers are read anew for each configuration."""
    config.crops.global_crops_size, config.crops.local_crops_number = 64, 1
    crops = stack.augment(image, config, 0)
    assert list(crops["global_crops"][1].shape) == [3, 64, 64]
    assert len(crops["local_crops"]) == 1


@pytest.mark.parametrize(
    ("view", "steps", "side"),
    [("global_1", STEPS, 96), ("global_2", [*STEPS, "solarize"], 96), ("local", STEPS, 48)],
)
def test_steps_end_in_the_crop(
    stack: Any, config: DictConfig, image: Image.Image, view: str, steps: list[str], side: int
) -> None:
    """Pixels after each transform in official's order, then the normalised crop; the first view's is `augment`'s."""
    seeded(6)
    after = stack.augment_steps(image, config, view, 6)
    assert list(after) == [*steps, "normalize"]
    for name in steps:
        assert (list(after[name].shape), after[name].dtype) == ([3, side, side], torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(after["normalize"], (after[steps[-1]] / 255 - mean) / std)
    if view == "global_1":
        seeded(6)
        assert torch.equal(stack.augment(image, config, 6)["global_crops"][0], after["normalize"])


def test_the_evaluation_view_is_the_middle(stack: Any) -> None:
    """Of white with a black frame, 8 of 64 pixels wide, the middle 48 pixels are white."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[8:56, 8:56] = 255
    view = stack.evaluation_view(Image.fromarray(pixels), 64, 48)
    assert list(view.shape) == [3, 48, 48]
    torch.testing.assert_close(
        view[:, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    )
    assert (view == view[:, :1, :1]).all()


def test_files_are_decoded_to_rgb(stack: Any) -> None:
    """Every file has the pixels of the region, 64 by 48, in RGB."""
    for name, data in encoded():
        decoded = stack.decode_image(data)
        assert (decoded.mode, decoded.size) == ("RGB", (64, 48)), name


def test_orders_are_lists_of_indices(stack: Any) -> None:
    """As many as asked, over several passes, a share of the images each."""
    order = stack.data_order("SHARDED_INFINITE", 10, 1, 3, 5, 0, 9)
    assert [type(index) for index in order] == [int] * 9
    shares = [set(order[start : start + 3]) for start in (0, 3, 6)]
    assert shares[0] == shares[1] == shares[2]
    assert len(shares[0]) == 3
    assert stack.data_order("SHARDED_INFINITE", 10, 1, 3, 5, 2, 7) == order[2:]
    assert "SHARDED_INFINITE" in stack.sampler_kinds


def test_training_reads_batches(stack: Any, config: DictConfig) -> None:
    """Of the configured size, by rank, without an end; ranks share no image."""
    kept = config.copy()
    config.train.batch_size_per_gpu = kept.train.batch_size_per_gpu = 4
    ranks = [stack.training_order(config, 26, rank, 2, 5) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[4] * 5] * 2
    seen = [{index for batch in batches for index in batch} for batches in ranks]
    assert [len(images) for images in seen] == [13, 13]
    assert not seen[0] & seen[1]
    assert config == kept


def test_port_refuses_samplers_that_it_has_not() -> None:
    """The message says which it has."""
    with pytest.raises(ValueError, match="sampler 'EPOCH' is not offered, expected SHARDED_INFINITE"):
        PortStack(SMALL_ARCHITECTURES).data_order("EPOCH", 5, 0, 1, 0, 0, 5)


def test_the_augmentation_is_the_one_that_official_training_builds(
    official_stack: OfficialStack, config: DictConfig
) -> None:
    """Caught in `do_train`, with the scales of the configuration, once for equal crops."""
    augmentation = official_stack.augmentation(config)
    assert type(augmentation).__module__ == "dinov2.data.augmentations"
    assert list(augmentation.global_crops_scale) == list(config.crops.global_crops_scale)
    assert official_stack.augmentation(config.copy()) is augmentation
    config.crops.local_crops_size = 32
    assert official_stack.augmentation(config).local_crops_size == 32


def test_the_loader_s_settings_are_official_training_s(official_stack: OfficialStack, config: DictConfig) -> None:
    """A sharded endless sampler seeded with the first iteration, full batches, nothing skipped (Q21)."""
    for start in (0, 17):
        options = data_of_official_training(official_stack._reference, config.copy(), start=start).options
        assert options["sampler_type"].name == "SHARDED_INFINITE"
        assert (options["seed"], options["sampler_advance"], options["shuffle"]) == (start, 0, True)
        assert (options["drop_last"], options["batch_size"]) == (True, config.train.batch_size_per_gpu)


def test_official_functions_are_as_before(official_stack: OfficialStack, config: DictConfig) -> None:
    """What stood in for files and ranks is gone afterwards."""
    train = official_stack._reference.module("train.train")
    distributed = official_stack._reference.module("distributed")
    watched = [(train, "make_dataset"), (train, "make_data_loader"), (distributed, "get_global_rank")]
    before = [getattr(owner, name) for owner, name in watched]
    official_stack.training_order(config, 12, 2, 3, 2)
    assert [getattr(owner, name) for owner, name in watched] == before
    assert distributed.get_global_size() == 1


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_unshuffled_orders_are_every_nth_image(official_stack: OfficialStack, kind: str) -> None:
    """Rank 1 of 3 reads 1, 4, 7 and so on, pass after pass."""
    order = official_stack.unshuffled_order(kind, 9, 1, 3, 0, 7)
    assert order == [1, 4, 7, 1, 4, 7, 1]


def test_an_epoch_has_every_image_once(official_stack: OfficialStack) -> None:
    """Over three ranks; the next epoch has another order."""
    ranks = [official_stack.data_order("EPOCH", 9, rank, 3, 5, 0, 6) for rank in range(3)]
    for epoch in (slice(0, 3), slice(3, 6)):
        assert sorted(index for rank in ranks for index in rank[epoch]) == list(range(9))
    assert ranks[0][:3] != ranks[0][3:]


def test_steps_are_named_by_their_classes() -> None:
    """Nested compositions are opened, random applications are named by what they apply."""
    blur = transforms.RandomApply([transforms.GaussianBlur(9)], p=0.1)
    nested = transforms.Compose([transforms.Compose([transforms.RandomHorizontalFlip()]), blur, transforms.ToTensor()])
    assert [step_name(step) for step in leaves(nested)] == ["flip", "blur", "totensor"]
    assert step_name(transforms.RandomVerticalFlip()) == "randomverticalflip"


def test_images_after_steps_are_copies() -> None:
    """A transform that changes its tensor in place does not change what was recorded before."""
    pixels = np.full((4, 4, 3), 51, dtype=np.uint8)
    halves = transforms.Normalize((0.0,) * 3, (0.5,) * 3, inplace=True)
    whole = transforms.Normalize((0.0,) * 3, (0.1,) * 3, inplace=True)
    after = images_after([transforms.RandomHorizontalFlip(1.0), transforms.ToTensor(), halves], Image.fromarray(pixels))
    assert list(after) == ["flip", "normalize"]
    assert float(after["normalize"][0, 0, 0]) == pytest.approx(0.4)
    assert int(after["flip"][0, 0, 0]) == 51
    assert float(images_after([transforms.ToTensor(), whole], Image.fromarray(pixels))["normalize"].max()) == (
        pytest.approx(2.0)
    )
