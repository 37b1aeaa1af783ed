"""Where a run's official code came from and where it ran, in the few words that open every report."""

from __future__ import annotations

import re
from collections.abc import Mapping

from parity.report.numbers import printable
from parity.results import ReferenceInfo

__all__ = ["environment", "provenance"]

_RELEASE = re.compile(
    r"(?:dinov2 )?(?P<version>\S+) on PyPI = (?P<commit>commit \w+) \((?P<date>[\d-]+)\) (?P<rest>.+)"
)
_NEAREST = re.compile(r"(?:modified|mixed); nearest: ")
_MACHINE = re.compile(r"\b(?:x86_64|amd64|aarch64|arm64|i[3-6]86|ppc64le|s390x|riscv64)\b", re.IGNORECASE)


def provenance(reference: ReferenceInfo) -> str:
    """Return the first line of every report: which official code, from where, verified how far."""
    exact = reference.identity == "verified"
    verified = f"{reference.files_verified} of {reference.files_total} files verified byte-identical"
    verified += "" if exact else " to official's"
    if reference.identity == "modified" or reference.modified:
        named = reference.modified[0] if reference.modified else "files that are not official's"
        others = len(reference.modified) - 1
        more = f" and {others} more file{'s' * (others > 1)}" if others > 0 else ""
        verified = f"MODIFIED: {named}{more}; {verified}"
    elif not exact:
        verified = f"{reference.identity.upper()}: official files of different commits; {verified}"
    return printable(f"reference: facebookresearch/dinov2 {_version(reference)}, {verified}")


def _version(reference: ReferenceInfo) -> str:
    """Return commit or release, and the place it came from unless the release names it."""
    nearest = _NEAREST.match(reference.version)
    version = reference.version[nearest.end() :] if nearest else reference.version
    release = _RELEASE.fullmatch(version)
    if release:
        version = f"{release['version']} (PyPI, = {release['commit']} of {release['date']} {release['rest']})"
    else:
        version = version.removeprefix("dinov2 ")
    if nearest:
        version = f"nearest to {version}"
    if release and reference.source == "pypi":
        return version
    place = f"path {reference.location}" if reference.source == "path" else reference.source
    return f"{version} from {place}"


def environment(facts: Mapping[str, str]) -> str:
    """Return where the run was made, in one line; the platform as `Linux x86_64`, without kernel and C library."""
    values = {key: _platform(text) if key == "platform" else text for key, text in facts.items()}
    # These two name themselves.
    return ", ".join(text if key in ("platform", "cpu") else f"{key} {text}" for key, text in values.items())


def _platform(text: str) -> str:
    machine = _MACHINE.search(text.replace("-", " "))
    return f"{text.split('-')[0]} {machine.group()}" if machine else text.split("-")[0]
