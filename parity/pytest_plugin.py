"""A pytest plugin that gives each comparison a test id, so that a fork's own CI can choose among them.

    pytest --parity-subject adapter.py --parity-only gradients -k "gradients and blocks.3"

A comparison is called `parity::gradients.step[default]::generic/gradients/backbone.blocks.3.attn.qkv.weight T1`.
Comparisons are found by making the check that they belong to, so collection runs every check that the `--parity-…`
options choose, once, before `-k` and `-m` choose among its comparisons: these save reading; `--parity-only`,
`--parity-recipe`, `--parity-level` and `--parity-quick` save time. Neither torch nor parity's checks are imported
unless `--parity-subject` is given.

Passed and diverged comparisons pass and fail. A check that was not run is skipped with its reason, and one that raised
is an error. A waived divergence (`--parity-waivers`) is an expected failure, and a waiver that failed is a failure.
Where nothing at all was compared there is an error, since skipped tests alone would let pytest exit with 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from parity.arguments import families, level, positive, reference_source, subject_name
from parity.errors import ParityError

if TYPE_CHECKING:
    from parity.results import CheckResult, Comparison, RunResult, WaiverOutcome

__all__ = ["CheckError", "DivergenceError", "pytest_addoption", "pytest_collection_modifyitems"]

_RESULT = pytest.StashKey["RunResult"]()


class DivergenceError(Exception):
    """A comparison exceeds what its rule allows, or a waiver failed."""


class CheckError(Exception):
    """A check raised, or nothing was compared: there is no verdict."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; they are those of `python -m parity run`."""
    group = parser.getgroup("parity", "parity with official DINOv2")
    add = group.addoption
    add(
        "--parity-subject",
        type=subject_name,
        metavar="FILE.py",
        help="compare this stack, a test per comparison",
    )
    add("--parity-reference", type=reference_source, metavar="SOURCE", help="auto, github, pypi or a folder")
    add("--parity-allow-modified-reference", action="store_true", default=None, help="even where it is not official's")
    add("--parity-level", type=level, metavar="L0..L4", help="how far to go (default: L4)")
    add("--parity-only", type=families, action="extend", metavar="FAMILY,…", help="these families alone")
    add("--parity-recipe", action="append", metavar="NAME", help="a configuration; repeatable (default: all)")
    add("--parity-seeds", type=positive, metavar="N", help="masks drawn per check")
    add("--parity-quick", action="store_true", default=None, help="fewer masks, no variants of recipes")
    add("--parity-waivers", metavar="FILE", help="expected divergences (python -m parity explain waivers)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the checks and add their comparisons, before `-k` and `-m` deselect any.

    Raises:
        pytest.UsageError: the job cannot be done, or is split over workers.
    """
    given = _options(config)
    if "subject" not in given:
        if given:
            raise pytest.UsageError("--parity options need --parity-subject FILE.py: there is nothing to compare")
        return
    if hasattr(config, "workerinput"):
        raise pytest.UsageError("--parity-subject: each worker would run every check again; run it without -n")
    from parity.run import Options, run

    try:
        result = run(Options(**given))
    except ParityError as error:
        raise pytest.UsageError(f"parity: {' '.join(str(error).split())}") from error
    config.stash[_RESULT] = result
    items.extend(_items(session, result))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the verdict of the run that the tests were read from."""
    result = config.stash.get(_RESULT, None)
    if result is not None:
        from parity.report.provenance import provenance
        from parity.report.wording import verdict_line

        terminalreporter.section("parity")
        terminalreporter.line(provenance(result.reference))
        for check in result.checks:
            if check.reason and check.status in ("passed", "diverged", "waived"):
                terminalreporter.line(f"in part: {check.id}: {check.reason}")
        terminalreporter.line(verdict_line(result))


def _options(config: pytest.Config) -> dict[str, Any]:
    """Return what was given; what was not keeps its default."""
    names = {
        "reference": "reference",
        "allow_modified_reference": "allow_modified_reference",
        "subject": "subject",
        "level": "level",
        "only": "only",
        "recipe": "recipes",
        "seeds": "seeds",
        "quick": "quick",
        "waivers": "waivers",
    }
    found = {field: config.getoption(f"parity_{option}") for option, field in names.items()}
    return {
        field: tuple(dict.fromkeys(value)) if isinstance(value, list) else value
        for field, value in found.items()
        if value is not None
    }


class _Node(pytest.Collector):
    """`parity`, or one of its checks; it exists for the ids of the tests below it."""

    def collect(self) -> list[pytest.Item]:
        """Return nothing: the tests are added after the checks were run."""
        return []


def _items(session: pytest.Session, result: RunResult) -> Iterator[pytest.Item]:
    root = _Node.from_parent(session, name="parity", nodeid="parity")
    for check in result.checks:
        node = _Node.from_parent(root, name=check.id)
        seen: Counter[str] = Counter()
        for comparison in check.comparisons:
            name = f"{comparison.name} {comparison.tier}"
            seen[name] += 1
            again = f" #{seen[name]}" if seen[name] > 1 else ""
            yield ComparisonTest.from_parent(node, name=name + again, comparison=comparison, check=check)
        if check.status in ("not_run", "error"):
            yield CheckTest.from_parent(node, name=check.status.replace("_", " "), check=check)
    node = _Node.from_parent(root, name="waivers")
    for waiver in result.waivers:
        yield WaiverTest.from_parent(node, name=f"{waiver.check} {waiver.name}", waiver=waiver)
    if not any(check.compared for check in result.checks):
        yield CheckTest.from_parent(root, name="nothing was compared", check=None)


class _Test(pytest.Item):
    """A test that reports what is known already."""

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return the place and the name that a failure is headed by."""
        return self.path, None, self.nodeid

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the message alone: the traceback is parity's."""
        if isinstance(excinfo.value, DivergenceError | CheckError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class ComparisonTest(_Test):
    """One comparison."""

    def __init__(self, *, comparison: Comparison, check: CheckResult, **options: Any) -> None:
        super().__init__(**options)
        self._comparison = comparison
        self._check = check

    def runtest(self) -> None:
        """Pass, fail as expected, or fail.

        Raises:
            DivergenceError: the comparison exceeds what its rule allows.
        """
        if self._comparison.passed:
            return
        if self._comparison.waived:
            pytest.xfail(f"waived: {self._comparison.waived}")
        raise DivergenceError(_told(self._comparison, self._check))


class CheckTest(_Test):
    """A check that was not run or raised; without a check, a run in which nothing was compared."""

    def __init__(self, *, check: CheckResult | None, **options: Any) -> None:
        super().__init__(**options)
        self._check = check

    def setup(self) -> None:
        """Skip or raise, in the phase whose exceptions pytest calls errors.

        Raises:
            CheckError: the check raised, or nothing was compared.
        """
        if self._check is None:
            raise CheckError("nothing was compared, so there is no verdict: see the reasons of what was skipped")
        if self._check.status == "not_run":
            pytest.skip(f"not run: {self._check.reason}")
        raise CheckError(f"{self._check.id} ended: {self._check.reason}")

    def runtest(self) -> None:
        """Never reached: `setup` skips or raises."""
        raise AssertionError(self.nodeid)


class WaiverTest(_Test):
    """One waiver."""

    def __init__(self, *, waiver: WaiverOutcome, **options: Any) -> None:
        super().__init__(**options)
        self._waiver = waiver

    def runtest(self) -> None:
        """Fail where the waiver does.

        Raises:
            DivergenceError: it has expired, is no longer needed or matches nothing.
        """
        if self._waiver.problem:
            from parity.report.waivers import told_waiver

            raise DivergenceError(told_waiver(self._waiver))


def _told(comparison: Comparison, check: CheckResult) -> str:
    from parity.report.wording import attribution, difference

    causes = ", ".join(id_ for id_ in attribution(check.findings) if id_)
    lines = [
        f"{comparison.name} ({comparison.tier}): {difference(comparison)}",
        f"official: {comparison.reference}",
        f"yours:    {comparison.subject}",
        *([f"where:    {comparison.note}"] if comparison.note else []),
        *([f"official code: {', '.join(check.official)}"] if check.official else []),
        *([f"causes named by the check: {causes} (python -m parity explain ID)"] if causes else []),
    ]
    return "\n".join(lines)
