from __future__ import annotations

from dataclasses import replace

import pytest
from fabricated_results import MODIFIED, VERIFIED

from parity.report.provenance import environment, provenance

RELEASE = "dinov2 0.0.1.dev2 on PyPI = commit f896929 (2023-04-20) but for __version__"


def test_provenance_of_verified_files() -> None:
    """The first line names commit, source and the number of verified files."""
    assert provenance(replace(VERIFIED, version="commit b8931f7 (2025-08-14)")) == (
        "reference: facebookresearch/dinov2 commit b8931f7 (2025-08-14) from github, "
        "61 of 61 files verified byte-identical"
    )


def test_provenance_of_the_release_names_pypi_once() -> None:
    """The release says where it is from, so that the line does not say it again."""
    assert provenance(replace(VERIFIED, source="pypi", version=RELEASE)) == (
        "reference: facebookresearch/dinov2 0.0.1.dev2 (PyPI, = commit f896929 of 2023-04-20 but for __version__), "
        "61 of 61 files verified byte-identical"
    )


def test_provenance_of_the_release_in_a_folder_names_the_folder() -> None:
    """A folder that holds the release's files is not passed off as a download."""
    line = provenance(replace(VERIFIED, source="path", location="/x", version=RELEASE))
    assert "but for __version__) from path /x, 61 of 61" in line


def test_provenance_of_modified_files_names_the_line() -> None:
    """A modified reference is called so in the first line, with the first file and the number of others."""
    line = provenance(replace(MODIFIED, version="modified; nearest: commit b8931f7 (2025-08-14)"))
    assert line == (
        "reference: facebookresearch/dinov2 nearest to commit b8931f7 (2025-08-14) from path /home/me/dinov2, "
        "MODIFIED: dinov2/data/masking.py line 69: differs and 1 more file; "
        "60 of 61 files verified byte-identical to official's"
    )


def test_provenance_of_mixed_files() -> None:
    """Official files of different commits are not passed off as one commit."""
    line = provenance(replace(VERIFIED, identity="mixed", version="mixed; nearest: commit b8931f7"))
    assert "nearest to commit b8931f7 from github, MIXED: official files of different commits" in line


def test_provenance_is_one_printable_line() -> None:
    """A folder's name cannot break the line or reach the terminal as an escape."""
    line = provenance(replace(MODIFIED, location="/a\n\x1bb"))
    assert "path /a \\x1bb" in line


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("Linux-6.18.44-fc-v669-x86_64-with-glibc2.36", "Linux x86_64"),
        ("macOS-14.1-arm64-arm-64bit", "macOS arm64"),
        ("Windows-10", "Windows"),
    ],
)
def test_the_platform_is_system_and_machine(platform: str, expected: str) -> None:
    """Kernel and C library stay in the JSON report."""
    facts = {"torch": "2.14.1", "platform": platform, "cpu": "AVX512"}
    assert environment(facts) == f"torch 2.14.1, {expected}, AVX512"


def test_no_facts_make_no_line() -> None:
    """A run without an environment has nothing to tell."""
    assert environment({}) == ""
