from __future__ import annotations

import pytest
from fakes import fake

from migrations.engine.model import Finding, State
from migrations.engine.project import Project
from migrations.engine.suppress import suppress, suppressions, unused

IDS = ("0001", "0005", "0006")


def settle(texts: dict[str, str], id_: str = "0006") -> tuple[list[Finding], list[str]]:
    """The findings of a fake migration after suppression, and all remarks."""
    project = Project.of_texts(texts)
    by, wrong = suppressions(project, IDS)
    found = suppress(fake(id_).find(project), by)
    return found, [str(remark) for remark in [*wrong, *unused(by, found, {id_})]]


@pytest.mark.parametrize(
    "text",
    [
        "old6()  # parity: ignore[0006] we decay once\n",
        "# parity: ignore[0006] we decay once\nold6()\n",
        "#parity:ignore[6]   we decay once\r\nold6()\r\n",
        "# parity: ignore[0001, 0006] we decay once\nold6()\n",
        "if a:\n    # noqa  # parity: ignore[0006] we decay once\n    x = old6(1,\n             2)\n",
    ],
    ids=["same line", "line above", "short", "several ids", "behind another comment"],
)
def test_a_comment_settles_its_site(text: str) -> None:
    """On the site's line or the one above; the owner's reason becomes part of the evidence, and no edit is left."""
    (found,), _ = settle({"a.py": text})
    assert found.state is State.SUPPRESSED
    assert found.evidence.endswith("; left so: we decay once")
    assert found.edits == ()


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("old6()  # parity: ignore[0006]\n", "a.py:1: suppression of 0006 without a reason settles nothing"),
        ("old6()  # parity: ignore why\n", "a.py:1: suppression without an id settles nothing, write "),
        ("old6()  # parity: ignore[0066] why\n", "a.py:1: suppression of an unknown id 0066, expected one of 0001"),
        ("# parity: ignore[0006] why\n\nold6()\n", "a.py:1: suppression of 0006 matches nothing (any more)"),
        ("x = 1  # parity: ignore[0006] why\nold6()\n", "a.py:1: suppression of 0006 matches nothing (any more)"),
        ("old6()\n# parity: ignore[0006] why\n", "a.py:2: suppression of 0006 matches nothing (any more)"),
    ],
    ids=["no reason", "no id", "unknown id", "too far above", "behind other code", "below"],
)
def test_a_comment_that_settles_nothing_is_remarked_upon(text: str, remark: str) -> None:
    """The finding stays, and the owner is told why."""
    (found,), remarks = settle({"a.py": text})
    assert found.state is State.DIVERGED
    assert len(remarks) == 1
    assert remarks[0].startswith(remark)


def test_text_that_looks_like_a_comment_is_none() -> None:
    """A string is not a decision."""
    (found,), remarks = settle({"a.py": "old6('# parity: ignore[0006] why')\n"})
    assert found.state is State.DIVERGED
    assert remarks == []


def test_a_file_and_a_project() -> None:
    """`ignore-file` settles the sites of its file, `ignore-project` those of every file."""
    files = {"a.py": "# parity: ignore-file[0006] why\n\nold6()\nold6()\n", "b.py": "old6()\n"}
    assert [f.state for f in settle(files)[0]] == [State.SUPPRESSED, State.SUPPRESSED, State.DIVERGED]
    files["a.py"] = files["a.py"].replace("-file", "-project")
    assert [f.state for f in settle(files)[0]] == [State.SUPPRESSED] * 3


def test_a_project_settles_what_was_not_found() -> None:
    """A fork without prototypes has no site to write a comment at."""
    (found,), remarks = settle({"setup.py": "# parity: ignore-project[0006] no such thing here\nx = 1\n"})
    assert (found.site, found.state) == (None, State.SUPPRESSED)
    assert remarks == []


def test_another_migrations_comment_settles_nothing() -> None:
    """And is not reported as unused where its migration was not run."""
    (found,), remarks = settle({"a.py": "old6()  # parity: ignore[0005] why\n"})
    assert found.state is State.DIVERGED
    assert remarks == []


def test_an_aligned_site_needs_no_comment() -> None:
    """After a migration its suppression is out of date."""
    (found,), remarks = settle({"a.py": "new6()  # parity: ignore[0006] why\n"})
    assert found.state is State.ALIGNED
    assert remarks == ["a.py:1: suppression of 0006 matches nothing (any more), remove it"]
