"""The quirks of official DINOv2: what it really does where a reader would expect something else.

Each has an id that texts and reports refer to, a page in `parity/catalogue/quirks.md`, what `port` does about it, and
evidence that runs official code where a CPU can. Nothing here imports torch; the evidence does, when it is asked for.
"""

from __future__ import annotations

from parity.quirks.data import DATA
from parity.quirks.model import MODEL
from parity.quirks.objective import OBJECTIVE
from parity.quirks.quirk import COMMIT, Quirk
from parity.quirks.runtime import RUNTIME

__all__ = ["COMMIT", "QUIRKS", "Quirk"]

QUIRKS: tuple[Quirk, ...] = (*OBJECTIVE, *DATA, *MODEL, *RUNTIME)
"""Every quirk, in the order of its number."""
