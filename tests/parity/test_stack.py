from __future__ import annotations

import re
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from parity.errors import SubjectError
from parity.stack import CAPABILITIES, capabilities_of, capability, claims_bitwise, stack_name


class Fork:
    """A stack of two capabilities."""

    claims_bitwise = True

    def sinkhorn(self, kind: str, teacher_output: Any, teacher_temp: float) -> str:
        """Says what it was called with."""
        return f"{kind} {teacher_temp}"

    def make_mask(self, *_: Any) -> None:
        """Offered, whatever it does."""


def test_each_capability_documents_its_own_call() -> None:
    """The signature begins with the capability's name, and the official side is a file and line, or none."""
    for name, described in CAPABILITIES.items():
        assert described.signature.startswith(f"{name}("), name
        assert described.returns
        assert re.match(r"dinov2/[\w/]+\.(py:\d+|yaml)|none: ", described.official), name


def test_a_capability_is_the_stack_s_callable() -> None:
    """What is returned can be called; what is not offered is None."""
    sinkhorn = capability(Fork(), "sinkhorn")
    assert sinkhorn is not None
    assert sinkhorn("dino", None, 0.04) == "dino 0.04"
    assert capability(Fork(), "collate") is None


def test_capabilities_are_listed_in_the_table_s_order() -> None:
    """Whatever the order in the class; an object may be a module, an instance or a namespace."""
    assert capabilities_of(Fork()) == ("make_mask", "sinkhorn")
    assert capabilities_of(SimpleNamespace(koleo_loss=len, other=len)) == ("koleo_loss",)
    module = ModuleType("fork")
    assert capabilities_of(module) == ()
    module.__dict__["dino_loss"] = len
    assert capabilities_of(module) == ("dino_loss",)


def test_an_unknown_capability_is_a_mistake_of_the_caller() -> None:
    """The message names the known ones."""
    with pytest.raises(KeyError, match=r"unknown capability 'make_masks'; known: make_mask, "):
        capability(Fork(), "make_masks")


def test_an_attribute_that_cannot_be_called_is_refused() -> None:
    """A tensor called `koleo_loss` is not a loss; None means not offered."""
    with pytest.raises(SubjectError, match=r"mine\.koleo_loss is a float, expected a callable: koleo_loss\("):
        capability(SimpleNamespace(name="mine", koleo_loss=0.5), "koleo_loss")
    assert capability(SimpleNamespace(koleo_loss=None), "koleo_loss") is None


@pytest.mark.parametrize(
    ("stack", "name"),
    [
        (SimpleNamespace(name="my fork"), "my fork"),
        (Fork(), "Fork"),
        (Fork, "Fork"),
        (ModuleType("adapter"), "adapter"),
        (SimpleNamespace(name=3), "SimpleNamespace"),
    ],
)
def test_a_stack_is_called_by_its_name_module_or_class(stack: object, name: str) -> None:
    """A name that is no string is none."""
    assert stack_name(stack) == name


def test_bitwise_equality_is_claimed_explicitly() -> None:
    """Who says nothing claims nothing."""
    assert claims_bitwise(Fork())
    assert not claims_bitwise(SimpleNamespace())
    assert not claims_bitwise(SimpleNamespace(claims_bitwise=False))
