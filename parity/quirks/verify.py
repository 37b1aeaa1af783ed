"""Evidence, executed: each quirk's function is run on the opened reference, and says whether the quirk is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from parity.quirks.quirk import Quirk

if TYPE_CHECKING:
    from parity.quirks.evidence.tools import Observation
    from parity.reference import Reference

__all__ = ["Status", "Verdict", "exit_code", "probe_of", "verify"]

Status = Literal["confirmed", "no longer so", "not run", "error"]


@dataclass(frozen=True)
class Verdict:
    """What became of one quirk's evidence.

    Attributes:
        quirk: whose evidence it is.
        status: `confirmed`; `no longer so`, the reference does otherwise; `not run`; `error`, the evidence failed.
        seen: what official code did, or why it was not run or failed.
    """

    quirk: Quirk
    status: Status
    seen: str


def probe_of(quirk: Quirk) -> Callable[[Reference], Observation]:
    """Return the function that holds a quirk's evidence; importing it imports torch.

    Raises:
        LookupError: the quirk's evidence was read by a person.
    """
    if not quirk.probe:
        raise LookupError(f"{quirk.id} has no evidence that can be executed: {quirk.unproven}")
    module, _, name = quirk.probe.partition(".")
    found: Callable[[Reference], Observation] = getattr(
        importlib.import_module(f"parity.quirks.evidence.{module}"), name
    )
    return found


def verify(
    reference: Reference, quirks: Sequence[Quirk], progress: Callable[[str, int, int], None] | None = None
) -> list[Verdict]:
    """Run the evidence of the given quirks on the reference, each under its own seed and on one thread.

    Args:
        reference: opened by `parity.reference.open_reference`, which puts generators and thread count back.
        quirks: whose evidence is run, in this order.
        progress: called with (id, done, total) before each and once at the end.
    """
    import torch

    torch.set_num_threads(1)
    advance = progress or (lambda *_: None)
    verdicts = []
    for done, quirk in enumerate(quirks):
        advance(quirk.id, done, len(quirks))
        verdicts.append(_verdict(reference, quirk))
    advance("", len(quirks), len(quirks))
    return verdicts


def _verdict(reference: Reference, quirk: Quirk) -> Verdict:
    from parity.checks.base import describe_error
    from parity.quirks.evidence.tools import NotHereError
    from parity.seeding import seeded

    if not quirk.probe:
        return Verdict(quirk, "not run", quirk.unproven)
    seeded(quirk.number)
    try:
        observation = probe_of(quirk)(reference)
    except NotHereError as reason:
        return Verdict(quirk, "not run", str(reason))
    except (Exception, SystemExit) as error:  # whatever an edited reference raises where the quirk does not
        return Verdict(quirk, "error", describe_error(error, "the evidence"))
    return Verdict(quirk, "confirmed" if observation.confirmed else "no longer so", observation.seen)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return 0 if all that was run is confirmed, 1 if a quirk is no longer so, 2 on errors or where nothing was run."""
    statuses = {verdict.status for verdict in verdicts}
    if "no longer so" in statuses:
        return 1
    return 2 if "error" in statuses or "confirmed" not in statuses else 0
