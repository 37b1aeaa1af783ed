"""Faults of the losses, the centres and Sinkhorn-Knopp."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Edit

__all__ = ["FAULTS"]

_DINO = "port.losses.dino:DINOLoss."
_IBOT = "port.losses.ibot:iBOTPatchLoss."
_KOLEO = "port.losses.koleo:KoLeoLoss."
_CENTER = "port.losses.centering:CenteredLoss."
_SINKHORN = "port.losses.sinkhorn:sinkhorn_knopp"

# The token itself is a content that official has; that its distance vanishes is not.
_ITSELF = r"first differs at (?:sub|add)\(.*port/losses/koleo\.py:\d+ in forward"
_IBOT_SUM = "return -loss.sum() / student_masks_flat.shape[0]"
_LIKELIHOOD = "teacher * torch.log_softmax(widened(student) / self.student_temp, dim=-1)"
_ROWS = "        Q /= _summed_over_ranks(torch.sum(Q, dim=1, keepdim=True))\n"
_COLUMNS = "        Q /= torch.sum(Q, dim=0, keepdim=True)\n"


def _one(id_: str, about: str, target: str, before: str, after: str, check: str, **more: str) -> Fault:
    return Fault(id_, about, (Edit(target, before, after),), (check,), **more)


def _dino(id_: str, about: str, before: str, after: str) -> Fault:
    return _one(f"dino-{id_}", about, f"{_DINO}forward", before, after, "losses.dino")


def _ibot(id_: str, about: str, before: str, after: str, cause: str = "^0005") -> Fault:
    return _one(f"ibot-{id_}", about, f"{_IBOT}forward_masked", before, after, "losses.ibot", cause=cause)


def _koleo(id_: str, about: str, before: str, after: str, method: str = "forward", **more: str) -> Fault:
    return _one(f"koleo-{id_}", about, f"{_KOLEO}{method}", before, after, "losses.koleo", **more)


def _center(id_: str, about: str, method: str, before: str, after: str) -> Fault:
    return _one(f"center-{id_}", about, f"{_CENTER}{method}", before, after, "losses.centering")


def _sinkhorn(id_: str, about: str, before: str, after: str) -> Fault:
    return _one(f"sinkhorn-{id_}", about, _SINKHORN, before, after, "losses.sinkhorn")


FAULTS = (
    _dino("temperature", "student temperature 0.2", "/ self.student_temp", "/ (2 * self.student_temp)"),
    _dino("sum", "summed over the batch", "dim=-1).mean()", "dim=-1).sum()"),
    _dino("one-teacher", "only the last teacher crop", "for t in teacher_list:", "for t in teacher_list[-1:]:"),
    _dino("one-student", "only the last crop", "for s in student_output_list:", "for s in student_output_list[-1:]:"),
    _dino("batch-softmax", "softmax over the batch", "self.student_temp, dim=-1)", "self.student_temp, dim=0)"),
    _dino("squared-targets", "targets squared", "torch.sum(t * lsm", "torch.sum(t * t * lsm"),
    _one(
        "dino-center-mean",
        "the centre's batch sum is a mean",
        f"{_DINO}batch_center",
        "torch.sum(widened(teacher_output), dim=0, keepdim=True)",
        "torch.mean(widened(teacher_output), dim=0, keepdim=True)",
        "losses.centering",
        cause=r"port/losses/centering\.py:\d+ in apply_center_update",
    ),
    _center(
        "momentum",
        "the old centre gets the share of the new one",
        "apply_center_update",
        "self.center * self.center_momentum + mean * (1 - self.center_momentum)",
        "self.center * (1 - self.center_momentum) + mean * self.center_momentum",
    ),
    _center(
        "never-applied",
        "updates are not applied before use",
        "softmax_center_teacher",
        "self.apply_center_update()\n",
        "pass\n",
    ),
    _center(
        "added",
        "the centre is added",
        "softmax_center_teacher",
        "teacher_output - self.center",
        "teacher_output + self.center",
    ),
    _center(
        "after-temperature",
        "the centre is subtracted after the temperature",
        "softmax_center_teacher",
        "(teacher_output - self.center) / teacher_temp",
        "teacher_output / teacher_temp - self.center",
    ),
    _center(
        "not-averaged",
        "the batch sum is no mean",
        "apply_center_update",
        "self.len_teacher_output * world_size",
        "world_size",
    ),
    _ibot(
        "by-tokens",
        "divided by all masked tokens",
        f"loss = loss * masks_weight\n    {_IBOT_SUM}",
        "return -loss.mean()",
    ),
    _ibot(
        "by-images", "divided by images, not rows", _IBOT_SUM, "return -2 * loss.sum() / student_masks_flat.shape[0]"
    ),
    _ibot(
        "by-masked-rows",
        "unmasked rows do not count",
        _IBOT_SUM,
        "return -loss.sum() / student_masks_flat.any(-1).sum()",
    ),
    _ibot("unweighted", "token weights left out", "loss = loss * masks_weight", "pass"),
    _ibot("not-divided", "not divided by rows", _IBOT_SUM, "return -loss.sum()"),
    _ibot("twice", "weighted and averaged over tokens", _IBOT_SUM, "return -loss.mean()"),
    _one(
        "ibot-temperature",
        "multiplied by the temperature",
        f"{_IBOT}_log_likelihood",
        "/ self.student_temp",
        "* self.student_temp",
        "losses.ibot",
    ),
    _one(
        "ibot-reversed",
        "cross-entropy of the teacher under the student",
        f"{_IBOT}_log_likelihood",
        _LIKELIHOOD,
        "torch.softmax(student / self.student_temp, dim=-1) * torch.log(teacher)",
        "losses.ibot",
    ),
    _one(
        "ibot-center-sum",
        "patches are summed, not averaged",
        f"{_IBOT}batch_center",
        "widened(teacher_output).mean(1)",
        "widened(teacher_output).sum(1)",
        "losses.centering",
    ),
    _koleo("no-offset", "no offset in the logarithm", "torch.log(distances + eps)", "torch.log(distances)"),
    _koleo(
        "self-zero",
        "diagonal filled with 0",
        "fill_diagonal_(-1)",
        "fill_diagonal_(0)",
        "pairwise_NNs_inner",
        cause=_ITSELF,
    ),
    _koleo(
        "self",
        "every token is its own neighbour",
        "dots.fill_diagonal_(-1)",
        "pass",
        "pairwise_NNs_inner",
        cause=_ITSELF,
    ),
    _koleo("farthest", "the farthest token", "torch.max(dots", "torch.max(-dots.abs()", "pairwise_NNs_inner"),
    _koleo(
        "unnormalised",
        "tokens of any length",
        "normalize(widened(student_output), eps=eps, p=2, dim=-1)",
        "widened(student_output)",
    ),
    _koleo("l1", "L1 normalisation", "p=2", "p=1"),
    _koleo("sum", "summed over the batch", ".mean()", ".sum()"),
    _koleo("sign", "pulls tokens together", "-torch.log", "torch.log"),
    _koleo("norm-eps", "eps of the normalisation", "eps=eps, p=2", "eps=1e-6, p=2"),
    _koleo(
        "distance-eps",
        "eps of the distance",
        "eps=1e-8",
        "eps=1e-6",
        "__init__",
        cause=r"port/losses/koleo\.py:\d+ in forward",
    ),
    _sinkhorn("four", "one iteration more", "range(n_iterations)", "range(n_iterations + 1)"),
    _sinkhorn("two", "one iteration less", "range(n_iterations)", "range(n_iterations - 1)"),
    _sinkhorn(
        "columns-first",
        "samples normalised before prototypes",
        f"{_ROWS}        Q /= K  # each prototype now holds 1/K\n{_COLUMNS}",
        f"{_COLUMNS}{_ROWS}        Q /= K\n",
    ),
    _sinkhorn(
        "temperature",
        "multiplied by the temperature",
        "teacher_output.float() / teacher_temp",
        "teacher_output.float() * teacher_temp",
    ),
    _sinkhorn("scale", "rows do not sum to 1", "    Q *= n_samples\n", ""),
)
