from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from two_ranks import run_on_two_ranks

from port.kernels import KERNELS
from port.losses import DINOLoss, iBOTPatchLoss
from port.losses.centering import CenteredLoss

LOSSES: dict[str, Callable[[], CenteredLoss]] = {"dino": lambda: DINOLoss(3), "ibot": lambda: iBOTPatchLoss(3)}


@pytest.fixture(params=KERNELS, autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is of both forms, but for those on two ranks, whose processes build official's."""
    for loss in (DINOLoss, iBOTPatchLoss):
        defaults = loss.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "kernels", request.param)


def outputs(kind: str, rows: list[list[float]]) -> torch.Tensor:
    """Return logits in the shape that the loss is given: (B, K), or (1, M, K) for iBOT."""
    return torch.tensor(rows) if kind == "dino" else torch.tensor([rows])


@pytest.mark.parametrize(("kind", "shape"), [("dino", (1, 3)), ("ibot", (1, 1, 3))])
def test_the_centre_starts_at_zero_in_official_s_shape(kind: str, shape: tuple[int, ...]) -> None:
    """The state dict has one key, `center`, which official checkpoints hold too."""
    state = LOSSES[kind]().state_dict()
    assert list(state) == ["center"]
    assert torch.equal(state["center"], torch.zeros(shape))


@pytest.mark.parametrize("kind", LOSSES)
def test_targets_are_a_softmax_of_centred_logits(kind: str) -> None:
    """softmax((x - c) / temp), by hand: equal differences give equal probabilities."""
    loss = LOSSES[kind]()
    loss.center += torch.tensor([1.0, 2.0, 3.0])
    targets = loss.softmax_center_teacher(outputs(kind, [[1.0, 2.0, 3.0]]), 0.04)
    torch.testing.assert_close(targets, outputs(kind, [[1 / 3, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize("kind", LOSSES)
def test_an_update_is_applied_before_the_next_targets(kind: str) -> None:
    """Q14: the centre moves by a tenth of the mean, one call later."""
    loss = LOSSES[kind]()
    x = outputs(kind, [[0.0, 10.0, 20.0], [10.0, 10.0, 0.0]])
    loss.softmax_center_teacher(x, 0.07)
    loss.update_center(x)
    assert not loss.center.any()
    assert not loss.updated
    loss.softmax_center_teacher(x, 0.07)
    torch.testing.assert_close(loss.center.flatten(), torch.tensor([0.5, 1.0, 1.0]))
    assert loss.updated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", LOSSES)
def test_targets_and_update_are_the_two_calls(kind: str, dtype: torch.dtype) -> None:
    """Bit for bit, over three batches; where logits are float32 and fast, the targets stand where they stood."""
    apart, together = LOSSES[kind](), LOSSES[kind]()
    for seed in range(3):
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).tolist()
        x = outputs(kind, rows).to(dtype)
        expected = apart.softmax_center_teacher(x, 0.07)
        apart.update_center(x)
        targets = together.targets_and_update(x, 0.07)
        assert torch.equal(targets, expected)
        assert (targets.data_ptr() == x.data_ptr()) is (together.fast and dtype == torch.float32)
    for loss in (apart, together):
        loss.apply_center_update()
    assert torch.equal(together.center, apart.center)
    assert together.center.any()


@pytest.mark.parametrize("kind", LOSSES)
def test_an_update_is_applied_once(kind: str) -> None:
    """Without a new update the centre stays."""
    loss = LOSSES[kind]()
    loss.update_center(outputs(kind, [[1.0, 2.0, 3.0]]))
    loss.apply_center_update()
    centre = loss.center.clone()
    loss.apply_center_update()
    loss.softmax_center_teacher(outputs(kind, [[1.0, 2.0, 3.0]]), 0.07)
    assert torch.equal(loss.center, centre)


@pytest.mark.parametrize("kind", LOSSES)
def test_applying_before_saving_changes_no_later_number(kind: str) -> None:
    """A pending update is not in the state dict; applying it early gives the same targets."""
    x = outputs(kind, [[0.3, -1.0, 2.0], [1.5, 0.1, 0.7]])
    early, late = LOSSES[kind](), LOSSES[kind]()
    for loss in (early, late):
        loss.update_center(x)
    early.apply_center_update()
    assert torch.equal(early.softmax_center_teacher(x, 0.07), late.softmax_center_teacher(x, 0.07))
    assert torch.equal(early.center, late.center)


@pytest.mark.parametrize("kind", LOSSES)
def test_half_precision_logits_give_single_precision_targets(kind: str) -> None:
    """The centre is float32, and so is all that it touches."""
    assert LOSSES[kind]().softmax_center_teacher(outputs(kind, [[1.0, 2.0, 3.0]]).half(), 0.07).dtype == torch.float32


def test_no_masked_patch_leaves_the_ibot_centre() -> None:
    """Q13: official's centre is NaN from then on."""
    loss = iBOTPatchLoss(3)
    loss.center += torch.tensor([1.0, 2.0, 3.0])
    loss.update_center(torch.zeros(1, 0, 3))
    loss.apply_center_update()
    torch.testing.assert_close(loss.center.flatten(), torch.tensor([1.0, 2.0, 3.0]))


def test_the_quirk_of_official_makes_the_ibot_centre_nan() -> None:
    """Q13 kept: the mean over no patch is 0 / 0, and the moving average keeps it."""
    loss = iBOTPatchLoss(3, keep_center_without_masks=False)
    loss.update_center(torch.zeros(1, 0, 3))
    loss.apply_center_update()
    assert loss.center.isnan().all()


def _update_on_rank(rank: int, folder: Path) -> None:
    dino, ibot = DINOLoss(1), iBOTPatchLoss(1)
    dino.update_center(torch.tensor([[10.0 * rank], [20.0]]))
    # Rank 0 has one patch at 0, rank 1 three at 10: the mean of means is 5, the mean over patches 7.5.
    ibot.update_center(torch.full((1, 1 + 2 * rank, 1), 10.0 * rank))
    for loss in (dino, ibot):
        loss.apply_center_update()
    torch.save((dino.center, ibot.center), folder / f"rank{rank}")


def test_two_ranks_share_a_centre(tmp_path: Path) -> None:
    """DINO averages samples; iBOT averages the means of ranks, whatever their number of patches (Q12)."""
    run_on_two_ranks(_update_on_rank, tmp_path)
    for rank in range(2):
        dino, ibot = torch.load(tmp_path / f"rank{rank}")
        torch.testing.assert_close(dino, torch.tensor([[1.25]]))
        torch.testing.assert_close(ibot, torch.tensor([[[0.5]]]))
