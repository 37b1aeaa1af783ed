"""The doctor: are the first losses those of an untrained network?

An objective that is put together wrongly shows in its first values, hours before it shows in an accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from port.data.batches import N_GLOBAL_CROPS
from port.data.collate import Batch
from port.watch.expected import Range, cross_entropy_range

__all__ = ["Finding", "check_initial_losses", "masked_share", "why_no_check"]

STUDENT_TEMP = 0.1
"""Of DINO and iBOT (`dinov2/loss/dino_clstoken_loss.py:16`); no key sets it."""

KOLEO_EPS = 1e-8
WIDE = 1.5
"""A range that reaches beyond so many times the expected value is called wide."""

CLOSE = 0.15
"""Relative distance at which a value is taken for a known multiple of what it should be."""


@dataclass(frozen=True)
class Term:
    """A displayed loss: `share` times a cross-entropy.

    Attributes:
        share: its factor, from the configuration.
        words: the factor as it is shown.
        n_prototypes: K.
        plausible: the cross-entropy's range.
        multiples: factors that a known mistake puts before the value, with the mistake.
    """

    share: float
    words: str
    n_prototypes: int
    plausible: Range
    multiples: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Finding:
    """What the doctor says of one loss.

    Attributes:
        name: of the loss.
        value: as displayed.
        expected: share * ln K; None where only a range is known.
        plausible: the values of untrained networks.
        basis: how `expected` comes about, in words.
        problem: what is wrong and what to look at; empty if nothing is.
    """

    name: str
    value: float
    expected: float | None
    plausible: Range
    basis: str
    problem: str

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem

    def __str__(self) -> str:
        """Return the doctor's line."""
        expected = self.basis if self.expected is None else f"expected {self.expected:.2f} ({self.basis})"
        if math.isfinite(self.plausible.highest):
            expected += f", plausible {self.plausible.lowest:.2f} to {self.plausible.highest:.2f}"
        if self.expected is not None and self.plausible.highest > WIDE * self.expected:
            expected += ", which tells little, as the head's bottleneck is small"
        verdict = "ok" if self.ok else f"WRONG: {self.problem}"
        return f"doctor: {self.name.removesuffix('_loss')} {self.value:.2f}, {expected}: {verdict}"


def why_no_check(cfg: DictConfig, start_iteration: int) -> str:
    """Return why the first losses of this run tell nothing; empty where they do.

    Args:
        cfg: of the run.
        start_iteration: above 0 after a resume.
    """
    if start_iteration > 0:
        return f"doctor: not run, as the run resumes at iteration {start_iteration}: it checks untrained networks only"
    if cfg.MODEL.WEIGHTS:
        return f"doctor: not run, as MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS}: it checks untrained heads only"
    return ""


def masked_share(batches: Sequence[Batch]) -> float:
    """Return the share of global crops in which at least one patch is masked."""
    rows = [batch["collated_masks"].any(-1) for batch in batches]
    return sum(int(row.sum()) for row in rows) / sum(len(row) for row in rows)


def check_initial_losses(
    displayed: Mapping[str, float],
    cfg: DictConfig,
    *,
    share_of_masked_crops: float | None = None,
) -> list[Finding]:
    """Compare the first losses with what an untrained network must give.

    With n local crops, B images per batch, K prototypes (per head) and mask probability p, uniform outputs give
    (`dinov2/train/ssl_meta_arch.py:298-371`):

    - `dino_local_crops_loss`: 2n / (2 + 2n) ln K, `dino_global_crops_loss`: 2 / (2 + 2n) ln K; for n = 0 official
      still counts one local term, so the latter is 2/3 ln K (Q19);
    - `ibot_loss`: half of floor(2B p) / 2B ln K, since unmasked crops count in its mean (Q16) and official shows half
      of what it optimises (Q15).

    A backbone with pretrained weights changes none of this, as long as the heads are untrained.

    Args:
        displayed: official's display values at iteration 0, before any update; names that are not known are only
            checked to be finite.
        cfg: of the run.
        share_of_masked_crops: from `masked_share`; None for what `cfg` asks for, which is the same unless the mask
            generator placed no patch in some crop.
    """
    terms = _terms(cfg, share_of_masked_crops)
    return [
        _cross_entropy(name, value, terms[name]) if name in terms else _other(name, value, cfg)
        for name, value in displayed.items()
    ]


