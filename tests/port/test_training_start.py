from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tiny_training import ARCHITECTURES, tiny_batch, tiny_config, tiny_model

from port.optim import build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep
from port.training.start import start_from_weights

SEPARATE = "ibot.separate_head=true"


def _same(model: SSLMetaArch, first: str, other: SSLMetaArch, second: str) -> bool:
    pairs = zip(
        model.get_submodule(first).state_dict().values(), other.get_submodule(second).state_dict().values(), strict=True
    )
    return all(torch.equal(a, b) for a, b in pairs)


def _weights(tmp_path: Path, model: SSLMetaArch, *parts: str) -> Path:
    """Save parts of the teacher, as a run does."""
    state = {name: value for name, value in model.teacher.state_dict().items() if name.startswith(parts)}
    torch.save({"teacher": state}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_without_weights_the_teacher_is_the_student(caplog: pytest.LogCaptureFixture) -> None:
    """Q44; the student's values stay, and there is nothing to say."""
    model, before = tiny_model([SEPARATE]), tiny_model([SEPARATE])
    with caplog.at_level(logging.INFO, "port"):
        start_from_weights(model, model.cfg)
    assert _same(model, "student", before, "student")
    assert _same(model, "teacher", before, "student")
    assert not [record for record in caplog.records if record.name == "port"]


def test_a_whole_network_starts_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Backbone and heads of `MODEL.WEIGHTS`, in student and teacher; no head needs warming up."""
    saved = tiny_model([SEPARATE], seed=1)
    model = tiny_model([SEPARATE, f"MODEL.WEIGHTS={_weights(tmp_path, saved, 'backbone', 'dino_head', 'ibot_head')}"])
    with caplog.at_level(logging.INFO, "port"):
        start_from_weights(model, model.cfg)
    assert _same(model, "student", saved, "teacher")
    assert _same(model, "teacher", saved, "teacher")
    assert "heads in the file: dino_head, ibot_head" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and record.name == "port"]


def test_missing_heads_are_said_to_need_warming_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They keep their values, in both networks; the warning names the setting."""
    saved = tiny_model([SEPARATE], seed=1)
    model = tiny_model([SEPARATE, f"MODEL.WEIGHTS={_weights(tmp_path, saved, 'backbone', 'dino_head')}"])
    before = tiny_model([SEPARATE])
    with caplog.at_level(logging.WARNING, "port"):
        start_from_weights(model, model.cfg)
    assert _same(model, "teacher.dino_head", saved, "teacher.dino_head")
    assert _same(model, "student.ibot_head", before, "student.ibot_head")
    assert _same(model, "teacher.ibot_head", before, "student.ibot_head")
    assert "ibot_head start from random values" in caplog.text
    assert "dino_head" not in caplog.text
    assert "finetune.freeze_backbone_iterations=N" in caplog.text


@pytest.mark.parametrize("iterations", [0, 5])
def test_a_pretrained_backbone_starts_both(tmp_path: Path, caplog: pytest.LogCaptureFixture, iterations: int) -> None:
    """`student.pretrained_weights` reaches the teacher too; no warning where the backbone is frozen at first."""
    saved = tiny_model(seed=1)
    settings = [f"student.pretrained_weights={_weights(tmp_path, saved, 'backbone')}"]
    cfg = tiny_config([*settings, f"finetune.freeze_backbone_iterations={iterations}"])
    with caplog.at_level(logging.INFO, "port"):
        model = SSLMetaArch(cfg, architectures=ARCHITECTURES)
        start_from_weights(model, cfg)
    assert _same(model, "student.backbone", saved, "teacher.backbone")
    assert _same(model, "teacher.backbone", saved, "teacher.backbone")
    assert _same(model, "teacher.dino_head", model, "student.dino_head")
    assert "student.pretrained_weights: backbone from " in caplog.text
    assert ("dino_head start from random values" in caplog.text) == (iterations == 0)


def test_only_heads_learn_while_the_backbone_is_frozen(tmp_path: Path) -> None:
    """Released weights, missing heads: two iterations change heads only, of student and teacher, the third all.

    A teacher's average of equal numbers would be off by a rounding error at each step.
    """
    saved = tiny_model(seed=1)
    file = _weights(tmp_path, saved, "backbone")
    settings = [f"MODEL.WEIGHTS={file}", "finetune.freeze_backbone_iterations=2", "optim.warmup_epochs=0"]
    model = tiny_model([*settings, "optim.freeze_last_layer_epochs=0"])
    start_from_weights(model, model.cfg)
    head = model.student["dino_head"].get_parameter("mlp.0.weight")
    step = TrainStep(
        model, build_optimizer(model.cfg, model.get_params_groups()), build_schedulers(model.cfg), model.cfg
    )
    for iteration in range(3):
        before = head.clone()
        for network in ("student", "teacher"):
            assert _same(model, f"{network}.backbone", saved, "teacher.backbone"), (network, iteration)
        step(tiny_batch(model.cfg, seed=iteration), iteration)
        assert not torch.equal(head, before)
        assert not _same(model, "teacher.dino_head", model, "student.dino_head")
    assert not _same(model, "student.backbone", saved, "teacher.backbone")
    assert not _same(model, "teacher.backbone", saved, "teacher.backbone")


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    """The error names the setting; student and teacher stay as they were, different."""
    saved = tiny_model(["student.patch_size=8"], seed=1)
    model = tiny_model([f"MODEL.WEIGHTS={_weights(tmp_path, saved, 'backbone')}"])
    before = tiny_model()
    with pytest.raises(ValueError, match=r"^MODEL\.WEIGHTS: .*student\.patch_size=8"):
        start_from_weights(model, model.cfg)
    assert _same(model, "student", before, "student")
    assert _same(model, "teacher", before, "teacher")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """Named with its setting."""
    model = tiny_model([f"MODEL.WEIGHTS={tmp_path / 'gone.pth'}"])
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS: no file or folder .*gone\.pth"):
        start_from_weights(model, model.cfg)


def test_missing_pretrained_weights_are_an_error(tmp_path: Path) -> None:
    """While the model is built."""
    with pytest.raises(FileNotFoundError, match=r"student\.pretrained_weights: no file or folder .*gone\.pth"):
        tiny_model([f"student.pretrained_weights={tmp_path / 'gone.pth'}"])
