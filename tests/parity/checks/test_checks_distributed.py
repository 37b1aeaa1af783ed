from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rank_fork
import torch
import torch.distributed as dist
from forks import assert_no_alarm, assert_seen, check, port
from torch import Tensor

from parity.adapters.official import OfficialStack
from parity.attribution.ranks import attribute_assignments, attribute_centre, attribute_gradients
from parity.checks import CHECKS, Context, distributed, run_check
from parity.judge import Judge
from parity.ranks import Ranks
from parity.recipes import RECIPES
from parity.results import CheckResult
from parity.subjects import open_subject

Make = Callable[..., CheckResult]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fork with faults, as a user's adapter file in a folder of its own."""
    file = tmp_path_factory.mktemp("fork") / "adapter.py"
    shutil.copyfile(rank_fork.__file__, file)
    return file


@pytest.fixture(scope="module")
def ranks(opened_official_stack: OfficialStack, adapter: Path) -> Iterator[Ranks]:
    """Two processes for official code and two for the fork, for the whole file."""
    with Ranks(opened_official_stack._reference.info, str(adapter)) as found:
        yield found


@pytest.fixture
def make(official_stack: OfficialStack, ranks: Ranks, adapter: Path) -> Iterator[Make]:
    """Make a check of the fork with a fault."""
    fault = adapter.with_name("fault.txt")
    info = official_stack._reference.info

    def made(name: str, what: str = "", recipe: str | None = None) -> CheckResult:
        fault.write_text(what)
        (found,) = (c for c in CHECKS if c.id == name)
        chosen = next(r for r in RECIPES if r.name == recipe) if recipe else None
        with open_subject(str(adapter)) as fork:
            return run_check(found, Context(official_stack, info, fork, chosen, 32, True, ranks=ranks))

    yield made
    fault.write_text("")


def test_a_right_fork_passes_bit_for_bit(make: Make) -> None:
    """Loaded again in processes of its own, without claiming anything: not one bit differs, on either rank.

    Different numbers of masked patches, none on one rank; both centerings and every part of a step.
    """
    results = {
        name: make(f"distributed.{name.split()[0]}", recipe=recipe)
        for name, recipe in (("sinkhorn", None), ("centering", None), ("step a", "default"), ("step b", "vitl14"))
    }
    names: dict[str, set[str]] = {}
    for key, result in results.items():
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared
        names[key] = {c.name for c in result.comparisons}
        ranks = {name.split("rank ")[1][0] for name in names[key]}
        assert ranks == {"0", "1"}
    assert {"ibot/5 and 12 rows/rank 1/assignments", "ibot/0 and 7 rows/rank 0/assignments"} <= names["sinkhorn"]
    assert "dino/6 and 6 rows/rank 0/assignments" in names["sinkhorn"]
    assert {"dino/6 and 6 rows/rank 0/centre", "ibot/3 and 11 rows/rank 1/target 1"} <= names["centering"]
    for key in ("step a", "step b"):
        assert {name.split("/")[2] for name in names[key]} == {
            "losses", "gradients", "clipped_gradients", "exp_avg", "exp_avg_sq", "parameters", "teacher", "centers",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "name", "recipe", "first", "words"),
    [
        ("sinkhorn not reduced", "sinkhorn", None, "^dino/.*rank 0/assignments", "assigns its own rows alone"),
        ("sinkhorn rows not reduced", "sinkhorn", None, "^dino/.*rank 0/assignments", ""),
        ("sinkhorn sum not reduced", "sinkhorn", None, "rank [01]/assignments", ""),
        ("count not reduced", "sinkhorn", None, "^ibot/5 and 12 rows/rank 0/assignments", ""),
        ("centre not reduced", "centering", None, "^dino/.*rank 0/", "each rank has a centre of its own"),
        ("centre summed", "centering", None, "^dino/.*rank 0/", "2 times official's centre"),
        ("centre divided twice", "centering", None, "^dino/.*rank 0/", "1/2 of official's centre"),
        ("gradients summed", "step", "default", "rank 0/gradients/", "yours / official = 2 in every gradient"),
        ("gradients not reduced", "step", "default", "rank 0/gradients/", "their mean is official's"),
        ("rates of one rank", "step", "default", "rank 0/parameters/", ""),
    ],
)
def test_what_is_not_reduced_as_official_does_is_named(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    name: str,
    recipe: str | None,
    first: str,
    words: str,
) -> None:
    """By size alone, at the first tensor that shows it, and in words where the numbers say which fault it is."""
    monkeypatch.setattr(distributed, "Judge", partial(Judge, tiers=("T1",)))
    result = make(f"distributed.{name}", fault, recipe)
    assert_seen(result, first, "" if words else None, words)


