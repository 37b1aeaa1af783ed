from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import port.models.block
from bench.arms import AGREEING, ARMS, STAGES, PortArm, missing, open_arm, third_view
from bench.conftest import ReportedSeconds
from bench.figures import verdicts
from bench.inputs import Subsets, make_batches, make_state
from bench.picture import COLOURS, draw
from bench.settings import OPTIONS, Settings
from port.data import Batch

TINY = Settings(
    arch="vit_parity4", batch=2, prototypes=16, local_crops=2, global_size=64, local_size=32, reference="pypi"
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two images: four global crops, of which two are masked."""
    (made,) = make_batches(TINY, 1)
    return made


def test_the_third_view_is_made_of_the_masked_crops(batch: Batch) -> None:
    """So the fork predicts as many patches as the others, under the same masks, and sees the same global crops."""
    views = third_view(batch)
    assert torch.equal(views.global_crops, batch["collated_global_crops"])
    assert views.original_images.shape == (2, 3, 64, 64)
    assert views.token_masks.any(-1).all()
    assert int(views.token_masks.sum()) == int(batch["n_masked_patches"])


@pytest.mark.parametrize("name", ["unified", "three-view"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_does_what_its_name_says(name: str, stage: str, batch: Batch) -> None:
    """Forward leaves no gradient; forward and backward move no weight; a step does; losses are finite throughout."""
    subsets = Subsets()
    with open_arm(name, TINY, make_state(TINY), subsets) as arm:
        before = {key: value.clone() for key, value in arm.student.state_dict().items()}
        subsets.begin(0)
        arm.consume([batch], stage)
        moved = any(not torch.equal(value, before[key]) for key, value in arm.student.state_dict().items())
        gradients = any(parameter.grad is not None for parameter in arm.student.parameters())
    assert moved is (stage == "step")
    assert gradients is (stage != "forward")
    assert all(bool(value.isfinite()) and not value.requires_grad for value in arm.losses.values())


def test_an_arm_asks_for_the_next_batch_when_it_is_done(batch: Batch) -> None:
    """That is how an iteration is timed: from the moment that its batch is handed over to the next request."""
    seen: list[bool] = []

    def batches() -> Iterator[Batch]:
        subsets.begin(0)
        yield batch
        seen.append(all(parameter.grad is not None for parameter in arm.student["dino_head"].parameters()))

    subsets = Subsets()
    with open_arm("three-view", TINY, make_state(TINY), subsets) as arm:
        arm.consume(batches(), "forward+backward")
    assert seen == [True]


def test_drop_path_is_given_back(batch: Batch) -> None:
    """The stand-in lives as long as the arm."""
    before = port.models.block.get_branges_scales
    with open_arm("unified", TINY, make_state(TINY), Subsets()):
        assert port.models.block.get_branges_scales is not before
    assert port.models.block.get_branges_scales is before


def test_three_view_is_the_only_arm_that_is_not_compared() -> None:
    """It comes first, since the others' speed-ups are over it."""
    assert set(ARMS) - set(AGREEING) == {"three-view"} == {next(iter(ARMS))}
    assert set(ARMS) == set(COLOURS)


def test_only_the_packed_arm_may_be_missing() -> None:
    """The others run on any machine."""
    assert [name for name in ARMS if missing(name, TINY)] == ["packed"]


def test_the_clock_moves_by_what_is_reported() -> None:
    """pytest-benchmark takes differences of it."""
    clock = ReportedSeconds()
    began = clock()
    clock.advance(1.5)
    clock.advance(0.25)
    assert clock() - began == 1.75


def test_every_option_is_a_setting() -> None:
    """Each is handed to the settings by its own name; nothing is accepted and then ignored."""
    names = {name.replace("-", "_") for name in OPTIONS} - {"figures"}
    assert names <= set(Settings.__dataclass_fields__)


def test_a_picture_without_arms_shows_the_ratios(tmp_path: Path) -> None:
    """A run of parts alone."""
    draw([], verdicts({"masks_14": 3.0, "double_batch": 1.9}), "parts", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("kernels", "fast"), [("fast", True), ("official_order", False)])
@pytest.mark.parametrize("name", ["unified", "separate"])
def test_arms_of_port_have_the_run_s_kernels(name: str, kernels: str, fast: bool) -> None:
    """In the losses, the moving average, and the optimizer, whose groups name the fused AdamW."""
    settings = replace(TINY, kernels=kernels)
    with open_arm(name, settings, make_state(settings), Subsets()) as arm:
        assert isinstance(arm, PortArm)
        assert arm.model.fast is arm.model.dino_loss.fast is arm.model.ibot_patch_loss.fast is fast
        assert {bool(group.get("fused")) for group in arm.model.get_params_groups()} == {fast}
