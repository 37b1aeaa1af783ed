"""What is known about one quirk of official code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["COMMIT", "Evidence", "Policy", "Quirk"]

COMMIT = "b8931f7"
"""The official commit that every line number of the registry belongs to."""

Policy = Literal["official", "corrected", "documented"]
"""What `port` does: `official`, as official by default, and corrected by the switch; `corrected` by default, and as
official by the switch where there is one; `documented`, as official, or nothing, since port has no such part."""

Evidence = Literal["measured", "source", "read"]
"""How it is known: `measured`, official code is run; `source`, its syntax tree is searched; `read`, by a person."""


@dataclass(frozen=True)
class Quirk:
    """One quirk; its page is in `parity/catalogue/quirks.md`.

    Attributes:
        id: `Q1` … `Q58`.
        does: what official does, in a line that fits a table.
        official: `dinov2/` files with their lines at `COMMIT`.
        policy: what port does.
        evidence: how it is known; never more than what `probe` really does.
        probe: `MODULE.FUNCTION` below `parity.quirks.evidence`, which takes the opened reference; empty where
            evidence is `read`.
        unproven: what the probe does not show, or why nothing can be executed; empty where it shows the whole claim.
        switch: the key in port's configuration, or empty.
        threads: where it was reported, `REPOSITORY#NUMBER`.
        since: the first official commit that has it, where April 2023's has not.
    """

    id: str
    does: str
    official: tuple[str, ...]
    policy: Policy
    evidence: Evidence
    probe: str = ""
    unproven: str = ""
    switch: str = ""
    threads: tuple[str, ...] = ()
    since: str = ""

    @property
    def number(self) -> int:
        """The number in the id."""
        return int(self.id[1:])
