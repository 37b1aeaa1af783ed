from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_batch, tiny_config, tiny_model
from torch import Tensor, nn

from port.data import Batch
from port.ssl_meta_arch import SSLMetaArch
from port.watch.incident import NonFiniteError, next_steps, nonfinite_error, save_incident
from port.watch.nonfinite import Culprit, first_nonfinite

TEMPERATURE = 0.05


def failed_step(model: SSLMetaArch, batch: Batch | list[Batch]) -> Callable[[], object]:
    """Carry out forward and backward as a failing step does, and return its rerun."""

    def rerun() -> object:
        return model.forward_backward(batch, TEMPERATURE)

    rerun()
    return rerun


def found(model: SSLMetaArch, batch: Batch | list[Batch] | None = None) -> Culprit:
    """Return the culprit of a step."""
    batch = batch or tiny_batch(model.cfg)
    return first_nonfinite(model, batch, failed_step(model, batch))


def break_output(module: nn.Module, value: float = float("nan")) -> None:
    """Let a module put out one value that is not finite."""

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output.view(-1)[3] = value
        return output

    module.register_forward_hook(hook)


def test_a_broken_image_is_named() -> None:
    """The input is at fault before anything that is computed from it."""
    model = tiny_model()
    batch = tiny_batch(model.cfg)
    batch["collated_local_crops"][1, 2, 3, 4] = float("inf")
    culprit = found(model, batch)
    assert (culprit.kind, culprit.name) == ("input", "collated_local_crops")
    assert culprit.shape == (4, 3, 8, 8)
    assert (culprit.n_nan, culprit.n_inf, culprit.dtype) == (0, 1, "float32")


def test_a_broken_micro_batch_is_named() -> None:
    """Of several micro-batches, the one at fault is told."""
    model = tiny_model()
    batches = [tiny_batch(model.cfg, seed=seed) for seed in range(2)]
    batches[1]["collated_global_crops"][0] = float("nan")
    assert found(model, batches).name == "collated_global_crops of micro-batch 1"


def test_a_broken_parameter_is_named() -> None:
    """Weights that were not finite before the step are told from what they cause."""
    model = tiny_model()
    with torch.no_grad():
        model.student.get_parameter("backbone.blocks.1.mlp.fc1.weight")[2] = float("nan")
    culprit = found(model)
    assert (culprit.kind, culprit.name) == ("parameter", "student.backbone.blocks.1.mlp.fc1.weight")
    assert culprit.n_nan == 16


def test_a_broken_centre_is_named() -> None:
    """So is a centre that an earlier batch left behind (Q13)."""
    model = tiny_model()
    model.ibot_patch_loss.center[0, 0, 5] = float("nan")
    culprit = found(model)
    assert (culprit.kind, culprit.name) == ("buffer", "ibot_patch_loss.center")


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_the_first_module_of_many_is_named(role: str) -> None:
    """Everything after it is NaN as well, and the centres' pending update; the first alone is named."""
    model = tiny_model()
    break_output(model.get_submodule(f"{role}.backbone.blocks.0.attn.qkv"))
    culprit = found(model)
    assert (culprit.kind, culprit.name) == ("output", f"{role}.backbone.blocks.0.attn.qkv")
    assert culprit.n_nan == 1
    assert culprit.before == f"{role}.backbone.blocks.0.norm1"
    assert culprit.largest_input is not None
    assert 0 < culprit.largest_input < 100


