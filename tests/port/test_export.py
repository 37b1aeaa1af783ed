from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from port import export
from port.config import load_config
from port.models import DinoVisionTransformer, build_backbone
from port.weights import load_backbone, targets
from port.weights.verify import Verification

ROOT = Path(export.__file__).parents[1]
SETTINGS = ["student.arch=vit_demo", "student.patch_size=14", "crops.global_crops_size=28", "crops.local_crops_size=14"]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone() -> DinoVisionTransformer:
    """The built-in demonstration's, on 2 × 2 patches."""
    torch.manual_seed(0)
    built = build_backbone(load_config(None, SETTINGS).student, 28)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


@pytest.fixture(scope="module")
def finished_run(backbone: DinoVisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with two saved teachers; the older one is of zeros."""
    folder = tmp_path_factory.mktemp("output") / "run"
    for iteration, factor in ((9, 0.0), (19, 1.0)):
        saved = folder / "eval" / f"training_{iteration}"
        saved.mkdir(parents=True)
        state = {f"backbone.{name}": factor * value for name, value in backbone.state_dict().items()}
        torch.save({"teacher": state}, saved / "teacher_checkpoint.pth")
    OmegaConf.save(load_config(None, SETTINGS), folder / "config.yaml")
    return folder


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "port" / "export.py"), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
    )


def test_it_runs_as_a_file_from_any_folder(finished_run: Path, backbone: DinoVisionTransformer, tmp_path: Path) -> None:
    """Without the project on the path; relative paths are the caller's."""
    done = _run([str(finished_run), "--to", "hub", "--out", "exported"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"teacher of {finished_run}/eval/training_19/teacher_checkpoint.pth: vit_demo, patch 14")
    assert lines[1] == "exported: backbone.json, backbone.pth"
    assert lines[-1].startswith(
        "verified (port's own model of official's names and numbers, official code was not run)"
    )
    state = torch.load(tmp_path / "exported" / "backbone.pth", weights_only=True)
    assert state.keys() == backbone.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())


def test_help_says_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    """The layouts, the arguments, what is verified and the exit codes."""
    with pytest.raises(SystemExit) as exit_:
        export.main(["--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: python port/export.py")
    for word in ("{hub,transformers,timm}", "--config-file", "--network", "checkpoints/step_*", "not verified"):
        assert word in text, word
    assert "Exit codes: 0 exported, 2 not exported." in text


@pytest.mark.parametrize("target", ["transformers", "timm"])
def test_libraries_verify(
    finished_run: Path,
    backbone: DinoVisionTransformer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
) -> None:
    """The last line has the largest differences; what was written is the backbone."""
    assert export.main([str(finished_run), "--to", target, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    last = out.splitlines()[-1]
    assert last.startswith(f"verified ({target}): max difference ")
    assert last.endswith("images 2×3×28×28")
    loaded = copy.deepcopy(backbone)
    with torch.no_grad():
        loaded.pos_embed.zero_()
    load_backbone(loaded, tmp_path / "out")
    assert torch.equal(loaded.pos_embed, backbone.pos_embed)


def test_without_the_library_it_says_so(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are written all the same, and nothing is claimed."""
    monkeypatch.setitem(sys.modules, "timm", None)
    assert export.main([str(finished_run), "--to", "timm", "--out", str(tmp_path / "out")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("not verified: the timm layout needs timm, which cannot be imported")
    assert last.endswith("pip install 'dinov2-parity[export]'")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_file_needs_its_configuration(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that was moved away from its run, then with the run's configuration."""
    file = tmp_path / "teacher.pth"
    file.write_bytes((finished_run / "eval" / "training_19" / "teacher_checkpoint.pth").read_bytes())
    arguments = [str(file), "--to", "hub", "--out", str(tmp_path / "out")]
    assert export.main(arguments) == 2
    assert "give it with --config-file" in capsys.readouterr().err
    assert export.main([*arguments, "--config-file", str(finished_run / "config.yaml")]) == 0
    assert (tmp_path / "out" / "backbone.pth").is_file()


def _empty(tmp_path: Path, run: Path) -> list[str]:
    return [str(tmp_path)]


def _gone(tmp_path: Path, run: Path) -> list[str]:
    return [str(tmp_path / "gone")]


def _damaged(tmp_path: Path, run: Path) -> list[str]:
    (tmp_path / "w.pth").write_bytes(b"nothing")
    return [str(tmp_path / "w.pth"), "--config-file", str(run / "config.yaml")]


def _student(tmp_path: Path, run: Path) -> list[str]:
    return [str(run / "eval" / "training_9" / "teacher_checkpoint.pth"), "--network", "student"]


def _other(tmp_path: Path, run: Path) -> list[str]:
    OmegaConf.save(load_config(None, [*SETTINGS, "student.arch=vit_tiny"]), tmp_path / "tiny.yaml")
    return [str(run), "--config-file", str(tmp_path / "tiny.yaml")]


def _no_configuration(tmp_path: Path, run: Path) -> list[str]:
    return [str(run), "--config-file", str(tmp_path / "gone.yaml")]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_empty, "error: checkpoint: the folder "),
        (_gone, "error: checkpoint: no file or folder "),
        (_damaged, "error: checkpoint: "),
        (_student, "holds the teacher only, not the student"),
        (_other, "the file is vit_demo (192 features, 4 blocks), the model vit_tiny (192 features, 12 blocks)"),
        (_no_configuration, "gone.yaml"),
    ],
)
def test_errors_are_one_line(
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Path, Path], list[str]],
    message: str,
) -> None:
    """On stderr, with exit code 2, and nothing is written."""
    arguments = prepare(tmp_path, finished_run)
    assert export.main([*arguments, "--to", "hub", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with content is an error."""
    (tmp_path / "mine").touch()
    assert export.main([str(finished_run), "--to", "hub", "--out", str(tmp_path)]) == 2
    assert "exists and is not an empty folder; give a new one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_made_is_an_error(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a file there is no folder."""
    (tmp_path / "file").touch()
    assert export.main([str(finished_run), "--to", "hub", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_wrong_export_is_an_error(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not kept, and the exit code says so."""

    def fails(*_: object, **__: object) -> Verification:
        return Verification(single=0.0, double=1e-3, scale=1.0, images=(2, 3, 28, 28))

    monkeypatch.setattr(targets, "verify", fails)
    assert export.main([str(finished_run), "--to", "hub", "--out", str(tmp_path / "out")]) == 2
    assert "computes something else, and was not kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["run", "--to", "onnx", "--out", "x"], ["run", "--to", "hub"]])
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As every command line's do."""
    with pytest.raises(SystemExit) as exit_:
        export.main(arguments)
    assert exit_.value.code == 2
    assert "error: " in capsys.readouterr().err
