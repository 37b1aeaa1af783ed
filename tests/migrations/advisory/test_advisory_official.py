from __future__ import annotations

from pathlib import Path

from advisory_cases import REPOSITORY, found, of_folder

from migrations.engine.registry import all_advisories


def test_official_code_has_no_finding(official_root: Path) -> None:
    """What advisories compare with is this code; its linear evaluation scales by batch / 256 and is not meant."""
    project = of_folder(official_root)
    assert len(project.files) > 40
    assert [str(one) for advisory in all_advisories() for one in found(advisory, project)] == []


def test_port_has_no_finding() -> None:
    """The project's own stack does what official code does."""
    project = of_folder(REPOSITORY, "port")
    assert len(project.files) > 50
    assert [str(one) for advisory in all_advisories() for one in found(advisory, project)] == []
