from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parity.checks import CHECKS
from parity.errors import SubjectError
from parity.own_randomness import JUDGED_BY, own_randomness, why_not_compared
from parity.stack import CAPABILITIES
from parity.subjects import open_subject


def stack(declared: Any) -> SimpleNamespace:
    """A stack that declares something."""
    return SimpleNamespace(name="fork", own_randomness=declared, make_mask=len, augment=len)


def test_who_says_nothing_draws_as_official_does() -> None:
    """Without the attribute, or with an empty one, nothing is declared and everything is compared."""
    for silent in (SimpleNamespace(), stack(())):
        assert own_randomness(silent) == ()
        assert why_not_compared(silent, ("make_mask", "augment")) == ""


@pytest.mark.parametrize("declared", [("collate", "make_mask"), ["collate", "make_mask"], {"make_mask", "collate"}])
def test_declared_names_come_in_the_order_of_the_table(declared: Any) -> None:
    """A tuple, list or set of names; each is a capability that draws."""
    assert own_randomness(stack(declared)) == ("make_mask", "collate")


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (("make_masks",), "names 'make_masks', expected names of make_mask, mask_counts, collate, augment, .*no capab"),
        (("koleo_loss",), "names 'koleo_loss', expected names of make_mask.*no statistical check judges its draws"),
        (("data_order",), "names 'data_order'.*no statistical check judges its draws"),
        ((3,), "names 3, expected names of make_mask"),
        ("make_mask", "own_randomness is 'make_mask', expected a tuple of names of make_mask"),
        (True, "own_randomness is True, expected a tuple"),
        ({"make_mask": "torch"}, "own_randomness is {'make_mask': 'torch'}, expected a tuple"),
        (None, "own_randomness is None, expected a tuple"),
    ],
)
def test_what_cannot_be_declared_is_refused(declared: Any, words: str) -> None:
    """The error names the stack, the value, what may be named, and why this may not."""
    with pytest.raises(SubjectError, match=f"^fork.own_randomness.*{words}|^fork.{words}"):
        own_randomness(stack(declared))


def test_the_reason_names_the_capability_and_its_judge() -> None:
    """Only of capabilities that the check compares; each judge once."""
    mine = stack(("make_mask", "mask_counts", "augment"))
    assert why_not_compared(mine, ("make_mask",)) == (
        "make_mask: draws from a generator of its own (own_randomness); masks.statistical judges the distribution"
    )
    reason = why_not_compared(mine, ("augment", "mask_counts", "make_mask", "collate"))
    assert reason.startswith("make_mask, mask_counts, augment: ")
    assert "; masks.statistical, augment.statistical judges" in reason
    assert why_not_compared(mine, ("collate",)) == ""


def test_every_judge_is_a_check_that_no_declaration_stops() -> None:
    """What is declared is judged by a check there is; it must offer the capability, and compares no draw by bits."""
    by_id = {check.id: check for check in CHECKS}
    for name, judge in JUDGED_BY.items():
        assert name in CAPABILITIES
        assert by_id[judge].draws == ()
    assert set(by_id["masks.statistical"].either) == {n for n, judge in JUDGED_BY.items() if judge.startswith("masks")}
    assert by_id["augment.statistical"].needs == ("augment",)


def test_the_checks_that_compare_draws_are_these() -> None:
    """Steps are given their batches, evaluation and decoding draw nothing, and orders have no statistical judge."""
    drawing = {check.id: check.draws for check in CHECKS if check.draws}
    assert drawing == {
        "masks.bitwise": ("make_mask",),
        "masks.distribution": ("make_mask",),
        "masks.counts": ("mask_counts",),
        "collate.batch": ("collate",),
        "collate.cap": ("collate",),
        "augment.crops": ("augment",),
        "augment.steps": ("augment_steps",),
    }


def test_a_misspelt_declaration_ends_the_run_at_once(tmp_path: Path) -> None:
    """An adapter that names no capability is refused when it is opened; one that is right is not, and keeps it."""
    adapter = tmp_path / "adapter.py"
    text = "def make_mask(size, count, cap):\n    return None\n\nown_randomness = ({!r},)\n"
    adapter.write_text(text.format("masks"))
    with (
        pytest.raises(SubjectError, match="own_randomness names 'masks', expected names of make_mask"),
        open_subject(str(adapter)),
    ):
        pytest.fail("it was opened")
    adapter.write_text(text.format("make_mask"))
    with open_subject(str(adapter)) as opened:
        assert own_randomness(opened) == ("make_mask",)
