from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import Change, Fork, assert_no_alarm, assert_seen, check, fork, hand_written, port
from omegaconf import DictConfig
from torch import Tensor, nn

from parity.adapters.official import OfficialStack
from parity.checks import gradients
from parity.checks.gradients import flat_step, step_inputs
from parity.recipes import RECIPES
from port import step
from port.losses import KoLeoLoss, centering
from port.models import block
from port.optim import apply_optim_scheduler
from port.outputs import Losses, TeacherTargets
from port.ssl_meta_arch import SSLMetaArch
from port.student_teacher import StudentTeacher

MAIN = ("default", "vitl14", "vitg14")
VARIANTS = (
    "default-no-local",
    "default-unmasked",
    "default-batch1",
    "default-plain",
    "vitl14-shared",
    "vitl14-unmasked",
)
PARTS = ("losses", "gradients", "clipped_gradients", "parameters", "teacher", "centers")


@pytest.mark.parametrize("recipe", MAIN[:2])
def test_the_reference_equals_itself(official_stack: OfficialStack, recipe: str) -> None:
    """Every tensor of a step of official `do_train`, bit for bit."""
    result = check(official_stack, official_stack, "gradients.step", recipe)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


@pytest.mark.parametrize("recipe", [*MAIN, *VARIANTS])
def test_port_passes(official_stack: OfficialStack, recipe: str) -> None:
    """Every tensor, rate and image count, under each recipe and the variants whose branches differ most."""
    result = check(official_stack, port(), "gradients.step", recipe)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared
    names = [c.name for c in result.comparisons]
    for part in (*(f"generic/{part}/" for part in PARTS), "applied/", "images/student/", "images/teacher/"):
        assert any(name.startswith(part) for name in names), part


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("default-registers", "lacks register tokens"), ("default-growing", "lacks drop path rates in float64")],
)
def test_what_april_2023_lacks_is_not_run(official_stack: OfficialStack, recipe: str, words: str) -> None:
    """The reason says what the reference lacks and where to get it; nothing counts as passed."""
    result = check(official_stack, port(), "gradients.step", recipe)
    assert (result.status, result.compared) == ("not_run", 0)
    assert words in result.reason
    assert "--reference github" in result.reason


def test_the_initial_state_starts_from_a_synchronised_teacher(official_stack: OfficialStack) -> None:
    """`init` copies the student into the teacher, as training does first; `generic` moves them apart."""
    recipe = RECIPES[0]
    for state, same in (("init", True), ("generic", False)):
        _, inputs, batch = step_inputs(official_stack, recipe, state)
        student, teacher = (inputs[f"state {who}.backbone.mask_token"] for who in ("student", "teacher"))
        assert torch.equal(student, teacher) is same
        assert len(inputs["collated_global_crops"]) == 2 * recipe.batch_size
        assert "collated_global_crops" not in batch


def test_a_step_leaves_its_inputs_alone(official_stack: OfficialStack) -> None:
    """Twelve steps start from one state: neither official code nor a subject may change it."""
    config, inputs, batch = step_inputs(official_stack, RECIPES[0], "generic")
    before = {name: t.clone() for name, t in inputs.items()}
    kept = config.copy()
    for stack in (official_stack, port()):
        flat_step(stack, config, inputs, batch, 25)
    assert all(torch.equal(before[name], t) for name, t in inputs.items())
    assert config == kept


def _same_crop_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = SSLMetaArch.teacher_targets

    def faulty(self: Any, batches: Any, temp: float) -> list[TeacherTargets]:
        return [right._replace(dino=right.dino.flip(0)) for right in targets(self, batches, temp)]

    monkeypatch.setattr(SSLMetaArch, "teacher_targets", faulty)