def _terms(cfg: DictConfig, share: float | None) -> dict[str, Term]:
    n_local = int(cfg.crops.local_crops_number)
    n_terms = N_GLOBAL_CROPS + max(N_GLOBAL_CROPS * n_local, 1)
    warming_up = cfg.teacher.warmup_teacher_temp_epochs > 0
    teacher_temp = float(cfg.teacher.warmup_teacher_temp if warming_up else cfg.teacher.teacher_temp)

    def term(share: float, words: str, head: DictConfig, multiples: tuple[tuple[float, str], ...]) -> Term:
        n_prototypes = int(head.head_n_prototypes)
        plausible = cross_entropy_range(n_prototypes, int(head.head_bottleneck_dim), STUDENT_TEMP, teacher_temp)
        return Term(share, words, n_prototypes, plausible, multiples)

    not_divided = (float(n_terms), f"it is not divided by the {n_terms} pairs of crops")
    local_only = (n_terms / max(N_GLOBAL_CROPS * n_local, 1), "it is divided by the local pairs of crops only")
    global_only = (n_terms / N_GLOBAL_CROPS, "it is divided by the global pairs of crops only")
    n_pairs = N_GLOBAL_CROPS * n_local
    terms = {
        "dino_global_crops_loss": term(
            N_GLOBAL_CROPS / n_terms, f"{N_GLOBAL_CROPS}/{n_terms}", cfg.dino, (not_divided, global_only)
        )
    }
    if n_local > 0:
        terms["dino_local_crops_loss"] = term(
            n_pairs / n_terms, f"{n_pairs}/{n_terms}", cfg.dino, (not_divided, local_only)
        )
    if cfg.ibot.loss_weight > 0:
        n_crops = N_GLOBAL_CROPS * int(cfg.train.batch_size_per_gpu)
        if share is None:
            share = int(n_crops * cfg.ibot.mask_sample_probability) / n_crops
        multiples = [(2.0, "it is the optimised value, twice the displayed one (Q15)")]
        if 0 < share < 1:
            multiples.insert(0, (1 / share, "it is the mean over masked crops, official's over all crops (Q16)"))
        head = cfg.ibot if cfg.ibot.separate_head else cfg.dino
        terms["ibot_loss"] = term(share / 2, f"{share / 2:.3g}", head, tuple(multiples))
    return terms


def _cross_entropy(name: str, value: float, term: Term) -> Finding:
    plausible = term.plausible.scaled(term.share)
    expected = term.share * math.log(term.n_prototypes)
    basis = f"{term.words} ln {term.n_prototypes}"
    return Finding(name, value, expected, plausible, basis, _problem(value, expected, plausible, term))


def _problem(value: float, expected: float, plausible: Range, term: Term) -> str:
    if not math.isfinite(value):
        return "not finite before the first step; look at the images' normalisation and at precision"
    if term.share == 0:
        return "" if value == 0 else "no crop is masked, expected 0"
    if plausible.lowest <= value <= plausible.highest:
        return ""
    for factor, mistake in term.multiples:
        if abs(value / (factor * expected) - 1) < CLOSE:
            return f"{value / expected:.2f} times what it must be: {mistake}"
    if value < plausible.lowest:
        return (
            f"{value / expected:.2f} times what it must be: the heads are trained or collapsed, the teacher's "
            "temperature is too small, or the term is divided by too much"
        )
    return (
        f"{value / expected:.2f} times what it must be: a temperature is too small, the head's bottleneck is not "
        "normalised, its last layer's lengths are not 1, or the term is not averaged"
    )


def _other(name: str, value: float, cfg: DictConfig) -> Finding:
    """Judge a loss that is no cross-entropy over a head's outputs."""
    plausible, basis = Range(-math.inf, math.inf), "expected a finite value"
    if name == "koleo_loss":
        # Distances of unit vectors are 0 to 2; both bounds stand for collapse and for perfect spread.
        weight = float(cfg.dino.koleo_loss_weight)
        plausible = Range(-math.log(2 + 1e-3), -math.log(KOLEO_EPS)).scaled(weight)
        basis = f"{weight:.3g} times minus the log of a distance"
    problem = ""
    if not math.isfinite(value):
        problem = "not finite before the first step; look at the images' normalisation and at precision"
    elif not plausible.lowest <= value <= plausible.highest:
        problem = "no distance between unit vectors gives this; look at the normalisation of the features"
    return Finding(name, value, None, plausible, basis, problem)
