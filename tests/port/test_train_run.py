from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from train_runs import (
    arguments,
    checkpoint_tensors,
    command,
    in_process,
    losses,
    make_images,
    metric_lines,
    newest_checkpoint,
)

from port.config import load_config
from port.data import collate_data_and_cast

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


def test_a_run_leaves_what_it_promises(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """k-NN before and after, pictures, teachers for official's evaluation, the configuration, a log, checkpoints."""
    output = tmp_path / "out"
    argv = arguments(images, output, *SHORT, *knn(images), "evaluation.eval_period_iterations=3")
    code, text = in_process(monkeypatch, argv), capsys.readouterr().err
    assert code == 0, text
    record = json.loads((output / "knn.json").read_text())
    assert (record["n_train"], record["n_test"], record["n_classes"]) == (8, 8, 2)
    assert list(record["curve"]) == ["0", "2", "4"]
    # The images that vote are those that are classified: each is its own nearest neighbour.
    assert record["raw_pixels"] == 1.0
    for name in ("losses.png", "patch_pca.png"):
        with Image.open(output / name) as picture:
            assert picture.width > 300
    teacher = torch.load(output / "eval/training_2/teacher_checkpoint.pth", weights_only=True)["teacher"]
    assert teacher["backbone.cls_token"].shape == (1, 1, 16)
    cfg = load_config(output / "config.yaml")
    assert (cfg.optim.epochs, cfg.train.output_dir, cfg.knn.k) == (4, str(output), 2)
    assert "hardware: cpu" in (output / "logs/log.txt").read_text()
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step_000000002", "step_000000004"]
    assert "A run of 4 iterations shows that everything works, not that much was learnt." in text
    assert f"in {output}: knn.json, losses.png, patch_pca.png, training_metrics.json" in text


@pytest.mark.slow
def test_the_command_runs_from_any_folder(images: Path, tmp_path: Path) -> None:
    """A process of its own, with TensorBoard and a loader process: exit code 0, and no warning of Python's."""
    settings = ("optim.epochs=2", "train.num_workers=1", "logging.tensorboard=true")
    argv = command(images, tmp_path / "out", *settings)
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Warning" not in done.stderr
    assert "step 2/2" in done.stderr
    assert newest_checkpoint(tmp_path / "out").name == "step_000000002"
    assert list((tmp_path / "out/tensorboard").glob("events.*"))
    assert (tmp_path / "out/losses.png").exists()


def test_logged_losses_are_those_optimised_beside_official_s(run: Run, images: Path, tmp_path: Path) -> None:
    """The optimised total is the sum of its terms; KoLeo is added for each of two crops, and displayed for one."""
    assert run(*arguments(images, tmp_path / "out", *SHORT))[0] == 0
    for line in metric_lines(tmp_path / "out"):
        terms = [value for name, value in line.items() if name.startswith("optimised/")]
        assert math.isclose(line["optimised_total"], sum(terms), rel_tol=1e-6)
        assert math.isclose(line["optimised/koleo_loss"], 2 * line["koleo_loss"], rel_tol=1e-6)
        assert line["current_batch_size"] == 2


def test_a_finished_run_started_again_changes_nothing(run: Run, images: Path, tmp_path: Path) -> None:
    """It says that it is complete; a longer one goes on from there."""
    output = tmp_path / "out"
    argv = arguments(images, output, *SHORT, *knn(images))
    assert run(*argv)[0] == 0
    names = ("training_metrics.json", "knn.json", "config.yaml", "checkpoints/step_000000004/manifest.json")
    before = {name: (output / name).read_bytes() for name in names}
    code, text = run(*argv)
    assert code == 0
    assert "the run is complete at iteration 4" in text
    assert "k-NN accuracy: " in text
    assert {name: (output / name).read_bytes() for name in names} == before
    code, text = run(*argv, "optim.epochs=5")
    assert code == 0, text
    assert [line["iteration"] for line in metric_lines(output) if "total_loss" in line] == [0, 1, 2, 3, 4]
    assert newest_checkpoint(output).name == "step_000000005"


def test_eval_only_measures_and_writes_the_teacher(run: Run, images: Path, tmp_path: Path) -> None:
    """The file holds the newest checkpoint's teacher bit for bit; metrics and configuration stay."""
    output = tmp_path / "out"
    assert run(*arguments(images, output, *SHORT))[0] == 0
    before = (output / "training_metrics.json").read_bytes(), (output / "config.yaml").read_bytes()
    code, text = run("--eval-only", *arguments(images, output, *SHORT, *knn(images)))
    assert code == 0, text
    assert list(json.loads((output / "knn.json").read_text())["curve"]) == ["4"]
    written = torch.load(output / "eval/training_3/teacher_checkpoint.pth", weights_only=True)["teacher"]
    state = checkpoint_tensors(newest_checkpoint(output))
    wanted = {name.removeprefix("model.teacher."): tensor for name, tensor in state.items() if ".teacher." in name}
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in wanted.items())
    assert ((output / "training_metrics.json").read_bytes(), (output / "config.yaml").read_bytes()) == before


