from __future__ import annotations

import re

import pytest

from migrations.engine.edits import OverlapError
from migrations.engine.model import ORDER, Edit
from migrations.engine.project import Project
from migrations.engine.registry import all_advisories, all_migrations, known_ids, migration


def test_files_are_sorted_by_path() -> None:
    """Findings come in the same order on every machine."""
    assert list(Project.of_texts({"b.py": "", "a/z.py": "", "a.py": ""}).files) == ["a.py", "a/z.py", "b.py"]


def test_matching_parses_only_what_matches() -> None:
    """A file whose bytes do not match is not even parsed, so its errors are not reported."""
    project = Project.of_texts({"a.py": "wanted = 1\n", "b.py": "other = (\n", "c.py": "wanted = (\n"})
    assert [file.path for file in project.matching(re.compile(b"wanted"))] == ["a.py"]
    assert list(project.errors) == ["c.py"]
    assert not project.files["b.py"].looked_into


def test_edits_make_a_new_project() -> None:
    """The old one stays as it is; files without edits are shared, with their trees."""
    old = Project.of_texts({"a.py": "x = 1\n", "b.py": "y = 2\n"})
    new = old.with_edits([Edit("a.py", 4, 5, "3")])
    assert (old.files["a.py"].text, new.files["a.py"].text) == ("x = 1\n", "x = 3\n")
    assert new.files["b.py"] is old.files["b.py"]


def test_encoding_stays() -> None:
    """A file with a byte order mark keeps it through edits."""
    from migrations.engine.source import SourceFile

    new = Project([SourceFile("a.py", "x = 1\n", "utf-8-sig")]).with_edits([Edit("a.py", 4, 5, "3")])
    assert new.files["a.py"].encoding == "utf-8-sig"


def test_a_result_that_is_not_python_is_refused() -> None:
    """Whatever an edit says, what it leaves must parse."""
    with pytest.raises(ValueError, match=r"would leave a\.py:1"):
        Project.of_texts({"a.py": "x = 1\n"}).with_edits([Edit("a.py", 4, 5, "(")])


def test_edits_of_files_that_are_not_there_are_refused() -> None:
    """The message names them."""
    with pytest.raises(ValueError, match=r"edits of b\.py, which the project does not hold"):
        Project.of_texts({"a.py": ""}).with_edits([Edit("b.py", 0, 0, "x")])


def test_overlapping_edits_are_refused() -> None:
    """Across findings as within one."""
    with pytest.raises(OverlapError):
        Project.of_texts({"a.py": "x = 1\n"}).with_edits([Edit("a.py", 0, 5, "y"), Edit("a.py", 4, 5, "2")])


def test_registry_is_in_the_order_of_application() -> None:
    """What exists is a subsequence of the order that dependencies give."""
    ids = [one.id for one in all_migrations()]
    assert ids == [id_ for id_ in ORDER if id_ in ids]
    for one in all_migrations():
        assert all(ORDER.index(first) < ORDER.index(one.id) for first in one.depends_on)


def test_an_unknown_migration_is_refused() -> None:
    """The message repeats what was asked for."""
    with pytest.raises(ValueError, match="no migration '99'"):
        migration("99")


def test_suppressions_may_name_each_of_the_seven() -> None:
    """Whether or not its rule is installed, a comment about it is no mistake."""
    assert set(ORDER) <= set(known_ids())
    assert {one.id for one in all_advisories()} <= set(known_ids())
