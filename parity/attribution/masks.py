"""Signatures of difference 0003, block masks: scattered tokens, overshoot, bins per crop, float64 bins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from parity.permutation import Feature
from parity.results import Comparison, Finding
from parity.seeding import seeded

__all__ = [
    "attribute_batch_masks",
    "attribute_cap",
    "attribute_counts",
    "attribute_mask_statistics",
    "attribute_masks",
]

_FIX = "migration 0003 (block masks over all global crops): python -m parity explain 0003"
_SCATTERED = 3.0
_TOLERATED_OVERSHOOT = 0.02


def attribute_masks(asked: int, reference: Mapping[str, float], subject: Mapping[str, float]) -> Iterator[Finding]:
    """Explain masks whose statistics differ from official's.

    Args:
        asked: patches asked of each generator.
        reference: features of official masks, see `parity.mask_statistics`.
        subject: features of the subject's masks.
    """
    if subject["components"] > _SCATTERED * max(reference["components"], 1.0):
        yield Finding(
            "0003",
            f"masks are scattered tokens, not blocks: {subject['components']:.1f} connected components per mask "
            f"of {asked} patches, official {reference['components']:.1f}; the count varies "
            f"(over target in {subject['over']:.0%}, official {reference['over']:.0%})",
            _FIX,
            "dinov2/data/masking.py:49-86",
        )
    elif subject["over"] > reference["over"] + _TOLERATED_OVERSHOOT:
        yield Finding(
            "0003",
            f"masks overshoot: {subject['over']:.1%} of the masks asked for {asked} patches cover more (mean "
            f"{subject['mean']:.1f}, largest {subject['max']:.0f}); official never does (largest "
            f"{reference['max']:.0f}). Official leaves the ten attempts after the first block that adds anything",
            "stop after the first block that adds a patch: `if delta > 0: break`",
            "dinov2/data/masking.py:69-70",
        )
    elif subject != reference:
        yield Finding(
            "0003",
            f"masks asked for {asked} patches differ: mean {subject['mean']:.2f} against {reference['mean']:.2f}, "
            f"under target {subject['under']:.1%} against {reference['under']:.1%}, "
            f"{subject['components']:.2f} components against {reference['components']:.2f}",
            _FIX,
            "dinov2/data/masking.py:49-86",
        )


def attribute_counts(subject: Any, first: Comparison) -> Iterator[Finding]:
    """Explain requested counts that differ, by asking the subject where the known variants part.

    Args:
        subject: the stack, which offers `mask_counts`.
        first: the first comparison that failed, for a cause that is not known.
    """

    def ask(seed: int, rows: int, tokens: int) -> list[int]:
        seeded(seed)
        return [int(v) for v in subject.mask_counts(rows, tokens, (0.1, 0.5), 0.5)]

    explained = False
    masked_rows = [sum(count > 0 for count in ask(0, 2 * n, 196)) for n in (1, 3, 5)]
    if masked_rows == [0, 2, 4]:
        explained = True
        yield Finding(
            "0003",
            "masks are drawn per crop: batches of 1, 3, 5 images get 0, 2, 4 masked crops; official counts over "
            "all global crops together and masks 1, 3, 5",
            "draw the masks once, over the 2B rows of all global crops",
            "dinov2/data/collate.py:20-34",
        )
    elif masked_rows != [1, 3, 5]:
        explained = True
        yield Finding(
            "0003",
            f"batches of 1, 3, 5 images get {', '.join(map(str, masked_rows))} masked crops; official masks "
            "1, 3, 5: half of all global crops, rounded down",
            _FIX,
            "dinov2/data/collate.py:22",
        )
    # The first draw of these seeds falls where float32 and float64 bins round to different patch counts,
    # for 16 bins (drawn per crop from 64 rows) and for 32 (drawn over all 64).
    wide = (ask(526517, 64, 196)[0], ask(30607, 64, 196)[0])
    if (masked_rows == [0, 2, 4] and wide[0] == 20) or (masked_rows == [1, 3, 5] and wide[1] == 19):
        explained = True
        seed, narrow, got = (526517, 21, 20) if masked_rows == [0, 2, 4] else (30607, 20, 19)
        yield Finding(
            "0003",
            f"ratio bins are computed in float64: random.seed({seed}) asks for {got} of 196 patches, official's "
            f"float32 bins for {narrow}",
            "torch.linspace in float32, and random.uniform between its elements",
            "dinov2/data/collate.py:23-29",
        )
    if not explained:
        yield Finding(
            "0003",
            f"the number of patches asked for differs, first at {first.name}: {first.subject} against "
            f"{first.reference}",
            _FIX,
            "dinov2/data/collate.py:20-32",
        )


def attribute_batch_masks(reference: Sequence[int], subject: Sequence[int]) -> Iterator[Finding]:
    """Explain a collated batch whose share of masked rows differs.

    Args:
        reference: masked patches of each row of official's batch.
        subject: the same of the subject's batch.
    """
    official = [count for count in reference if count]
    mine = [count for count in subject if count]
    if len(mine) * len(reference) == len(official) * len(subject):
        return
    every = "every row is masked: " if len(mine) == len(subject) else ""
    yield Finding(
        "0003",
        f"{every}{len(mine)} of {len(subject)} mask rows, {_span(mine)}; official masks {len(official)} of "
        f"{len(reference)} (all global crops), {_span(official)}",
        _FIX,
        "dinov2/data/collate.py:20-34",
    )


def attribute_cap(side: int, reference: Tensor | None, subject: Tensor | None) -> Iterator[Finding]:
    """Explain masks that differ where most of the grid is asked for.

    Args:
        side: patches along the side of the grid.
        reference: official masks (2B, N).
        subject: the subject's masks (rows, N), or None.
    """
    if reference is None or subject is None:
        return
    official, mine = int(reference.sum(-1).max()), int(subject.sum(-1).max())
    yield Finding(
        "0003",
        f"asked for 80 to 90 % of a {side} x {side} grid, the fullest mask covers {mine} patches, official's "
        f"{official}: official caps each block at half the grid, floored from left to right (Q3)",
        _FIX,
        "dinov2/train/train.py:167-173",
    )


_COUNTED = ("patches per masked crop", "spread of the patches", "fewest patches", "most patches")


def attribute_mask_statistics(features: Sequence[Feature], capped: Sequence[Feature]) -> Iterator[Finding]:
    """Explain batches of masks whose distribution differs, the cause of the rest first.

    Args:
        features: of `parity.mask_statistics.batch_features`; those that passed are not told.
        capped: the same of batches on a small odd grid, where the cap on a block tells; told where no other differs.
    """
    parted: dict[str, Feature] = {}
    for feature in features:
        if not feature.passed:
            parted.setdefault(feature.name, feature)
    small = [feature for feature in capped if not feature.passed]
    if small and not parted:
        yield Finding(
            "0003",
            f"masks differ on an odd grid of 3 x 3 patches alone: {_told(small)}; official caps each block at half "
            "the grid, floored from left to right (Q3)",
            _FIX,
            "dinov2/train/train.py:167-173",
        )
    if "share of crops that are masked" in parted:
        found = parted["share of crops that are masked"]
        yield Finding(
            "0003",
            f"{found.subject:.0%} of the global crops are masked, official masks {found.reference:.0%}",
            _FIX,
            "dinov2/data/collate.py:22",
        )
    elif "blocks" in parted and parted["blocks"].subject > _SCATTERED * max(parted["blocks"].reference, 1.0):
        found = parted["blocks"]
        yield Finding(
            "0003",
            f"masks are scattered tokens, not blocks: {found.subject:.1f} connected components per mask, official "
            f"{found.reference:.1f}",
            _FIX,
            "dinov2/data/masking.py:49-86",
        )
    elif any(name in parted for name in _COUNTED):
        told = _told([parted[name] for name in _COUNTED if name in parted])
        yield Finding("0003", f"the numbers of masked patches differ: {told}", _FIX, "dinov2/data/collate.py:20-32")
    elif parted:
        yield Finding(
            "0003", f"masks look otherwise: {_told(list(parted.values()))}", _FIX, "dinov2/data/masking.py:49-86"
        )


def _told(features: Sequence[Feature]) -> str:
    return ", ".join(f"{f.name} {f.subject:.3g} (official {f.reference:.3g})" for f in features)


def _span(counts: Sequence[int]) -> str:
    return f"{min(counts)} to {max(counts)} patches each" if counts else "none"
