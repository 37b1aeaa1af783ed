"""Whole runs in this process: verdicts of the built-in subjects, and nothing left behind."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from parity.checks import FAMILIES
from parity.errors import ReferenceSourceError, SubjectError, UsageError
from parity.recipes import RECIPES
from parity.results import CheckResult, RunResult
from parity.run import Options, plan, planned_checks, run


@pytest.fixture(scope="module")
def port_run() -> RunResult:
    """The quick run of `port` under the default recipe."""
    return run(Options(reference="pypi", recipes=("default",), quick=True))


@pytest.fixture(scope="module")
def legacy_run() -> RunResult:
    """The quick run of the document's "This Implementation"."""
    return run(Options(reference="pypi", subject="legacy", recipes=("default",), quick=True))


@pytest.fixture(scope="module")
def document_run() -> RunResult:
    """The quick run of the document's proposed code."""
    return run(Options(reference="pypi", subject="document", recipes=("default",), quick=True))


def findings(result: RunResult) -> dict[str, list[str]]:
    """Return the sentences of a run by id."""
    found: dict[str, list[str]] = {}
    for check in result.checks:
        for finding in check.findings:
            found.setdefault(finding.id, []).append(finding.sentence)
    return found


def checks(result: RunResult, family: str) -> Iterator[CheckResult]:
    """Yield the checks of a family."""
    return (check for check in result.checks if check.family == family)


def test_port_is_at_parity(port_run: RunResult) -> None:
    """Every check that ran passed, every family compared something, and the exit code is 0."""
    assert [c.id for c in port_run.checks if c.status in ("diverged", "error")] == []
    assert {c.family for c in port_run.checks if c.compared} == set(FAMILIES) - {"distributed"}
    assert port_run.exit_code == 0


def test_port_step_is_bitwise_equal_in_fp32(port_run: RunResult) -> None:
    """Losses, gradients, updated weights, teacher and centres of the step are equal bit for bit (T0)."""
    (step,) = checks(port_run, "gradients")
    exact = [c for c in step.comparisons if c.tier == "T0"]
    for part in ("losses", "gradients", "clipped_gradients", "parameters", "teacher", "centers"):
        assert any(f"/{part}/" in f"/{c.name}" for c in exact), part
    assert all(c.bitwise for c in exact)


def test_prototype_loss_is_compared(port_run: RunResult) -> None:
    """Official has none; `port`'s passes by its definition: one mode, whose gradient is on masked tokens alone."""
    found = {c.id: (c.status, c.compared) for c in port_run.checks if c.family == "prototype"}
    assert found["prototype.support"] == ("passed", 2)
    assert found["prototype.definition"][0] == "passed"


def test_legacy_is_attributed_to_all_seven_differences(legacy_run: RunResult) -> None:
    """Exit 1, and each difference is named with the number that shows it."""
    found = findings(legacy_run)
    assert legacy_run.exit_code == 1
    assert sorted(found) == ["", "0001", "0002", "0003", "0004", "0005", "0006", "0007"]
    assert any("grey are 0% of view global_1" in sentence for sentence in found[""])  # its views, which no number names
    for identity, words in {
        "0001": "9 images of 96 px pass through the student (3 per image",
        "0002": "3 global views per image",
        "0003": "connected components per mask",
        "0004": "mode 'visible' puts 100% of its gradient on unmasked tokens",
        "0005": "divided by the total number of masked tokens",
        "0006": "keep weight decay 0.01 at every step",
        "0007": "one learning rate for all",
    }.items():
        assert any(words in sentence for sentence in found[identity]), (identity, found[identity])


def test_legacy_equal_parts_are_not_accused(legacy_run: RunResult) -> None:
    """Backbone, heads, DINO loss, KoLeo, Sinkhorn and centering equal official's in the legacy stack, and pass.

    How it prepares training is not known, and so not run.
    """
    for check in legacy_run.checks:
        if check.id.startswith("modules.start"):
            assert check.status == "not_run"
            assert check.reason == "start_state: the document does not show how training is prepared"
        elif check.family == "modules" or check.id in ("losses.dino", "losses.koleo", "losses.sinkhorn"):
            assert check.status == "passed", check.id


def test_legacy_shows_masks_and_rates(legacy_run: RunResult) -> None:
    """A picture of both masks and a table of (lr, wd) come with the divergence."""
    kinds = {(check.family, exhibit.kind) for check in legacy_run.checks for exhibit in check.exhibits}
    assert ("masks", "masks") in kinds
    assert ("param_groups", "table") in kinds


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ("0003", "masks overshoot"),
        ("0003", "masks are drawn per crop"),
        ("0003", "float64"),
        ("0005", "masks_weight has one entry per row"),
        ("0007", "LayerScale gamma parameters are decayed"),
        ("0007", "mask_token has multiplier 1"),
        ("0007", "register_tokens have multiplier 1"),
        ("0007", "chunked blocks"),
        ("0007", "no groups for dino_head"),
        ("0006", "`i % 2 == 0`"),
        ("", "grey are 0% of view"),
        ("", "blurred are 0% of global view 1, 0% of view 2"),
    ],
)
def test_document_errors_are_named(document_run: RunResult, identity: str, words: str) -> None:
    """The document's proposed code still differs from official's, in the ways that it was audited for."""
    assert document_run.exit_code == 1
    assert any(words in sentence for sentence in findings(document_run)[identity])


