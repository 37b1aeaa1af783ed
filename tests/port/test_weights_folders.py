from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
import torch
from checkpoint_runs import Run, flip_byte
from omegaconf import OmegaConf
from tiny_training import ARCHITECTURES as TINY
from tiny_training import tiny_config

from port.checkpoint import save_teacher
from port.weights import find_teacher_checkpoint, open_source
from port.weights.files import read_tensors
from port.weights.folders import resolve_file, run_folder

CHUNKED = ["student.block_chunks=2"]


def _teacher(run: Path, folder: str, seconds: int = 0) -> Path:
    """Make a file where a run saves its teacher; only its place matters here."""
    file = run / "eval" / folder / "teacher_checkpoint.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    os.utime(file, (seconds, seconds))
    return file


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run with checkpoints before iterations 2 and 4, whose teacher differs from its student."""
    folder = tmp_path_factory.mktemp("run")
    run = Run(CHUNKED)
    run.save(folder / "checkpoints", 2)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.mul_(2)
    run.save(folder / "checkpoints", 4)
    OmegaConf.save(tiny_config(CHUNKED), folder / "config.yaml")
    return folder, run


def test_the_newest_teacher_has_the_highest_iteration(tmp_path: Path) -> None:
    """As a number: 9 is before 10."""
    _teacher(tmp_path, "training_9", seconds=100)
    newest = _teacher(tmp_path, "training_10", seconds=50)
    _teacher(tmp_path, "manual", seconds=200)
    assert find_teacher_checkpoint(tmp_path) == resolve_file(tmp_path) == newest


def test_of_unnumbered_teachers_the_last_written_is_newest(tmp_path: Path) -> None:
    """Nothing else tells them apart."""
    _teacher(tmp_path, "a", seconds=10)
    newest = _teacher(tmp_path, "b", seconds=20)
    _teacher(tmp_path, "c", seconds=15)
    assert find_teacher_checkpoint(tmp_path) == newest


def test_without_teachers_there_is_none(tmp_path: Path) -> None:
    """An empty run."""
    assert find_teacher_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match=r"has none of model\.safetensors, backbone\.pth, eval/"):
        resolve_file(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "backbone.pth"])
def test_an_exported_folder_means_its_weights(tmp_path: Path, name: str) -> None:
    """So that what was exported can be trained on."""
    (tmp_path / name).write_bytes(b"")
    assert resolve_file(str(tmp_path)) == tmp_path / name


def test_a_url_is_an_error() -> None:
    """Nothing is downloaded unasked."""
    with pytest.raises(ValueError, match=r"https://x/a\.pth is a URL; download it first"):
        resolve_file("https://x/a.pth")


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*gone"):
        resolve_file(tmp_path / "gone")


def test_a_checkpoint_holds_both_networks(saved_run: tuple[Path, Run]) -> None:
    """All their tensors, and nothing of the optimizer."""
    folder, run = saved_run
    tensors = read_tensors(folder / "checkpoints" / "step_000000004")
    networks = {"teacher": run.model.teacher, "student": run.model.student}
    expected = {f"{key}.{name}": value for key, net in networks.items() for name, value in net.state_dict().items()}
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value), name


def test_a_run_without_saved_teachers_means_its_newest_checkpoint(saved_run: tuple[Path, Run]) -> None:
    """Given as a run, as the folder of its checkpoints, or as one of them."""
    folder, _ = saved_run
    checkpoints = folder / "checkpoints"
    assert resolve_file(folder) == resolve_file(checkpoints) == checkpoints / "step_000000004"
    assert resolve_file(checkpoints / "step_000000002") == checkpoints / "step_000000002"


@pytest.mark.parametrize(
    ("iteration", "network", "teacher_is_newest"),
    [
        (2, "teacher", False),
        (3, "teacher", True),
        (3, None, True),
        (9, None, True),
        (9, "student", False),
    ],
)
def test_the_newest_of_both_is_taken(
    saved_run: tuple[Path, Run], tmp_path: Path, iteration: int, network: str | None, teacher_is_newest: bool
) -> None:
    """`training_3` is what `step_4` holds; a student is in checkpoints only."""
    (tmp_path / "checkpoints").symlink_to(saved_run[0] / "checkpoints")
    teacher = _teacher(tmp_path, f"training_{iteration}")
    newest = teacher if teacher_is_newest else tmp_path / "checkpoints" / "step_000000004"
    assert resolve_file(tmp_path, network) == newest


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_a_run_s_newest_checkpoint_is_exported(saved_run: tuple[Path, Run], network: str) -> None:
    """With the configuration beside it."""
    folder, run = saved_run
    source = open_source(folder, network=network, architectures=TINY)
    assert (source.file, source.config_file) == (folder / "checkpoints" / "step_000000004", folder / "config.yaml")
    expected = getattr(run.model, network)["backbone"].state_dict()
    flat = {re.sub(r"^blocks\.(\d)\.\1\.", r"blocks.\1.", name): value for name, value in expected.items()}
    assert "blocks.1.norm1.weight" in flat
    assert source.backbone.state_dict().keys() == flat.keys()
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, flat[name]), name


def test_a_saved_teacher_is_exported(saved_run: tuple[Path, Run], tmp_path: Path) -> None:
    """The file that `port.checkpoint` writes is the one that is read."""
    run = saved_run[1]
    save_teacher(run.model, tmp_path / "eval" / "training_3" / "teacher_checkpoint.pth")
    OmegaConf.save(tiny_config(CHUNKED), tmp_path / "config.yaml")
    source = open_source(tmp_path, architectures=TINY)
    assert source.file == tmp_path / "eval" / "training_3" / "teacher_checkpoint.pth"
    assert torch.equal(source.backbone.pos_embed, run.model.teacher["backbone"].get_parameter("pos_embed"))


def test_a_damaged_checkpoint_falls_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To the one before, saying so; asked for by name, it is an error."""
    run = Run()
    old = run.save(tmp_path / "checkpoints", 2)
    new = run.save(tmp_path / "checkpoints", 4)
    flip_byte(next(new.glob("*.distcp")), 100)
    with caplog.at_level(logging.WARNING, "port"):
        assert resolve_file(tmp_path) == old
    assert f"{new} is damaged" in caplog.text
    with pytest.raises(ValueError, match=r"step_000000004 is damaged .*; give the one before it"):
        resolve_file(new)


def test_an_index_of_another_kind_is_an_error(tmp_path: Path) -> None:
    """Whatever unpickling raises."""
    (tmp_path / ".metadata").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"the index of .* cannot be read"):
        read_tensors(tmp_path)


def test_the_run_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three folders up from a teacher, two from a checkpoint, whatever was given; relative paths too."""
    teacher = _teacher(tmp_path, "training_3")
    checkpoints = tmp_path / "checkpoints"
    step = checkpoints / "step_000000004"
    step.mkdir(parents=True)
    for given, file in ((teacher, teacher), (tmp_path, teacher), (step, step), (checkpoints, step), (tmp_path, step)):
        assert run_folder(given, file) == tmp_path
    monkeypatch.chdir(step.parent)
    assert run_folder(Path(step.name), Path(step.name)) == tmp_path


def test_an_exported_folder_is_its_own_run(tmp_path: Path) -> None:
    """Its configuration, if any, is beside the weights."""
    assert run_folder(tmp_path, tmp_path / "backbone.pth") == tmp_path
