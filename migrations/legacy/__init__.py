"""The fork that the document of differences calls "this implementation", as a stack.

Everything that the document does not name is official's and comes from `port`; everything that it names is
here in the form that it describes: `masks`, `transforms`, `losses`, `optimizer`, `trainer`. It is the "before"
of every migration, the slow arm of the benchmark, and a subject on which parity must find all seven
differences.
"""

from __future__ import annotations

from migrations.legacy.stack import NOT_OFFERED, LegacyStack

__all__ = ["NOT_OFFERED", "LegacyStack"]