def test_a_run_leaves_the_process_as_it_was() -> None:
    """Modules, environment, generators, torch's settings and patches, and the process group are restored."""
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    torch.set_num_threads(1)
    before = _snapshot()
    run(Options(reference="pypi", recipes=("default",), only=("masks", "gradients"), quick=True, seeds=10))
    after = _snapshot()
    for name, value in before.items():
        assert after[name] == value, name


def _snapshot() -> dict[str, object]:
    return {
        "modules": sorted(n for n in sys.modules if n.split(".")[0] in ("dinov2", "xformers")),
        "meta_path": list(sys.meta_path),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "cuda": torch.Tensor.cuda,
        "synchronize": torch.cuda.synchronize,
        "group": dist.is_initialized(),
        "filters": list(warnings.filters),
    }


def test_plan_covers_every_family_and_recipe() -> None:
    """Without options each family and each recipe is planned; quick leaves out variants and full size."""
    planned = plan(Options())
    assert {p.check.family for p in planned} == set(FAMILIES)
    assert {p.recipe.name for p in planned if p.recipe} == {r.name for r in RECIPES}
    quick = {p.recipe.name for p in plan(Options(quick=True)) if p.recipe}
    assert quick == {"default", "vitl14", "vitg14"}
    assert "distributed" not in {p.check.family for p in plan(Options(quick=True))}
    named = plan(Options(quick=True, only=("distributed",)))
    assert [p.id for p in named][:3] == ["distributed.sinkhorn", "distributed.centering", "distributed.step[default]"]


def test_level_and_family_limit_the_plan() -> None:
    """`--level L1 --only masks` plans the masks alone; L0 plans the files alone."""
    only = planned_checks(Options(level="L1", only=("masks", "gradients")))
    assert {family for _, family, *_ in only} == {"masks"}
    assert [identity for identity, *_ in planned_checks(Options(level="L0"))] == ["files.identity"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (Options(recipes=("vitl41",)), UsageError, "did you mean 'vitl14'"),
        (Options(subject="missing.py"), SubjectError, "missing.py does not exist"),
        (Options(subject="prot"), SubjectError, "unknown subject 'prot'"),
        (Options(reference="/nowhere/at/all"), ReferenceSourceError, "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(options: Options, error: type[Exception], words: str) -> None:
    """An unknown recipe, subject or reference raises an error that names it."""
    if options.reference == "auto":
        options = Options(**{**options.__dict__, "reference": "pypi"})
    with pytest.raises(error, match=words) as caught:
        run(options)
    assert "\n" not in str(caught.value)


def test_an_adapter_with_one_capability_is_judged_on_it(tmp_path: Path) -> None:
    """A file that offers only `koleo_loss` passes that check; all others are not run, and none counts as passed."""
    adapter = tmp_path / "mine.py"
    adapter.write_text(
        "import torch\n"
        "def koleo_loss(x):\n"
        "    x = torch.nn.functional.normalize(x, eps=1e-8, dim=-1)\n"
        "    near = (x @ x.T).fill_diagonal_(-1).argmax(1)\n"
        "    gap = (x - x[near] + 1e-8).norm(dim=-1)\n"
        "    return -(gap + 1e-8).log().mean()\n"
    )
    result = run(Options(reference="pypi", subject=str(adapter), only=("losses",), quick=True))
    assert {c.id: c.status for c in result.checks if c.status != "not_run"} == {"losses.koleo": "passed"}
    assert result.exit_code == 0


def test_an_adapter_that_raises_is_an_error_of_its_check_alone(tmp_path: Path) -> None:
    """The exception, file and line are reported; without any comparison the exit code is 2."""
    adapter = tmp_path / "mine.py"
    adapter.write_text("def koleo_loss(x):\n    raise ValueError('not today')\n")
    result = run(Options(reference="pypi", subject=str(adapter), only=("losses",), quick=True))
    check = next(c for c in result.checks if c.id == "losses.koleo")
    assert check.status == "error"
    assert "ValueError: not today" in check.reason
    assert "mine.py:2" in check.reason
    assert result.exit_code == 2


def test_an_edited_reference_is_identified_whatever_is_asked_for(official_copy: Path) -> None:
    """`--only losses` on an allowed edit that no loss runs still compares the files, and so denies parity."""
    path = official_copy / "dinov2/data/masking.py"
    path.write_text(path.read_text().replace("if delta > 0:", "if delta > 1:"))
    result = run(Options(reference=str(official_copy), allow_modified_reference=True, only=("losses",), quick=True))
    assert result.checks[0].id == "files.identity"
    assert {c.family for c in result.checks} == {"files", "losses"}
    assert [c.id for c in result.checks if c.status == "diverged"] == ["files.identity"]
    assert result.exit_code == 1


def test_a_module_that_exits_on_import_is_located(official_copy: Path) -> None:
    """`sys.exit(0)` in an edited module that opening imports is one error with its line, not an exit."""
    path = official_copy / "dinov2/__init__.py"
    path.write_text(path.read_text() + "\nimport sys\nsys.exit(0)\n")
    options = Options(reference=str(official_copy), allow_modified_reference=True, only=("losses",), quick=True)
    with pytest.raises(ReferenceSourceError, match=r"cannot be imported: .*SystemExit: 0 at .*__init__\.py:") as caught:
        run(options)
    assert "\n" not in str(caught.value)
