"""The loop that users run against official `do_train`, over the very batches that its own loader made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from parity.adapters.common import snapshot
from parity.adapters.official import OfficialStack
from parity.names import canonical_mapping
from parity.recipes import with_architecture
from port.config import apply_scaling_rules, load_recipe
from port.data import Batch
from port.step import StepReport, TrainStep
from port.training import loop, run, session

SEED, STEPS, IMAGES = 31, 6, 7
SMALL = (
    "student.arch=vit_demo",
    "student.patch_size=8",
    "crops.global_crops_size=32",
    "crops.local_crops_size=16",
    "crops.local_crops_number=2",
    "dino.head_n_prototypes=48",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
    "ibot.head_n_prototypes=40",
    "ibot.head_hidden_dim=24",
    "ibot.head_bottleneck_dim=8",
    "train.batch_size_per_gpu=3",
    "train.num_workers=0",
    "train.OFFICIAL_EPOCH_LENGTH=2",
    f"optim.epochs={STEPS // 2}",
    "optim.warmup_epochs=1",
    "teacher.warmup_teacher_temp_epochs=1",
    "evaluation.eval_period_iterations=0",
    "compute_precision.grad_scaler=false",
    "quirks.empty_mask_center=official",
    "kernels=official_order",
    "logging.tensorboard=false",
    "device=cpu",
    "checkpoint.period_iterations=2",
)


class Recorder:
    """Notes what `TrainStep` is called with and what it leaves, without touching either."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state: dict[str, Tensor] = {}
        self.batches: list[dict[str, Any]] = []
        self.losses: list[dict[str, Tensor]] = []
        self.snapshots: dict[int, dict[str, dict[str, Any]]] = {}
        inner = TrainStep.run

        def recorded(step: TrainStep, batch: Batch | Sequence[Batch], iteration: int) -> StepReport:
            assert not isinstance(batch, dict)
            self.batches += [{k: v.clone() if isinstance(v, Tensor) else v for k, v in b.items()} for b in batch]
            if not self.state:
                self.state = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
            report = inner(step, batch, iteration)
            names = {id(p): name for name, p in step.model.student.named_parameters()}
            self.losses.append(report.losses.displayed)
            self.snapshots[len(self.snapshots)] = snapshot(step.model, step.optimizer, names)
            return report

        monkeypatch.setattr(TrainStep, "run", recorded)


@pytest.fixture
def one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and drop path from the stream that official's adapter seeds."""
    monkeypatch.setattr(loop, "seed_iteration", lambda seed, iteration, rank: torch.manual_seed(SEED + iteration))
    monkeypatch.setattr(run, "limit_threads", lambda local_world_size: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which a run sets for good
    torch.set_num_threads(1)


def _config(recipe: str, folder: Path) -> DictConfig:
    generator = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    for index in range(IMAGES):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    return load_recipe(recipe, [*SMALL, f"train.dataset_path={images}", f"train.output_dir={folder / 'out'}"])


def _unequal(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, folder: Path, recipe: str
) -> tuple[list[str], Recorder]:
    """Run `port`'s training, then official's over its batches; return what differs, in order of time."""
    config = _config(recipe, folder)
    given = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(given, DictConfig)
    recorder = Recorder(monkeypatch)
    run.run(config)
    assert len(recorder.batches) == STEPS
    official = official_stack.training_trajectory(
        with_architecture(given), recorder.state, recorder.batches, range(STEPS), SEED
    )
    unequal = []
    for step in range(STEPS):
        expected = {"losses": official["losses"][step], **official["snapshots"][step]}
        found = {"losses": recorder.losses[step], **recorder.snapshots[step]}
        assert found.keys() == expected.keys()
        for part, values in expected.items():
            left, right = (canonical_mapping(side, "") for side in (found[part], values))
            assert left.keys() == right.keys(), part
            unequal += [f"step {step}/{part}/{name}" for name in right if not torch.equal(left[name], right[name])]
    return unequal, recorder


@pytest.mark.usefixtures("one_stream")
@pytest.mark.parametrize("recipe", ["vitl16_short", "vitl14"])
def test_a_run_leaves_what_official_training_leaves(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: str
) -> None:
    """From images on disk to weights: every loss, moment, weight and centre is official's, bit for bit.

    The run saves checkpoints on the way, watches gradients and logits, and draws pictures: none of it is in the bits.
    """
    unequal, recorder = _unequal(official_stack, monkeypatch, tmp_path, recipe)
    assert unequal == []
    moved = recorder.snapshots[STEPS - 1]["parameters"]
    assert not any(torch.equal(recorder.state[name], value) for name, value in moved.items())


def _one_iteration_late(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = loop._Loop._step
    monkeypatch.setattr(loop._Loop, "_step", lambda self, batches, iteration: inner(self, batches, iteration + 1))


def _rate_of_another_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "apply_scaling_rules", lambda cfg, size: apply_scaling_rules(cfg, size + 1))


def _rounded_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "choose_precision", lambda name, device: "bf16")


@pytest.mark.usefixtures("one_stream")
@pytest.mark.parametrize(
    ("change", "first"),
    [
        (_one_iteration_late, "step 0/"),
        (_rate_of_another_batch, "step 1/parameters/"),
        (_rounded_forward, "step 0/losses/"),
    ],
)
def test_faults_of_loop_and_session_are_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Any, first: str
) -> None:
    """The comparison reaches what builds the step and what calls it, not the step alone."""
    change(monkeypatch)
    unequal, _ = _unequal(official_stack, monkeypatch, tmp_path, "vitl16_short")
    assert unequal[0].startswith(first)
