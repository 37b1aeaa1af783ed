"""Family `losses`: values, gradients with respect to the logits, assignments and centres, operation by operation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from parity import states
from parity.attribution.losses import attribute_ibot
from parity.checks.base import Check, Context, Observation
from parity.judge import Computation, Inputs, Judge
from parity.stack import claims_bitwise, forms_of

__all__ = ["CHECKS"]

_PROTOTYPES = 192
_TEMPERATURES = (0.04, 0.07)


def _judge(context: Context, prefix: str, compute: Computation, inputs: Inputs) -> Iterator[Observation]:
    yield from Judge(
        context.reference,
        context.subject,
        forms=forms_of(context.subject),
        failed=context.failed,
        memory=context.memory,
    )(prefix, compute, inputs)


def _targets(rows: int, seed: int) -> Tensor:
    return torch.softmax(states.logits(rows, _PROTOTYPES, seed, scale=0.2) / 0.07, dim=-1)


def _distribution(targets: Tensor) -> Tensor:
    """Return targets that sum to 1 in the precision at hand, as a loss that applies the softmax itself has them.

    Rounded to fp32, they sum to 1 only up to its rounding, which in fp64 is a difference that no algorithm makes.
    """
    return targets / targets.sum(-1, keepdim=True)


def _with_gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss and its gradient with respect to each leaf; a leaf that it does not reach has gradient zero."""
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {
        f"gradient of {name}": torch.zeros_like(leaf) if g is None else g
        for (name, leaf), g in zip(leaves.items(), gradients, strict=True)
    }
    return {"loss": loss.detach(), **found}


def _leaves(inputs: Inputs, prefix: str) -> dict[str, Tensor]:
    return {k: t.detach().clone().requires_grad_() for k, t in inputs.items() if k.startswith(prefix)}


def _dino(context: Context) -> Iterator[Observation]:
    """Cross-entropy summed over pairs of a student and a teacher crop."""
    for n_students, n_teachers, rows in ((1, 1, 6), (8, 2, 4), (3, 2, 1)):
        inputs = {f"student {i}": states.logits(rows, _PROTOTYPES, i) for i in range(n_students)}
        inputs |= {f"teacher {i}": _targets(rows, 100 + i) for i in range(n_teachers)}

        def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
            students = _leaves(given, "student")
            teachers = [_distribution(t) for name, t in given.items() if name.startswith("teacher")]
            return _with_gradients(stack.dino_loss(list(students.values()), teachers), students)

        yield from _judge(context, f"dino/{n_students} students {n_teachers} teachers", compute, inputs)


