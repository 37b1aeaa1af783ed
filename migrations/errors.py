"""Errors that end a command with exit code 2: one clear line, and nothing half-written."""

from __future__ import annotations

__all__ = ["MigrationsError", "RefusedError", "UsageError"]


class MigrationsError(Exception):
    """The job could not be done; the message names the value, the expectation and the next step."""


class UsageError(MigrationsError):
    """An option, a path or a name given by the user is not usable."""


class RefusedError(MigrationsError):
    """Writing would risk something of the user's; nothing was written."""
