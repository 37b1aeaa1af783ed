from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import (
    arguments,
    checkpoint_tensors,
    in_process,
    losses,
    make_images,
    metric_lines,
    newest_checkpoint,
)

from port.step import StepReport, TrainStep

Run = Callable[..., tuple[int, str]]
SHORT = ("optim.epochs=4",)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small images, of two classes."""
    return make_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process, without loss curves; returns exit code and what it wrote to stderr."""
    monkeypatch.setattr("port.training.run.plot_losses", lambda *arguments: None)

    def run(*argv: str) -> tuple[int, str]:
        code = in_process(monkeypatch, argv)
        return code, capsys.readouterr().err

    return run


def knn(images: Path) -> tuple[str, ...]:
    """Return settings for k-NN on the training images themselves."""
    return (f"knn.train_dataset={images}", f"knn.test_dataset={images}", "knn.k=2", "knn.period_iterations=2")


def bits(output: Path) -> dict[str, bytes]:
    """Return the bits of all tensors of the newest checkpoint."""
    return {name: tensor.numpy().tobytes() for name, tensor in checkpoint_tensors(newest_checkpoint(output)).items()}


def interrupt(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Let the run be interrupted when it is about to carry out an iteration."""
    original = TrainStep.run

    def interrupted(self: TrainStep, batch: Any, at: int) -> StepReport:
        if at == iteration:
            raise KeyboardInterrupt
        return original(self, batch, at)

    monkeypatch.setattr(TrainStep, "run", interrupted)


@pytest.mark.parametrize(
    "overrides",
    [
        ["prototype.loss_weight=1", "prototype.n_prototypes=12", "prototype.bias=true"],
        ["accumulation_steps=2", "train.num_workers=1"],
        ["data.augmentation=histology", "student.drop_path_rate=0.5"],
        ["train.centering=sinkhorn_knopp", "finetune.freeze_backbone_iterations=3"],
        ["precision=bf16", "ibot.separate_head=true", "ibot.head_n_prototypes=12", "ibot.head_hidden_dim=8"],
        ["quirks.sampler=official", "quirks.input_dtype=official", "quirks.blur=official"],
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    """A step beyond the checkpoint is done again; k-NN before training is not, and its record is kept."""
    settings = (*SHORT, *knn(images), *overrides)
    assert run(*arguments(images, tmp_path / "whole", *settings))[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        code, text = run(*arguments(images, tmp_path / "out", *settings))
    assert code == 130
    assert "error: interrupted; checkpoints are intact" in text
    code, text = run(*arguments(images, tmp_path / "out", *settings))
    assert code == 0, text
    assert "at iteration 2" in text
    assert bits(tmp_path / "out") == bits(tmp_path / "whole")
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")
    assert (tmp_path / "out/knn.json").read_text() == (tmp_path / "whole/knn.json").read_text()


@pytest.mark.parametrize("key", ["student.pretrained_weights", "MODEL.WEIGHTS"])
def test_weights_to_start_from_are_read_once(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A resumed run has them in its checkpoint: their file may be gone. A fresh one names what is missing."""
    assert run(*arguments(images, tmp_path / "first", *SHORT, "evaluation.eval_period_iterations=4"))[0] == 0
    file = tmp_path / "first/eval/training_3/teacher_checkpoint.pth"
    settings = (*SHORT, f"{key}={file}", "finetune.freeze_backbone_iterations=1")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert run(*arguments(images, tmp_path / "out", *settings))[0] == 130
    file.rename(tmp_path / "elsewhere.pth")
    code, text = run(*arguments(images, tmp_path / "out", *settings))
    assert code == 0, text
    code, text = run(*arguments(images, tmp_path / "fresh", *settings))
    assert code == 2
    assert "teacher_checkpoint.pth" in text


def test_the_prototype_bank_trains(run: Run, images: Path, tmp_path: Path) -> None:
    """Its weights and its optimizer's moments are in the checkpoint and change; its losses are logged."""
    settings = ("prototype.loss_weight=1", "prototype.n_prototypes=12")
    assert run(*arguments(images, tmp_path / "out", *SHORT, *settings))[0] == 0
    first, last = sorted((tmp_path / "out/checkpoints").iterdir())
    earlier, state = checkpoint_tensors(first), checkpoint_tensors(last)
    bank = [name for name, tensor in state.items() if "prototype" in name and tensor.shape == (12, 16)]
    assert [name.split(".")[0] for name in bank].count("model") == 1
    assert len(bank) == 3, bank  # weights, and two moments
    for name in bank:
        assert not torch.equal(earlier[name], state[name]), name
    named = [name for name in metric_lines(tmp_path / "out")[-1] if "prototype" in name]
    assert any(name.startswith("optimised/") for name in named), named


def test_two_micro_batches_read_twice_the_images(run: Run, images: Path, tmp_path: Path) -> None:
    """accumulation_steps=2: the batch is logged as four, and the learning rate follows it."""
    assert run(*arguments(images, tmp_path / "out", *SHORT, "accumulation_steps=2", "optim.base_lr=0.001"))[0] == 0
    line = metric_lines(tmp_path / "out")[1]
    assert line["current_batch_size"] == 4
    # Iteration 1 is the first after the warm-up: the peak, 0.001 sqrt(4 / 1024).
    assert math.isclose(line["lr"], 0.001 * math.sqrt(4 / 1024), rel_tol=1e-9)


def test_activation_checkpointing_changes_no_bit(run: Run, images: Path, tmp_path: Path) -> None:
    """With drop path, whose random numbers the second forward pass must draw again."""
    for name, checkpointing in (("with", "true"), ("without", "false")):
        settings = (*SHORT, "student.drop_path_rate=0.5", f"activation_checkpointing={checkpointing}")
        assert run(*arguments(images, tmp_path / name, *settings))[0] == 0
    assert bits(tmp_path / "with") == bits(tmp_path / "without")
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


@pytest.mark.slow
# Importing torch 2.11's own compiler warns.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler, and g++ is not here")
def test_compiled_blocks_train(run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """compile=true: the same losses but for rounding, and a checkpoint that a run without it goes on from."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    settings = ("student.arch=vit_one_block", "optim.warmup_epochs=0", "ibot.loss_weight=0", "optim.epochs=1")
    assert run(*arguments(images, tmp_path / "plain", *settings))[0] == 0
    code, text = run(*arguments(images, tmp_path / "out", *settings, "compile=true"))
    assert code == 0, text
    assert list((tmp_path / "compiled").rglob("*.so"))
    found, expected = (metric_lines(tmp_path / name)[0]["total_loss"] for name in ("out", "plain"))
    assert math.isclose(found, expected, rel_tol=1e-4)
    code, text = run(*arguments(images, tmp_path / "out", *settings, "optim.epochs=2"))
    assert code == 0, text
    assert "at iteration 1" in text


def test_bf16_runs_on_a_cpu(run: Run, images: Path, tmp_path: Path) -> None:
    """Parameters and moments stay float32; losses are close to those of fp32, and not the same."""
    for precision in ("bf16", "fp32"):
        code, text = run(*arguments(images, tmp_path / precision, *SHORT, f"precision={precision}"))
        assert code == 0
        assert f", {precision}, 1 process" in text
    state = checkpoint_tensors(newest_checkpoint(tmp_path / "bf16"))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    first, other = (metric_lines(tmp_path / precision)[0]["total_loss"] for precision in ("bf16", "fp32"))
    assert first != other
    assert math.isclose(first, other, rel_tol=0.1)