def test_an_operation_between_modules_is_told_by_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The softmax of attention has no module: the next one is named, with inputs that are not finite either."""
    model = tiny_model()
    attend = torch.nn.functional.scaled_dot_product_attention

    def overflow(*args: Any, **kwargs: Any) -> Tensor:
        return attend(*args, **kwargs) * float("inf")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", overflow)
    culprit = found(model)
    assert culprit.name == "teacher.backbone.blocks.0.attn.proj"
    assert culprit.before == "teacher.backbone.blocks.0.attn.qkv"
    assert "whose inputs are not finite either; teacher.backbone.blocks.0.attn.qkv just before" in str(culprit)


def test_a_loss_made_of_finite_outputs_is_named() -> None:
    """A student temperature of 0 leaves every module finite: the loss term is at fault."""
    for kernels, of_dino in {"fast": "optimised.dino_local_crops_loss", "official_order": "dino_loss"}.items():
        model = tiny_model([f"kernels={kernels}"])
        model.ibot_patch_loss.student_temp = 0.0
        culprit = found(model)
        assert (culprit.kind, culprit.name) == ("loss", "optimised.ibot_loss")
        model = tiny_model([f"kernels={kernels}"])
        model.dino_loss.student_temp = 0.0
        assert found(model).name == of_dino


def test_a_gradient_is_named_in_backward_order() -> None:
    """The loss is finite; the first gradient that is not is that of the output where the backward pass breaks."""
    model = tiny_model()

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad * float("inf")

    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        result: Tensor = Breaks.apply(inputs[0])
        return (result,)

    model.get_submodule("student.backbone.blocks.1.mlp").register_forward_pre_hook(hook)
    culprit = found(model)
    assert (culprit.kind, culprit.name) == ("gradient", "student.backbone.blocks.1.norm2")
    assert culprit.before.startswith("student.backbone.blocks.1.mlp")


def test_a_failure_that_does_not_come_again() -> None:
    """A rerun that is finite is said to be."""
    culprit = found(tiny_model())
    assert culprit.kind == "none"
    assert "carried out again, was finite" in str(culprit)


def test_looking_changes_nothing() -> None:
    """Afterwards parameters, centres, and the losses of the same batch are as before, and no hook is left."""
    model, same = tiny_model(), tiny_model()
    batch = tiny_batch(model.cfg)
    found(model, batch)
    for name, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert not any(module._forward_hooks for module in model.modules())
    losses = model.forward_backward(batch, TEMPERATURE)
    assert torch.equal(losses.total, same.forward_backward(batch, TEMPERATURE).total)


def test_an_incident_can_be_looked_into(tmp_path: Path) -> None:
    """Batch and state load with weights_only, and show the failure again."""
    model = tiny_model()
    batch = tiny_batch(model.cfg)
    batch["collated_global_crops"][0] = float("nan")
    rerun = failed_step(model, batch)
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    error = nonfinite_error(
        model,
        batch,
        rerun,
        output_dir=tmp_path,
        iteration=7,
        failure="ibot_loss = nan",
        precision="bf16",
        extra={"optimizer": optimizer},
    )
    folder = tmp_path / "nonfinite_iteration_7"
    assert isinstance(error, NonFiniteError)
    assert (error.folder, error.iteration, error.culprit.kind) == (folder, 7, "input")
    for part in ("iteration 7: ibot_loss = nan", "input collated_global_crops", str(folder), "look at the images"):
        assert part in str(error)
    names = {"batch.pt", "model.pt", "extra.pt", "incident.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "incident.json").read_text())["culprit"]["name"] == "collated_global_crops"

    again = tiny_model(seed=1)
    again.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    loaded = torch.load(folder / "batch.pt", weights_only=True)
    assert not again.forward_backward(loaded, TEMPERATURE).total.isfinite()
    assert torch.load(folder / "extra.pt", weights_only=True) == {"optimizer": optimizer}


def test_an_incident_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves no half of a folder, and the error still says what is wrong and that nothing was saved."""
    model = tiny_model()

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    batch = tiny_batch(model.cfg)
    with pytest.raises(OSError, match=r"batch\.pt: PytorchStreamWriter failed"):
        save_incident(tmp_path, batch, model, 3, Culprit("none"))
    error = nonfinite_error(model, batch, failed_step(model, batch), output_dir=tmp_path, iteration=3)
    assert error.folder is None
    assert "could not be saved" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_second_incident_of_an_iteration_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """Restarts that fail at one place do not fill the disk."""
    model = tiny_model()
    for name in ("first", "second"):
        save_incident(tmp_path, tiny_batch(model.cfg), model, 3, Culprit("loss", name))
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "incident.json").read_text())["culprit"]["name"] == "second"


@pytest.mark.parametrize(
    ("kind", "precision", "expected"),
    [
        ("output", "fp16", "precision=bf16 or precision=fp32"),
        ("gradient", "bf16", "precision=fp32"),
        ("loss", "fp32", "lower optim.base_lr"),
        ("buffer", "fp32", "quirks.empty_mask_center=corrected"),
        ("parameter", "fp16", "older checkpoint"),
    ],
)
def test_next_steps_fit_the_culprit(kind: str, precision: str, expected: str) -> None:
    """What is advised depends on where the number came from and on the precision."""
    culprit = Culprit(kind)  # type: ignore[arg-type]  # one of the kinds
    assert expected in next_steps(culprit, precision)


def test_the_document_is_strict_json(tmp_path: Path) -> None:
    """A largest input that is not finite is written in words."""
    model = tiny_model()
    culprit = Culprit("output", "x", (1,), "float32", 1, 0, float("nan"))
    folder = save_incident(tmp_path, tiny_batch(tiny_config()), model, 1, culprit)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    document = json.loads((folder / "incident.json").read_text(), parse_constant=refuse)
    assert document["culprit"]["largest_input"] == "not finite"
