from __future__ import annotations

from dataclasses import replace

import pytest
from fabricated_results import CLOSE, FAR, diverged, masks, only_not_run, passing, with_comparisons

from parity.report.grouping import compact_ids, gather_causes, gather_evidence, unattributed
from parity.results import CheckResult, Exhibit, Finding, RunResult


def _run(**found: list[Finding]) -> RunResult:
    """Diverged checks of one comparison each; `losses_x__vitl14` stands for `losses.x[vitl14]`."""
    run = with_comparisons(FAR)
    checks = []
    for name, findings in found.items():
        base, _, recipe = name.partition("__")
        id_ = base.replace("_", ".", 1) + (f"[{recipe}]" if recipe else "")
        checks.append(replace(run.checks[0], id=id_, findings=findings))
    return replace(run, checks=checks)


def _sentences(*pairs: str) -> list[str]:
    """Return what is told of sentences found under one recipe each."""
    found = {f"losses_x__r{n}": [Finding("0003", sentence)] for n, sentence in enumerate(pairs)}
    return [told.sentence for told in gather_causes(_run(**found))[0].told]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("9 images of 96 px", "6 images of 1,098 px"),
        ("36% more, 0.0001026", "38% more, 5.128e-06"),
        ("batches of 1, 3, 5", "batches of 1, 3"),
        ("lr is nan", "lr is 3"),
        ("wrong under r0", "wrong under r1"),
        ("rows 47%, 34%, 19%", "rows 51%, 49%"),
    ],
)
def test_other_numbers_are_the_same_finding(first: str, second: str) -> None:
    """Numbers, lists of numbers and recipes' names do not make another finding."""
    assert _sentences(first, second) == [f"{first} (and 1 like it: losses.x[r1])"]


def test_other_names_are_the_same_finding_and_are_told() -> None:
    """Parameters and quoted words that only the later sentences have are named, a list of them one by one."""
    assert _sentences("(dino_head) keep 0.01", "(dino_head, ibot_head) keep 0.02") == [
        "(dino_head) keep 0.01 (and 1 like it, with ibot_head: losses.x[r1])"
    ]
    assert _sentences("mode 'visible' does", "mode 'separate' does")[0].endswith("with separate: losses.x[r1])")
    assert _sentences("blocks.0.ls1 is", "blocks.1.ls1 is")[0].endswith("(and 1 like it: losses.x[r1])")


def test_other_words_are_another_finding() -> None:
    """What differs in words is told in full."""
    assert _sentences("masks overshoot", "masks scatter") == ["masks overshoot", "masks scatter"]


def test_sentences_like_one_of_the_same_check_need_no_place() -> None:
    """Two of one check are counted; the check is where the reader is already."""
    findings = [Finding("0003", f"{n} patches") for n in (19, 58, 98)]
    assert [t.sentence for t in gather_causes(_run(masks_x=findings))[0].told] == ["19 patches (and 2 like it)"]


def test_many_places_are_named_without_recipes() -> None:
    """Above three checks, only their names are told."""
    sentences = [f"{n} patches" for n in range(5)]
    assert _sentences(*sentences) == ["0 patches (and 4 like it: losses.x)"]


def test_many_names_are_cut_with_a_count() -> None:
    """Four names are told, and how many more there are."""
    told = _sentences("p_a is", "p_b is", "p_c is", "p_d is", "p_e is", "p_f is")[0]
    assert "with p_b, p_c, p_d, p_e and 1 more names" in told


def test_causes_are_ordered_and_each_told_once() -> None:
    """The reference, numbers, quirks, not attributed; next steps and official lines are not repeated."""
    step = Finding("0003", "scattered", "migration 0003", "masking.py:49")
    run = _run(
        losses_a=[Finding("", "lr is twice official's"), Finding("reference", "edited", "", "x.py")],
        losses_b=[Finding("Q3", "cap"), step, replace(step, sentence="overshoot")],
    )
    causes = gather_causes(run)
    assert [cause.id for cause in causes] == ["reference", "0003", "Q3", ""]
    assert causes[1].steps == ("migration 0003",)
    assert len(causes[1].told) == 2
    assert causes[3].steps == ()


def test_sentences_of_one_official_line_stand_together() -> None:
    """The official lines come in the order in which they were met."""
    findings = [Finding("0003", "a", "", "x"), Finding("0003", "b", "", "y"), Finding("0003", "c", "", "x")]
    assert [t.finding.sentence for t in gather_causes(_run(losses_a=findings))[0].told] == ["a", "c", "b"]