def _training_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is a copy of the student in all, drop path and training mode included."""

    def train(self: Any, mode: bool = True) -> Any:
        for module in self.teacher.modules():
            if isinstance(module, block.Block):
                module.sample_drop_ratio = 0.3
        return nn.Module.train(self, mode)

    monkeypatch.setattr(StudentTeacher, "train", train)


def _ema(off: float) -> Change:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        update = StudentTeacher.update_teacher
        monkeypatch.setattr(StudentTeacher, "update_teacher", lambda self, m, keep: update(self, m + off, keep))

    return change


def _ema_before_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher follows the student as it was before the optimizer."""
    optimize = step.TrainStep._optimize

    def faulty(self: Any) -> None:
        before = [p.detach().clone() for p in self.model.student.parameters()]
        optimize(self)
        after = [p.detach().clone() for p in self.model.student.parameters()]
        update = self.model.update_teacher

        def old_student(m: float, keep: Collection[str]) -> None:
            for values, action in ((before, lambda: update(m, keep)), (after, lambda: None)):
                with torch.no_grad():
                    torch._foreach_copy_(list(self.model.student.parameters()), values)
                action()

        self.model.update_teacher = old_student

    monkeypatch.setattr(step.TrainStep, "_optimize", faulty)


def _clip(together: bool) -> Change:
    """Clip all submodules by one norm, or not at all."""

    def faulty(self: Any) -> None:
        self._show("gradients")
        if together:
            nn.utils.clip_grad_norm_(self.model.student.parameters(), self.clip_grad)
        self._show("clipped_gradients")
        self.optimizer.step()

    return lambda monkeypatch: monkeypatch.setattr(step.TrainStep, "_optimize", faulty)


def _losses(change: Any) -> Change:
    """Change (total, shown) of `losses` by a function of (model, total, shown, outputs)."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        losses = SSLMetaArch.losses

        def faulty(self: Any, batch: Any, targets: Any, outputs: Any) -> Losses:
            right = losses(self, batch, targets, outputs)
            total, shown = change(self, right.total, right.displayed, outputs)
            return right._replace(total=total, displayed=shown)

        monkeypatch.setattr(SSLMetaArch, "losses", faulty)

    return patch


def _joint_koleo(model: Any, total: Tensor, shown: dict[str, Tensor], outputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    joint = 2 * model.cfg.dino.koleo_loss_weight * KoLeoLoss()(outputs.global_cls_features)
    return total - 2 * shown["koleo_loss"] + joint, {**shown, "koleo_loss": joint / 2}


def _momentum(value: float) -> Change:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        init = centering.CenteredLoss.__init__
        monkeypatch.setattr(
            centering.CenteredLoss,
            "__init__",
            lambda self, shape, temp, _, kernels: init(self, shape, temp, value, kernels),
        )

    return change


def _student_temp(monkeypatch: pytest.MonkeyPatch) -> None:
    init = centering.CenteredLoss.__init__
    monkeypatch.setattr(
        centering.CenteredLoss, "__init__", lambda self, shape, _, *others: init(self, shape, 0.1001, *others)
    )


def _centre_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets of a batch are centred with its own mean."""
    center = centering.CenteredLoss.softmax_center_teacher

    def faulty(self: Any, output: Tensor, teacher_temp: float) -> Tensor:
        kept = self.center.clone()
        self.update_center(output)
        targets = center(self, output, teacher_temp)
        self.center = kept
        return targets

    monkeypatch.setattr(centering.CenteredLoss, "softmax_center_teacher", faulty)


