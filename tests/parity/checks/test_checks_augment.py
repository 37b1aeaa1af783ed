from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from migrations.legacy import LegacyStack
from parity.adapters.official import OfficialStack
from parity.adapters.port_parts import official_settings
from parity.adapters.transform_steps import images_after
from parity.attribution import augment as attribution
from parity.attribution.augment import probes
from parity.attribution.augment.probes import Measured
from parity.checks import augment
from parity.results import CheckResult
from parity.stack import stack_name
from port.data.augmentations import DataAugmentationDINO
from port.data.datasets.decode import decode_image
from port.data.loader import make_augmentation

CHECKS = ("augment.crops", "augment.steps", "augment.evaluation", "augment.decoding")

Steps = list[Any]
Change = Callable[[str, Steps], None]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images and none at full size: enough for a fault in every crop, or in one of five."""
    monkeypatch.setattr(augment, "_QUICK_IMAGES", 6)
    monkeypatch.setattr(augment, "_QUICK_FULL_SIZE_IMAGES", 0)


@pytest.fixture
def charts_of_official(few: None, monkeypatch: pytest.MonkeyPatch, of_official: Measured) -> None:
    """Official is measured once for the tests of this file."""

    def measured(stack: Any, config: Any) -> Measured:
        return of_official if stack_name(stack) == "official" else probes.measure(stack, config)

    monkeypatch.setattr(attribution, "measure", measured)


@pytest.fixture(scope="module")
def of_official(opened_official_stack: OfficialStack) -> Measured:
    """What the charts tell of official code."""
    return probes.measure(opened_official_stack, augment.small_config())


def built(config: Any, change: Change) -> DataAugmentationDINO:
    """`port`'s augmentation with the transforms of each view changed."""
    augmentation = make_augmentation(official_settings(config, "official_order"))
    for view in ("global_view_1", "global_view_2", "local_view"):
        steps = getattr(augmentation, view).transforms
        change(view, steps)
    return augmentation


def edited(change: Change) -> Any:
    """A fork whose views have other transforms."""
    made: dict[str, DataAugmentationDINO] = {}

    def augmented(image: Any, config: Any, seed: int) -> dict[str, Any]:
        key = str(config.crops)
        made[key] = made.get(key) or built(config, change)
        return dict(made[key](image))

    return fork(augment=augmented)


def of_kind(steps: Steps, kind: type) -> Iterator[Any]:
    """The transforms of a class, those that are applied at random included."""
    for step in steps:
        if isinstance(step, kind):
            yield step
        elif isinstance(step, transforms.RandomApply) and isinstance(step.transforms[0], kind):
            yield step.transforms[0]


def setting(kind: type, **values: Any) -> Change:
    """A change that sets attributes of a class of transforms."""

    def change(view: str, steps: Steps) -> None:
        for step in of_kind(steps, kind):
            vars(step).update(values)

    return change


def probability(kind: type, p: float) -> Change:
    """A change of how often something is applied at random."""

    def change(view: str, steps: Steps) -> None:
        for step in steps:
            if isinstance(step, transforms.RandomApply) and isinstance(step.transforms[0], kind):
                step.p = p

    return change


def words_of(result: CheckResult) -> str:
    """Everything that a check says about causes."""
    return "\n".join(f"{finding.id}: {finding.sentence}" for finding in result.findings)


@pytest.mark.parametrize("name", CHECKS)
def test_the_reference_equals_itself(official_stack: OfficialStack, few: None, name: str) -> None:
    """Every crop, step, view and pixel bit for bit, without a finding."""
    result = check(official_stack, official_stack, name)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


@pytest.mark.parametrize("name", CHECKS)
def test_port_passes(official_stack: OfficialStack, name: str) -> None:
    """All of it is official's bit for bit, full-size crops included."""
    result = check(official_stack, port(), name)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


