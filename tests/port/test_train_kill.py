from __future__ import annotations

import itertools
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from train_launcher import Ended, Launcher, Place
from train_runs import arguments, checkpoint_tensors, losses, make_images, newest_checkpoint

pytestmark = pytest.mark.slow

SEED = 20
KILLS = 20
OPERATIONS = 21
"""Of a save that also removes a checkpoint."""

SAVING = r"checkpoints/(\.tmp-step|\.tmp-removed|step)|os\.fsync .*checkpoints$"
"""File operations of a save: the new checkpoint's, and the removal of the oldest."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to.

    Attributes:
        images: what it was trained on.
        output: its folder.
        ended: how it ended.
    """

    images: Path
    output: Path
    ended: Ended

    def argv(self, output: Path, *overrides: str) -> list[str]:
        """Return the same command with another output folder: six steps, three checkpoints, k-NN three times."""
        knn = (f"knn.train_dataset={self.images}", f"knn.test_dataset={self.images}")
        return arguments(self.images, output, *knn, "knn.k=2", "knn.period_iterations=3", *overrides)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """The process that all runs are forked from."""
    with Launcher(tmp_path_factory.mktemp("logs")) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def undisturbed(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A whole run, which the disturbed ones must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    images = make_images(folder / "images")
    run = Undisturbed(images, folder / "out", Ended(0, 0.0, [], [], ""))
    ended = launcher.run(run.argv(run.output))
    assert ended.code == 0, ended.log
    return Undisturbed(images, run.output, ended)


def files(output: Path) -> set[str]:
    """Return the names of all files and folders of a run, of its checkpoints the newest only."""
    newest = newest_checkpoint(output)
    older = {path for path in newest.parent.glob("step_*") if path != newest}
    return {
        str(path.relative_to(output)) for path in output.rglob("*") if path not in older and path.parent not in older
    }


def assert_same_results(output: Path, expected: Path) -> None:
    """Every tensor bit for bit, every number that was logged once, k-NN, and no file more or less."""
    found, wanted = checkpoint_tensors(newest_checkpoint(output)), checkpoint_tensors(newest_checkpoint(expected))
    assert newest_checkpoint(output).name == newest_checkpoint(expected).name
    assert found.keys() == wanted.keys()
    differing = [
        name for name, tensor in wanted.items() if found[name].dtype != tensor.dtype or not equal(found[name], tensor)
    ]
    assert differing == []
    assert losses(output) == losses(expected)
    assert (output / "knn.json").read_text() == (expected / "knn.json").read_text()
    assert files(output) == files(expected)


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have the same bits."""
    return first.numpy().tobytes() == second.numpy().tobytes()


def test_the_undisturbed_run_is_what_the_others_are_compared_with(undisturbed: Undisturbed) -> None:
    """It trains: model, both moments, step counts and centres are there, and have moved."""
    first, last = sorted((undisturbed.output / "checkpoints").iterdir())
    assert [first.name, last.name] == ["step_000000004", "step_000000006"]
    earlier, state = checkpoint_tensors(first), checkpoint_tensors(last)
    assert state["optimizer.student.step.student.backbone.cls_token"] == 6
    for name in (
        "model.student.backbone.blocks.0.attn.qkv.weight",
        "model.teacher.backbone.blocks.0.attn.qkv.weight",
        "model.dino_loss.center",
        "model.ibot_patch_loss.center",
        "optimizer.student.exp_avg.student.dino_head.mlp.0.weight",
        "optimizer.student.exp_avg_sq.student.backbone.pos_embed",
    ):
        assert not equal(earlier[name], state[name]), name
    lines = losses(undisturbed.output)
    assert [line["iteration"] for line in lines if "total_loss" in line] == list(range(6))
    assert [line["iteration"] for line in lines if "knn_accuracy" in line] == [0, 2, 5]


def test_kills_at_random_moments_change_nothing(launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Kill -9 after random times and at random file operations; the same command goes on to the same bits."""
    draw = random.Random(SEED)
    places: list[str] = []
    rounds = 0
    while len(places) < KILLS:
        output = tmp_path / f"round-{rounds}"
        rounds += 1
        for attempt in itertools.count():
            at_a_time = Place(seconds=draw.uniform(0.05, 0.6 * undisturbed.ended.seconds))
            at_a_file = Place(event=draw.randrange(40))
            in_a_save = Place(event=draw.randrange(14), matching=SAVING, torn=draw.random() < 0.5)
            place = draw.choice((at_a_time, at_a_file, in_a_save)) if len(places) < KILLS else None
            ended = launcher.run(undisturbed.argv(output), place)
            assert ended.code in (0, -signal.SIGKILL), f"seed {SEED}, attempt {attempt}, {place}:\n{ended.log}"
            if ended.code == 0:
                break
            places.append(ended.events[-1] if ended.events else "before anything")
        assert_same_results(output, undisturbed.output)
    assert sum("/.tmp-step_" in place for place in places) >= 5, f"seed {SEED}: {places}"


def test_kills_at_every_file_operation_of_a_save_change_nothing(
    launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Kill -9 before each creation, sync, rename and removal of a save, each second time with half a file on the disk.

    Each start meets what all the ones before left.
    """
    argv = undisturbed.argv(tmp_path / "out", "checkpoint.keep=1")
    places = []
    for number in range(OPERATIONS):
        place = Place(event=number, matching=SAVING, torn=number % 2 == 1)
        ended = launcher.run(argv, place)
        assert ended.code in (0, -signal.SIGKILL), f"{place}:\n{ended.log}"
        if ended.code == 0:
            assert_same_results(tmp_path / "out", undisturbed.output)
            (tmp_path / "out").rename(tmp_path / f"done-{number}")
        else:
            places.append(re.sub(r"step_\d+-\d+", "step", ended.events[-1].replace(f"{tmp_path}/out/", "")))
    ended = launcher.run(argv)
    assert ended.code == 0, ended.log
    assert_same_results(tmp_path / "out", undisturbed.output)
    assert len(places) >= OPERATIONS - 3, places
    assert {
        "open checkpoints/.tmp-step/__0_0.distcp",
        "os.fsync checkpoints/.tmp-step/__0_0.distcp",
        "os.fsync checkpoints/.tmp-step/manifest.json",
        "os.rename checkpoints/.tmp-step",
    } <= set(places)
    assert any("tmp-removed" in place for place in places), places


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(
    launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals
) -> None:
    """Exit code 75 after the current step, off the checkpoints' period, with a loader process, which gets it too."""
    argv = undisturbed.argv(tmp_path / "out", "train.num_workers=1")
    # While the picture after three steps is drawn.
    ended = launcher.run(argv, Place(event=1, matching="patch_pca", signals=(number,)))
    assert ended.code == 75, ended.log
    assert "stopped after iteration 2: saved; run the same command to go on" in ended.log
    assert "Traceback" not in ended.log
    assert ended.left == []
    assert newest_checkpoint(tmp_path / "out").name == "step_000000003"
    ended = launcher.run(argv)
    assert ended.code == 0, ended.log
    assert ended.left == []
    assert_same_results(tmp_path / "out", undisturbed.output)


@pytest.mark.parametrize(
    ("place", "next_iteration"),
    [
        (Place(event=0, signals=(signal.SIGTERM,)), 0),
        (Place(event=0, matching="patch_pca", signals=(signal.SIGTERM, signal.SIGUSR1)), 0),
        (Place(event=0, matching="tmp-probe", signals=(signal.SIGTERM,)), 3),
    ],
    ids=["before anything is written", "in the first evaluation, twice", "after a checkpoint is read"],
)
def test_a_signal_before_the_first_step_stops_too(
    launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path, place: Place, next_iteration: int
) -> None:
    """Exit code 75 as later, without a step and without a checkpoint; the same command goes on."""
    argv = undisturbed.argv(tmp_path / "out")
    if next_iteration:
        assert launcher.run(argv, Place(event=1, matching="patch_pca", signals=(signal.SIGTERM,))).code == 75
    ended = launcher.run(argv, place)
    assert ended.code == 75, ended.log
    assert f"stopped before iteration {next_iteration}: nothing new to save; run the same command" in ended.log
    assert not re.search(r"step \d+/6", ended.log)
    assert ended.left == []
    assert launcher.run(argv).code == 0
    assert_same_results(tmp_path / "out", undisturbed.output)


def test_an_interrupt_before_the_first_step_ends_at_once(
    launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Ctrl-C while the run is built: exit code 130 without waiting for a first step."""
    ended = launcher.run(undisturbed.argv(tmp_path / "out"), Place(event=0, signals=(signal.SIGINT,)))
    assert ended.code == 130, ended.log
    assert "Traceback" not in ended.log
    assert "stopped" not in ended.log


def test_a_signal_in_the_last_step_changes_nothing(
    launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The run is done and says so by exit code 0: there is nothing to go on with."""
    argv = undisturbed.argv(tmp_path / "out")
    # Pictures are drawn before the first step, after the third and after the last.
    ended = launcher.run(argv, Place(event=2, matching=r"open .*/patch_pca", signals=(signal.SIGTERM,)))
    assert ended.code == 0, ended.log
    assert_same_results(tmp_path / "out", undisturbed.output)


def test_a_second_interrupt_ends_at_once(launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Ctrl-C twice while a checkpoint is written: exit code 130, no half of it, and the run can go on."""
    argv = undisturbed.argv(tmp_path / "out", "train.num_workers=1")
    ended = launcher.run(argv, Place(event=16, matching=SAVING, signals=(signal.SIGINT, signal.SIGINT)))
    assert ended.code == 130, ended.log
    assert "error: interrupted; checkpoints are intact" in ended.log
    assert "Traceback" not in ended.log
    assert ended.left == []
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["step_000000002"]
    assert launcher.run(argv).code == 0
    assert_same_results(tmp_path / "out", undisturbed.output)


def test_a_killed_run_leaves_no_loader_process(launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Workers notice that the main process is gone."""
    argv = undisturbed.argv(tmp_path / "out", "train.num_workers=2")
    ended = launcher.run(argv, Place(event=1, matching="patch_pca"))
    assert ended.code == -signal.SIGKILL
    assert "worker processes" in ended.log
    assert ended.left == []


def test_a_disk_that_fills_up_ends_the_run_and_loses_nothing(
    launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Files may have 12 kB only: pictures fail with a warning, the checkpoint with an error and exit code 2."""
    argv = undisturbed.argv(tmp_path / "out")
    ended = launcher.run(argv, Place(file_limit=12_000))
    assert ended.code == 2, ended.log
    assert "patch_pca.png could not be written" in ended.log
    assert "error: cannot save a checkpoint to" in ended.log
    assert "File too large" in ended.log
    assert "Traceback" not in ended.log
    assert list((tmp_path / "out/checkpoints").iterdir()) == []
    assert launcher.run(argv).code == 0
    assert_same_results(tmp_path / "out", undisturbed.output)
