"""Legitimate rewrites: the same computation in other operations, which must raise no alarm; and the ladders."""

from __future__ import annotations

from parity.teeth.catalogue import Ladder, Rewrite
from parity.teeth.edit import Constant, Edit

__all__ = ["LADDERS", "REWRITES"]

_LOSSES = ("losses.dino", "losses.ibot", "losses.koleo", "losses.sinkhorn", "losses.centering")
_STEP = ("gradients.step[default]",)
_BACKBONE = ("modules.backbone[default]", *_STEP)
_DINO = "port.losses.dino:DINOLoss."
_IBOT = "port.losses.ibot:iBOTPatchLoss."
_KOLEO = "port.losses.koleo:KoLeoLoss."
_CENTER = "port.losses.centering:CenteredLoss."
_SINKHORN = "port.losses.sinkhorn:sinkhorn_knopp"
_ATTENTION = "port.models.attention:Attention._attend"
_TEACHER = "port.student_teacher:StudentTeacher.update_teacher"
_SDPA = "functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))"


def _loss(id_: str, about: str, target: str, before: str, after: str) -> Rewrite:
    return Rewrite(id_, about, (Edit(target, before, after),), (*_LOSSES, *_STEP))


def _model(id_: str, about: str, target: str, before: str, after: str, *checks: str) -> Rewrite:
    return Rewrite(id_, about, (Edit(target, before, after),), checks or _BACKBONE)


