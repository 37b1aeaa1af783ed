from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Fork, assert_no_alarm, assert_seen, check, port
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters import port_states
from parity.adapters.official import OfficialStack
from parity.attribution.resume import attribute_resume
from parity.checks import resume, training_runs, trajectory
from parity.checks.growth import step_of
from parity.checks.resume import CHECKS
from parity.checks.training_runs import LENGTH, SNAPSHOTS
from port.checkpoint import Checkpointer, Metadata, training_state
from port.losses.centering import CenteredLoss
from port.step import TrainStep

State = dict[str, Tensor]


class Remembering:
    """Official code that trains over equal inputs only once: what it returns does not depend on the subject."""

    def __init__(self, official: OfficialStack) -> None:
        self._official = official
        self._made: dict[object, Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._official, name)
        if name not in ("training_trajectory", "resumed_trajectory"):
            return found

        def remembered(config: DictConfig, state: State, batches: list[dict[str, Any]], *rest: Any, **more: Any) -> Any:
            tensors = [*state.values(), *(batch["collated_global_crops"] for batch in batches)]
            given = [(tensor.dtype, float(tensor.double().sum())) for tensor in tensors]
            key = repr((name, config, given, [int(b["n_masked_patches"]) for b in batches], rest, more))
            if key not in self._made:
                self._made[key] = found(config, state, batches, *rest, **more)
            return self._made[key]

        return remembered


@pytest.fixture(scope="module")
def remembering(opened_official_stack: OfficialStack) -> Remembering:
    """One for the whole file."""
    return Remembering(opened_official_stack)


@pytest.fixture
def official(official_stack: OfficialStack, remembering: Remembering, monkeypatch: pytest.MonkeyPatch) -> Remembering:
    """Official code; one replicate measures the noise well enough for faults that are far beyond it."""
    monkeypatch.setattr(trajectory, "_REPLICATES", 1)
    return remembering


class Resuming(Fork):
    """A fork that loses something between its two trainings.

    Args:
        saved: what it makes of the state before that is written.
        resumed: what it does to the step that goes on; called with the iteration.
    """

    def __init__(
        self,
        saved: Callable[[TrainStep, State], State] = lambda step, state: state,
        resumed: Callable[[TrainStep, int], None] = lambda step, iteration: None,
    ) -> None:
        super().__init__()
        self._saved, self._resumed = saved, resumed

    def resumed_trajectory(
        self,
        config: DictConfig,
        state: Any,
        batches: Sequence[Any],
        snapshots: Sequence[int],
        seed: int,
        stop: int,
    ) -> dict[str, Any]:
        """As `port`, but for what is lost."""
        first = self._train_step(config, state)
        before = port_states._trained(first, state, batches[: stop + 1], snapshots, seed, 0)
        second = self._train_step(config, state)
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpointer(Path(folder))
            tensors = self._saved(first, training_state(first.model, {"student": first.optimizer}))
            checkpoints.save(tensors, Metadata.of_run(stop + 1, config))
            checkpoints.load(training_state(second.model, {"student": second.optimizer}))
        self._resumed(second, stop + 1)
        after = port_states._trained(second, state, batches[stop + 1 :], snapshots, seed, stop + 1)
        losses = [*before["losses"], *after["losses"]]
        return {"losses": losses, "snapshots": {**before["snapshots"], **after["snapshots"]}}


def _zeroed(part: str) -> Callable[[TrainStep, State], State]:
    return lambda step, state: {n: torch.zeros_like(t) if f".{part}." in n else t for n, t in state.items()}


def _teacher_from_student(step: TrainStep, state: State) -> State:
    return {name: state[name.replace("model.teacher.", "model.student.", 1)] for name in state}


def _forget(step: TrainStep, iteration: int) -> None:
    step.optimizer.state.clear()


def _from_the_start(step: TrainStep, iteration: int) -> None:
    at = step.schedules.at
    step.schedules = type("Shifted", (), {"at": staticmethod(lambda i: at(i - iteration))})()


def _freeze_again(step: TrainStep, iteration: int) -> None:
    at = step.schedules.at
    frozen = range(iteration, iteration + 2)

    def again(i: int) -> Any:
        return at(i)._replace(last_layer_lr=0.0) if i in frozen else at(i)

    step.schedules = type("Frozen", (), {"at": staticmethod(again)})()


@pytest.mark.parametrize("recipe", ["default", "vitl14"])
def test_port_resumes_without_a_difference(official: Remembering, recipe: str) -> None:
    """Saved after step 4 of ten by its own checkpoints: equal bits, with centering in fp32, with Sinkhorn in fp64."""
    result = check(official, port(), "trajectory.resume", recipe)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared
    tiers = {(c.name.split("/")[0], c.tier) for c in result.comparisons}
    assert tiers == ({("init", "T0")} if recipe == "default" else {("generic", "T1")})
    assert any("/step 9/exp_avg_sq/" in c.name for c in result.comparisons)