def _unmasked_student(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = SSLMetaArch._student_backbone

    def faulty(self: Any, crops: Any, masks: Any, rows: Any = None) -> Any:
        return backbone(self, crops, [torch.zeros_like(masks[0]), *masks[1:]], rows)

    monkeypatch.setattr(SSLMetaArch, "_student_backbone", faulty)


def _decayed_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = StudentTeacher.get_params_groups
    monkeypatch.setattr(
        StudentTeacher, "get_params_groups", lambda self: [{**g, "wd_multiplier": 1.0} for g in groups(self)]
    )


def _one_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = step.TrainStep.__call__
    monkeypatch.setattr(step.TrainStep, "__call__", lambda self, batch, it: inner(self, batch, it + 1))


def _adam_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.adapters.port.build_optimizer", lambda cfg, groups: torch.optim.AdamW(groups, eps=1e-6))


def _adam_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one step the bias correction hides beta1 in the parameters, so only the moment shows it."""
    monkeypatch.setattr(
        "parity.adapters.port.build_optimizer", lambda cfg, groups: torch.optim.AdamW(groups, betas=(0.8, 0.999))
    )


def _plain_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight decay as part of the gradient."""
    monkeypatch.setattr("parity.adapters.port.build_optimizer", lambda cfg, groups: torch.optim.Adam(groups))


@pytest.mark.parametrize(
    ("change", "first", "recipe"),
    [
        (_same_crop_targets, "losses/dino_local_crops_loss|losses/dino_global_crops_loss", "default"),
        (_same_crop_targets, "losses/dino_local_crops_loss|losses/dino_global_crops_loss", "vitl14"),
        (_training_teacher, "losses/", "default"),
        (_ema(1e-6), "teacher/", "default"),
        (_ema_before_step, "teacher/", "default"),
        (_clip(together=True), "clipped_gradients/", "default"),
        (_clip(together=False), "clipped_gradients/", "vitl14"),
        (_losses(_joint_koleo), "losses/koleo_loss", "default"),
        (_losses(lambda m, total, shown, _: (total * 1.0001, shown)), "gradients/", "default"),
        (_losses(lambda m, total, shown, _: (total - 0.5 * shown["ibot_loss"], shown)), "gradients/", "vitl14"),
        (
            _losses(lambda m, total, shown, _: (total, {**shown, "ibot_loss": 2 * shown["ibot_loss"]})),
            "losses/ibot_loss",
            "vitl14",
        ),
        (_momentum(0.99), "centers/dino_loss.center", "default"),
        (_student_temp, "losses/dino_local_crops_loss", "default"),
        (_centre_at_once, "losses/dino_local_crops_loss", "default"),
        (_unmasked_student, "losses/", "default"),
        (_decayed_biases, "parameters/.*bias", "default"),
        (_one_step_late, "losses/", "default"),
        (_adam_eps, "parameters/", "default"),
        (_plain_adam, "exp_avg/", "default"),
        (_adam_beta, "exp_avg/", "default"),
    ],
)
def test_a_faulty_step_is_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, change: Change, first: str, recipe: str
) -> None:
    """The first tensor that a fault reaches is named, by size alone: the fork claims no bit."""
    change(monkeypatch)
    result = check(official_stack, fork(), "gradients.step", recipe, to_first=True)
    assert_seen(result, f"^generic/({first})")


def _trained_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        step, "apply_optim_scheduler", lambda optimizer, lr, wd, _: apply_optim_scheduler(optimizer, lr, wd, lr)
    )


def test_a_last_layer_that_is_not_frozen_is_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the first epoch its weights move where official's stay, and nothing else differs."""
    _trained_last_layer(monkeypatch)
    subject = port()
    result = check(official_stack, subject, "gradients.step", "default-warmup")
    assert_seen(result, r"^generic/parameters/student.dino_head.last_layer.weight_[gv]$")
    assert all("last_layer" in c.name for c in result.diverged)
    assert any(c.name.startswith("applied/dino_head.last_layer") for c in result.diverged)


