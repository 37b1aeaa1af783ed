"""Why a checkpoint is not converted."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["CheckpointError"]


class CheckpointError(ValueError):
    """A checkpoint does not fit; nothing was written.

    Attributes:
        problems: one line each, the first is the message.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))
