from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from train_runs import arguments, in_process, losses, make_images, spoil

from port.signals import EXIT_STOPPED

Usage = namedtuple("Usage", ("total", "used", "free"))
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small images, of two classes."""
    return make_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; returns its exit code and what it wrote to stderr."""

    def run(*argv: str) -> tuple[int, str]:
        code = in_process(monkeypatch, argv)
        return code, capsys.readouterr().err

    return run


def error_of(text: str) -> str:
    """Return the error, which is the last thing that is said."""
    assert text.count("\nerror: ") + text.startswith("error: ") == 1, text
    return text[text.rindex("error: ") :]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["ibot.mask_ratio_min_max=[0.5,0.1]"], "ibot.mask_ratio_min_max is [0.5, 0.1], expected 0 <= smallest"),
        (["mask_ratio_min=0.6"], "ibot.mask_ratio_min_max is [0.6, 0.5], expected 0 <= smallest"),
        (["ibot.mask_ratio_min_max=[0,0]"], "expected both above 0"),
        (["ibot.mask_ratio_min_max=[0.1,1.5]"], "largest <= 1"),
        (["ibot.mask_sample_probability=0"], "nothing is ever masked"),
        (["ibot.mask_sample_probability=1.1"], "ibot.mask_sample_probability is 1.1"),
        (
            ["crops.global_crops_size=18"],
            "crops.global_crops_size is 18, expected a multiple of student.patch_size = 4",
        ),
        (["crops.local_crops_size=10"], "crops.local_crops_size is 10, expected a multiple"),
        (["train.batch_size_per_gpu=9"], "the data set has only 8"),
        (["train.batch_size_per_gpu=1"], "KoLeo takes each image's nearest neighbour"),
        (["optim.epoch=3"], "did you mean 'optim.epochs'?"),
        (["train.dataset_path=no/such/folder"], "no/such/folder"),
        (["student.arch=vit_huge"], "student.arch is 'vit_huge'"),
        (["precision=fp16"], "fp16 needs a CUDA device"),
        (["optim.warmup_epochs=7"], "optim.warmup_epochs is 7, expected at most optim.epochs = 6"),
        (["MODEL.WEIGHTS=no/such/file.pth"], "no/such/file.pth"),
        (["knn.train_dataset=no/such/folder", "knn.test_dataset=no/such/folder"], "no/such/folder"),
        (["--eval-only"], "holds no checkpoint to go on from"),
        (["--eval-only", "--no-resume"], "give one of them"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    run: Run, images: Path, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    """Exit code 2, one error that names the value, and no traceback."""
    code, text = run(*arguments(images, tmp_path / "out", *overrides))
    assert code == 2, text
    assert expected in error_of(text)
    assert "Traceback" not in text
    written = [path.name for path in (tmp_path / "out").rglob("*")] if (tmp_path / "out").exists() else []
    assert written == []


def test_an_empty_folder_is_an_error(run: Run, tmp_path: Path) -> None:
    """The folder is named, and no output folder is made."""
    (tmp_path / "empty").mkdir()
    code, text = run(*arguments(tmp_path / "empty", tmp_path / "out"))
    assert code == 2
    assert str(tmp_path / "empty") in error_of(text)
    assert not (tmp_path / "out").exists()


def test_one_image_is_an_error(run: Run, tmp_path: Path) -> None:
    """There is nothing to tell it from."""
    code, text = run(*arguments(make_images(tmp_path / "one", 1), tmp_path / "out"))
    assert code == 2
    assert "holds one image" in error_of(text)
    assert not (tmp_path / "out").exists()


def test_mostly_corrupt_images_are_an_error(run: Run, tmp_path: Path) -> None:
    """Six of eight are cut short: the share and a file are named before the first step."""
    images = make_images(tmp_path / "images")
    bad = spoil(images, 6)
    code, text = run(*arguments(images, tmp_path / "out"))
    assert code == 2
    assert "6 of 8 images cannot be read" in error_of(text)
    assert bad[0] in error_of(text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "key"), [("", "train.dataset_path"), ("out", "train.dataset_path"), ("../votes/out", "knn.train_dataset")]
)
def test_an_output_folder_among_the_images_is_an_error(run: Run, tmp_path: Path, place: str, key: str) -> None:
    """The run's own pictures would become images, and a resumed run would see others than the one before."""
    images, votes = make_images(tmp_path / "images"), make_images(tmp_path / "votes")
    knn = (f"knn.train_dataset={votes}", f"knn.test_dataset={images}")
    code, text = run(*arguments(images, images / place, *knn))
    assert code == 2
    assert f"the images of {key}: the run's own pictures would become images; give another" in error_of(text)
    assert not (images / place / "config.yaml").exists()


def test_an_output_folder_hidden_from_the_images_is_none(run: Run, tmp_path: Path) -> None:
    """Names that start with a dot are no images, so results may lie there."""
    images = make_images(tmp_path / "images")
    code, text = run(*arguments(images, images / ".runs/out", "optim.epochs=1", "optim.warmup_epochs=0"))
    assert code == 0, text
    assert "data: 8 images" in text


def test_a_resumed_run_with_other_images_says_so(run: Run, tmp_path: Path) -> None:
    """It goes on, in another order of the images."""
    images = make_images(tmp_path / "images")
    short = ("optim.epochs=1", "optim.warmup_epochs=0")
    assert run(*arguments(images, tmp_path / "out", *short))[0] == 0
    make_images(images, 9)
    code, text = run(*arguments(images, tmp_path / "out", *short))
    assert code == 0
    assert "warning: the data set had 8 images and has 9" in text