def test_the_long_run_is_resumed_after_half_of_it(official: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--quick` the default recipe is resumed in the middle, trained for some more steps, and compared whole.

    Twenty steps stand for the hundred here, and one further step for ten.
    """
    assert (LENGTH, resume._stop(LENGTH), resume._FURTHER) == (100, 49, 10)
    assert resume._stop(100) + resume._FURTHER in SNAPSHOTS
    monkeypatch.setattr(resume, "LENGTH", 20)
    monkeypatch.setattr(resume, "_FURTHER", 1)
    monkeypatch.setattr(training_runs, "SNAPSHOTS", (9, 10))
    result = check(official, port(), "trajectory.resume", "default", quick=False)
    assert_no_alarm(result)
    steps = {step_of(c.name) for c in result.comparisons}
    assert steps == set(range(11))
    assert any(c.name.startswith("init/step 10/teacher/") for c in result.comparisons)


def test_official_s_own_resume_loses_a_pending_centre(official: Remembering, official_stack: OfficialStack) -> None:
    """Q14: with centering its own checkpoint does not continue; with Sinkhorn nothing is pending, and it does."""
    result = check(official, official_stack, "trajectory.resume", "default")
    assert_seen(result, "^generic/step 5/losses/", "Q14", "the centre update that waits for its next use is not saved")
    assert_no_alarm(check(official, official_stack, "trajectory.resume", "vitl14"))


def test_a_dropped_pending_centre_is_named(official: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """The centres are saved as they stand, without the update that waits."""
    apply = CenteredLoss.apply_center_update

    def noting(self: CenteredLoss) -> None:
        self.__dict__["before"] = self.center.clone()
        apply(self)

    monkeypatch.setattr(CenteredLoss, "apply_center_update", noting)

    def unapplied(step: TrainStep, state: State) -> State:
        losses = {n: m for n, m in step.model.named_modules() if isinstance(m, CenteredLoss)}
        return {**state, **{f"model.{n}.center": m.__dict__["before"] for n, m in losses.items()}}

    result = check(official, Resuming(saved=unapplied), "trajectory.resume", "default")
    assert_seen(result, "^generic/step 5/losses/dino", "Q14", "official's own checkpoint loses it too")


@pytest.mark.parametrize(
    ("subject", "first", "words"),
    [
        (Resuming(resumed=_forget), "^generic/step 6/losses/", "AdamW starts anew"),
        (Resuming(saved=_zeroed("step")), "^generic/step 6/losses/", "its count of steps starts at zero"),
        (Resuming(saved=_teacher_from_student), "^generic/step 5/losses/", "starts as a copy of the student"),
        (Resuming(resumed=_from_the_start), "^generic/step 5/losses/", "the schedules start at iteration 0 again"),
        (Resuming(resumed=_freeze_again), "^generic/step 6/losses/", "the last layer is frozen again"),
    ],
)
def test_what_a_resume_loses_is_named(official: Remembering, subject: Any, first: str, words: str) -> None:
    """By the first loss that shows it, and by official training that lost the same."""
    result = check(official, subject, "trajectory.resume", "default")
    assert_seen(result, first, "", words)
    assert len(result.findings) == 1
    (table,) = result.exhibits
    assert "resumed after step 4" in table.title


def test_a_fault_before_the_resume_is_not_taken_for_its(official: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without clipping differs from the first step on: nothing is said of the resume."""
    init = TrainStep.__init__

    def unclipped(self: TrainStep, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.clip_grad = 0.0

    monkeypatch.setattr(TrainStep, "__init__", unclipped)
    result = check(official, Fork(), "trajectory.resume", "default")
    assert_seen(result, "^generic/step 0/")
    assert result.findings == []


def test_an_unknown_loss_is_not_named() -> None:
    """Where no official replay gives the numbers, nothing is claimed; nor where there are no numbers."""
    mine = {"step 5/losses/x": torch.tensor(2.0, dtype=torch.float64), "step 1/losses/x": torch.tensor(1.0)}
    assert list(attribute_resume(mine, lambda lost: {"step 5/losses/x": torch.tensor(2.1).double()}, 4)) == []
    assert list(attribute_resume({}, lambda lost: {}, 4)) == []
    (finding,) = attribute_resume(mine, lambda lost: {"step 5/losses/x": mine["step 5/losses/x"].clone()}, 4)
    assert finding.id == "Q14"


def test_the_check_asks_for_its_own_capability() -> None:
    """A stack that cannot be resumed is not run, and its training is compared all the same."""
    (only,) = CHECKS
    assert (only.needs, only.family, only.level) == (("resumed_trajectory",), "trajectory", "L4")
