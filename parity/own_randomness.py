"""Stacks whose random numbers cannot be aligned with official's, and the statistical checks that judge them instead.

A stack that draws masks from torch, or crops from another library, can draw as official does and still never give
official's bits. It says so by an attribute `own_randomness`; what compares such draws bit for bit is then not run,
never passed, and the tier T4 decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from parity.errors import SubjectError
from parity.stack import CAPABILITIES, stack_name

__all__ = ["JUDGED_BY", "own_randomness", "why_not_compared"]

JUDGED_BY: Mapping[str, str] = {
    "make_mask": "masks.statistical",
    "mask_counts": "masks.statistical",
    "collate": "masks.statistical",
    "augment": "augment.statistical",
    "augment_steps": "augment.statistical",
}
"""Capabilities that a stack may declare, and the check that judges their draws; others have none, so cannot be."""


def own_randomness(stack: object) -> tuple[str, ...]:
    """Return the capabilities whose random numbers come from generators, or in an order, of the stack's own.

    Raises:
        SubjectError: it is no sequence of names, or names something that no statistical check judges.
    """
    declared = getattr(stack, "own_randomness", ())
    known = ", ".join(JUDGED_BY)
    if isinstance(declared, str) or not isinstance(declared, tuple | list | set | frozenset):
        raise SubjectError(
            f"{stack_name(stack)}.own_randomness is {declared!r:.80}, expected a tuple of names of {known}"
        )
    for name in declared:
        if name not in JUDGED_BY:
            why = "no statistical check judges its draws" if name in CAPABILITIES else "no capability is called so"
            raise SubjectError(f"{stack_name(stack)}.own_randomness names {name!r}, expected names of {known}: {why}")
    return tuple(name for name in JUDGED_BY if name in declared)


def why_not_compared(stack: object, draws: tuple[str, ...]) -> str:
    """Return why a check that compares the draws of these capabilities bit for bit is not run; empty where it is.

    Raises:
        SubjectError: as `own_randomness`.
    """
    own = [name for name in own_randomness(stack) if name in draws]
    if not own:
        return ""
    judges = ", ".join(dict.fromkeys(JUDGED_BY[name] for name in own))
    return f"{', '.join(own)}: draws from a generator of its own (own_randomness); {judges} judges the distribution"
