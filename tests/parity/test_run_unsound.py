from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from parity import run as run_module
from parity.errors import NoVerdictError
from parity.results import Comparison, ReferenceInfo
from parity.run import Options, run
from parity.run import _require_sound as require_sound

SOUND = Comparison("doctor/repeat", "T0", True, True, note="the reference run twice: 3 tensors")
UNSOUND = Comparison("doctor/oracle", "T1", False, False, note="0 down-casts neutralised")


def _examined(monkeypatch: pytest.MonkeyPatch, *found: Comparison) -> None:
    monkeypatch.setattr(run_module, "examine", lambda official, recipe: list(found))


def test_an_unsound_instrument_gives_no_verdict_on_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends before the first check, with the self-check that failed and the next step."""
    _examined(monkeypatch, SOUND, UNSOUND)
    started: list[str] = []
    with pytest.raises(NoVerdictError, match="no verdict: doctor/oracle: 0 down-casts neutralised; see") as caught:
        run(Options(reference="pypi", only=("losses",), quick=True), lambda title, done, total: started.append(title))
    assert started == ["self-check"]
    assert "\n" not in str(caught.value)


def test_an_edited_reference_goes_on_and_is_denied_parity(monkeypatch: pytest.MonkeyPatch, official_copy: Path) -> None:
    """The user allowed it: its checks are made, the failed self-check is shown, and the exit code is not 0."""
    path = official_copy / "dinov2/loss/koleo_loss.py"
    path.write_text(path.read_text().replace("(2, eps=1e-8)", "(2, eps=1e-6)"))
    _examined(monkeypatch, UNSOUND)
    options = Options(reference=str(official_copy), allow_modified_reference=True, only=("files", "losses"), quick=True)
    result = run(options)
    assert result.doctor == [UNSOUND]
    assert {c.id for c in result.checks if c.status == "diverged"} == {"files.identity", "losses.koleo"}
    assert result.exit_code == 1
    koleo = next(c for c in result.checks if c.id == "losses.koleo")
    assert koleo.findings[0].id == "reference"


def test_an_edited_reference_that_cannot_step_is_still_compared(official_copy: Path) -> None:
    """The self-check has one failed line with the exception; the losses are judged, and the file denies parity."""
    path = official_copy / "dinov2/train/ssl_meta_arch.py"
    path.write_text(path.read_text().replace("loss_accumulator = 0", "raise RuntimeError('no step')", 1))
    result = run(Options(reference=str(official_copy), allow_modified_reference=True, only=("losses",), quick=True))
    assert [(c.name, c.passed) for c in result.doctor] == [("doctor/step", False)]
    assert "no step" in result.doctor[0].note
    assert {c.status for c in result.checks if c.family == "losses"} == {"passed"}
    assert [c.id for c in result.checks if c.status == "diverged"] == ["files.identity"]
    assert result.exit_code == 1


@pytest.mark.parametrize("identity", ["modified", "mixed"])
def test_only_verified_code_must_be_sound(identity: str) -> None:
    """What is not official's may itself be what fails; what is official's may not."""
    info: dict[str, Any] = {"source": "path", "requested": "x", "location": "x", "version": "x"}
    require_sound([UNSOUND], ReferenceInfo(**info, identity=identity, files_total=1, files_verified=0))
    official = ReferenceInfo(**info, identity="verified", files_total=1, files_verified=1)
    require_sound([SOUND], official)
    with pytest.raises(NoVerdictError, match="doctor/oracle"):
        require_sound([SOUND, UNSOUND], official)


def test_progress_counts_every_check_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-check first, then each check by id, then `done` at the total."""
    _examined(monkeypatch, SOUND)
    seen: list[tuple[str, int, int]] = []
    options = Options(reference="pypi", only=("losses",), quick=True)
    result = run(options, lambda *call: seen.append(call))
    total = len(result.checks) + 1
    assert seen[0] == ("self-check", 0, total)
    assert [title for title, _, _ in seen[1:-1]] == [c.id for c in result.checks]
    assert seen[-1] == ("done", total, total)


def test_the_result_says_what_was_asked_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options with the recipes that were planned, and the environment that bits depend on."""
    _examined(monkeypatch, SOUND)
    result = run(Options(reference="pypi", recipes=("vitl14",), only=("schedules",), seeds=5, quick=True))
    assert result.options["recipes"] == ["vitl14"]
    assert (result.options["seeds"], result.options["quick"]) == (5, True)
    assert result.environment["torch"] == torch.__version__
    assert set(result.environment) >= {"python", "threads", "platform", "cpu"}
    assert (result.subject, result.reference.identity, result.exit_code) == ("port", "verified", 0)


@pytest.mark.parametrize(("seeds", "quick", "drawn"), [(0, False, 4000), (0, True, 600), (7, True, 7), (7, False, 7)])
def test_masks_drawn(seeds: int, quick: bool, drawn: int) -> None:
    """4000, 600 where the run is quick, or what was asked for."""
    assert Options(seeds=seeds, quick=quick).mask_seeds == drawn