def ibot_case(seed: int, rows: int = 6, patches: int = 49) -> dict[str, Tensor]:
    """Masked tokens of `rows` crops of which a third is masked, 4, 8 or 16 patches each, with official's weights.

    A third, so that rows, images and masked rows are three different numbers to divide by. Powers of two, so that the
    weights are exact: a loss that computes them itself, in whatever precision, has the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(rows, patches, dtype=torch.bool)
    for row in range(rows // 3):
        count = 4 << (row + seed) % 3
        masks[3 * row, torch.randperm(patches, generator=generator)[:count]] = True
    tokens = int(masks.sum())
    weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
    return {
        "student": states.logits(tokens, _PROTOTYPES, seed),
        "teacher": _targets(tokens, 50 + seed),
        "masks": masks,
        "masks_weight": weight,
    }


def _ibot(context: Context) -> Iterator[Observation]:
    """Masked-token cross-entropy, weighted per crop and divided by all 2B rows."""
    for seed in range(3):
        inputs = ibot_case(seed)

        def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
            students = _leaves(given, "student")
            masks, weight, teacher = given["masks"], given["masks_weight"], _distribution(given["teacher"])
            loss = stack.ibot_loss(students["student"], teacher, masks, len(weight), weight)
            return _with_gradients(loss, students)

        yield from _judge(context, f"ibot/case {seed}", compute, inputs)
        if seed == 0:
            yield from attribute_ibot(context.reference, context.subject, inputs)


def _koleo(context: Context) -> Iterator[Observation]:
    """Nearest-neighbour entropy of CLS tokens; also of one crop, of duplicates and of tokens near zero."""
    generic = states.logits(6, 48, 7, scale=1.0)
    cases = {
        "generic": generic,
        "one crop": generic[:1],
        "a duplicate": torch.cat((generic, generic[:1])),
        "near zero": generic * 1e-9,
        # Two crops with a negative product: each is the other's neighbour only while the diagonal is filled below it.
        "far apart": torch.stack((generic[0], -0.5 * generic[0] + 0.9 * generic[1])),
    }
    if claims_bitwise(context.subject):
        # Opposite crops tie with the diagonal, filled with -1 (Q4); rounding decides, so only equal bits can be asked.
        cases["opposite"] = torch.stack((generic[0], -generic[0]))
    for name, tokens in cases.items():

        def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
            tokens = _leaves(given, "tokens")
            return _with_gradients(stack.koleo_loss(tokens["tokens"]), tokens)

        yield from _judge(context, f"koleo/{name}", compute, {"tokens": tokens})


def _sinkhorn(context: Context) -> Iterator[Observation]:
    """Teacher assignments by three Sinkhorn-Knopp iterations, for CLS tokens and for masked patches."""
    for kind in ("dino", "ibot"):
        for rows in (1, 6, 37):
            for temperature in _TEMPERATURES:

                def compute(
                    stack: Any, given: Inputs, kind: str = kind, temperature: float = temperature
                ) -> dict[str, Tensor]:
                    return {"assignments": stack.sinkhorn(kind, given["logits"].clone(), temperature)}

                inputs = {"logits": states.logits(rows, _PROTOTYPES, rows, scale=0.15)}
                yield from _judge(context, f"sinkhorn/{kind}/{rows} rows/{temperature}", compute, inputs)


def _centering(context: Context) -> Iterator[Observation]:
    """Softmax centering over three batches: every target, and the centre after the pending update (Q14)."""
    for kind in ("dino", "ibot"):
        inputs = {f"batch {i}": states.logits(5 + 3 * i, _PROTOTYPES, i, scale=0.3) for i in range(3)}

        def compute(stack: Any, given: Inputs, kind: str = kind) -> dict[str, Tensor]:
            batches = [t.clone() for t in given.values()]
            targets, center = stack.softmax_center(kind, batches, _TEMPERATURES[0])
            return {**{f"target {i}": t for i, t in enumerate(targets)}, "centre": center.flatten()}

        yield from _judge(context, f"centering/{kind}", compute, inputs)


CHECKS = (
    Check(
        "losses.dino",
        "L1",
        "DINO loss and its gradients",
        ("dinov2/loss/dino_clstoken_loss.py:63-74",),
        ("dino_loss",),
        _dino,
    ),
    Check(
        "losses.ibot",
        "L1",
        "iBOT masked-patch loss and its gradients",
        ("dinov2/loss/ibot_patch_loss.py:103-126",),
        ("ibot_loss",),
        _ibot,
    ),
    Check(
        "losses.koleo",
        "L1",
        "KoLeo loss and its gradients",
        ("dinov2/loss/koleo_loss.py:20-48",),
        ("koleo_loss",),
        _koleo,
    ),
    Check(
        "losses.sinkhorn",
        "L1",
        "Sinkhorn-Knopp assignments of both losses",
        ("dinov2/loss/dino_clstoken_loss.py:36-61", "dinov2/loss/ibot_patch_loss.py:61-91"),
        ("sinkhorn",),
        _sinkhorn,
    ),
    Check(
        "losses.centering",
        "L1",
        "softmax centering and the deferred centre update of both losses",
        ("dinov2/loss/dino_clstoken_loss.py:29-33, 76-99", "dinov2/loss/ibot_patch_loss.py:42-58, 128-151"),
        ("softmax_center",),
        _centering,
    ),
)