def test_a_few_corrupt_images_are_skipped_and_named(run: Run, tmp_path: Path) -> None:
    """Below the share the run goes through all its steps; the file lists each bad one once, and so does the log."""
    images = make_images(tmp_path / "images")
    bad = spoil(images, 2)
    code, text = run(*arguments(images, tmp_path / "out", "data.max_bad_share=0.3"))
    assert code == 0, text
    entries = [json.loads(line) for line in (tmp_path / "out/bad_files.jsonl").read_text().splitlines()]
    named = [entry["name"] for entry in entries]
    assert len(named) == 2
    assert all(any(name.endswith(one) for name in named) for one in bad), named
    assert all(entry["reason"] for entry in entries)
    assert "(2 of 8 files so far)" in text
    assert len(losses(tmp_path / "out")) == 6
    metadata = json.loads((tmp_path / "out/checkpoints/step_000000006/metadata.json").read_text())
    assert metadata["bad_files"] == 2


def test_too_many_corrupt_images_stop_the_run(run: Run, tmp_path: Path) -> None:
    """Two of eight prove nothing at the start, but are more than an eighth when they are met."""
    images = make_images(tmp_path / "images")
    spoil(images, 2)
    code, text = run(*arguments(images, tmp_path / "out", "data.max_bad_share=0.125"))
    assert code == 2
    assert "2 of 8 files (25.0%) cannot be read, expected at most data.max_bad_share = 0.125" in error_of(text)


def test_unlabelled_images_cannot_vote(run: Run, images: Path, tmp_path: Path) -> None:
    """k-NN on a folder without classes is refused before anything is made."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in images.rglob("*.png"):
        shutil.copy(path, flat)
    code, text = run(*arguments(images, tmp_path / "out", f"knn.train_dataset={flat}", f"knn.test_dataset={flat}"))
    assert code == 2
    assert "knn.train_dataset has 0 classes" in error_of(text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_folder_that_is_a_file_is_an_error(run: Run, images: Path, tmp_path: Path, place: str) -> None:
    """The file stays what it is."""
    (tmp_path / "file").write_text("mine")
    code, text = run(*arguments(images, tmp_path / place))
    assert code == 2
    assert "is a file, or lies below one" in error_of(text)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_output_folder_is_an_error(run: Run, images: Path) -> None:
    """Nobody can make a folder in /proc, root included."""
    code, text = run(*arguments(images, Path("/proc/out")))
    assert code == 2
    assert "the output folder /proc/out cannot be written to" in error_of(text)


def test_a_full_disk_is_an_error(run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for one checkpoint: both sizes are named, before the first step."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 5000, 5000))
    code, text = run(*arguments(images, tmp_path / "out"))
    assert code == 2
    assert "No space left on device" in error_of(text)
    assert "5,000 bytes are free" in error_of(text)
    assert not (tmp_path / "out/training_metrics.json").exists()
    assert not (tmp_path / "out/config.yaml").exists()


def test_a_checkpoint_of_another_architecture_is_an_error(run: Run, images: Path, tmp_path: Path) -> None:
    """What differs is named, and the earlier run's files are as they were; --no-resume keeps them beside its own."""
    short = ("optim.epochs=1", "optim.warmup_epochs=0")
    assert run(*arguments(images, tmp_path / "out", *short))[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    code, text = run(*arguments(images, tmp_path / "out", *short, "dino.head_n_prototypes=20"))
    assert code == 2
    assert "head_n_prototypes" in error_of(text)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    code, text = run(*arguments(images, tmp_path / "out", *short, "dino.head_n_prototypes=20", "--no-resume"))
    assert code == 0, text
    kept = tmp_path / "out/checkpoints.old-1/step_000000001/.metadata"
    assert kept.read_bytes() == before[tmp_path / "out/checkpoints/step_000000001/.metadata"]
    assert "head_n_prototypes: 16" in (tmp_path / "out/config.old-1.yaml").read_text()
    assert "head_n_prototypes: 20" in (tmp_path / "out/config.yaml").read_text()


def test_no_resume_with_a_mistake_leaves_checkpoints_where_they_are(run: Run, images: Path, tmp_path: Path) -> None:
    """They are moved aside only once the new run can start."""
    short = ("optim.epochs=1", "optim.warmup_epochs=0")
    assert run(*arguments(images, tmp_path / "out", *short))[0] == 0
    code, text = run(*arguments(images, tmp_path / "out", *short, "--no-resume", "MODEL.WEIGHTS=missing.pth"))
    assert code == 2
    assert "missing.pth" in error_of(text)
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoints*")) == ["checkpoints"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_keys_that_help(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Exit code 1, no traceback; on a CPU torch raises a plain RuntimeError."""

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("port.step.TrainStep.run", fail)
    code, text = run(*arguments(images, tmp_path / "out"))
    assert code == 1
    assert str(error) in error_of(text)
    for key in ("train.batch_size_per_gpu", "accumulation_steps", "activation_checkpointing=true", "parallel=fsdp"):
        assert key in error_of(text)


def test_other_runtime_errors_keep_their_traceback(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the program is no message to a user."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("port.step.TrainStep.run", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(*arguments(images, tmp_path / "out"))


def test_exit_codes_differ() -> None:
    """A launcher can tell a run that was stopped from one that cannot start: 75 is EX_TEMPFAIL of sysexits.h."""
    assert EXIT_STOPPED == 75
