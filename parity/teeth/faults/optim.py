"""Faults of schedules, parameter groups and the optimizer's step."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Constant, Edit

__all__ = ["FAULTS"]

_SCHEDULES = "port.optim.schedules:"
_GROUPS = "port.optim.param_groups:"
_EMBEDDINGS = ("pos_embed", "patch_embed", "cls_token", "register_tokens")


def _schedule(id_: str, about: str, before: str, after: str, cause: str, function: str = "build_schedulers") -> Fault:
    edit = Edit(_SCHEDULES + function, before, after)
    return Fault(f"schedule-{id_}", about, (edit,), ("schedules.every_step[default]",), cause)


def _cosine(id_: str, about: str, before: str, after: str) -> Fault:
    return _schedule(id_, about, before, after, "lr parts from official's", "CosineScheduler.__init__")


def _group(id_: str, about: str, target: str, before: str, after: str, cause: str, origin: str = "") -> Fault:
    edits = (Edit(target, before, after),)
    return Fault(f"groups-{id_}", about, edits, ("param_groups.small[default]",), cause, origin)


def _decay(id_: str, about: str, before: str, after: str, origin: str = "") -> Fault:
    return _group(
        id_, about, f"{_GROUPS}get_params_groups_with_decay", before, after, "0006|Q39|weight decay|wd", origin
    )


def _rate(id_: str, about: str, before: str, after: str) -> Fault:
    return _group(id_, about, f"{_GROUPS}get_vit_lr_decay_rate", before, after, "0007|Q37")


def _step(
    id_: str,
    about: str,
    target: str,
    before: str,
    after: str,
    cause: str = "",
    recipe: str = "default",
    origin: str = "",
) -> Fault:
    return Fault(id_, about, (Edit(target, before, after),), (f"gradients.step[{recipe}]",), cause, origin)


FAULTS = (
    _cosine(
        "warm-up",
        "warm-up stops short of the peak",
        "base_value, warmup_iters)",
        "base_value, warmup_iters, endpoint=False)",
    ),
    _cosine("inclusive", "the cosine reaches its end", "iters / len(iters)", "iters / max(len(iters) - 1, 1)"),
    _cosine("amplitude", "twice the amplitude", "0.5 * (base_value", "(base_value"),
    _cosine(
        "linear",
        "a line in place of the cosine",
        "(1 + np.cos(np.pi * iters / len(iters)))",
        "(2 - 2 * iters / len(iters))",
    ),
    _schedule(
        "wd-constant",
        "weight decay does not grow",
        "optim.weight_decay_end, total_iters",
        "optim.weight_decay, total_iters",
        "wd",
    ),
    Fault(
        "schedule-linear-rule",
        "the rate grows with the batch, not with its root",
        (
            Edit(
                "port.config:apply_scaling_rules",
                "math.sqrt(global_batch_size / 1024.0)",
                "(global_batch_size / 1024.0)",
            ),
        ),
        ("schedules.every_step[default]",),
        "lr",
    ),
    _schedule(
        "no-freeze",
        "the last layer is never frozen",
        "last_layer_lr.schedule[: optim.freeze_last_layer_epochs * epoch_length] = 0",
        "pass",
        "last layer",
    ),
    _schedule(
        "temperature",
        "the teacher's temperature stays",
        "base_value=teacher.teacher_temp",
        "base_value=teacher.warmup_teacher_temp",
        "temp",
    ),
    _schedule(
        "momentum",
        "the teacher's momentum stays",
        "teacher.final_momentum_teacher",
        "teacher.momentum_teacher",
        "momentum",
    ),
    _schedule("min-lr", "the rate ends at zero", "final_value=optim.min_lr", "final_value=0.0", "lr"),
    _schedule("no-warm-up", "no warm-up", "warmup_iters=optim.warmup_epochs * epoch_length", "warmup_iters=0", "lr"),
    _step(
        "schedule-after-end",
        "the last value goes on",
        f"{_SCHEDULES}CosineScheduler.__getitem__",
        "self.final_value if it >= self.total_iters",
        "float(self.schedule[-1]) if it >= self.total_iters",
        "schedule|applied|lr|operation|hyper",
        "default-finished",
    ),
    _group(
        "wd-first",
        "weight decay reaches the first group only",
        f"{_SCHEDULES}apply_optim_scheduler",
        'group["weight_decay"] = wd * group["wd_multiplier"]',
        'group["weight_decay"] = wd * group["wd_multiplier"] if group is optimizer.param_groups[0] else 0.0',
        "^0006",
        "DINO v1's loop, kept after regrouping",
    ),
    _group(
        "wd-unmultiplied",
        "every group decays",
        f"{_SCHEDULES}apply_optim_scheduler",
        'wd * group["wd_multiplier"]',
        "wd",
        "0006|Q39",
    ),
    _decay("wd-none", "nothing decays", "0.0 if undecayed else 1.0", "0.0"),
    _decay("wd-bias", "biases decay", 'name.endswith(".bias") or ', ""),
    _decay("wd-norm", "norms decay", ' or "norm" in name', "", "norm layers renamed to ln1 and ln2"),
    _decay("wd-gamma", "LayerScale decays", ' or "gamma" in name', ""),
    _decay(
        "wd-tokens",
        "tokens and positions do not decay",
        'or "gamma" in name',
        'or "gamma" in name or "token" in name or "pos_embed" in name',
    ),
    _decay(
        "wd-by-dimension",
        "vectors do not decay",
        'name.endswith(".bias") or',
        "param.ndim == 1 or param.shape[-1] == 1 or",
    ),
    _rate("one-rate", "one rate for all layers", "lr_decay_rate ** (num_layers + 1 - layer_id)", "lr_decay_rate ** 0"),
    _rate("off-by-one", "one layer too near", "(num_layers + 1 - layer_id)", "(num_layers - layer_id)"),
    _rate(
        "from-zero",
        "blocks counted from 0",
        "indices[1 if chunked_blocks else 0]) + 1",
        "indices[1 if chunked_blocks else 0])",
    ),
    _rate("chunk", "the chunk's index for the block's", "indices[1 if chunked_blocks else 0]", "indices[0]"),
    _group(
        "patch-embed",
        "the patch embedding has no factor of its own",
        f"{_GROUPS}get_params_groups_with_decay",
        "lr_multiplier *= patch_embed_lr_mult",
        "pass",
        "0007",
    ),
    Fault(
        "groups-mask-token",
        "the mask token learns at the head's rate",
        (Constant(f"{_GROUPS}EMBEDDINGS", _EMBEDDINGS),),
        ("param_groups.small[default]",),
        "0007",
    ),
    _group(
        "last-layer",
        "the last layer is not told apart",
        f"{_GROUPS}get_params_groups_with_decay",
        '"last_layer" in name',
        "False",
        "Q41|last_layer|0007",
    ),
    _step(
        "freeze-ignored",
        "the last layer learns while frozen",
        f"{_SCHEDULES}apply_optim_scheduler",
        '(last_layer_lr if group["is_last_layer"] else lr)',
        "lr",
        "^Q41",
        "default-warmup",
    ),
    _step(
        "betas",
        "beta 2 of 0.95",
        f"{_GROUPS}build_optimizer",
        "cfg.optim.adamw_beta2)",
        "0.95)",
        r"value=0\.05\) at port/step\.py.*value=0\.001",
    ),
    _step(
        "clip-global",
        "one norm for all parts",
        "port.step:TrainStep._clip",
        "clip_grad_norm_(module.parameters()",
        "clip_grad_norm_(self.model.student.parameters()",
        "Q40|clip",
    ),
    _step(
        "clip-off",
        "no clipping",
        "port.step:TrainStep._clip",
        "if self.clip_grad:",
        "if False:",
        r"dinov2/train/train\.py:260",
    ),
    _step(
        "ema-swapped", "shares swapped", "port.student_teacher:StudentTeacher.update_teacher", "alpha=1 - m", "alpha=m"
    ),
    _step(
        "ema-sum",
        "the old teacher is not scaled",
        "port.student_teacher:StudentTeacher.update_teacher",
        "torch._foreach_mul_(teacher_params, m)",
        "pass",
    ),
    _step(
        "ema-backbone",
        "the heads' teacher stays",
        "port.student_teacher:StudentTeacher.update_teacher",
        "if key not in keep]",
        'if key not in keep and key == "backbone"]',
        r"lacks.*ssl_meta_arch\.py:36\d in update_teacher",
    ),
)
