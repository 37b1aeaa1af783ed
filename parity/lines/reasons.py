"""Why a run leaves lines of official code: by file and by function, so that it holds for several commits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REASONS", "Reason", "reason_for"]


@dataclass(frozen=True)
class Reason:
    """Why lines are left.

    Attributes:
        file: official file below `dinov2/`.
        owner: qualified name of the innermost function or class around the lines; empty at a module's top.
        why: one sentence.
        text: what a line must contain; empty for every line of the owner that is left.
    """

    file: str
    owner: str
    why: str
    text: str = ""


REASONS: tuple[Reason, ...] = ()


def reason_for(file: str, owner: str, text: str) -> str:
    """Return why a line is left: of the reasons for its function, first one that names its text; empty for none.

    Args:
        file: official file below `dinov2/`.
        owner: see `Reason`.
        text: the line.
    """
    fitting = [r for r in REASONS if (r.file, r.owner) == (file, owner) and r.text in text]
    return max(fitting, key=lambda r: len(r.text)).why if fitting else ""
