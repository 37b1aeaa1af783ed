"""Faults of the objective: who sees which crops, and how the terms are added."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Edit

__all__ = ["FAULTS"]

_ARCH = "port.ssl_meta_arch:SSLMetaArch."
_TERMS = "port.objective:Objective."


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
    _step(
        "three-passes",
        "global crops pass through the student twice",
        f"{_ARCH}_student_tokens",
        "features, *local_features = self._student_backbone(crops, masks)",
        "self._student_backbone(crops[:1], [None]); features, *local_features = self._student_backbone(crops, masks)",
        "^0001",
    ),
    _step(
        "student-unmasked",
        "the student sees no mask",
        f"{_ARCH}_student_tokens",
        '[batch["collated_masks"], None]',
        "[None, None]",
        "0001|operation",
        origin="masks not passed to the student",
    ),
    _step(
        "teacher-masked",
        "the teacher sees masked crops",
        f"{_ARCH}_teacher_tokens",
        "features = backbone(crops, is_training=True)",
        'features = backbone(crops, masks=batch["collated_masks"], is_training=True)',
        r"in prepare_tokens_with_masks",
    ),
    _step(
        "same-view",
        "a crop's target is its own",
        f"{_ARCH}_teacher_outputs",
        "torch.cat((second, first))",
        "torch.cat((first, second))",
        "operation",
    ),
    _step(
        "ibot-head-aliased",
        "the student's head makes iBOT's targets",
        f"{_ARCH}_teacher_outputs",
        'self.teacher["ibot_head"](patches)',
        'self.student["ibot_head"](patches)',
        r"port/models/dino_head\.py:\d+ in",
        "vitl14",
        "iBOT head aliasing another head",
    ),
    _step(
        "temperature",
        "the student's temperature for the teacher",
        f"{_ARCH}_dino_targets",
        "targets_and_update(logits, teacher_temp)",
        "targets_and_update(logits, self.dino_loss.student_temp)",
        r"centering\.py:\d+ in softmax_center_teacher",
    ),
    _step(
        "ibot-temperature-sinkhorn",
        "a fixed temperature for patches",
        f"{_ARCH}_ibot_targets",
        "logits, teacher_temp, n_masked",
        "logits, 0.04, n_masked",
        r"sinkhorn\.py:\d+ in sinkhorn_knopp",
        "vitl14",
    ),
    _step(
        "terms-global",
        "global terms counted as pairs with themselves",
        f"{_TERMS}_n_terms",
        "(N_GLOBAL_CROPS - 1) * N_GLOBAL_CROPS",
        "N_GLOBAL_CROPS * N_GLOBAL_CROPS",
        r"objective\.py:\d+ in _by_logits",
    ),
    _step(
        "terms-local",
        "local terms counted once",
        f"{_TERMS}_n_terms",
        "max(n_local * N_GLOBAL_CROPS, 1)",
        "max(n_local, 1)",
        r"objective\.py:\d+ in _by_logits",
    ),
    _step(
        "global-factor",
        "the global term has half its weight",
        f"{_TERMS}_by_logits",
        "* N_GLOBAL_CROPS / n_terms",
        "/ n_terms",
    ),
    _step(
        "local-weight",
        "the local term has half its weight",
        f"{_TERMS}_by_logits",
        "self.cfg.dino.loss_weight * local_loss",
        "0.5 * local_loss",
    ),
    _step(
        "ibot-halved",
        "iBOT is optimised as it is shown",
        f"{_TERMS}_by_logits",
        "self.cfg.ibot.loss_weight * ibot_loss",
        "self.cfg.ibot.loss_weight * ibot_loss / 2",
        r"ibot\.py:\d+ in forward_masked",
    ),
    _step(
        "koleo-logits",
        "KoLeo on the head's outputs",
        f"{_TERMS}losses",
        "outputs.global_cls_features.chunk",
        "outputs.global_cls.chunk",
        r"koleo|objective",
        origin="KoLeo on head outputs",
    ),
    _step(
        "koleo-joint",
        "KoLeo over both crops at once",
        f"{_TERMS}losses",
        "(self.koleo_loss(first) + self.koleo_loss(second))",
        "2 * self.koleo_loss(outputs.global_cls_features)",
        r"koleo",
    ),
    _step(
        "koleo-missing",
        "no KoLeo",
        f"{_TERMS}losses",
        "if self.do_koleo:",
        "if False:",
        r"lacks.*dinov2/train/ssl_meta_arch\.py:31\d",
        origin="KoLeo missing",
    ),
    _step(
        "koleo-mean",
        "KoLeo of the crops is averaged",
        f"{_TERMS}losses",
        "self.koleo_loss(first) + self.koleo_loss(second)",
        "(self.koleo_loss(first) + self.koleo_loss(second)) / 2",
    ),
    _step(
        "weights-ignored",
        "iBOT's weights are all equal",
        f"{_TERMS}_by_logits",
        'masks_weight=batch["masks_weight"]',
        'masks_weight=batch["masks_weight"] * 0 + batch["masks_weight"].mean()',
        r"0005|in _by_logits|ibot\.py",
    ),
    _step(
        "center-student",
        "the centre is updated twice",
        f"{_ARCH}_dino_targets",
        "return self.dino_loss.targets_and_update(logits, teacher_temp)",
        "targets = self.dino_loss.targets_and_update(logits, teacher_temp)\n"
        "    self.dino_loss.apply_center_update()\n    self.dino_loss.update_center(logits)\n    return targets",
        r"centering\.py|centers/",
    ),
    _step(
        "center-kept",
        "iBOT's centre stays in a batch without masks",
        f"{_TERMS}__init__",
        'cfg.quirks.empty_mask_center == "corrected"',
        "True",
        "Q13|centers/ibot",
        "default-unmasked",
    ),
)
