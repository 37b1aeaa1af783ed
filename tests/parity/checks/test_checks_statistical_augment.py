from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port
from torchvision import transforms

from parity.adapters.official import OfficialStack
from parity.adapters.port_parts import official_settings
from parity.attribution import augment as attribution
from parity.attribution.augment import probes
from parity.attribution.augment.probes import Measured
from parity.checks import statistical_augment
from parity.checks.augment import small_config
from parity.checks.base import NotRunError
from parity.results import CheckResult
from parity.stack import stack_name
from port.data.augmentations import DataAugmentationDINO
from port.data.loader import make_augmentation

CHECK = "augment.statistical"

Change = Callable[[str, list[Any]], None]


class Remembered:
    """Official code whose crops under a seed are made once for the tests of this file."""

    name = "official"

    def __init__(self, stack: OfficialStack) -> None:
        self._stack = stack
        self._made: dict[tuple[str, bytes, int], Any] = {}

    def augment(self, image: Any, config: Any, seed: int) -> Any:
        """As official's, which draws from the generators that parity has seeded with `seed`."""
        key = (str(config.crops), image.tobytes(), seed)
        if key not in self._made:
            self._made[key] = self._stack.augment(image, config, seed)
        return self._made[key]


@pytest.fixture(scope="module")
def remembered(opened_official_stack: OfficialStack) -> Remembered:
    """The same for all tests."""
    return Remembered(opened_official_stack)


@pytest.fixture
def official(official_stack: OfficialStack, remembered: Remembered) -> Remembered:
    """Official code, with its warnings quiet."""
    return remembered


@pytest.fixture
def unexplained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Attribution left out: what it is given is kept instead."""
    given: list[Any] = []

    def told(*arguments: Any) -> Iterator[Any]:
        given.append(arguments)
        return iter(())

    monkeypatch.setattr(statistical_augment, "attribute_draws", told)
    return given


def edited(change: Change) -> Any:
    """A fork of `port` whose views have other transforms."""
    made: dict[str, DataAugmentationDINO] = {}

    def augmented(image: Any, config: Any, seed: int) -> dict[str, Any]:
        key = str(config.crops)
        if key not in made:
            made[key] = make_augmentation(official_settings(config, "official_order"))
            for view in ("global_view_1", "global_view_2", "local_view"):
                change(view, getattr(made[key], view).transforms)
        return dict(made[key](image))

    return fork(augment=augmented)


def parted(result: CheckResult) -> dict[str, set[str]]:
    """The features that diverge, by view."""
    found: dict[str, set[str]] = {}
    for comparison in result.diverged:
        view, feature = comparison.name.split("/")
        found.setdefault(view, set()).add(feature)
    return found


def _random_applied(steps: list[Any], kind: type) -> Iterator[Any]:
    for step in steps:
        if isinstance(step, transforms.RandomApply) and isinstance(step.transforms[0], kind):
            yield step


def _always_blurred(view: str, steps: list[Any]) -> None:
    for step in _random_applied(steps, transforms.GaussianBlur):
        step.p = 1.0


def _wider_scale(view: str, steps: list[Any]) -> None:
    if view == "local_view":
        steps[0].scale = (0.05, 0.6)


def _never_flipped(view: str, steps: list[Any]) -> None:
    steps[:] = [step for step in steps if not isinstance(step, transforms.RandomHorizontalFlip)]


def _oftener_solarised(view: str, steps: list[Any]) -> None:
    for step in steps:
        if isinstance(step, transforms.RandomSolarize):
            step.p = 0.6


def _no_jitter(view: str, steps: list[Any]) -> None:
    for step in _random_applied(steps, transforms.ColorJitter):
        step.p = 0.0


def _oftener_grey(view: str, steps: list[Any]) -> None:
    for step in steps:
        if isinstance(step, transforms.RandomGrayscale):
            step.p = 0.6


def _cut_in_the_middle(view: str, steps: list[Any]) -> None:
    class Central(transforms.RandomResizedCrop):  # type: ignore[misc] # torchvision ships no types
        @staticmethod
        def get_params(img: Any, scale: Any, ratio: Any) -> Any:
            _, _, h, w = transforms.RandomResizedCrop.get_params(img, scale, ratio)
            return 0, 0, h, w

    steps[0].__class__ = Central


def test_port_passes_from_other_seeds(official: Remembered) -> None:
    """Official's distribution under other seeds: no crop is equal, and no feature of any view alarms."""
    result = check(official, port(), CHECK)
    assert_no_alarm(result)
    features = [c for c in result.comparisons if c.tier == "T4"]
    assert {c.name.split("/")[0] for c in features} == {"global 1", "global 2", "local"}
    assert not any(c.bitwise for c in features)
    assert len(features) >= 3 * 24
    (table,) = result.exhibits
    assert len(table.rows) == len(features)
    assert all(c.bitwise for c in result.comparisons if c.name.startswith("forms/"))