@pytest.mark.parametrize(
    ("fault", "finding", "words"),
    [
        ("centre pooled", "Q12", "the mean over all masked tokens; official averages the ranks' means"),
        ("centre kept", "Q13", "official's centre is NaN"),
    ],
)
def test_a_quirk_of_the_centre_is_named(make: Make, fault: str, finding: str, words: str) -> None:
    """A stack that weighs ranks by their tokens, or that keeps the centre of a rank without any."""
    result = make("distributed.centering", fault)
    assert_seen(result, "^ibot/.*rank 0/", finding, words)
    assert not any(c.name.startswith("dino/") for c in result.diverged)


def test_a_count_reduced_twice_changes_nothing(make: Make) -> None:
    """Sinkhorn multiplies by the count that it divided by, and twice the count is exact: an equivalent, no fault."""
    result = make("distributed.sinkhorn", "count reduced twice")
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


def test_one_rank_does_not_show_them(official_stack: OfficialStack) -> None:
    """`port` in this process, whose group has one rank, passes whatever is not reduced: that is what ranks are for."""
    assert dist.get_world_size() == 1
    with rank_fork.PATCHES["sinkhorn not reduced"]():
        assert_no_alarm(check(official_stack, port(), "losses.sinkhorn"))


def test_without_processes_nothing_is_compared(official_stack: OfficialStack) -> None:
    """A context without ranks, and a torch without gloo: not run, and never passed."""
    result = check(official_stack, port(), "distributed.sinkhorn")
    assert (result.status, result.reason) == (
        "not_run",
        "two ranks need processes of their own, which were not asked for",
    )


def test_a_torch_without_gloo_is_said_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not run, with the reason."""
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    result = make("distributed.centering")
    assert (result.status, result.compared) == ("not_run", 0)
    assert "built without gloo" in result.reason


def test_a_rank_that_raises_is_named_and_the_next_check_starts_anew(make: Make) -> None:
    """Rank 0 waits for a gradient of rank 1, which has raised: an error that says so, within moments."""
    result = make("distributed.step", "fails on rank 1", "default")
    assert result.status == "error"
    assert "fork: rank 1 of 2: ValueError: rank 1 has no such prototype at" in result.reason
    assert_no_alarm(make("distributed.sinkhorn"))


def test_a_stack_without_a_step_on_ranks_is_not_run(official_stack: OfficialStack) -> None:
    """Every capability is optional."""
    legacy_like: Any = type("Fork", (), {"name": "fork", "sinkhorn": lambda *_: None})()
    result = check(official_stack, legacy_like, "distributed.step", "default")
    assert (result.status, result.reason) == ("not_run", "fork does not offer distributed_step")


def _gradients(*values: Tensor) -> dict[str, Tensor]:
    return {f"rank {rank}/gradients/w": value for rank, value in enumerate(values)}


def test_attributions_stay_silent_where_they_are_not_sure() -> None:
    """Equal numbers, another ratio than the number of ranks, a centre of no known kind."""
    base = _gradients(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert list(attribute_gradients(base, base, 2)) == []
    assert list(attribute_gradients({n: 3 * t for n, t in base.items()}, base, 2)) == []
    (summed,) = attribute_gradients({n: 2 * t for n, t in base.items()}, base, 2)
    assert "summed over the 2 ranks, not averaged" in summed.sentence
    rows = {f"rank {rank}/batch 0": torch.ones(2, 3) * (rank + 1) for rank in range(2)}
    centre = {f"rank {rank}/centre": torch.full((3,), 0.15) for rank in range(2)}
    assert list(attribute_centre("dino", centre, centre, rows, "")) == []
    odd = {name: value + 1 for name, value in centre.items()}
    assert list(attribute_centre("dino", odd, centre, rows, "")) == []
    own = {"rank 0/centre": torch.full((3,), 0.1), "rank 1/centre": torch.full((3,), 0.2)}
    (alone,) = attribute_centre("dino", own, centre, rows, "")
    assert "each rank has a centre of its own" in alone.sentence
    assert list(attribute_assignments("dino", {}, {}, "")) == []