REWRITES = (
    _loss(
        "dino-logsumexp",
        "log-softmax by log-sum-exp",
        f"{_DINO}forward",
        "torch.log_softmax(widened(s) / self.student_temp, dim=-1)",
        "widened(s) / self.student_temp - torch.logsumexp(widened(s) / self.student_temp, dim=-1, keepdim=True)",
    ),
    _loss(
        "dino-einsum",
        "a contraction",
        f"{_DINO}forward",
        "torch.sum(t * lsm, dim=-1).mean()",
        'torch.einsum("bk,bk->", t, lsm) / len(t)',
    ),
    _loss(
        "ibot-einsum",
        "a contraction by row",
        f"{_IBOT}_log_likelihood",
        "torch.sum(teacher * torch.log_softmax(widened(student) / self.student_temp, dim=-1), dim=-1)",
        'torch.einsum("...k,...k->...", teacher, torch.log_softmax(widened(student) / self.student_temp, dim=-1))',
    ),
    _loss(
        "ibot-product",
        "weights by a product of vectors",
        f"{_IBOT}forward_masked",
        "loss = loss * masks_weight\n    return -loss.sum() / student_masks_flat.shape[0]",
        "return -(loss @ masks_weight.to(loss)) / student_masks_flat.shape[0]",
    ),
    _loss(
        "ibot-weights",
        "weights made from the masks",
        "port.objective:Objective._by_logits",
        'masks_weight=batch["masks_weight"]',
        "masks_weight=None",
    ),
    _loss(
        "koleo-distance",
        "the distance by a norm",
        f"{_KOLEO}forward",
        "self.pdist(student_output, student_output[neighbours])",
        "torch.linalg.vector_norm(student_output - student_output[neighbours] + 1e-8, dim=-1)",
    ),
    _loss(
        "koleo-normalise",
        "normalisation by hand",
        f"{_KOLEO}forward",
        "normalize(widened(student_output), eps=eps, p=2, dim=-1)",
        "widened(student_output) / widened(student_output).norm(dim=-1, keepdim=True).clamp_min(eps)",
    ),
    _loss(
        "sinkhorn-constants",
        "factors that cancel left out",
        _SINKHORN,
        "        Q /= K  # each prototype now holds 1/K\n",
        "",
    ),
    _loss(
        "sinkhorn-maximum",
        "the maximum subtracted first",
        _SINKHORN,
        "torch.exp(teacher_output.float() / teacher_temp)",
        "(torch.exp((teacher_output.float() - teacher_output.float().amax()) / teacher_temp)"
        " if len(teacher_output) else torch.exp(teacher_output.float()))",
    ),
    _loss(
        "center-apart",
        "logits and centre divided apart",
        f"{_CENTER}softmax_center_teacher",
        "(teacher_output - self.center) / teacher_temp",
        "teacher_output / teacher_temp - self.center / teacher_temp",
    ),
    _loss(
        "center-lerp",
        "the average by interpolation",
        f"{_CENTER}apply_center_update",
        "self.center * self.center_momentum + mean * (1 - self.center_momentum)",
        "torch.lerp(self.center, mean.expand_as(self.center).to(self.center), 1 - self.center_momentum)",
    ),
    _loss(
        "center-at-once",
        "the update is not deferred",
        f"{_CENTER}update_center",
        "len(teacher_output))",
        "len(teacher_output)); self.apply_center_update()",
    ),
    _model(
        "attention-by-hand",
        "softmax of scores, written out",
        _ATTENTION,
        _SDPA,
        "torch.softmax((q.transpose(1, 2) * q.shape[-1] ** -0.5) @ k.permute(0, 2, 3, 1), dim=-1) @ v.transpose(1, 2)",
    ),
    _model(
        "norm-by-hand",
        "layer norm, written out",
        "port.models.block:Block._attn_residual",
        "self.norm1(x)",
        "((x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + self.norm1.eps).sqrt()"
        " * self.norm1.weight + self.norm1.bias)",
    ),
    _model(
        "gelu-by-erf",
        "GELU, written out",
        "port.models.ffn:Mlp.forward",
        "self.act(x)",
        "0.5 * x * (1 + (x / 2**0.5).erf())",
    ),
    _model(
        "silu-by-sigmoid",
        "SiLU, written out",
        "port.models.ffn:SwiGLU.forward",
        "functional.silu(gate) * value",
        "value * (gate * gate.sigmoid())",
        "modules.backbone[vitl14]",
        "gradients.step[vitl14]",
    ),
    _model(
        "residual-by-copy",
        "the residual of a subset laid into zeros",
        "port.models.block:_add_residual",
        "torch.index_add(x, 0, brange, residual * gamma, alpha=scale)",
        "x + torch.zeros_like(x).index_copy(0, brange, residual * (gamma * scale))",
    ),
    _model(
        "patches-by-product",
        "the patch embedding as a matrix product",
        "port.models.patch_embed:PatchEmbed.forward",
        "x = self.proj(x)  # (B, D, rows, columns)\n    return x.flatten(2).transpose(1, 2)",
        "columns = nn.functional.unfold(x, self.patch_size, stride=self.patch_size).transpose(1, 2)\n"
        "    return columns @ self.proj.weight.flatten(1).t() + self.proj.bias",
    ),
    _model(
        "head-normalise",
        "normalisation by hand",
        "port.models.dino_head:DINOHead.forward",
        "functional.normalize(x, dim=-1, p=2, eps=eps)",
        "x / x.norm(dim=-1, keepdim=True).clamp_min(eps)",
        "modules.head[default]",
        *_STEP,
    ),
    _model(
        "head-lengths",
        "prototypes' lengths multiply the cosines",
        "port.models.dino_head:WeightNormLinear.forward",
        "functional.linear(x, self.weight)",
        "functional.linear(x, self.weight_v / self.weight_v.norm(dim=1, keepdim=True)) * self.weight_g.flatten()",
        "modules.head[default]",
        *_STEP,
    ),
    # A teacher has neither dropout nor drop path (`dinov2/models/__init__.py:28`), so that its mode changes nothing.
    _model(
        "teacher-mode",
        "the teacher is left in training mode",
        "port.student_teacher:StudentTeacher.train",
        "self.teacher.eval()",
        "pass",
        *_STEP,
    ),
    _model(
        "teacher-lerp",
        "the teacher by interpolation",
        _TEACHER,
        "if self.fast:",
        "if True:",
        *_STEP,
    ),
    _model(
        "mask-sum",
        "masked patches counted by a sum",
        "port.data.masking:MaskingGenerator._mask",
        "int(np.count_nonzero(block))",
        "int(block.sum())",
        "masks.bitwise",
        "masks.counts",
    ),
    _model(
        "weights-by-index",
        "weights by the row of each index",
        "port.data.collate:collate_data_and_cast",
        "weight_per_crop.unsqueeze(-1).expand_as(collated_masks)[collated_masks]",
        "weight_per_crop[mask_indices_list // n_tokens]",
        "collate.batch[default]",
        "collate.batch[vitl14]",
    ),
)


def _temperature(size: float) -> tuple[Edit | Constant, ...]:
    return (Edit(f"{_DINO}forward", "/ self.student_temp", f"/ (self.student_temp * (1 + {size!r}))"),)


def _eps(size: float) -> tuple[Edit | Constant, ...]:
    return (Constant("port.models.layers:LAYER_NORM_EPS", 1e-6 * (1 + size)),)


def _momentum(size: float) -> tuple[Edit | Constant, ...]:
    return (
        Edit(
            f"{_CENTER}apply_center_update",
            "self.center * self.center_momentum +",
            f"self.center * (self.center_momentum * (1 + {size!r})) +",
        ),
    )


LADDERS = (
    Ladder("temperature", "DINO's student temperature", _temperature, "losses.dino"),
    Ladder("norm-eps", "eps of every layer norm (1e-6)", _eps, "modules.backbone[default]"),
    Ladder("center-momentum", "share of the old centre", _momentum, "losses.centering"),
)
