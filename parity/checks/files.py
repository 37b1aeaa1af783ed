"""Family `files`: which files of the reference are byte-identical to official history."""

from __future__ import annotations

from collections.abc import Iterator

from parity.checks.base import Check, Context, Observation
from parity.reference.identity import identify, read_files
from parity.reference.manifest import blob_id
from parity.results import Comparison, Finding

__all__ = ["CHECKS"]


def _identity(context: Context) -> Iterator[Observation]:
    """One row per training file: its git blob id against the manifest of official history.

    A reference that is not official's fails here even where the user allowed it: exit code 0 means that the
    subject equals *official* code, never that it equals an edited copy.
    """
    files = read_files(context.reference.root)
    identity = identify(files)
    modified = {file.path: file for file in identity.modified}
    for path, data in files.items():
        edited = modified.get(path)
        yield Comparison(
            f"blob/{path}",
            "T0",
            passed=edited is None,
            bitwise=edited is None,
            reference="in official history" if edited is None else f"official at {edited.nearest}",
            subject=blob_id(data)[:12],
            note="" if edited is None else edited.text(),
        )
    if identity.identity == "mixed":
        remarks = "; ".join(identity.remarks)
        yield Comparison("one commit", "T0", False, False, reference="one", subject="several", note=remarks)
        yield Finding("reference", f"official files of different commits stand side by side: {remarks}", "", "dinov2/")
    for file in modified.values():
        yield Finding(
            "reference",
            file.text(),
            "divergences in checks that run this file may be its edit, not the subject's",
            file.path,
        )


CHECKS = (
    Check(
        "files.identity",
        "L0",
        "git blob id of every official training file against official history",
        ("dinov2/",),
        (),
        _identity,
    ),
)
