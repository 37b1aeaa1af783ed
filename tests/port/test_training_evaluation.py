from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from train_runs import TINY, make_images, spoil

from port.config import load_config
from port.data.datasets import ImageSource, make_dataset
from port.training import evaluation
from port.training.evaluation import KnnRecord, Monitor, open_labelled_pair

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """A backbone whose only feature is how bright an image is, and whose patch features are its patches' means."""

    patch_size = 4
    num_register_tokens = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, is_training: bool = False) -> Tensor | dict[str, Tensor]:
        """Return features as the real backbone does."""
        patches = nn.functional.avg_pool2d(images, 4).flatten(2).transpose(1, 2) * self.weight
        mean = patches.mean(dim=(1, 2))
        cls = torch.stack([mean.cos(), mean.sin()], dim=1)
        if not is_training:
            return cls
        return {"x_norm_clstoken": cls, "x_norm_patchtokens": patches, "x_norm_regtokens": patches[:, :0]}


def plain_images(folder: Path, shades: dict[str, tuple[int, ...]]) -> Path:
    """Write one image of a plain grey for each shade of a class."""
    for name, values in shades.items():
        (folder / name).mkdir(parents=True)
        for value in values:
            Image.new("RGB", (16, 16), (value,) * 3).save(folder / name / f"{value}.png")
    return folder


def config(*overrides: str) -> DictConfig:
    """Return the configuration of a tiny run."""
    return load_config(overrides=[*TINY, *overrides])


@pytest.fixture
def labelled(tmp_path: Path) -> DictConfig:
    """Dark and bright images; of four that are asked, one bright one is as dark as those of the other class."""
    votes = plain_images(tmp_path / "votes", {"bright": (200, 220, 240), "dark": (10, 30, 50)})
    asked = plain_images(tmp_path / "asked", {"bright": (210, 20), "dark": (15, 40)})
    return config(f"knn.train_dataset={votes}", f"knn.test_dataset={asked}", "knn.k=3", "knn.period_iterations=5")


def monitor_of(cfg: DictConfig, output: Path, start_iteration: int = 0) -> Monitor:
    """Return a monitor of a configuration's labelled images."""
    labelled = open_labelled_pair(cfg)
    assert labelled is not None
    return Monitor(cfg, labelled[0], labelled, output, device=CPU, start_iteration=start_iteration)


