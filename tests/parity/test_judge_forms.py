from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.errors import SubjectError
from parity.judge import Inputs, Judge
from parity.results import Comparison
from parity.stack import forms_of

INPUTS = {"x": torch.linspace(-1, 1, 9)}


class Stack:
    """A function of a tensor; counts its calls by type."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, bitwise: bool = False) -> None:
        self.claims_bitwise = bitwise
        self.calls: list[torch.dtype] = []
        self._function = function

    def value(self, x: Tensor) -> Tensor:
        """The function, recorded."""
        self.calls.append(x.dtype)
        return self._function(x)


def official(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return torch.tanh(x)


def rewritten(x: Tensor) -> Tensor:
    """The same, in other operations."""
    return 1 - 2 / (torch.exp(2 * x) + 1)


def faulty(x: Tensor) -> Tensor:
    """Off by one part in a million."""
    return torch.tanh(x) * (1 + 1e-6)


def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
    """The value alone."""
    return {"value": stack.value(given["x"])}


def _judged(subject: Stack, forms: Mapping[str, object], reference: Stack | None = None) -> list[Comparison]:
    return list(Judge(reference or Stack(official), subject, forms=forms)("f", compute, INPUTS))


def test_a_form_is_judged_by_size_under_its_own_name() -> None:
    """The subject that claims bits has three rules, a form that claims none has two; both pass."""
    results = _judged(Stack(official, bitwise=True), {"fast": Stack(rewritten)})
    assert [(c.name, c.tier) for c in results] == [
        ("f/value", "T0"),
        ("f/value", "T1"),
        ("f/value", "T2"),
        ("fast/f/value", "T1"),
        ("fast/f/value", "T2"),
    ]
    assert all(c.passed for c in results)
    assert [c.bitwise for c in results[:3]] == [True] * 3


def test_a_fault_of_one_form_is_that_form_s() -> None:
    """What fails begins with the form's name; the subject and the other form stay untouched."""
    forms = {"good": Stack(rewritten), "bad": Stack(faulty)}
    results = _judged(Stack(official, bitwise=True), forms)
    assert {c.name for c in results if not c.passed} == {"bad/f/value"}


def test_a_fault_of_the_subject_does_not_hide_behind_a_form() -> None:
    """A form that is right makes no subject right."""
    results = _judged(Stack(faulty, bitwise=True), {"fast": Stack(official)})
    assert {c.name for c in results if not c.passed} == {"f/value"}


def test_the_reference_is_computed_once_for_all_forms() -> None:
    """One run and four perturbed ones in each precision, however many forms differ from it."""
    reference = Stack(official)
    forms = {name: Stack(rewritten) for name in ("a", "b", "c")}
    _judged(Stack(official, bitwise=True), forms, reference)
    assert (reference.calls.count(torch.float32), reference.calls.count(torch.float64)) == (5, 5)
    assert all(form.calls == [torch.float32, torch.float64] for form in forms.values())


def test_a_form_s_allowance_is_the_subject_s() -> None:
    """The noise comes from the reference alone: a form is allowed what the subject would be."""
    as_form = _judged(Stack(official, bitwise=True), {"fast": Stack(rewritten)})[3:]
    as_subject = _judged(Stack(rewritten), {})
    assert [(c.tier, c.error, c.allowed) for c in as_form] == [(c.tier, c.error, c.allowed) for c in as_subject]


def test_a_missing_output_of_a_form_fails() -> None:
    """A form that returns less than official is no form of it."""

    def shy(stack: Any, given: Inputs) -> dict[str, Tensor]:
        found = compute(stack, given)
        return found if stack is not form else {}

    form = Stack(official)
    results = list(Judge(Stack(official), Stack(official), forms={"fast": form})("f", shy, INPUTS))
    assert [(c.name, c.note) for c in results if not c.passed] == [("fast/f/value", "the subject lacks it")]


def test_forms_are_optional() -> None:
    """A stack without the attribute, or with an empty one, has none; another has them by name."""
    assert forms_of(SimpleNamespace()) == forms_of(SimpleNamespace(forms=None)) == forms_of(SimpleNamespace(forms={}))
    fast = Stack(official)
    assert forms_of(SimpleNamespace(forms={"fast": fast})) == {"fast": fast}


@pytest.mark.parametrize("forms", [["fast"], "fast", {1: "fast"}])
def test_forms_without_names_are_refused(forms: object) -> None:
    """A list of stacks could not be named in the report."""
    with pytest.raises(SubjectError, match=r"mine\.forms is .*, expected a mapping from names to stacks"):
        forms_of(SimpleNamespace(name="mine", forms=forms))
