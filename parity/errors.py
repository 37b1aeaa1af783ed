"""Errors that end a run with exit code 2: one clear line, no traceback, nothing half-written."""

from __future__ import annotations

__all__ = [
    "NoVerdictError",
    "OutputError",
    "ParityError",
    "ReferenceSourceError",
    "ReportError",
    "SubjectError",
    "UsageError",
    "origin",
]


class ParityError(Exception):
    """The job could not be done; the message names the value, the expectation and the next step."""


class UsageError(ParityError):
    """An option or a name given by the user is not known."""


class ReferenceSourceError(ParityError):
    """The official code cannot be reached, is incomplete, or is not what it claims to be."""


class SubjectError(ParityError):
    """The subject cannot be loaded, or offers something that is not what its capability promises."""


class OutputError(ParityError):
    """A report cannot be written where the user asked for it."""


class ReportError(ParityError):
    """A report that is to be read is missing, broken, or not one of `python -m parity run --json`."""


class NoVerdictError(ParityError):
    """The instrument failed its own check, so that neither parity nor divergence may be claimed."""


def origin(error: BaseException) -> str:
    """Return ` at FILE:LINE` of the innermost line that raised, or nothing where there is no traceback."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
