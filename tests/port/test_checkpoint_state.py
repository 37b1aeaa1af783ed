from __future__ import annotations

import copy

import pytest
import torch
from checkpoint_runs import Run, alike, copied
from tiny_training import tiny_model

from port.checkpoint import training_state
from port.checkpoint.state import plain_name


@pytest.fixture(scope="module")
def trained() -> Run:
    """A run after two steps."""
    return Run().advance(0, 2)


def test_state_holds_networks_centres_and_moments_by_name(trained: Run) -> None:
    """Student, teacher and centres are there, and three tensors for each parameter of the student."""
    state = trained.state()
    student = {name for name, _ in trained.model.student.named_parameters()}
    assert {"model.dino_loss.center", "model.ibot_patch_loss.center"} < state.keys()
    for name in student:
        assert {f"model.student.{name}", f"model.teacher.{name}"} < state.keys()
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert f"optimizer.student.{key}.student.{name}" in state
    assert len(state) == 2 * len(student) + 2 + 3 * len(student)


def test_state_shares_memory_with_the_run() -> None:
    """Writing into the state's tensors changes parameters, centres and moments."""
    run = Run()
    for tensor in run.state().values():
        tensor.detach().fill_(0.5)
    assert all(bool((parameter == 0.5).all()) for parameter in run.model.parameters())
    assert bool((run.model.dino_loss.center == 0.5).all())
    assert all(bool((value == 0.5).all()) for entry in run.optimizer.state.values() for value in entry.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module.student.backbone.norm.weight", "student.backbone.norm.weight"),
        ("student.backbone._orig_mod.blocks.0.attn.qkv.bias", "student.backbone.blocks.0.attn.qkv.bias"),
        ("blocks.1._checkpoint_wrapped_module.ls1.gamma", "blocks.1.ls1.gamma"),
        ("_orig_mod.module.blocks.0.norm1.weight", "blocks.0.norm1.weight"),
        ("teacher.submodule.weight", "teacher.submodule.weight"),
    ],
)
def test_wrappers_leave_no_trace_in_names(name: str, expected: str) -> None:
    """What DDP, torch.compile and activation checkpointing add to names is taken away, nothing else."""
    assert plain_name(name) == expected


def test_compiled_model_has_the_same_names(trained: Run) -> None:
    """A module that torch.compile wraps is saved under the name that it has without."""
    wrapped = copy.deepcopy(trained.model)
    wrapped.student["backbone"] = torch.compile(wrapped.student["backbone"], backend="eager")  # type: ignore[assignment] # it is a module
    assert any("_orig_mod" in name for name in wrapped.state_dict())
    assert training_state(wrapped, {}).keys() == {name for name in trained.state() if name.startswith("model.")}


def test_grouping_does_not_change_names(trained: Run) -> None:
    """One group instead of many, in another order, gives the same keys."""
    parameters = [parameter for parameter in trained.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(list(reversed(parameters)))
    assert training_state(trained.model, {"student": optimizer}).keys() == trained.state().keys()


def pending(run: Run) -> bool:
    """Whether centre updates wait for their next use, of both losses alike."""
    losses = (run.model.dino_loss, run.model.ibot_patch_loss)
    (updated,) = {loss.updated for loss in losses}
    return not updated


def test_applying_the_centre_update_early_changes_nothing() -> None:
    """A run whose state is taken after every step, which applies pending updates, stays bitwise the undisturbed one."""
    undisturbed, observed = Run(), Run()
    undisturbed.advance(0, 3)
    for iteration in range(3):
        observed.advance(iteration, iteration + 1)
        assert pending(observed)
        observed.state()
        assert not pending(observed)
    assert pending(undisturbed)
    assert alike(undisturbed.state(), observed.state())


def test_pending_centre_update_is_in_the_state() -> None:
    """After one step from a zero centre, the state's centre is a tenth of the batch's mean: not zero."""
    run = Run().advance(0, 1)
    pending = run.model.dino_loss.async_batch_center
    assert pending is not None
    expected = pending / run.model.dino_loss.len_teacher_output * (1 - 0.9)
    assert bool(expected.any())
    torch.testing.assert_close(run.state()["model.dino_loss.center"], expected, rtol=1e-6, atol=0)


def test_making_absent_moments_changes_nothing() -> None:
    """A run whose moments were made before its first step does bitwise what a run does that makes them itself."""
    early, late = Run(), Run()
    early.state()
    assert alike(early.advance(0, 2).state(), late.advance(0, 2).state())


def test_parameter_without_gradients_has_zero_moments() -> None:
    """A parameter that never had a gradient is in the state with zero moments and zero steps, as Adam would begin."""
    run = Run()
    parameter = run.model.student["backbone"].mask_token
    assert isinstance(parameter, torch.nn.Parameter)
    parameter.requires_grad_(False)
    state = run.advance(0, 1).state()
    name = "student.backbone.mask_token"
    assert state[f"optimizer.student.step.{name}"].item() == 0
    assert not state[f"optimizer.student.exp_avg.{name}"].any()
    assert state[f"optimizer.student.exp_avg.{name}"].shape == parameter.shape
    assert state["optimizer.student.step.student.backbone.cls_token"].item() == 1


def test_moments_of_amsgrad_and_of_double_precision() -> None:
    """Made moments have the keys and types that Adam itself makes, whatever its options."""
    model = tiny_model()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.set_default_dtype(torch.float64)
    try:
        made = torch.optim.Adam(parameters, amsgrad=True)
        before = {name: tensor.dtype for name, tensor in training_state(model, {"a": made}).items()}
        own = torch.optim.Adam(parameters, amsgrad=True)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        own.step()
        after = {name: tensor.dtype for name, tensor in training_state(model, {"a": own}).items()}
    finally:
        torch.set_default_dtype(torch.float32)
    assert any(name.startswith("optimizer.a.max_exp_avg_sq.") for name in before)
    assert before == after


def test_gradient_scaler_is_saved_and_restored() -> None:
    """Scale and growth tracker come as tensors, and writing into them sets the scaler."""
    model = tiny_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    state = training_state(model, {}, scaler)
    assert state["scaler.scale"].item() == 1024.0
    state["scaler.scale"].fill_(256.0)
    state["scaler.growth_tracker"].fill_(3)
    assert scaler.get_scale() == 256.0
    assert scaler.state_dict()["_growth_tracker"] == 3


def test_disabled_scaler_is_left_out() -> None:
    """A scaler that is off has no state."""
    state = training_state(tiny_model(), {}, torch.amp.GradScaler("cpu", enabled=False))
    assert not any(name.startswith("scaler.") for name in state)


def test_other_optimizers_are_refused() -> None:
    """An optimizer whose state has other names is an error that says which are known."""
    model = tiny_model()
    with pytest.raises(TypeError, match=r"optimizer\.student is SGD, expected Adam or AdamW"):
        training_state(model, {"student": torch.optim.SGD(model.parameters())})


def test_foreign_parameters_are_refused() -> None:
    """An optimizer made before the model was replaced or sharded is an error that says so."""
    stranger = torch.nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"shape \(3, 2\) that is not the model's; build optimizers after"):
        training_state(tiny_model(), {"student": torch.optim.AdamW([stranger])})


def test_state_is_complete_for_a_fresh_run(trained: Run) -> None:
    """A run that has taken no step has every name that a trained one has, so that it can be loaded into."""
    fresh = Run(seed=5)
    before = copied(fresh.state())
    assert before.keys() == trained.state().keys()
    assert {name: tensor.shape for name, tensor in before.items()} == {
        name: tensor.shape for name, tensor in trained.state().items()
    }
