from __future__ import annotations

import re

import libcst as cst
import pytest
from cases import check_rewrite, check_unchanged
from fakes import fake, fake_with

from migrations.engine.edits import replace
from migrations.engine.model import Edit, Finding, Level, Site, State
from migrations.engine.planning import Plan, in_order, plan
from migrations.engine.project import Project
from migrations.flow.nodes import callee

SAFE = (Level.SAFE,)
ALL = (Level.SAFE, Level.UNSAFE, Level.SKELETON)


def whys(made: Plan) -> dict[str, list[str]]:
    """Why findings were not taken, by migration."""
    return {step.migration.id: [left.why for left in step.not_taken] for step in made.steps if step.not_taken}


def text(made: Plan) -> str:
    """The only file's text at the end."""
    return made.end.files["a.py"].text


def test_order_is_that_of_the_dependencies() -> None:
    """0006 first, 0007 last, whatever order is given; unknown ids come behind."""
    given = [fake(id_) for id_ in ("0009", "0001", "0007", "0006", "0003")]
    assert [one.id for one in in_order(given)] == ["0006", "0003", "0001", "0007", "0009"]


def test_each_migration_sees_what_the_earlier_ones_left() -> None:
    """0003 rewrites what 0006 wrote: 0006 turns old6 into new6, which is 0003's old form here."""

    def find(project: Project) -> list[Finding]:
        found = []
        for file in project.matching(re.compile(b"new6|final")):
            for call in file.nodes(cst.Call):
                if callee(call) == "new6":
                    edits = (replace(file, call.func, "final"),)
                    found.append(Finding("0003", State.DIVERGED, "new6", file.site(call), Level.SAFE, edits))
        return found or [Finding("0003", State.UNKNOWN, "no new6")]

    project = Project.of_texts({"a.py": "old6(1)\n"})
    sixth = fake_with("0006", lambda p: [f for f in fake("0006").find(p) if f.state is State.DIVERGED])
    made = plan(project, [fake_with("0003", find), sixth], SAFE)
    assert [step.migration.id for step in made.steps] == ["0006", "0003"]
    assert text(made) == "final(1)\n"
    assert project.files["a.py"].text == "old6(1)\n"


@pytest.mark.parametrize("level", [Level.UNSAFE, Level.SKELETON])
def test_levels_are_asked_for(level: Level) -> None:
    """Without its option a rewrite is listed with it, and nothing changes; with it, it is taken."""
    project = Project.of_texts({"a.py": "old6()\n"})
    refused = plan(project, [fake("0006", level)], SAFE)
    assert whys(refused) == {"0006": [f"needs --{level.value}"]}
    assert not refused.changed
    assert text(plan(project, [fake("0006", level)], ALL)) == "new6()\n"


def test_what_cannot_be_rewritten_is_listed() -> None:
    """By hand, or blocked by what the rule names."""
    project = Project.of_texts({"a.py": "old6()\nold1()\n"})
    made = plan(project, [fake("0006", Level.MANUAL), fake("0001", Level.BLOCKED)], ALL)
    assert whys(made) == {"0006": ["by hand"], "0001": ["blocked by trainer.py:1 another reader"]}


def test_a_diverged_dependency_blocks() -> None:
    """0003 waits while 0006, which goes first, still has diverged sites."""
    project = Project.of_texts({"a.py": "old6()\nold3()\n"})
    pair = [fake("0006", Level.UNSAFE), fake("0003", depends_on=["0006"])]
    assert whys(plan(project, pair, SAFE))["0003"] == ["blocked by 0006, which must go first"]
    assert text(plan(project, pair, ALL)) == "new6()\nnew3()\n"


def test_a_dependency_outside_of_only_blocks_too() -> None:
    """`--only 3` is no way around what must go first; where that is aligned, it goes on."""
    pair = [fake("0006"), fake("0003", depends_on=["0006"])]
    made = plan(Project.of_texts({"a.py": "old6()\nold3()\n"}), pair, SAFE, only=["0003"])
    assert [step.migration.id for step in made.steps] == ["0003"]
    assert not made.changed
    done = plan(Project.of_texts({"a.py": "new6()\nold3()\nold6x()\n"}), pair, SAFE, only=["0003"])
    assert text(done) == "new6()\nnew3()\nold6x()\n"


def test_a_dependency_that_was_not_found_blocks_nothing() -> None:
    """Unknown is no reason to refuse for ever."""
    pair = [fake("0006"), fake("0003", depends_on=["0006"])]
    assert text(plan(Project.of_texts({"a.py": "old3()\n"}), pair, SAFE)) == "new3()\n"


def test_suppressed_sites_are_left_alone() -> None:
    """The owner's decision holds against --unsafe and all."""
    made = plan(Project.of_texts({"a.py": "old6()  # parity: ignore[0006] why\nold6()\n"}), [fake("0006")], ALL)
    assert text(made) == "old6()  # parity: ignore[0006] why\nnew6()\n"