def test_accuracy_is_measured_and_recorded(
    labelled: DictConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three of four are told by their brightness; raw pixels, all alike in direction but for their sign, do as well."""
    monitor = monitor_of(labelled, tmp_path)
    with caplog.at_level(logging.INFO, logger="port"):
        assert monitor.measure(Brightness(), 0) == 0.75
    assert "k-NN accuracy after 0 iterations: 0.750" in caplog.text
    assert monitor.measure(Brightness(), 5) == 0.75
    record = json.loads((tmp_path / "knn.json").read_text())
    assert (record["n_train"], record["n_test"], record["n_classes"]) == (6, 4, 2)
    assert record["curve"] == {"0": 0.75, "5": 0.75}
    assert record["raw_pixels"] == 0.75
    assert not list(tmp_path.glob(".*"))


def test_ranks_that_only_take_part_write_nothing(labelled: DictConfig, tmp_path: Path) -> None:
    """They compute the same number."""
    monitor = monitor_of(labelled, tmp_path)
    assert monitor.measure(Brightness(), 5, write=False) == 0.75
    monitor.picture(Brightness(), 5, write=False)
    assert not (tmp_path / "knn.json").exists()
    assert not (tmp_path / "patch_pca.png").exists()


def test_it_is_due_every_so_many_iterations(labelled: DictConfig, tmp_path: Path) -> None:
    """Never where the period is 0 or no images are named."""
    monitor = monitor_of(labelled, tmp_path)
    assert [iteration for iteration in range(1, 16) if monitor.due(iteration)] == [5, 10, 15]
    labelled.knn.period_iterations = 0
    assert not any(monitor_of(labelled, tmp_path).due(iteration) for iteration in range(20))


def test_without_labelled_images_there_are_only_pictures(tmp_path: Path) -> None:
    """Of the training images."""
    cfg = config(f"train.dataset_path={make_images(tmp_path / 'images')}", "knn.period_iterations=1")
    assert open_labelled_pair(cfg) is None
    monitor = Monitor(cfg, make_dataset(cfg.train.dataset_path), None, tmp_path, device=CPU)
    assert monitor.measure(Brightness(), 1) is None
    assert not monitor.due(1)
    monitor.picture(Brightness(), 1)
    assert (tmp_path / "patch_pca.png").exists()
    assert not (tmp_path / "knn.json").exists()


def test_the_picture_keeps_the_untrained_network(
    labelled: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three columns from the second time on: images, before training, now."""
    titles: list[list[str]] = []
    monkeypatch.setattr(evaluation, "save_columns", lambda columns, path: titles.append(list(columns)))
    monitor = monitor_of(labelled, tmp_path)
    for iteration in (0, 5, 10):
        monitor.picture(Brightness(), iteration)
    assert titles == [
        ["image", "untrained"],
        ["image", "untrained", "after 5 iterations"],
        ["image", "untrained", "after 10 iterations"],
    ]


def test_a_resumed_run_keeps_its_earlier_measurements(labelled: DictConfig, tmp_path: Path) -> None:
    """Later ones are about to be measured again; a fresh run forgets all."""
    KnnRecord(6, 4, 2, 0.5, {0: 0.25, 5: 0.5, 10: 1.0}).write(tmp_path / "knn.json")
    assert monitor_of(labelled, tmp_path, 5).record == KnnRecord(6, 4, 2, 0.5, {0: 0.25, 5: 0.5})
    assert monitor_of(labelled, tmp_path, 0).record == KnnRecord()


@pytest.mark.parametrize("content", ["{", "[]", '{"n_train": 1}', '{"curve": {"a": 1}}', '{"curve": {}, "x": 1}'])
def test_a_damaged_record_is_forgotten_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """It is no reason not to train."""
    (tmp_path / "knn.json").write_text(content)
    assert KnnRecord.read(tmp_path / "knn.json", 10) == KnnRecord()
    assert "knn.json cannot be read" in caplog.text


def test_a_missing_record_is_no_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run may be resumed with k-NN that began without."""
    assert KnnRecord.read(tmp_path / "knn.json", 10) == KnnRecord()
    assert caplog.text == ""


def test_a_full_disk_costs_the_file_only(
    labelled: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a picture nor a record is worth a training."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "save_columns", full)
    monkeypatch.setattr(KnnRecord, "write", full)
    monitor = monitor_of(labelled, tmp_path)
    assert monitor.measure(Brightness(), 0) == 0.75
    monitor.picture(Brightness(), 0)
    assert "knn.json could not be written ([Errno 28] No space left on device)" in caplog.text
    assert "patch_pca.png could not be written" in caplog.text


def test_images_that_cannot_be_read_are_not_shown(tmp_path: Path) -> None:
    """Six are picked from all over the data set; the first of eight is cut short."""
    images = make_images(tmp_path / "images")
    spoil(images, 1)
    cfg = config()
    source: ImageSource = make_dataset(str(images))
    assert len(Monitor(cfg, source, None, tmp_path, device=CPU).shown) == 5


def test_data_sets_without_classes_cannot_vote(tmp_path: Path) -> None:
    """Nor can those with one class, or with others than the images that are asked."""
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (16, 16)).save(flat / "0.png")
    one = plain_images(tmp_path / "one", {"a": (1, 2)})
    two = plain_images(tmp_path / "two", {"a": (1,), "b": (2,)})
    other = plain_images(tmp_path / "other", {"a": (1,), "c": (2,)})
    for votes, asked, expected in (
        (flat, two, "knn.train_dataset has 0 classes"),
        (two, one, "knn.test_dataset has 1 classes"),
        (two, other, "expected the same ones in both; in one only: b, c"),
    ):
        with pytest.raises(ValueError, match=expected):
            open_labelled_pair(config(f"knn.train_dataset={votes}", f"knn.test_dataset={asked}"))
