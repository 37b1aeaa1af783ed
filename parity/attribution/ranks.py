"""Signatures of what is not reduced over ranks, or reduced in another way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from parity.results import Finding

__all__ = ["attribute_assignments", "attribute_centre", "attribute_gradients"]

_CLOSE = 1e-6
_MOMENTUM = 0.9


def attribute_assignments(
    kind: str, mine: Mapping[str, Tensor], alone: Mapping[str, Tensor], official: str
) -> Iterator[Finding]:
    """Say where ranks assign without each other.

    Args:
        kind: `dino` or `ibot`.
        mine: the subject's, `rank N/assignments`.
        alone: official's where the rank is the only one, under the same names.
        official: file and line.
    """
    if mine and all(_near(mine[name], alone[name]) for name in mine):
        yield Finding(
            "",
            f"each rank assigns its own rows alone ({kind}): the sums over rows are not reduced over ranks, so that "
            "prototypes are used equally within a rank instead of over all of them",
            "sum the total and each prototype's total over ranks (torch.distributed.all_reduce) in every iteration",
            official,
        )


def attribute_centre(
    kind: str, mine: Mapping[str, Tensor], base: Mapping[str, Tensor], given: Mapping[str, Tensor], official: str
) -> Iterator[Finding]:
    """Say how a centre was reduced.

    Args:
        kind: `dino` or `ibot`.
        mine: the subject's results, `rank N/centre` among them.
        base: official's.
        given: the logits, `rank N/batch I`.
        official: file and line.
    """
    centres = {name: value for name, value in mine.items() if name.endswith("/centre")}
    if all(_near(value, base[name]) for name, value in centres.items()):
        return
    unset = [name for name, value in centres.items() if base[name].isnan().all() and value.isfinite().all()]
    if unset:
        yield Finding(
            "Q13",
            f"official's centre is NaN once a rank has no masked patch, on every rank; yours is finite in {len(unset)}",
            "parity asks for official's behaviour: offer it as a switch, python -m parity explain Q13",
            official,
        )
        return
    n_ranks = len(centres)
    n_batches = len(given) // n_ranks
    batches = [[given[f"rank {rank}/batch {i}"] for rank in range(n_ranks)] for i in range(n_batches)]
    alone = {f"rank {rank}/centre": _running([own[rank].mean(0) for own in batches]) for rank in range(n_ranks)}
    means = [torch.stack([rows.mean(0) for rows in own]) for own in batches]
    pooled = _running([torch.cat(own).mean(0) for own in batches])
    sentence, fix = "", ""
    if all(_near(centres[name], alone[name]) for name in centres):
        sentence, fix = "each rank has a centre of its own: it is not reduced over ranks", "reduce it (all_reduce)"
    elif _all_near(centres, _running([own.sum(0) for own in means])):
        sentence, fix = f"the ranks' means are summed: {n_ranks} times official's centre", "divide by the world size"
    elif _all_near(centres, _running([own.mean(0) / n_ranks for own in means])):
        sentence, fix = f"it is divided by the world size twice: 1/{n_ranks} of official's centre", "divide once"
    elif kind == "ibot" and _all_near(centres, pooled):
        yield Finding(
            "Q12",
            "the iBOT centre is the mean over all masked tokens; official averages the ranks' means, so that a rank "
            "with fewer masked tokens weighs more in each of them",
            "average the mean of each rank: python -m parity explain Q12",
            official,
        )
        return
    if sentence:
        yield Finding("", f"{kind} centre: {sentence}", fix, official)


def attribute_gradients(mine: Mapping[str, Tensor], base: Mapping[str, Tensor], n_ranks: int) -> Iterator[Finding]:
    """Say where gradients are summed over ranks, or not reduced.

    Args:
        mine: the subject's results, `rank N/gradients/…` among them.
        base: official's.
        n_ranks: of the group.
    """
    names = [n for n in base if "/gradients/" in n and n in mine and mine[n].shape == base[n].shape]
    if not names or all(_near(mine[name], base[name]) for name in names):
        return
    official = "dinov2/fsdp/__init__.py:48 (FSDP averages gradients over ranks)"
    ratios = [float(mine[n].double().norm() / base[n].double().norm()) for n in names if base[n].abs().max() > _CLOSE]
    if ratios and max(abs(ratio - n_ranks) for ratio in ratios) < 1e-3:
        yield Finding(
            "",
            f"yours / official = {n_ranks} in every gradient: they are summed over the {n_ranks} ranks, not averaged",
            "divide by the world size, as FSDP and DistributedDataParallel do",
            official,
        )
        return
    first = [name for name in names if name.startswith("rank 0/")]
    apart = [name for name in first if not _near(mine[name], mine[name.replace("rank 0/", "rank 1/", 1)])]
    if apart:
        mean = {n: (mine[n] + mine[n.replace("rank 0/", "rank 1/", 1)]) / n_ranks for n in first}
        right = all(_near(mean[name], base[name]) for name in first)
        yield Finding(
            "",
            f"{len(apart)} of {len(first)} gradients differ between your ranks: they are not averaged over ranks"
            + ("; their mean is official's" if right else ""),
            "average them before clipping and the optimizer, as FSDP and DistributedDataParallel do",
            official,
        )


def _running(updates: list[Tensor]) -> Tensor:
    """The centre after these updates, from zero."""
    center = torch.zeros_like(updates[0])
    for update in updates:
        center = center * _MOMENTUM + update * (1 - _MOMENTUM)
    return center


def _all_near(centres: Mapping[str, Tensor], expected: Tensor) -> bool:
    return all(_near(value, expected) for value in centres.values())


def _near(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding; tensors without elements and NaN at the same places are."""
    if left.shape != right.shape:
        return False
    size = right[right.isfinite()].abs().max() if right.isfinite().any() else 1.0
    return torch.allclose(left.double(), right.double(), rtol=0, atol=float(size) * 1e-5, equal_nan=True)
