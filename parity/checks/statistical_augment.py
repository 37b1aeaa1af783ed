"""Check `augment.statistical`: crops drawn from whatever generator, see `parity.checks.statistical`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig
from PIL import Image

from parity.attribution.augment import attribute_draws
from parity.checks.augment import augmented, explainable, real_images, small_config
from parity.checks.base import Check, Context, Observation
from parity.checks.statistical import SHARE, SUBJECT_SEEDS, compared, table
from parity.compare import exact
from parity.crop_statistics import Levels, chart, chart_features, levels_of, photograph_features
from parity.permutation import judge
from parity.results import Comparison

__all__ = ["CHECKS"]

_BATCHES, _CHARTS = 48, 6
_VIEWS = ("global 1", "global 2", "local")


def _augment(context: Context) -> Iterator[Observation]:
    """Batches of crops of six charts and a photograph, view by view."""
    photograph = real_images(1)[0].image
    config = small_config()
    config.crops.global_crops_size, config.crops.local_crops_size, config.crops.local_crops_number = 48, 32, 2
    yield from _forms(context, config)
    config.crops.local_crops_number = 1
    samples: dict[str, tuple[list[Mapping[str, float]], list[Mapping[str, float]]]] = {v: ([], []) for v in _VIEWS}
    images = [chart()] * _CHARTS + [photograph]
    for side, (stack, seed) in enumerate(((context.reference, 0), (context.subject, SUBJECT_SEEDS))):
        for _ in range(_BATCHES):
            views: list[list[Levels]] = [[] for _ in _VIEWS]
            for image in images:
                for view, crop in zip(views, _crops(stack, image, config, seed), strict=True):
                    view.append(crop)
                seed += 1
            for name, crops in zip(_VIEWS, views, strict=True):
                features = {**chart_features(crops[:_CHARTS]), **photograph_features(crops[_CHARTS:])}
                samples[name][side].append(features)
    groups = judge(samples, SHARE)
    for group in groups:
        yield from compared(group)
    parted = {group.name: [f for f in group.features if not f.passed] for group in groups}
    if any(parted.values()) and explainable(context):
        yield from attribute_draws(context.reference, context.subject, small_config(), parted)
    yield table(groups)


def _crops(stack: Any, image: Image.Image, config: DictConfig, seed: int) -> list[Levels]:
    """Return the first two global crops and the first local one, in levels."""
    made = augmented(stack, image, config, seed)
    crops = [*made["global_crops"][:2], *made["local_crops"][:1]]
    return [levels_of(crop.detach().cpu().numpy()) for crop in crops]


def _forms(context: Context, config: DictConfig) -> Iterator[Comparison]:
    """How many crops there are, of which shape and type, and that the local crops of an image are not one."""
    made = [augmented(stack, chart(), config, 0) for stack in (context.reference, context.subject)]
    for key in ("global_crops", "local_crops"):
        lists = [list(crops.get(key, ())) for crops in made]
        forms = [[f"{tuple(crop.shape)} {crop.dtype}" for crop in crops] for crops in lists]
        different = [len({crop.numpy(force=True).tobytes() for crop in crops}) for crops in lists]
        yield exact(f"forms/{key}", str(forms[0]), str(forms[1]))
        yield exact(f"forms/different {key}", different[0], different[1])


CHECKS = (
    Check(
        "augment.statistical",
        "L1",
        f"the distribution of each view's crops over {_BATCHES} batches a side, from whatever generator",
        ("dinov2/data/augmentations.py:19-118", "dinov2/data/transforms.py:12-49"),
        ("augment",),
        _augment,
    ),
)