def test_a_view_more_is_named_though_every_tensor_is_equal(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unused forwards cost time alone: the census of images finds them."""
    outputs = SSLMetaArch._student_outputs

    def faulty(self: Any, batch: Any) -> Any:
        right = outputs(self, batch)
        self.student["backbone"](batch["collated_global_crops"][:3], is_training=True)
        return right

    monkeypatch.setattr(SSLMetaArch, "_student_outputs", faulty)
    result = check(official_stack, port(), "gradients.step", "default")
    assert_seen(result, "^images/student/96x96$", "0001", "9 images of 96 px pass through the student")
    assert len(result.diverged) == 1


def test_one_head_for_both_losses_is_an_error(official_stack: OfficialStack) -> None:
    """A separate recipe's state cannot be loaded into a shared head: its sizes differ on purpose."""

    class Aliased(Fork):
        def training_step(self, config: DictConfig, *args: Any) -> dict[str, dict[str, Any]]:
            config.ibot.separate_head = False
            return super().training_step(config, *args)

    result = check(official_stack, Aliased(), "gradients.step", "vitl14")
    assert result.status == "error"
    assert "student.ibot_head" in result.reason


def test_a_part_that_is_not_offered_is_listed(official_stack: OfficialStack) -> None:
    """A step without clipped gradients has not shown that it clips: the rest is judged, and the report says so."""

    def training_step(config: DictConfig, *args: Any) -> dict[str, dict[str, Any]]:
        result = port().training_step(config, *args)
        del result["clipped_gradients"], result["hyperparameters"]
        return result

    result = check(official_stack, fork(training_step=training_step), "gradients.step", "default")
    assert result.status == "passed"
    assert result.reason == "training_step returns no clipped_gradients, hyperparameters"
    assert not any("clipped" in c.name or c.name.startswith("applied") for c in result.comparisons)


def test_a_tensor_missing_from_a_part_is_a_failure(official_stack: OfficialStack) -> None:
    """Offering gradients is offering all of them."""

    def training_step(config: DictConfig, *args: Any) -> dict[str, dict[str, Any]]:
        result = port().training_step(config, *args)
        del result["gradients"]["backbone.cls_token"]
        return result

    result = check(official_stack, fork(training_step=training_step), "gradients.step", "default")
    assert_seen(result, "^generic/gradients/backbone.cls_token$")


def test_a_step_without_losses_and_gradients_is_an_error(official_stack: OfficialStack) -> None:
    """Nothing is left to judge a step by."""

    def training_step(config: DictConfig, *args: Any) -> dict[str, dict[str, Any]]:
        return {"teacher": port().training_step(config, *args)["teacher"]}

    result = check(official_stack, fork(training_step=training_step), "gradients.step", "default")
    assert result.status == "error"
    assert "training_step returned teacher; expected losses or gradients" in result.reason


class Rewritten(Fork):
    """A step under a wrapper's names."""

    def training_step(
        self, config: DictConfig, state: Mapping[str, Tensor], batch: Mapping[str, Any], iteration: int, seed: int
    ) -> dict[str, dict[str, Any]]:
        """Parameters named as DDP and torch's parametrizations name them."""
        result = super().training_step(config, state, batch, iteration, seed)
        return {
            part: values if part == "losses" else {_spelled(n): v for n, v in values.items()}
            for part, values in result.items()
        }


def _spelled(name: str) -> str:
    for letter, index in (("g", 0), ("v", 1)):
        name = name.replace(f".last_layer.weight_{letter}", f".last_layer.parametrizations.weight.original{index}")
    return name if name.endswith("center") else f"module.{name}"


@pytest.mark.parametrize("seed", range(3))
def test_a_rewritten_step_raises_no_alarm(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The same mathematics in other operations and under other names, at three draws, under three recipes."""
    monkeypatch.setattr(gradients, "_SEED", 170 + seed)
    hand_written(monkeypatch)
    result = check(official_stack, Rewritten(), "gradients.step", MAIN[seed])
    assert_no_alarm(result)
    assert result.bitwise_equal < result.compared


@pytest.mark.parametrize("seed", range(2))
def test_crops_in_small_batches_raise_no_alarm(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Without drop path, which draws per batch, crops may pass in any portions."""

    def in_portions(self: Any, crops: Any, masks: Any, rows: None = None) -> list[dict[str, Tensor]]:
        assert rows is None
        backbone = self.student["backbone"]
        portions = [
            zip(crops[0].split(2), masks[0].split(2), strict=True),
            ((part, None) for part in crops[1].split(4)),
        ]
        features = [[backbone(part, masks=mask, is_training=True) for part, mask in portion] for portion in portions]
        names = ("x_norm_clstoken", "x_norm_patchtokens")
        return [{name: torch.cat([part[name] for part in parts]) for name in names} for parts in features]

    monkeypatch.setattr(gradients, "_SEED", 70 + seed)
    monkeypatch.setattr(SSLMetaArch, "_student_backbone", in_portions)
    assert_no_alarm(check(official_stack, fork(), "gradients.step", "default-plain"))


def test_a_teacher_in_training_mode_raises_no_alarm(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official's teacher has no drop path and no dropout, so the mode alone changes no number."""
    monkeypatch.setattr(StudentTeacher, "train", nn.Module.train)
    assert_no_alarm(check(official_stack, port(), "gradients.step", "default"))


def test_faults_do_not_reach_official_code(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Official's step is the same with every part of `port` broken: what the tests see is the subject's."""
    config, inputs, batch = step_inputs(official_stack, RECIPES[0], "generic")
    before = flat_step(official_stack, config, inputs, batch, 25)
    for change in (_same_crop_targets, _training_teacher, _ema(0.1), _student_temp, _unmasked_student, hand_written):
        change(monkeypatch)
    after = flat_step(official_stack, config, inputs, batch, 25)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert F.mse_loss(before["losses/koleo_loss"], after["losses/koleo_loss"]) == 0