def test_a_cause_counts_checks_and_comparisons() -> None:
    """0005 and Q3 are both in a check of 129 and one of 1 diverging comparisons."""
    first = gather_causes(diverged())[0]
    assert (first.id, first.checks, first.comparisons, first.shared, first.others) == ("0005", 2, 130, 130, ("Q3",))


def test_a_cause_alone_shares_nothing() -> None:
    """Comparisons are shared only in checks that name another cause as well."""
    both = [Finding("0002", "views"), Finding("0003", "masks")]
    causes = gather_causes(_run(losses_a=both, losses_b=[Finding("0003", "masks")]))
    assert [(c.id, c.comparisons, c.shared, c.others) for c in causes] == [
        ("0002", 1, 1, ("0003",)),
        ("0003", 2, 1, ("0002",)),
    ]


def test_one_edit_of_the_reference_is_told_once() -> None:
    """The check of the files and the checks that run a file introduce the same edit in different words."""
    text = "dinov2/data/masking.py differs from commit b8931f7: line 69"
    run = _run(
        files_identity=[Finding("reference", text, "", "dinov2/data/masking.py")],
        masks_x=[Finding("reference", f"the reference was edited: {text}", "", "dinov2/data/masking.py")],
        masks_y=[Finding("reference", f"{text}0", "", "dinov2/data/masking.py")],
    )
    assert [t.sentence for t in gather_causes(run)[0].told] == [text, f"{text}0"]


def test_findings_of_passed_checks_are_no_causes() -> None:
    """Only what diverged has a cause."""
    run = passing()
    run.checks[0].findings.append(Finding("0003", "s"))
    assert gather_causes(run) == []
    assert gather_evidence(run) == []


def test_evidence_is_one_block_per_check() -> None:
    """The check's recipes are together, the first to diverge in front, and recipes that passed are known."""
    run = diverged()
    fine = replace(run.checks[2], id="gradients.step[vitg14]", status="passed", comparisons=[CLOSE])
    (block,) = gather_evidence(replace(run, checks=[*run.checks, fine]))
    assert block.name == "gradients.step"
    assert [check.id for check in block.checks] == ["gradients.step[vitl14]", "gradients.step[default]"]
    assert block.first.id == "gradients.step[vitl14]"
    assert block.passed == ("vitg14",)


def _table(title: str, *pairs: tuple[float, float]) -> Exhibit:
    return Exhibit("table", title, tuple({"lr official": a, "lr yours": b} for a, b in pairs))


def test_a_block_shows_one_picture_and_the_fullest_table() -> None:
    """Of two tables the one with more rows that differ is shown, though it has fewer rows."""
    few = _table("few", (1, 1), (1, 1), (1, 2))
    most = _table("most", (1, 2), (1, 3))
    pictures = [masks(4, ("a",)), masks(4, ("b",))]
    (block,) = gather_evidence(with_comparisons(FAR, exhibits=[few, pictures[0], most, pictures[1]]))
    assert block.exhibits == (pictures[0], most)


def test_one_kind_of_table_is_shown_once_per_family() -> None:
    """The longer of two tables with one caption is shown; the other check says where."""
    run = with_comparisons(FAR, exhibits=[_table("at the peak", (1, 2))])
    longer = replace(
        run.checks[0], id="losses.y", exhibits=[_table("at the peak (9 more rows in the JSON)", (1, 2), (1, 3))]
    )
    other = replace(longer, id="losses.z", exhibits=[_table("at the end", (1, 2))])
    blocks = gather_evidence(replace(run, checks=[*run.checks, longer, other]))
    assert [len(block.exhibits) for block in blocks] == [0, 1, 1]
    assert [block.elsewhere for block in blocks] == ["losses.y", "", ""]


def test_checks_without_findings_are_named_not_explained() -> None:
    """A finding elsewhere in the family explains nothing here."""
    run = _run(masks_a=[Finding("0003", "s")], masks_b=[])
    assert [check.id for check in unattributed(run)] == ["masks.b"]
    assert unattributed(only_not_run()) == []


def test_ids_are_written_together() -> None:
    """The recipes of one check share brackets, in the order given, each once."""
    ids = ["m.a", "l.b[vitl14]", "l.b[default]", "m.a", "l.c[x]"]
    assert compact_ids(ids) == "m.a, l.b[vitl14, default], l.c[x]"
    assert compact_ids([]) == ""


def test_exhibits_are_those_of_the_first_recipe() -> None:
    """The same picture under another recipe is not shown again."""
    run = diverged()
    run.checks[3].exhibits = [masks(4, ("other",))]
    (block,) = gather_evidence(run)
    assert [exhibit.title for exhibit in block.exhibits] == ["masks from one seed", "lr by name"]
    assert isinstance(block.first, CheckResult)