def test_every_crop_is_a_comparison(official_stack: OfficialStack, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 2 + 3 crops, some of 2 + 8 at full size, and official's copies for the teacher where offered."""
    monkeypatch.setattr(augment, "_QUICK_FULL_SIZE_IMAGES", 1)
    names = [c.name for c in check(official_stack, port(), "augment.crops").comparisons]
    assert len(names) == 6 * 5 + 10
    assert sum(name.startswith("full size/") for name in names) == 10
    assert len(set(names)) == len(names)
    with_teacher = check(official_stack, official_stack, "augment.crops").comparisons
    assert len(with_teacher) == 6 * 7 + 12  # `offsets` is empty


def test_a_full_run_augments_200_images(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --quick every one of 200 images is handed to both sides under its own seed."""
    seeds: list[int] = []
    empty: dict[str, list[Any]] = {"global_crops": [], "local_crops": []}

    def counted(image: Any, config: Any, seed: int) -> dict[str, Any]:
        seeds.append(seed)
        return empty

    monkeypatch.setattr(official_stack, "augment", counted, raising=False)
    check(official_stack, official_stack, "augment.crops", quick=False)
    assert sorted(set(seeds)) == list(range(200))


class _Random:
    """DINO v1's way: an image function with a probability drawn from Python's `random`."""

    def __init__(self, p: float, function: Callable[[Image.Image], Image.Image]) -> None:
        self.p, self.function = p, function

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.function(image) if random.random() < self.p else image


def _dino_v1(view: str, steps: Steps) -> None:
    shares = {"global_view_1": 1.0, "global_view_2": 0.1, "local_view": 0.5}

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    for place, step in enumerate(steps):
        if isinstance(step, transforms.RandomSolarize):
            steps[place] = _Random(0.2, ImageOps.solarize)
        elif isinstance(step, transforms.RandomApply) and isinstance(step.transforms[0], transforms.GaussianBlur):
            steps[place] = _Random(shares[view], blur)


def _jitter_in_order(view: str, steps: Steps) -> None:
    class InOrder(transforms.ColorJitter):  # type: ignore[misc] # torchvision ships no types
        def forward(self, img: Any) -> Any:
            _, *factors = self.get_params(self.brightness, self.contrast, self.saturation, self.hue)
            changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
            for change, factor in zip(changes, factors, strict=True):
                img = change(img, factor)
            return img

    for step in of_kind(steps, transforms.ColorJitter):
        step.__class__ = InOrder


def _hue_sign(view: str, steps: Steps) -> None:
    class Reversed(transforms.ColorJitter):  # type: ignore[misc] # torchvision ships no types
        @staticmethod
        def get_params(*ranges: Any) -> Any:
            order, b, c, s, h = transforms.ColorJitter.get_params(*ranges)
            return order, b, c, s, -h

    for step in of_kind(steps, transforms.ColorJitter):
        step.__class__ = Reversed


def _grey_before_jitter(view: str, steps: Steps) -> None:
    steps[2], steps[3] = steps[3], steps[2]


def _no_grey(view: str, steps: Steps) -> None:
    steps[:] = [step for step in steps if not isinstance(step, transforms.RandomGrayscale)]


def _solarised_too(view: str, steps: Steps) -> None:
    if view == "global_view_1":
        steps.insert(5, transforms.RandomSolarize(threshold=128, p=0.2))


def _scale_of_dino(view: str, steps: Steps) -> None:
    steps[0].scale = (0.05, 0.4) if view == "local_view" else (0.4, 1.0)


def _bgr(view: str, steps: Steps) -> None:
    steps.insert(0, lambda image: Image.fromarray(np.asarray(image)[..., ::-1].copy()))


def _both(first: Change, second: Change) -> Change:
    def change(view: str, steps: Steps) -> None:
        first(view, steps)
        second(view, steps)

    return change


def _blur_as_declared(view: str, steps: Steps) -> None:
    p = {"global_view_1": 1.0, "global_view_2": 0.1, "local_view": 0.5}[view]
    probability(transforms.GaussianBlur, p)(view, steps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_blur_as_declared, "Q1: the blur is applied as its numbers read"),
        (_dino_v1, "Q1: the blur and solarisation are DINO v1's"),
        (
            setting(transforms.RandomResizedCrop, interpolation=InterpolationMode.BILINEAR),
            ": crops are resized by bilinear interpolation, official's by bicubic",
        ),
        (_scale_of_dino, ": global crops (0.4, 1.0) and local ones (0.05, 0.4) have DINO v1's scale"),
        (setting(transforms.ColorJitter, saturation=(0.6, 1.4)), ": the colour jitter is brightness, contrast"),
        (_jitter_in_order, ": brightness, contrast, saturation and hue are changed in this order"),
        (_hue_sign, ": hue is turned the other way round"),
        (_grey_before_jitter, ": grayscale comes before jitter"),
        (_no_grey, ": no view is made grey"),
        (_solarised_too, ": global view 1 is solarised as well"),
        (_bgr, ": images reach the model as BGR"),
        (
            setting(transforms.Normalize, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            ": crops are normalised with mean (0.500, 0.500, 0.500) and standard deviation (0.500, 0.500, 0.500); "
            "official: (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)",
        ),
    ],
)
def test_a_changed_transform_is_named(official_stack: OfficialStack, few: None, change: Change, words: str) -> None:
    """A fork that draws as official does but computes something else is told what, and nothing besides."""
    result = check(official_stack, edited(change), "augment.crops")
    assert_seen(result, r"^image ")
    assert words in words_of(result)
    assert len(result.findings) == 1, words_of(result)


def test_a_change_of_what_is_seldom_made_is_named(official_stack: OfficialStack) -> None:
    """A fifth of the second global views is solarised: of 24 images some show another threshold, and the rest pass."""
    result = check(official_stack, edited(setting(transforms.RandomSolarize, threshold=64)), "augment.crops")
    assert_seen(result, r"global_crops\[1\]$", "", "solarisation begins at 64, official's at 128")
    assert 0 < len(result.diverged) < 12
    assert len(result.findings) == 1


def test_two_changes_are_both_named(official_stack: OfficialStack, few: None) -> None:
    """A corrected blur with another mean; and with bilinear interpolation."""
    mean = setting(transforms.Normalize, mean=(0.5, 0.5, 0.5))
    bilinear = setting(transforms.RandomResizedCrop, interpolation=InterpolationMode.BILINEAR)
    for other, words in ((mean, "mean (0.500, 0.500, 0.500)"), (bilinear, "bilinear")):
        result = check(official_stack, edited(_both(_blur_as_declared, other)), "augment.crops")
        assert {finding.id for finding in result.findings} == {"Q1", ""}, words_of(result)
        assert words in words_of(result)


def test_a_corrected_blur_is_q1_with_official_s_line(official_stack: OfficialStack, few: None) -> None:
    """`port` with `quirks.blur=corrected` diverges, and is sent to Q1."""
    settings = official_settings(augment.small_config(), "official_order")
    settings.quirks.blur = "corrected"
    corrected = make_augmentation(settings)
    result = check(official_stack, fork(augment=lambda image, config, seed: dict(corrected(image))), "augment.crops")
    (finding,) = result.findings
    assert finding.id == "Q1"
    assert finding.official == "dinov2/data/transforms.py:17-21"
    assert "explain Q1" in finding.fix


def test_one_seed_for_all_images_is_named(official_stack: OfficialStack, few: None) -> None:
    """A fork that seeds every image alike gives official's crops of the first one alone."""

    def reseeded(image: Any, config: Any, seed: int) -> dict[str, Any]:
        torch.manual_seed(0)
        return port().augment(image, config, seed)

    result = check(official_stack, fork(augment=reseeded), "augment.crops")
    assert_seen(result, r"^image 001 ", "", "every image is augmented under seed 0")


def test_local_crops_that_repeat_are_named(official_stack: OfficialStack, few: None) -> None:
    """One local crop, three times."""

    def repeated(image: Any, config: Any, seed: int) -> dict[str, Any]:
        crops = port().augment(image, config, seed)
        return {**crops, "local_crops": crops["local_crops"][:1] * 3}

    result = check(official_stack, fork(augment=repeated), "augment.crops")
    assert_seen(result, r"local_crops\[1\]", "", "the 3 local crops of an image are the same one")


@pytest.mark.parametrize(
    ("key", "made", "words"),
    [
        ("global_crops", lambda crops: [*crops, crops[0]], "0002: an image has 3 global views, official's 2"),
        ("local_crops", lambda crops: crops[:2], ": an image has 2 local crops, official's 3"),
        ("local_crops", lambda crops: [c[:, :42, :42] for c in crops], "local crops are float32 (3, 42, 42)"),
        ("global_crops", lambda crops: [c.half() for c in crops], "global crops are float16 (3, 96, 96)"),
    ],
    ids=["third view", "fewer", "smaller", "half"],
)
def test_numbers_shapes_and_types_are_named(
    official_stack: OfficialStack, few: None, key: str, made: Callable[[Any], Any], words: str
) -> None:
    """A third global view is difference 0002; other numbers, sizes and types are told as they are."""

    def other(image: Any, config: Any, seed: int) -> dict[str, Any]:
        crops = port().augment(image, config, seed)
        return {**crops, key: made(crops[key])}

    result = check(official_stack, fork(augment=other), "augment.crops")
    assert_seen(result, key)
    assert words in words_of(result)


def test_a_missing_key_is_a_failure(official_stack: OfficialStack, few: None) -> None:
    """Without `local_crops` the check fails for every image."""
    result = check(official_stack, fork(augment=lambda i, c, s: {"global_crops": []}), "augment.crops")
    assert_seen(result, r"global_crops\[0\]")
    assert any(c.name.endswith("/local_crops") and c.note == "the subject lacks it" for c in result.diverged)


def test_a_list_of_crops_is_refused_with_the_contract(official_stack: OfficialStack, few: None) -> None:
    """What is no mapping is the subject's error, which says what is expected."""
    result = check(official_stack, fork(augment=lambda image, config, seed: [1, 2]), "augment.crops")
    assert result.status == "error"
    assert "augment returned list, expected a mapping with official's keys global_crops, local_crops" in result.reason


def test_another_random_stream_is_no_other_algorithm(official_stack: OfficialStack, charts_of_official: None) -> None:
    """One draw more before each image: nothing is equal, everything measured is, and that is what is said."""

    def shifted(image: Any, config: Any, seed: int) -> dict[str, Any]:
        torch.rand(1)
        return port().augment(image, config, seed)

    result = check(official_stack, fork(augment=shifted), "augment.crops")
    assert_seen(result, r"^image 000 ")
    (finding,) = result.findings
    assert finding.id == ""
    assert finding.sentence.startswith("crops differ, but everything that was measured of them")


def test_the_fork_of_the_document_is_measured(official_stack: OfficialStack, charts_of_official: None) -> None:
    """Its third view is 0002; that nothing is grey, blurred or solarised as official's is measured on charts."""
    result = check(official_stack, LegacyStack(), "augment.crops")
    told = words_of(result)
    for words in (
        "0002: an image has 3 global views",
        ": blurred are 0% of global view 1, 0% of view 2 and 0% of local views",
        ": grey are 0% of view",
        "visibly solarised are",
    ):
        assert words in told, told


def test_without_real_images_nothing_is_claimed(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where scikit-image is not installed the checks of images are not run, and say what to install."""

    def missing(count: int = 0) -> Iterator[Any]:
        raise ImportError("the bundled images are scikit-image's, which is not installed: pip install")

    monkeypatch.setattr(augment, "photographs", missing)
    monkeypatch.setattr(augment, "encoded", missing)
    for name in CHECKS:
        result = check(official_stack, port(), name)
        assert (result.status, result.compared) == ("not_run", 0)
        assert "pip install" in result.reason


def stepped(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A fork whose steps are changed after the fact."""

    def steps(image: Any, config: Any, view: str, seed: int) -> dict[str, Any]:
        return change(port().augment_steps(image, config, view, seed))

    return fork(augment_steps=steps)


def test_the_first_step_that_differs_is_named(official_stack: OfficialStack) -> None:
    """A solarisation that is inverted is named in the view that has one; what follows is not compared."""

    def inverted(steps: dict[str, Any]) -> dict[str, Any]:
        if "solarize" in steps:
            steps["solarize"], steps["normalize"] = 255 - steps["solarize"], -steps["normalize"]
        return steps

    result = check(official_stack, stepped(inverted), "augment.steps")
    assert_seen(result, r"/global_2/solarize$", "", "views first differ after `solarize`: global_2 (8 of 8 images)")
    assert {c.name.split("/", 1)[1] for c in result.diverged} == {"global_2/solarize"}


@pytest.mark.parametrize("step", ["crop", "flip", "jitter", "grayscale", "blur", "normalize"])
def test_each_step_can_be_the_first(official_stack: OfficialStack, step: str) -> None:
    """One pixel changed after a step, and in all that follow, is that step's."""

    def off(steps: dict[str, Any]) -> dict[str, Any]:
        for name in list(steps)[list(steps).index(step) :]:
            steps[name][0, 0, 0] += 1
        return steps

    result = check(official_stack, stepped(off), "augment.steps")
    assert {c.name.rsplit("/", 1)[1] for c in result.diverged} == {step}
    assert f"after `{step}`: global_1 (8 of 8 images), global_2 (8 of 8 images), local (8 of 8 images)" in (
        words_of(result)
    )


def test_a_step_that_one_side_lacks_is_a_failure(official_stack: OfficialStack) -> None:
    """No grayscale, and a step of the fork's own."""

    def without(steps: dict[str, Any]) -> dict[str, Any]:
        return {name: image for name, image in steps.items() if name != "grayscale"}

    result = check(official_stack, stepped(without), "augment.steps")
    assert result.diverged[0].note == "the subject lacks it"
    assert {c.name.rsplit("/", 1)[1] for c in result.diverged} == {"grayscale"}

    def more(steps: dict[str, Any]) -> dict[str, Any]:
        return {**steps, "erase": steps["normalize"]}

    result = check(official_stack, stepped(more), "augment.steps")
    assert {c.name.rsplit("/", 1)[1] for c in result.diverged} == {"erase"}


def test_a_corrected_blur_is_seen_in_its_step(official_stack: OfficialStack) -> None:
    """The blur parts first, in either global view, and its shares are those of Q1."""
    settings = official_settings(augment.small_config(), "official_order")
    settings.quirks.blur = "corrected"
    augmentation = make_augmentation(settings)

    def steps(image: Any, config: Any, view: str, seed: int) -> dict[str, Any]:
        attribute = {"global_1": "global_view_1", "global_2": "global_view_2", "local": "local_view"}[view]
        return images_after([getattr(augmentation, attribute)], image)

    result = check(official_stack, fork(augment_steps=steps), "augment.steps", quick=False)
    assert_seen(result, r"/global_1/blur$", "Q1", "views first differ after `blur`: global_1")
    # Where both blur, or neither does, other draws follow: then solarisation is the first to differ.
    assert {c.name.rsplit("/", 1)[1] for c in result.diverged} <= {"blur", "solarize"}


@pytest.mark.parametrize(
    "view",
    [
        lambda image, resize, crop: port().evaluation_view(image.resize((resize, resize)), resize, crop),
        lambda image, resize, crop: port().evaluation_view(ImageOps.mirror(image), resize, crop),
        lambda image, resize, crop: port().evaluation_view(image, resize + 8, crop),
        lambda image, resize, crop: port().evaluation_view(image, resize, crop) + 1e-6,
    ],
    ids=["squeezed", "mirrored", "resized", "rounded"],
)
def test_another_evaluation_view_is_seen(official_stack: OfficialStack, view: Callable[..., Any]) -> None:
    """Images squeezed to a square, mirrored, resized to another side, or off in the last digit."""
    assert_seen(check(official_stack, fork(evaluation_view=view), "augment.evaluation"), r"^image ")


def _opened(data: bytes, tmp: Path) -> Image.Image:
    path = tmp / "image"
    path.write_bytes(data)
    image = Image.open(path)
    image.load()
    return image


def test_other_decodings_are_named(official_stack: OfficialStack, tmp_path: Path) -> None:
    """BGR, an applied orientation, blended transparency, and an image left in its mode."""

    def blended(data: bytes) -> Image.Image:
        image = _opened(data, tmp_path)
        white = Image.new("RGBA", image.size, "white")
        transparent = image.mode in ("RGBA", "LA")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB") if transparent else decode(data)

    def decode(data: bytes) -> Image.Image:
        return decode_image(data, "image")

    for function, words, files in (
        (lambda data: np.array(decode(data))[..., ::-1].copy(), "channels come as BGR", "JPEG RGB"),
        (
            lambda data: ImageOps.exif_transpose(_opened(data, tmp_path)).convert("RGB"),
            "the EXIF orientation is applied",
            "JPEG with an EXIF orientation",
        ),
        (blended, "transparency is blended onto white", "PNG grey with alpha, PNG RGBA"),
        (lambda data: _opened(data, tmp_path), "the image keeps its own mode", "JPEG grey"),
    ):
        result = check(official_stack, fork(decode_image=function), "augment.decoding")
        assert_seen(result, r"^file/", "", words)
        assert files in next(f.sentence for f in result.findings if words in f.sentence)
