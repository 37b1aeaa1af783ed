"""A file's tree from Python's own parser: without formatting, so never for rewriting, but ten times as fast."""

from __future__ import annotations

import ast
import warnings

from migrations.engine.source import SourceFile

__all__ = ["glance"]


def glance(file: SourceFile) -> ast.Module | None:
    """Return the tree of a file, to find out whether it is worth LibCST's; None where this parser does not take it.

    It is the parser of the Python that runs, so a newer syntax may fail here that LibCST knows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a user's file escapes wrongly in a text is not asked
            return ast.parse(file.data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
