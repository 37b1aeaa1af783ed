from __future__ import annotations

from dataclasses import replace

from parity.attribution.reference import attribute_modified_reference
from parity.results import CheckResult, Comparison, Finding, ReferenceInfo, Status

KOLEO, MASKING = "dinov2/loss/koleo_loss.py", "dinov2/data/masking.py"
VERIFIED = ReferenceInfo("path", "/mine", "/mine", "commit b8931f7", "verified", 61, 61)
MODIFIED = replace(VERIFIED, identity="modified", modified=(f"{MASKING} line 69: differs", f"{KOLEO} line 33: differs"))
EQUAL, FAR = Comparison("x", "T0", True, True), Comparison("x", "T0", False, False)
DOUBLE_NORMALISED = Finding("0005", "official / yours = 79.50")


def _check(family: str, status: Status, *official: str) -> CheckResult:
    comparisons = {"diverged": [FAR], "passed": [EQUAL]}.get(status, [])
    return CheckResult(f"{family}.x", family, "L1", status, "x", official, comparisons=comparisons)


def _edited(path: str) -> ReferenceInfo:
    return replace(MODIFIED, modified=(f"{path} line 33: differs",))


def _sentences(check: CheckResult) -> list[str]:
    return [finding.sentence for finding in check.findings]


def test_a_divergence_through_the_edited_file_is_blamed_on_it_first() -> None:
    """Before any cause in the subject: whoever edited the reference must look there first."""
    check = _check("losses", "diverged", f"{KOLEO}:37-48")
    check.findings.append(DOUBLE_NORMALISED)
    attribute_modified_reference(_edited(KOLEO), [check])
    first, second = check.findings
    assert (first.id, first.official) == ("reference", KOLEO)
    assert first.sentence == f"the reference was edited: {KOLEO} line 33: differs"
    assert second is DOUBLE_NORMALISED


def test_divergences_elsewhere_are_not_blamed_on_it() -> None:
    """A check of another file keeps its own cause."""
    check = _check("masks", "diverged", f"{MASKING}:49-86")
    attribute_modified_reference(_edited(KOLEO), [check])
    assert check.findings == []


def test_a_whole_step_runs_layers_models_and_losses() -> None:
    """It names train.py only, and still the edited layer runs in it."""
    for path, blamed in (("dinov2/layers/block.py", True), (KOLEO, True), (MASKING, False)):
        check = _check("gradients", "diverged", "dinov2/train/train.py:134-300")
        attribute_modified_reference(_edited(path), [check])
        assert bool(check.findings) is blamed, path


def test_an_edit_that_no_check_sees_is_said_so() -> None:
    """In files.identity: nothing runs it, or what runs it passes all the same."""
    files, losses = _check("files", "passed"), _check("losses", "passed", f"{KOLEO}:37")
    attribute_modified_reference(_edited(MASKING), [files, losses])
    assert _sentences(files) == [f"{MASKING}: no check of this run executes it"]
    files.findings.clear()
    attribute_modified_reference(_edited(KOLEO), [files, losses])
    assert _sentences(files) == [f"{KOLEO}: 1 checks run it and none diverges"]
    assert losses.findings == []


def test_a_check_that_was_not_run_did_not_execute_the_file() -> None:
    """It is not counted among those that see no divergence."""
    files, unrun = _check("files", "passed"), _check("losses", "not_run", f"{KOLEO}:37")
    attribute_modified_reference(_edited(KOLEO), [files, unrun])
    assert _sentences(files) == [f"{KOLEO}: no check of this run executes it"]


def test_an_edit_that_makes_a_check_fail_needs_no_further_word() -> None:
    """A divergence or an error through the file has already shown it."""
    for status in ("diverged", "error"):
        files, losses = _check("files", "passed"), _check("losses", "passed", f"{KOLEO}:37")
        losses.status = "diverged" if status == "diverged" else "error"
        attribute_modified_reference(_edited(KOLEO), [files, losses])
        assert files.findings == []


def test_every_edited_file_is_treated() -> None:
    """Two edits, two findings."""
    masks, losses = _check("masks", "diverged", MASKING), _check("losses", "diverged", KOLEO)
    attribute_modified_reference(MODIFIED, [masks, losses])
    assert _sentences(masks) == [f"the reference was edited: {MASKING} line 69: differs"]
    assert _sentences(losses) == [f"the reference was edited: {KOLEO} line 33: differs"]


def test_an_official_reference_is_not_blamed() -> None:
    """Nothing was edited; nor does a line that names no official file blame any."""
    check = _check("losses", "diverged", f"{KOLEO}:37")
    attribute_modified_reference(VERIFIED, [check])
    attribute_modified_reference(replace(MODIFIED, modified=("README.md: differs",)), [check])
    assert check.findings == []
