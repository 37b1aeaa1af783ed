"""The arithmetic between measurements and what is said of them: rates, shares, speed-ups, and the required ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

__all__ = ["REQUIRED", "Measured", "Required", "Turn", "Verdict", "ratios", "verdicts"]


class Turn(NamedTuple):
    """One iteration.

    Attributes:
        seconds: that it took.
        ceiling: FLOPs per second of a large matrix product, measured just before it in the same process.
    """

    seconds: float
    ceiling: float


@dataclass(frozen=True)
class Measured:
    """One arm at one stage, or one side of a part.

    Attributes:
        turns: its iterations, at least one; those of two that were measured in turns belong together by position.
        images: per iteration.
        flops: of matrix products, convolutions and attention in an iteration.
        peak: bytes above what the process held before; None where the system does not tell.
    """

    turns: tuple[Turn, ...]
    images: int
    flops: int
    peak: int | None

    @property
    def seconds(self) -> float:
        """The fastest iteration's: load on the machine only ever adds."""
        return min(turn.seconds for turn in self.turns)

    def speed_over(self, other: Measured) -> float:
        """Return the other's seconds over these, the median over rounds of the ratio within a round.

        Raises:
            ValueError: there are not as many rounds of both.
        """
        pairs = zip(other.turns, self.turns, strict=True)
        return median(theirs.seconds / mine.seconds for theirs, mine in pairs)

    def extra_info(self, three_view: Measured | None = None, official: Measured | None = None) -> dict[str, Any]:
        """Return what stands beside the times in pytest-benchmark's JSON.

        Args:
            three_view: the document's fork at the same stage, where it was measured in turns with this one.
            official: official code, likewise.
        """
        shares = [self.flops / turn.seconds / turn.ceiling for turn in self.turns]
        info: dict[str, float | None] = {
            "images_per_s": self.images / self.seconds,
            "peak_mib": None if self.peak is None else self.peak / 2**20,
            "gflops": self.flops / 1e9,
            "ceiling_gflops_per_s": max(turn.ceiling for turn in self.turns) / 1e9,
            "share_of_ceiling": median(shares) if self.flops else None,
        }
        if three_view is not None:
            speed_up = self.speed_over(three_view)
            allowed = three_view.flops / self.flops if self.flops else None
            info |= {"speed_up": speed_up, "flops_allow": allowed, "share": speed_up / allowed if allowed else None}
        if official is not None:
            info["over_official"] = self.speed_over(official)
        return info


@dataclass(frozen=True)
class Required:
    """A ratio that is asked for.

    Attributes:
        key: its name among `ratios`.
        what: in words.
        bound: the number that it must reach.
        at_most: whether it must stay below the bound instead.
    """

    key: str
    what: str
    bound: float
    at_most: bool = False


REQUIRED: tuple[Required, ...] = (
    Required("unified_share_of_flops", "unified over three-view, whole step, as a share of what FLOPs allow", 0.95),
    Required("unified_over_official", "port over official, images/s of the whole step", 1.3),
    Required(
        "peak_over_official", "peak memory of port's step above its weights and optimizer, of official's", 0.5, True
    ),
    Required("masks_14", "masks per second over official's generator, 14 x 14", 4.0),
    Required("masks_37", "masks per second over official's generator, 37 x 37", 10.0),
    Required("losses_65536", "losses, forward and backward, over official's, 65,536 prototypes", 2.0),
    Required("double_prototypes", "cost of a step with twice the prototypes", 2.0, True),
    Required("double_batch", "cost of a step with twice the images", 2.0, True),
    Required("double_local_crops", "cost of a step with twice the local crops", 2.0, True),
)


@dataclass(frozen=True)
class Verdict:
    """A required ratio and what was measured; None for nothing."""

    required: Required
    measured: float | None

    @property
    def word(self) -> str:
        """`reached`, `not reached` or `not measured`."""
        if self.measured is None:
            return "not measured"
        reached = (
            self.measured <= self.required.bound if self.required.at_most else self.measured >= self.required.bound
        )
        return "reached" if reached else "not reached"


def verdicts(found: Mapping[str, float]) -> list[Verdict]:
    """Return every required ratio with what `ratios` found."""
    return [Verdict(required, found.get(required.key)) for required in REQUIRED]


def ratios(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the ratios of one run by name; those whose parts were not measured are left out.

    Arms and doubled sizes have ratios only where they were measured in turns, which `over_official` and `cost` in
    `extra_info` say: two minutes of one machine are not comparable. So have parts; for one that says nothing of
    turns it is the quotient of the fastest times.

    Args:
        benchmarks: of pytest-benchmark's JSON, with `kind` and `what` in `extra_info`: `arm` (`STAGE ARM`), `double`
            (what is doubled, or `base`) or `micro` (`NAME SIDE`, where SIDE is port or official).
    """
    infos = [b["extra_info"] for b in benchmarks]
    best = {b["extra_info"].get("what"): float(b["stats"]["min"]) for b in benchmarks}
    extra = {info.get("what"): info for info in infos if info.get("kind") == "arm"}
    found: dict[str, float] = {}
    unified, official = extra.get("step unified", {}), extra.get("step official", {})
    if unified.get("share"):
        found["unified_share_of_flops"] = unified["share"]
    if unified.get("over_official"):
        found["unified_over_official"] = unified["over_official"]
    if unified.get("peak_mib") and official.get("peak_mib"):
        found["peak_over_official"] = unified["peak_mib"] / official["peak_mib"]
    for info in infos:
        name, _, side = info.get("what", "").rpartition(" ")
        if info.get("kind") == "micro" and side == "port" and f"{name} official" in best:
            ratio = info["over_official"] if "over_official" in info else best[f"{name} official"] / best[info["what"]]
            if ratio is not None:
                found[name] = ratio
        if info.get("kind") == "double" and info.get("cost") and info["what"] != "base":
            found[f"double_{info['what']}"] = info["cost"]
    return found
