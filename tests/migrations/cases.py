"""What every rule's tests assert: the text after, the same bytes again, aligned when found again, and no-ops.

`check_rewrite(MIGRATION, before, after)` for each rewriting case, `check_unchanged(MIGRATION, text, State.ALIGNED)` for
each no-op. Texts are one file's, or files by path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from migrations.engine.model import Finding, Level, Migration, State, overall
from migrations.engine.planning import plan
from migrations.engine.project import Project

__all__ = ["EVERY_LEVEL", "check_rewrite", "check_unchanged", "findings", "project_of"]

EVERY_LEVEL = (Level.SAFE, Level.UNSAFE, Level.SKELETON)
_PATH = "training/trainer.py"

Texts = str | Mapping[str, str]


def project_of(texts: Texts) -> Project:
    """Return the project of one text, or of texts by path."""
    return Project.of_texts({_PATH: texts} if isinstance(texts, str) else texts)


def findings(migration: Migration, texts: Texts) -> list[Finding]:
    """Return what a migration finds in texts; each must be Python."""
    project = project_of(texts)
    assert not [file.error for file in project.files.values() if file.error]
    return migration.find(project)


def check_rewrite(
    migration: Migration,
    before: Texts,
    after: Texts,
    *,
    levels: Sequence[Level] = EVERY_LEVEL,
    state: State = State.ALIGNED,
) -> Project:
    """Assert that the engine turns one text into another, to the byte, and is then content with it.

    Args:
        migration: the rule.
        before: what is found.
        after: what must be left, all files.
        levels: of the edits that may be taken.
        state: of the migration in the result; PARTIAL or UNKNOWN where holes are left.

    Returns:
        The project after, to be executed by the test.
    """
    made = plan(project_of(before), [migration], levels)
    assert made.steps[0].taken, [(left.finding.evidence, left.why) for left in made.steps[0].not_taken]
    assert {path: file.text for path, file in made.end.files.items()} == {
        path: file.text for path, file in project_of(after).files.items()
    }
    for path, file in made.end.files.items():
        compile(file.text, path, "exec")
    again = plan(made.end, [migration], levels)
    assert not again.changed
    found = migration.find(made.end)
    assert overall(found) is state, [(finding.state, str(finding.site), finding.evidence) for finding in found]
    assert not [finding for finding in found if finding.edits]
    return made.end


def check_unchanged(migration: Migration, texts: Texts, *states: State) -> list[Finding]:
    """Assert that a migration offers no edit and that the project's state is one of those given."""
    found = findings(migration, texts)
    assert not [(str(finding.site), finding.edits) for finding in found if finding.edits]
    assert overall(found) in states, [(finding.state, str(finding.site), finding.evidence) for finding in found]
    return found
