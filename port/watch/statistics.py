"""Norms of gradients and of logits. They are computed on the device and read in one transfer, when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from port.models import LogitFactors
from port.outputs import Logits
from port.ssl_meta_arch import SSLMetaArch
from port.step import GradientStage

__all__ = ["GradientStatistics", "LogitStatistics", "gradient_norms", "to_floats"]

MAX_ROWS = 256
"""Rows of logits that are looked at, evenly spread over all: at 65,536 prototypes, 64 MiB in float32."""

MEASURES = ("norm", "std", "entropy")


def to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Return scalars as numbers, in one transfer."""
    if not values:
        return {}
    stacked = torch.stack([value.detach().float() for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


def gradient_norms(student: nn.ModuleDict) -> dict[str, Tensor]:
    """Return the L2 norm of the gradients of each part of the student, `backbone.blocks.0` for example.

    Under FSDP the parts' norms are summed over ranks, so all ranks must call it.

    Args:
        student: ModuleDict of backbone and heads, with gradients.
    """
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(_part(name), []).append(parameter.grad)
    return {f"gradient_norm/{part}": _norm(tensors) for part, tensors in gradients.items()}


class GradientStatistics:
    """Keeps gradient norms before clipping: one of `TrainStep`'s `on_gradients`.

    Attributes:
        due: whether the next step is measured; the caller sets it before each step.
    """

    def __init__(self) -> None:
        self.due = True
        self._norms: dict[str, Tensor] = {}

    def __call__(self, stage: GradientStage, student: nn.ModuleDict) -> None:
        """Measure, if due."""
        if self.due and stage == "gradients":
            self._norms = gradient_norms(student)

    def values(self) -> dict[str, float]:
        """Return what was measured since the last call; waits for the device."""
        norms, self._norms = to_floats(self._norms), {}
        return norms


class LogitStatistics:
    """Watches what the heads of student and teacher put out, without changing it.

    Of at most `MAX_ROWS` tokens per call it takes three means: `norm`, the L2 norm of a token's logits; `std`, the
    standard deviation of a token's logits; `entropy`, that of the softmax, in nats: ln K for uniform outputs, 0 for
    one prototype. The student's softmax has temperature 0.1; the teacher's logits are centred first where the run
    uses centering, by the centre of the previous step.

    Attributes:
        due: whether calls are measured; the caller sets it before each step.
        teacher_temp: temperature of the teacher's softmax; the caller sets it before each step.
    """

    def __init__(self, model: SSLMetaArch, teacher_temp: float) -> None:
        """Hook the heads; `remove` takes the hooks off."""
        self.due = True
        self.teacher_temp = teacher_temp
        self._sums: dict[str, list[Tensor]] = {}
        self._model = model
        self._handles: list[RemovableHandle] = []
        for role, modules in (("student", model.student), ("teacher", model.teacher)):
            for key, module in modules.items():
                if key != "backbone":
                    self._handles.append(module.register_forward_hook(partial(self._measure, role, key)))

    def values(self) -> dict[str, float]:
        """Return the means since the last call, as `logits/teacher.dino_head.entropy`; waits for the device."""
        means = {name: torch.stack(parts).mean(0) for name, parts in self._sums.items()}
        self._sums = {}
        return to_floats(
            {f"logits/{name}.{measure}": value for name, mean in means.items() for measure, value in _measures(mean)}
        )

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _measure(self, role: str, key: str, module: nn.Module, inputs: object, output: Logits) -> None:
        rows = (output.features if isinstance(output, LogitFactors) else output).detach().flatten(0, -2)
        if not self.due or rows.numel() == 0:
            return
        rows = rows[:: max(1, math.ceil(len(rows) / MAX_ROWS))]
        # With kernels=fast the student's logits are made in the losses; these few are made here.
        logits = (output._replace(features=rows).logits() if isinstance(output, LogitFactors) else rows).float()
        norm, std = logits.norm(dim=-1).mean(), logits.std(dim=-1, correction=0).mean()
        if role == "student":
            logits = logits / self._model.dino_loss.student_temp
        else:
            logits = (logits - self._center(key)) / self.teacher_temp
        log_probabilities = torch.log_softmax(logits, dim=-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1).mean()
        self._sums.setdefault(f"{role}.{key}", []).append(torch.stack([norm, std, entropy]))

    def _center(self, key: str) -> Tensor:
        # Zero under Sinkhorn, where nothing updates it.
        loss = self._model.dino_loss if key == "dino_head" else self._model.ibot_patch_loss
        return loss.center.flatten()


def _measures(mean: Tensor) -> Iterator[tuple[str, Tensor]]:
    return zip(MEASURES, mean.unbind(), strict=True)


def _part(name: str) -> str:
    """Return the part a parameter belongs to: the block, or the module below backbone or head."""
    names = name.split(".")
    end = 2
    if "blocks" in names:
        end = names.index("blocks") + 1
        # Chunked backbones name a block by two numbers (`dinov2/models/vision_transformer.py:150`).
        while names[end].isdigit():
            end += 1
    return ".".join(names[:end])


def _norm(tensors: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
