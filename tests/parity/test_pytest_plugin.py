from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from fabricated_results import EQUAL, FAR, VERIFIED, diverged, only_not_run, passing
from omegaconf import OmegaConf

import parity.report.provenance
import parity.report.waivers
import parity.run
from parity.adapters.official import OfficialStack
from parity.checks import CHECKS
from parity.checks.base import Context, run_check
from parity.errors import ReferenceSourceError
from parity.results import CheckResult, RunResult, WaiverOutcome
from port.config import default_config

pytest_plugins = ["pytester"]

# A run in this process forgets every module that it imported first, so these are imported before it.
_KEPT = (parity.report.provenance, parity.report.waivers, parity.run)


@pytest.fixture
def given(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An adapter file, and a run that gives `outcome` and remembers its options."""
    pytester.makepyfile(adapter="koleo_loss = print\n")
    state: dict[str, Any] = {"outcome": passing(), "runs": 0}

    def run(options: Any) -> RunResult:
        state["runs"] += 1
        state["options"] = options
        if isinstance(state["outcome"], BaseException):
            raise state["outcome"]
        result: RunResult = state["outcome"]
        return result

    monkeypatch.setattr(parity.run, "run", run)
    return state


# Collecting garbage after each run, as `unraisableexception` does, takes seconds once torch is there.
_WITHOUT = ("no:cacheprovider", "no:unraisableexception", "no:threadexception", "no:hypothesispytest", "no:benchmark")
_PLUGINS = [word for name in ("parity.pytest_plugin", *_WITHOUT) for word in ("-p", name)]


def _pytest(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*_PLUGINS, "--parity-subject", "adapter.py", *arguments)


def test_each_comparison_is_a_test(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """Four comparisons pass; the verdict is printed below."""
    result = _pytest(pytester, "-rA")
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["PARITY: 4 comparisons*", "PASSED parity::losses.dino[[]default[]]::losses/dino T0"])


def test_k_chooses_by_family_and_block(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """Check and comparison are both part of the id; what is not chosen is deselected."""
    names = ("gradients/backbone.blocks.3.attn.qkv.weight", "gradients/backbone.blocks.2.attn.qkv.weight")
    check = CheckResult("gradients.step[default]", "gradients", "L3", "passed", "")
    check.comparisons += [replace(EQUAL, name=name, tier=tier) for name in names for tier in ("T1", "T2")]
    given["outcome"] = replace(passing(), checks=[*passing().checks, check])
    result = _pytest(pytester, "-k", "gradients and blocks.3")
    result.assert_outcomes(passed=2, deselected=6)


def test_a_divergence_fails_with_both_values(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """Names, sizes and causes rather than parity's own traceback; skipped and error for the rest."""
    given["outcome"] = diverged()
    result = _pytest(pytester, "-rsE")
    result.assert_outcomes(passed=5, failed=130, skipped=1, errors=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*masks.block[[]vitl14[]] ended: ValueError: size 0*",
            "official: 0.79499",
            "yours:    0.01000",
            "where:    index (0, 0, 7)",
            "causes named by the check: 0005, Q3*",
            "SKIPPED*not run: no capability build_head*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_names_that_come_twice_are_numbered(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """Test ids are unique."""
    check = CheckResult("losses.x", "losses", "L1", "passed", "", comparisons=[EQUAL, EQUAL])
    given["outcome"] = replace(passing(), checks=[check])
    _pytest(pytester, "-rA").stdout.fnmatch_lines(["*::losses/dino T0", "*::losses/dino T0 #2"])


def test_nothing_compared_is_an_error(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """Skipped tests alone would let pytest exit with 0."""
    given["outcome"] = only_not_run()
    result = _pytest(pytester)
    result.assert_outcomes(skipped=1, errors=1)
    assert result.ret == 1


def test_waivers_are_expected_failures(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """Neither passed nor failed; a waiver that failed is a failure of its own."""
    check = CheckResult("losses.koleo", "losses", "L1", "waived", "", comparisons=[replace(FAR, waived="on purpose")])
    holds = WaiverOutcome("losses.koleo", "*", "on purpose", "", "", 1, 1)
    given["outcome"] = replace(passing(), checks=[check], waivers=[holds])
    result = _pytest(pytester, "--parity-waivers", "w.toml", "-rx")
    result.assert_outcomes(xfailed=1, passed=1)
    assert result.ret == 0
    assert given["options"].waivers == "w.toml"
    given["outcome"] = replace(passing(), waivers=[replace(holds, waived=0, problem="no longer needed")])
    result = _pytest(pytester)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*NO LONGER NEEDED*"])


def test_options_reach_the_run(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """As those of the command line; what is not given keeps its default."""
    _pytest(
        pytester,
        "--parity-only",
        "losses,masks",
        "--parity-level",
        "l2",
        "--parity-quick",
        "--parity-recipe",
        "default",
    )
    options = given["options"]
    assert (options.subject, options.only, options.level) == ("adapter.py", ("losses", "masks"), "L2")
    assert (options.quick, options.recipes, options.reference) == (True, ("default",), "auto")


def test_what_cannot_be_done_is_one_line(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """A usage error of pytest's, exit code 4, and no traceback."""
    given["outcome"] = ReferenceSourceError("no network;\nuse --reference PATH")
    result = _pytest(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: parity: no network; use --reference PATH"])


@pytest.mark.parametrize(
    ("option", "told"), [("--parity-level=L9", "unknown level 'L9'"), ("--parity-only=x", "unknown family")]
)
def test_bad_values_are_refused(pytester: pytest.Pytester, given: dict[str, Any], option: str, told: str) -> None:
    """In the words of the command line."""
    result = _pytest(pytester, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{told}*"])
    assert given["runs"] == 0


def test_options_without_a_subject_are_refused(pytester: pytest.Pytester) -> None:
    """A CI whose subject got lost must not pass for having nothing to compare."""
    result = pytester.runpytest_inprocess(*_PLUGINS, "--parity-quick")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*need --parity-subject FILE.py*"])


def test_workers_are_refused(pytester: pytest.Pytester, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would run every check again."""
    monkeypatch.setattr(pytest.Config, "workerinput", {}, raising=False)
    result = _pytest(pytester, "-p", "no:xdist")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert given["runs"] == 0
    result.stderr.fnmatch_lines(["*run it without -n*"])


def test_other_tests_run_beside_them(pytester: pytest.Pytester, given: dict[str, Any]) -> None:
    """And the checks are run once, whatever is chosen."""
    pytester.makepyfile(test_own="def test_own(): pass\n")
    _pytest(pytester).assert_outcomes(passed=5)
    assert given["runs"] == 1


def test_without_a_subject_nothing_happens(pytester: pytest.Pytester) -> None:
    """Other runs neither import torch nor parity's checks, nor get tests."""
    pytester.makepyfile(
        test_own="import sys\n\n\ndef test_own():\n    assert not {'torch', 'parity.run'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", *_PLUGINS, "-p", "no:xdist"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_real_check_is_chosen_from(
    pytester: pytest.Pytester, given: dict[str, Any], official_stack: OfficialStack
) -> None:
    """Official's defaults but for one, against official code: of the keys chosen, that one fails, by its name."""

    class Fork:
        def default_config(self) -> dict[str, Any]:
            config: dict[str, Any] = OmegaConf.to_container(default_config())  # type: ignore[assignment] # a mapping
            config["optim"]["clip_grad"] = 1.0
            return config

    (check,) = (check for check in CHECKS if check.id == "schedules.defaults")
    made = run_check(check, Context(official_stack, VERIFIED, Fork(), None, 1, True))
    given["outcome"] = RunResult(VERIFIED, "fork", [made])
    result = _pytest(pytester, "-k", "defaults and optim")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED parity::schedules.defaults::default/optim.clip_grad T0*"])
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"] > 10, outcomes["deselected"] > 50) == (1, True, True)
