"""The arithmetic between measurements and what is said of them: rates, shares, speed-ups, and the required ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["REQUIRED", "Measured", "Required", "Verdict", "ratios", "verdicts"]


@dataclass(frozen=True)
class Measured:
    """One arm at one stage.

    Attributes:
        seconds: of the fastest iteration: load on the machine only ever adds.
        images: per iteration.
        flops: of matrix products, convolutions and attention in an iteration.
        ceiling: FLOPs per second of a large matrix product on the same device.
        peak: bytes above what the process held before; None where the system does not tell.
    """

    seconds: float
    images: int
    flops: int
    ceiling: float
    peak: int | None

    def extra_info(self, three_view: Measured | None) -> dict[str, float | None]:
        """Return what stands beside the times in pytest-benchmark's JSON.

        Args:
            three_view: the document's fork at the same stage, where it was measured.
        """
        info: dict[str, float | None] = {
            "images_per_s": self.images / self.seconds,
            "peak_mib": None if self.peak is None else self.peak / 2**20,
            "gflops": self.flops / 1e9,
            "ceiling_gflops_per_s": self.ceiling / 1e9,
            "share_of_ceiling": self.flops / self.seconds / self.ceiling if self.flops else None,
        }
        if three_view is not None:
            speed_up = three_view.seconds / self.seconds
            allowed = three_view.flops / self.flops if self.flops else None
            info |= {"speed_up": speed_up, "flops_allow": allowed, "share": speed_up / allowed if allowed else None}
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

    Args:
        benchmarks: of pytest-benchmark's JSON, with `kind` and `what` in `extra_info`: `arm` (`STAGE ARM`), `double`
            (what is doubled, or `base`) or `micro` (`NAME SIDE`, where SIDE is port or official).
    """
    best = {(b["extra_info"].get("kind"), b["extra_info"].get("what")): float(b["stats"]["min"]) for b in benchmarks}
    extra = {b["extra_info"].get("what"): b["extra_info"] for b in benchmarks if b["extra_info"].get("kind") == "arm"}
    found: dict[str, float] = {}
    unified, official = extra.get("step unified", {}), extra.get("step official", {})
    if unified.get("share"):
        found["unified_share_of_flops"] = unified["share"]
    if unified and official:
        found["unified_over_official"] = unified["images_per_s"] / official["images_per_s"]
        if unified["peak_mib"] and official["peak_mib"]:
            found["peak_over_official"] = unified["peak_mib"] / official["peak_mib"]
    alternating = {b["extra_info"].get("what"): b["extra_info"].get("over_official") for b in benchmarks}
    for kind, what in best:
        if kind == "micro" and what.endswith(" port") and (kind, f"{what[:-5]} official") in best:
            found[what[:-5]] = alternating[what] or best[kind, f"{what[:-5]} official"] / best[kind, what]
        if kind == "double" and what != "base" and (kind, "base") in best:
            found[f"double_{what}"] = best[kind, what] / best[kind, "base"]
    return found
