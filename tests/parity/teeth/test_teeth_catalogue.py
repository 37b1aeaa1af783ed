"""The catalogue of faults, rewrites and ladders: complete, applicable, and made of real checks."""

from __future__ import annotations

import re

import pytest

from parity.checks import CHECKS
from parity.recipes import RECIPES
from parity.teeth.catalogue import Fault, Rewrite
from parity.teeth.edit import Edit, applied
from parity.teeth.faults import FAULTS
from parity.teeth.rewrites import LADDERS, REWRITES

EVERYTHING: tuple[Fault | Rewrite, ...] = (*FAULTS, *REWRITES)


def test_the_catalogue_is_as_large_as_promised() -> None:
    """At least 80 faults, 20 rewrites and three ladders, each with an id of its own."""
    assert len(FAULTS) >= 80
    assert len(REWRITES) >= 20
    assert len(LADDERS) >= 3
    ids = [item.id for item in EVERYTHING]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("item", EVERYTHING, ids=lambda item: item.id)
def test_every_edit_fits_the_code(item: Fault | Rewrite) -> None:
    """The text is there once, what replaces it compiles and changes something, and all is undone."""
    for edit in item.edits:
        assert not isinstance(edit, Edit) or edit.before != edit.after
    with applied(*item.edits):
        pass


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: ladder.id)
def test_every_step_of_a_ladder_fits_the_code(ladder: object) -> None:
    """The largest and the smallest size."""
    for size in (0.1, 1e-14):
        with applied(*ladder.edits(size)):  # type: ignore[attr-defined] # a Ladder
            pass


def test_every_check_exists() -> None:
    """Checks and recipes are spelled as `python -m parity list` does."""
    known = {check.id for check in CHECKS}
    recipes = {recipe.name for recipe in RECIPES}
    named = [name for item in EVERYTHING for name in item.checks] + [ladder.check for ladder in LADDERS]
    for name in named:
        found = re.fullmatch(r"([\w.]+)(?:\[([\w-]+)\])?", name)
        assert found, name
        assert found[1] in known, name
        assert found[2] is None or found[2] in recipes, name


def test_every_expected_cause_is_a_pattern_that_can_fail() -> None:
    """None of them is found in a text about something else."""
    for fault in FAULTS:
        assert re.search(fault.expected, "passed: nothing was compared") is None, fault.id


def test_the_differences_that_an_edit_can_make_are_in_the_catalogue() -> None:
    """0001, 0002, 0003, 0005, 0006 and 0007 are expected of some fault."""
    expected = " ".join(fault.expected for fault in FAULTS)
    assert [id_ for id_ in ("0001", "0002", "0003", "0005", "0006", "0007") if id_ not in expected] == []