@pytest.mark.parametrize(
    ("change", "feature", "views"),
    [
        (_always_blurred, "blurred", {"global 1", "local"}),
        (_wider_scale, "area", {"local"}),
        (_never_flipped, "flipped", {"global 1", "global 2", "local"}),
        (_oftener_solarised, "solarised", {"global 2"}),
        (_no_jitter, "spread of the level", {"global 1", "local"}),
        (_oftener_grey, "grey", {"global 1", "global 2", "local"}),
        (_cut_in_the_middle, "column of the middle", {"global 1", "global 2", "local"}),
    ],
)
def test_a_changed_view_is_seen_in_its_feature(
    official: Remembered, unexplained: list[Any], change: Change, feature: str, views: set[str]
) -> None:
    """Each change diverges in the feature of its name, in every view that it is about."""
    result = check(official, edited(change), CHECK)
    assert_seen(result, r"^(global 1|global 2|local)/")
    found = parted(result)
    assert views <= {view for view, features in found.items() if feature in features}, found
    ((_, _, _, told),) = unexplained
    assert {view: {f.name for f in features} for view, features in told.items() if features} == found


def test_a_change_of_one_view_leaves_the_others(official: Remembered, unexplained: list[Any]) -> None:
    """Wider local crops: global views pass all they are judged by."""
    assert set(parted(check(official, edited(_wider_scale), CHECK))) == {"local"}


def test_the_cause_is_told_by_measurement(official: Remembered, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blur as its numbers read is Q1, whatever stream it was drawn from."""
    measured: dict[str, Measured] = {}

    def once(stack: Any, config: Any) -> Measured:
        name = stack_name(stack)
        measured[name] = measured.get(name) or probes.measure(stack, config)
        return measured[name]

    monkeypatch.setattr(attribution, "measure", once)

    def as_declared(view: str, steps: list[Any]) -> None:
        for step in _random_applied(steps, transforms.GaussianBlur):
            step.p = {"global_view_1": 1.0, "global_view_2": 0.1, "local_view": 0.5}[view]

    result = check(official, edited(as_declared), CHECK)
    assert_seen(result, r"^global \d/", "Q1", "the blur is applied as its numbers read")
    assert len(result.findings) == 1
    found = parted(result)
    assert all({"blurred", "sharpness"} <= found[view] for view in ("global 1", "global 2"))


def test_what_measurement_does_not_tell_is_named_by_its_feature(
    official: Remembered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops from the upper left corner: no probe looks for them, so the finding has feature, view and both means."""
    monkeypatch.setattr(attribution, "differences", lambda official, mine: iter(()))
    monkeypatch.setattr(attribution, "measure", lambda stack, config: None)
    result = check(official, edited(_cut_in_the_middle), CHECK)
    (finding,) = result.findings
    assert finding.sentence.startswith("crops look otherwise: global 1: ")
    assert "column of the middle 0.3" in finding.sentence
    assert "(official 0.49" in finding.sentence


def test_numbers_and_forms_of_crops_are_exact(official: Remembered, unexplained: list[Any]) -> None:
    """A third global view, local crops of half precision that are all one: no draw decides these."""

    def other(image: Any, config: Any, seed: int) -> dict[str, Any]:
        made = dict(port().augment(image, config, seed))
        made["global_crops"] = [*made["global_crops"], made["global_crops"][0]]
        made["local_crops"] = [made["local_crops"][0].half()] * len(made["local_crops"])
        return made

    result = check(official, fork(augment=other), CHECK)
    diverged = {c.name: (c.reference, c.subject) for c in result.diverged if c.name.startswith("forms/")}
    assert set(diverged) == {"forms/global_crops", "forms/local_crops", "forms/different local_crops"}
    assert diverged["forms/different local_crops"] == ("2", "1")
    assert diverged["forms/global_crops"][1].count("(3, 48, 48) torch.float32") == 3
    assert "torch.float16" in diverged["forms/local_crops"][1]


def test_a_stack_that_makes_no_local_crops_ends_as_a_divergence(official: Remembered) -> None:
    """What was compared before stays, and the reason says where it ended."""
    result = check(official, fork(augment=lambda i, c, s: {"global_crops": []}), CHECK)
    assert result.status == "diverged"
    assert "local_crops" in result.reason


@pytest.mark.parametrize("name", ["augment.crops", "augment.steps"])
def test_crops_of_its_own_are_not_compared_bit_for_bit(official: Remembered, name: str) -> None:
    """Not run, with the reason; evaluation and decoding, which draw nothing, are compared as ever."""
    subject = port()
    subject.own_randomness = ("augment", "augment_steps")  # type: ignore[attr-defined] # as an adapter declares it
    result = check(official, subject, name)
    assert (result.status, result.compared) == ("not_run", 0)
    assert "(own_randomness); augment.statistical judges the distribution" in result.reason


def test_a_generator_of_its_own_passes(official: Remembered) -> None:
    """Crops under seeds of the stack's own choice, another one for each call, have official's distribution."""
    calls = iter(range(10**6))

    def reseeded(image: Any, config: Any, seed: int) -> Any:
        torch.manual_seed(77_000_000 + next(calls))
        return port().augment(image, config, seed)

    assert_no_alarm(check(official, fork(augment=reseeded), CHECK))


def test_without_photographs_it_is_not_run(official: Remembered, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other checks of real images."""

    def none(count: int) -> Any:
        raise NotRunError("there are no real images here")

    monkeypatch.setattr(statistical_augment, "real_images", none)
    assert check(official, port(), CHECK).status == "not_run"


def test_the_crops_are_cut_at_the_recipe_s_scales() -> None:
    """Only sizes and numbers are the check's own: a scale of its own would judge what no training does."""
    assert tuple(small_config().crops.global_crops_scale) == (0.32, 1.0)
    assert tuple(small_config().crops.local_crops_scale) == (0.05, 0.32)
