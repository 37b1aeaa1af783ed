"""When the reference itself was edited: which divergences run through the edited file."""

from __future__ import annotations

import re

from parity.results import CheckResult, Finding, ReferenceInfo

__all__ = ["attribute_modified_reference"]

_FOLDERS = {
    "modules": ("dinov2/layers", "dinov2/models"),
    "gradients": ("dinov2/layers", "dinov2/models", "dinov2/loss", "dinov2/train", "dinov2/utils"),
}
"""Folders that a family runs without its checks naming each file."""

_FILE = re.compile(r"dinov2/[\w/]+\.(?:py|yaml)")


def attribute_modified_reference(info: ReferenceInfo, results: list[CheckResult]) -> None:
    """Add a finding to each diverged check whose reference side runs a file that is not official's.

    A file that no check of the run executes is named in `files.identity`, with that said.

    Args:
        info: provenance; `modified` names files and lines.
        results: of the run, changed in place.
    """
    for line in info.modified:
        match = _FILE.search(line)
        if match is None:
            continue
        path = match.group()
        touched = [r for r in results if r.family != "files" and r.status != "not_run" and _runs(r, path)]
        for result in touched:
            if result.status == "diverged":
                result.findings.insert(
                    0,
                    Finding(
                        "reference",
                        f"the reference was edited: {line}",
                        "compare with official code (--reference auto) before changing the subject",
                        path,
                    ),
                )
        if not any(r.status in ("diverged", "error") for r in touched):
            _note_unseen(results, path, touched)


def _runs(result: CheckResult, path: str) -> bool:
    """Whether a check executes a file: it names the file, or is one of those that run whole folders."""
    named = {match.group() for text in result.official for match in _FILE.finditer(text)}
    return path in named or path.rsplit("/", 1)[0] in _FOLDERS.get(result.family, ())


def _note_unseen(results: list[CheckResult], path: str, touched: list[CheckResult]) -> None:
    for result in results:
        if result.family == "files":
            seen = f"{len(touched)} checks run it and none diverges" if touched else "no check of this run executes it"
            result.findings.append(Finding("reference", f"{path}: {seen}", "", path))
