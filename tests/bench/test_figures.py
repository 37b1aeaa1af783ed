from __future__ import annotations

from typing import Any

import pytest

from bench.figures import REQUIRED, Measured, Required, Turn, Verdict, ratios, verdicts


def measured(*seconds: float, flops: int = 400, ceiling: float = 500.0, peak: int | None = 0) -> Measured:
    """Return 8 images of so many GFLOPs per iteration, on a machine of so many GFLOPs per second."""
    return Measured(tuple(Turn(s, ceiling * 1e9) for s in seconds), 8, flops * 10**9, peak)


def test_rates_and_shares_by_hand() -> None:
    """8 images and 400 GFLOPs in 2 s on a machine of 500 GFLOPs per second: 4 images/s, 40 % of the ceiling."""
    assert measured(2.0, peak=3 * 2**20).extra_info() == {
        "images_per_s": 4.0,
        "peak_mib": 3.0,
        "gflops": 400.0,
        "ceiling_gflops_per_s": 500.0,
        "share_of_ceiling": 0.4,
    }


def test_speed_ups_by_hand() -> None:
    """Three-view: 6 s for 800 GFLOPs; this arm: 4 s for 400. 1.5 times as fast where FLOPs allow 2: a share of 0.75."""
    info = measured(4.0).extra_info(measured(6.0, flops=800), measured(5.0))
    assert (info["speed_up"], info["flops_allow"], info["share"]) == (1.5, 2.0, 0.75)
    assert info["over_official"] == 1.25


def test_ratios_are_taken_within_rounds() -> None:
    """The machine turns half as fast after a round, which moves no ratio; a round that is disturbed is passed over."""
    assert measured(1.0, 2.0, 2.0).speed_over(measured(2.0, 4.0, 4.0)) == 2.0
    assert measured(1.0, 2.0, 2.0).speed_over(measured(2.0, 4.0, 40.0)) == 2.0
    assert measured(2.0, 1.0, 1.0).speed_over(measured(4.0, 3.0, 5.0)) == 3.0
    with pytest.raises(ValueError, match="zip"):
        measured(1.0).speed_over(measured(2.0, 4.0))


def test_the_ceiling_is_that_of_the_same_moment() -> None:
    """The machine turns half as fast: 400 GFLOPs in 1 s of 500, then in 2 s of 250. Both are 80 %, not 40 or 160."""
    info = Measured((Turn(1.0, 500e9), Turn(2.0, 250e9)), 8, 400 * 10**9, 0).extra_info()
    assert info["share_of_ceiling"] == 0.8
    assert info["ceiling_gflops_per_s"] == 500.0
    assert info["images_per_s"] == 8.0


def test_what_was_not_counted_is_not_divided_by() -> None:
    """Compiled arms count no FLOPs, and some systems tell no memory: None, not zero and not an error."""
    info = measured(4.0, flops=0, peak=None).extra_info(measured(6.0, flops=0, peak=None))
    assert info["peak_mib"] is None
    assert info["share_of_ceiling"] is None
    assert (info["speed_up"], info["flops_allow"], info["share"]) == (1.5, None, None)


@pytest.mark.parametrize(
    ("measured", "at_most", "word"),
    [
        (2.0, False, "reached"),
        (1.999, False, "not reached"),
        (2.0, True, "reached"),
        (2.001, True, "not reached"),
        (None, False, "not measured"),
        (None, True, "not measured"),
    ],
)
def test_a_bound_is_reached_or_it_is_not(measured: float | None, at_most: bool, word: str) -> None:
    """No rounding in favour: 1.999 is not 2."""
    assert Verdict(Required("key", "what", 2.0, at_most), measured).word == word


def benchmark(kind: str, what: str, seconds: float, **extra: Any) -> dict[str, Any]:
    """Return what pytest-benchmark writes of one benchmark, as far as it is read."""
    return {"extra_info": {"kind": kind, "what": what, **extra}, "stats": {"min": seconds}}


RUN = [
    benchmark("arm", "step three-view", 6.0, images_per_s=1.0, peak_mib=3000.0),
    benchmark("arm", "step unified", 2.0, images_per_s=3.0, peak_mib=500.0, share=0.96, over_official=1.25),
    benchmark("arm", "step official", 3.0, images_per_s=2.0, peak_mib=1250.0, share=0.7),
    benchmark("arm", "forward official", 1.0, images_per_s=9.0, peak_mib=1.0, share=0.5),
    benchmark("micro", "masks_14 official", 9.0),
    benchmark("micro", "masks_14 port", 2.0),
    benchmark("micro", "decode port", 2.0),
    benchmark("double", "base", 2.0, cost=1.0),
    benchmark("double", "batch", 3.0, cost=1.75),
    benchmark("double", "prototypes", 3.0, cost=None),
]


def test_ratios_by_hand() -> None:
    """500 MiB over 1,250; 9 s over 2 s; a side without its pair gives none; arms and doubled sizes as in turns."""
    assert ratios(RUN) == {
        "unified_share_of_flops": 0.96,
        "unified_over_official": 1.25,
        "peak_over_official": 0.4,
        "masks_14": 4.5,
        "double_batch": 1.75,
    }


def test_a_ratio_taken_in_turns_is_preferred() -> None:
    """Two times from different minutes say less than times that alternated."""
    pair = [benchmark("micro", "masks_14 official", 9.0), benchmark("micro", "masks_14 port", 2.0, over_official=3.75)]
    assert ratios(pair) == {"masks_14": 3.75}


def test_times_that_were_not_taken_in_turns_give_no_ratio() -> None:
    """Both arms, sizes or sides in files of their own: the times are there, and nothing is claimed of them."""
    apart = [
        benchmark("arm", "step unified", 2.0, images_per_s=3.0, peak_mib=None),
        benchmark("arm", "step official", 3.0, images_per_s=2.0, peak_mib=None),
        benchmark("double", "base", 2.0, cost=1.0),
        benchmark("double", "batch", 3.0, cost=None),
        benchmark("micro", "update official", 9.0),
        benchmark("micro", "update port", 2.0, over_official=None),
    ]
    assert ratios(apart) == {}


def test_nothing_measured_is_nothing_claimed() -> None:
    """Every required ratio has a verdict, and without measurements none is reached."""
    assert [verdict.word for verdict in verdicts(ratios([]))] == ["not measured"] * len(REQUIRED)


def test_memory_that_is_not_told_gives_no_ratio() -> None:
    """None on either side."""
    unknown = [
        benchmark("arm", "step unified", 2.0, images_per_s=3.0, peak_mib=None, share=None, over_official=1.5),
        benchmark("arm", "step official", 3.0, images_per_s=2.0, peak_mib=1250.0),
    ]
    assert ratios(unknown) == {"unified_over_official": 1.5}


def test_the_required_ratios_are_the_issue_s() -> None:
    """0.95, 1.3, at most 0.5, 4 and 10, 2, and nowhere more than linear."""
    asked = {required.key: (required.bound, required.at_most) for required in REQUIRED}
    assert asked == {
        "unified_share_of_flops": (0.95, False),
        "unified_over_official": (1.3, False),
        "peak_over_official": (0.5, True),
        "masks_14": (4.0, False),
        "masks_37": (10.0, False),
        "losses_65536": (2.0, False),
        "double_prototypes": (2.0, True),
        "double_batch": (2.0, True),
        "double_local_crops": (2.0, True),
    }
