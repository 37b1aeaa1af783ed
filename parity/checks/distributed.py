"""Family `distributed`: two ranks of official code against two ranks of the subject, each in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from parity import states
from parity.attribution.ranks import attribute_assignments, attribute_centre, attribute_gradients
from parity.checks.base import Check, Context, NotRunError, Observation, Partly
from parity.checks.gradients import starting_state
from parity.errors import SubjectError
from parity.judge import Inputs, Judge
from parity.ranks import WORLD_SIZE, GroupError, RemoteStack
from parity.results import Comparison
from parity.seeding import seeded

__all__ = ["CHECKS", "rank_batches"]

_PROTOTYPES = 192
_TEMPERATURE = 0.07
_SEED = 29
_PARTS = (
    "losses",
    "gradients",
    "clipped_gradients",
    "exp_avg",
    "exp_avg_sq",
    "parameters",
    "teacher",
    "centers",
)
_SINKHORN = {
    "dino": "dinov2/loss/dino_clstoken_loss.py:36-61",
    "ibot": "dinov2/loss/ibot_patch_loss.py:61-91",
}
_CENTRES = {
    "dino": "dinov2/loss/dino_clstoken_loss.py:76-99",
    "ibot": "dinov2/loss/ibot_patch_loss.py:128-151",
}
_ASSIGNED = (("dino", (6, 6)), ("ibot", (5, 12)), ("ibot", (0, 7)))
"""Rows of each rank: DINO's have as many (`dino_clstoken_loss.py:40`), masked patches differ, and may be none."""
_CENTRED = (("dino", (6, 6)), ("ibot", (3, 11)), ("ibot", (0, 7)))


def _sides(context: Context) -> tuple[RemoteStack, RemoteStack]:
    if context.ranks is None:
        raise NotRunError("two ranks need processes of their own, which were not asked for")
    try:
        return context.ranks.sides(context.reference, context.subject)
    except GroupError as error:
        raise NotRunError(str(error)) from error


@dataclass
class _Judged:
    """What was compared across the processes, and what either side returned in float32."""

    made: list[Comparison]
    official: dict[str, Tensor]
    mine: dict[str, Tensor]

    @property
    def passed(self) -> bool:
        """Whether every comparison did."""
        return all(comparison.passed for comparison in self.made)


def _judged(
    context: Context, prefix: str, case: str, options: Mapping[str, Any], inputs: Inputs, replicates: int = 2
) -> _Judged:
    """Judge what a case computes on both ranks by all rules."""
    official, mine = _sides(context)
    first: dict[RemoteStack, dict[str, Tensor]] = {}

    def compute(stack: RemoteStack, given: Inputs) -> dict[str, Tensor]:
        found = stack.run(case, options, given)
        first.setdefault(stack, found)  # the judge begins in float32
        return found

    try:
        made = list(Judge(official, mine, replicates=replicates)(prefix, compute, inputs))
    except GroupError as error:
        raise NotRunError(str(error)) from error
    return _Judged(made, first[official], first[mine])


def _rank_logits(rows: tuple[int, ...], seed: int, name: str = "logits") -> dict[str, Tensor]:
    # A shift for each rank: else their means differ by noise alone.
    return {
        f"rank {rank}/{name}": states.logits(count, _PROTOTYPES, 10 * seed + rank, scale=0.15) + 0.1 * rank
        for rank, count in enumerate(rows)
    }


def _sinkhorn(context: Context) -> Iterator[Observation]:
    """Assignments over the rows of both ranks (Q11), as many or different numbers of them, also none on one."""
    for kind, rows in _ASSIGNED:
        inputs = _rank_logits(rows, sum(rows))
        # A prototype that one rank likes: what it takes must be shared with the other rank.
        inputs["rank 1/logits"][:, :3] += 0.2
        options = {"kind": kind, "teacher_temp": _TEMPERATURE}
        judged = _judged(context, f"{kind}/{' and '.join(map(str, rows))} rows", "sinkhorn", options, inputs)
        yield from judged.made
        if not judged.passed:
            alone = {
                name.replace("logits", "assignments"): context.reference.sinkhorn(kind, value.clone(), _TEMPERATURE)
                for name, value in inputs.items()
            }
            yield from attribute_assignments(kind, judged.mine, alone, _SINKHORN[kind])


def _centering(context: Context) -> Iterator[Observation]:
    """Targets of two batches, and the centre: the mean of the ranks' means (Q12, Q14); NaN with no tokens (Q13)."""
    for kind, rows in _CENTRED:
        inputs = {**_rank_logits(rows, 3, "batch 0"), **_rank_logits(rows, 4, "batch 1")}
        options = {"kind": kind, "teacher_temp": _TEMPERATURE}
        judged = _judged(context, f"{kind}/{' and '.join(map(str, rows))} rows", "centering", options, inputs)
        yield from judged.made
        if not judged.passed:
            yield from attribute_centre(kind, judged.mine, judged.official, inputs, _CENTRES[kind])


def rank_batches(context: Context) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a configuration as plain data, and the state and each rank's batch as named tensors.

    The batches are of different images and different masks: all crops of one rank, half of the other's.
    """
    recipe = context.required_recipe()
    config = recipe.config()
    inputs = {f"state {n}": t for n, t in starting_state(context.reference, config, "generic").items()}
    crops = config.crops
    for rank in range(WORLD_SIZE):
        seeded(_SEED + rank)
        masked = config.copy()
        masked.ibot.mask_sample_probability = (1.0, 0.5)[rank]
        given = states.samples(
            recipe.batch_size,
            crops.global_crops_size,
            crops.local_crops_size,
            crops.local_crops_number,
            _SEED + 7000 * rank,
        )
        batch = context.reference.collate(given, masked, torch.float32)
        inputs |= {f"rank {rank}/{name}": torch.as_tensor(value) for name, value in batch.items()}
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}, inputs


def _step(context: Context) -> Iterator[Observation]:
    """One iteration on two ranks: losses of both, gradients averaged, then clipping, AdamW, EMA and centres."""
    config, inputs = rank_batches(context)
    options = {"config": config, "iteration": context.required_recipe().iteration, "seed": _SEED, "parts": list(_PARTS)}
    judged = _judged(context, "generic", "step", options, inputs, replicates=1)
    offered = {name.split("/")[1] for name in judged.mine}
    if "gradients" not in offered:
        raise SubjectError(f"distributed_step returned {', '.join(offered) or 'nothing'}; expected gradients")
    if lacking := [part for part in _PARTS if part not in offered]:
        yield Partly(f"distributed_step returns no {', '.join(lacking)}")
    for comparison in judged.made:
        if comparison.name.split("/")[2] not in lacking:
            yield comparison
    if not judged.passed:
        yield from attribute_gradients(judged.mine, judged.official, WORLD_SIZE)


CHECKS = (
    Check(
        "distributed.sinkhorn",
        "L5",
        "Sinkhorn-Knopp over the rows of two ranks, also with different numbers of masked patches and with none",
        tuple(_SINKHORN.values()),
        ("sinkhorn",),
        _sinkhorn,
    ),
    Check(
        "distributed.centering",
        "L5",
        "targets and centres of both losses on two ranks",
        tuple(_CENTRES.values()),
        ("softmax_center",),
        _centering,
    ),
    Check(
        "distributed.step",
        "L5",
        "one training step on two ranks: gradients averaged over them, and all that follows",
        ("dinov2/train/train.py:134-300", "dinov2/train/ssl_meta_arch.py:144-400", "dinov2/fsdp/__init__.py:21-58"),
        ("distributed_step",),
        _step,
        recipes="main",
    ),
)