def two(first: tuple[int, int, str], second: tuple[int, int, str]) -> Project:
    """The plan's end of a migration whose two findings make these edits of `abcdef`."""

    def find(project: Project) -> list[Finding]:
        if project.files["a.py"].text != "abcdef\n":
            return [Finding("0006", State.ALIGNED, "done", Site("a.py", 1))]
        edits = [Edit("a.py", *first), Edit("a.py", *second)]
        return [
            Finding("0006", State.DIVERGED, str(n), Site("a.py", n + 1), Level.SAFE, (edit,))
            for n, edit in enumerate(edits)
        ]

    made = plan(Project.of_texts({"a.py": "abcdef\n"}), [fake_with("0006", find)], SAFE)
    assert len(made.steps[0].taken) + len(made.steps[0].not_taken) == 2
    return made.end


def test_overlapping_findings_are_taken_one_at_a_time() -> None:
    """The first goes ahead, the second waits for the next run; neighbours and equal edits go together."""
    assert two((0, 3, "X"), (2, 4, "Y")).files["a.py"].text == "Xdef\n"
    assert two((0, 3, "X"), (3, 6, "Y")).files["a.py"].text == "XY\n"
    assert two((0, 0, "X"), (0, 0, "X")).files["a.py"].text == "Xabcdef\n"
    assert two((0, 0, "X"), (0, 0, "Y")).files["a.py"].text == "Xabcdef\n"


def rule_that_leaves(result: str, after: list[Finding]) -> Plan:
    """A plan of a migration that turns `x = 1` into a result and then finds what is given."""

    def find(project: Project) -> list[Finding]:
        if project.files["a.py"].text == "x = 1\n":
            edits = (Edit("a.py", 0, 5, result),)
            return [Finding("0006", State.DIVERGED, "x", Site("a.py", 1), Level.SAFE, edits)]
        return after

    return plan(Project.of_texts({"a.py": "x = 1\n"}), [fake_with("0006", find)], SAFE)


ALIGNED = Finding("0006", State.ALIGNED, "fine", Site("a.py", 1))
AGAIN = Finding("0006", State.DIVERGED, "again", Site("a.py", 1), Level.SAFE, (Edit("a.py", 0, 0, "#"),))
STILL = Finding("0006", State.DIVERGED, "still", Site("a.py", 7))
HOLE = Finding("0006", State.PARTIAL, "a hole is left", Site("a.py", 7))


@pytest.mark.parametrize(
    ("result", "after", "why"),
    [
        ("y = (", [ALIGNED], "its edits do not fit"),
        ("return 1", [ALIGNED], "would not compile"),
        ("y = 1", [AGAIN], "would be changed once more at a.py:1"),
        ("y = 1", [STILL], "still diverges at a.py:7"),
    ],
    ids=["no Python", "no program", "not idempotent", "not mended"],
)
def test_edits_that_cannot_be_believed_are_dropped(result: str, after: list[Finding], why: str) -> None:
    """What is not confirmed by looking again is not carried out, and the rule's author is asked for."""
    made = rule_that_leaves(result, after)
    assert not made.changed
    (left,) = made.steps[0].not_taken
    assert why in left.why
    assert left.why.endswith("please report it")


@pytest.mark.parametrize("after", [[ALIGNED], [HOLE]], ids=["aligned", "hole"])
def test_edits_that_are_confirmed_are_kept(after: list[Finding]) -> None:
    """Aligned, or partial with a hole that a person fills."""
    assert rule_that_leaves("y = 1", after).changed == ("a.py",)


def test_a_rule_that_fails_on_its_own_result_changes_nothing() -> None:
    """An exception after the edits is no confirmation."""

    def find(project: Project) -> list[Finding]:
        if "old6" not in project.files["a.py"].text:
            raise RuntimeError("no idea")
        return fake("0006").find(project)

    made = plan(Project.of_texts({"a.py": "old6()\n"}), [fake_with("0006", find)], SAFE)
    assert not made.changed
    assert "RuntimeError: no idea" in made.steps[0].not_taken[0].why


def test_states_at_the_start_and_at_the_end() -> None:
    """The start is the disk's, for every migration; the end is what all edits leave."""
    project = Project.of_texts({"a.py": "old6()\nold3()\n"})
    made = plan(project, [fake("0003", Level.MANUAL), fake("0006")], SAFE)
    assert {id_: result.state for id_, result in made.first.items()} == {
        "0006": State.DIVERGED,
        "0003": State.DIVERGED,
    }
    assert {id_: result.state for id_, result in made.final.items()} == {
        "0006": State.ALIGNED,
        "0003": State.DIVERGED,
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = old6( 1 )  # é\r\n", "x = new6( 1 )  # é\r\n"),
        ("if a:\n\told6(); b()\n", "if a:\n\tnew6(); b()\n"),
        ("old6()", "new6()"),
    ],
    ids=["crlf", "tabs", "no last line end"],
)
def test_the_helper_for_rules_passes_a_good_rule(before: str, after: str) -> None:
    """Exact text, idempotent, aligned, compiles."""
    check_rewrite(fake("0006"), before, after)


def test_the_helper_for_rules_fails_a_bad_one() -> None:
    """Another text, edits in a no-op and another state are each an assertion error."""
    with pytest.raises(AssertionError):
        check_rewrite(fake("0006"), "old6()\n", "new6( )\n")
    with pytest.raises(AssertionError):
        check_unchanged(fake("0006"), "old6()\n", State.DIVERGED)
    with pytest.raises(AssertionError):
        check_unchanged(fake("0006"), "new6()\n", State.UNKNOWN)
    check_unchanged(fake("0006"), {"a.py": "new6()\n", "b.py": "x = 1\n"}, State.ALIGNED)