def test_no_resume_starts_anew(run: Run, images: Path, tmp_path: Path) -> None:
    """The same bits again; what was measured before is forgotten, earlier checkpoints are kept."""
    output = tmp_path / "out"
    argv = arguments(images, output, *SHORT, *knn(images))
    assert run(*argv)[0] == 0
    first, lines = bits(output), losses(output)
    record = json.loads((output / "knn.json").read_text())
    (output / "knn.json").write_text(json.dumps({**record, "n_train": 99, "raw_pixels": 0.25}))
    assert run("--no-resume", *argv)[0] == 0
    assert bits(output) == first
    assert losses(output) == lines
    assert json.loads((output / "knn.json").read_text()) == record
    assert (output / "checkpoints.old-1/step_000000004").is_dir()


def test_too_large_a_learning_rate_is_named(run: Run, images: Path, tmp_path: Path) -> None:
    """Weights overflow in step 1, the first with a learning rate; step 2 stops, with batch and state saved."""
    output = tmp_path / "out"
    code, text = run(*arguments(images, output, "optim.base_lr=1e30"))
    assert code == 1, text
    folder = output / "nonfinite_iteration_2"
    assert sorted(path.name for path in folder.iterdir()) == ["batch.pt", "extra.pt", "incident.json", "model.pt"]
    incident = json.loads((folder / "incident.json").read_text())
    assert incident["iteration"] == 2
    assert incident["culprit"]["kind"] in ("parameter", "output", "loss", "gradient")
    assert incident["culprit"]["name"]
    assert f"first not finite: {incident['first_not_finite']}" in text
    assert str(folder) in text
    assert "Traceback" not in text


def test_a_bad_batch_is_named_and_the_run_can_go_on(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One NaN in one image: nothing of that step remains, so that the same command ends with the same bits."""
    assert run(*arguments(images, tmp_path / "whole", *SHORT))[0] == 0
    calls = iter(range(100))

    def poisoned(*given: Any, **named: Any) -> Any:
        batch = collate_data_and_cast(*given, **named)
        if next(calls) == 3:
            batch["collated_local_crops"][1, 2, 3, 4] = math.nan
        return batch

    with monkeypatch.context() as patch:
        patch.setattr("port.data.loader.collate_data_and_cast", poisoned)
        code, text = run(*arguments(images, tmp_path / "out", *SHORT))
    assert code == 1, text
    assert "first not finite: input collated_local_crops" in text
    assert "(1 NaN)" in text
    saved = torch.load(tmp_path / "out/nonfinite_iteration_3/batch.pt", weights_only=True)
    batch = saved[0] if isinstance(saved, list) else saved
    assert batch["collated_local_crops"].isnan().nonzero().tolist() == [[1, 2, 3, 4]]
    assert [line["iteration"] for line in metric_lines(tmp_path / "out")] == [0, 1, 2]
    assert run(*arguments(images, tmp_path / "out", *SHORT))[0] == 0
    assert bits(tmp_path / "out") == bits(tmp_path / "whole")
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(run: Run, images: Path, tmp_path: Path) -> None:
    """The run says so, does the lost steps again, and ends with the same bits and one line per step."""
    output = tmp_path / "out"
    argv = arguments(images, output, *SHORT)
    assert run(*argv)[0] == 0
    wanted, lines = bits(output), losses(output)
    data = newest_checkpoint(output) / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    code, text = run(*argv)
    assert code == 0, text
    assert "step_000000004 is damaged" in text
    assert "at iteration 2" in text
    assert bits(output) == wanted
    assert losses(output) == lines
    assert (output / "checkpoints/step_000000004.damaged").is_dir()
