"""What a check is: a function of (reference, subject, recipe, seed) that yields comparisons of named things."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from parity.errors import NoVerdictError, SubjectError
from parity.judge import Failed
from parity.own_randomness import why_not_compared
from parity.ranks import Ranks
from parity.recipes import FEATURES, Recipe
from parity.results import CheckResult, Comparison, Exhibit, Finding, ReferenceInfo
from parity.stack import capability, stack_name
from parity.trace.course import MOST_FAULTS
from parity.trace.locate import locate
from parity.waivers import Waivers

__all__ = ["FAMILIES", "Check", "Context", "NotRunError", "Observation", "Partly", "describe_error", "run_check"]

FAMILIES = (
    "files",
    "masks",
    "collate",
    "augment",
    "losses",
    "prototype",
    "schedules",
    "param_groups",
    "modules",
    "gradients",
    "trajectory",
    "checkpoint",
    "distributed",
)


@dataclass(frozen=True)
class Partly:
    """Says that a check compares only in part, and why; listed beside what was not run."""

    reason: str


Observation = Comparison | Finding | Exhibit | Partly


class NotRunError(Exception):
    """The check does not apply here; the message says why. It is listed, and never counts as passed."""


@dataclass
class Context:
    """What a check is given.

    Attributes:
        reference: the official stack.
        reference_info: where it came from.
        subject: the stack under test.
        recipe: the configuration; None for checks that do not depend on one.
        seeds: how many seeds the mask checks draw; other checks scale with it.
        quick: true where the user asked for the minute-long run.
        shared: results that one check leaves for another under the same recipe.
        failed: computations whose meaning differs, left by the check's judges for `parity.trace`.
        memory: what the reference gave, kept for the same check of another subject; None where there is none.
        ranks: starts two processes of each side; None where there can be none.
        waivers: divergences that are expected.
        faults: how many faults `parity.trace` puts official's values in at; with 0 only the first is told.
    """

    reference: Any
    reference_info: ReferenceInfo
    subject: Any
    recipe: Recipe | None
    seeds: int
    quick: bool
    shared: dict[str, Any] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    memory: dict[str, Any] | None = None
    ranks: Ranks | None = None
    waivers: Waivers = field(default_factory=Waivers)
    faults: int = MOST_FAULTS

    def required_recipe(self) -> Recipe:
        """Return the recipe of a check that depends on one.

        Raises:
            NotRunError: this official code predates what the recipe needs.
        """
        assert self.recipe is not None
        if self.recipe.since and self.recipe.since not in self.reference.features:
            raise NotRunError(
                f"{self.reference_info.version} lacks {FEATURES[self.recipe.since]}; "
                "use --reference github, or the folder of a newer official commit"
            )
        return self.recipe


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        id: `family.name`.
        level: `L0` … `L5`.
        title: one line: what is compared.
        official: official files and lines that the reference side executes.
        needs: capabilities that the subject must offer.
        run: the check itself.
        recipes: `none`, `main` (the three recipes), `all` (their variants too).
        draws: capabilities whose random draws it compares bit for bit; not run where one is the subject's own, see
            `parity.own_randomness`.
        either: capabilities of which the subject must offer at least one.
    """

    id: str
    level: str
    title: str
    official: tuple[str, ...]
    needs: tuple[str, ...]
    run: Callable[[Context], Iterator[Observation]]
    recipes: Literal["none", "main", "all"] = "none"
    draws: tuple[str, ...] = ()
    either: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The family that the check belongs to."""
        return self.id.split(".")[0]


def run_check(check: Check, context: Context) -> CheckResult:
    """Run one check and gather what it yields; an exception of the subject ends only this check."""
    recipe = context.recipe
    result = CheckResult(
        id=f"{check.id}[{recipe.name}]" if recipe else check.id,
        family=check.family,
        level=check.level,
        status="passed",
        title=check.title,
        official=check.official,
    )
    start = time.perf_counter()
    reason = _why_lacking(context.subject, check)
    if reason:
        result.status, result.reason = "not_run", reason
        return result
    try:
        _require_comparable(context.subject, check)
        for observation in check.run(context):
            _gather(result, observation, context.waivers)
        result.status = "diverged" if result.diverged else "waived" if result.waived else "passed"
        if not result.comparisons:
            result.status, result.reason = "not_run", "nothing was compared"
    except NotRunError as not_run:
        result.status, result.reason = "diverged" if result.diverged else "not_run", str(not_run)
    except NoVerdictError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's stack raises is a result, not our crash or exit
        # What had already diverged stays a divergence; the reason says where the check ended.
        result.status = "diverged" if result.diverged else "error"
        result.reason = describe_error(error, stack_name(context.subject))
    # Where a cause is known, the operations that show it are its consequences; of an edited reference the line is.
    if result.status == "diverged" and not result.findings and context.reference_info.identity == "verified":
        _locate_first(result, context)
    context.failed.clear()
    result.seconds = time.perf_counter() - start
    return result


def _locate_first(result: CheckResult, context: Context) -> None:
    """Add where the first computation that differs begins to: a check's others mostly fail for the same reason."""
    failed = next(iter(context.failed), None)
    if failed is None:
        return
    try:
        findings = locate(failed, context.reference, faults=context.faults)
    except (Exception, SystemExit) as error:  # a stack that fails when it is run again costs only that
        why = describe_error(error, stack_name(context.subject))
        result.reason = result.reason or f"no first operation is named: watched, {why}"
    else:
        result.findings += findings


def _gather(result: CheckResult, observation: Observation, waivers: Waivers) -> None:
    if isinstance(observation, Comparison):
        result.comparisons.append(waivers.applied(result.id, observation))
    elif isinstance(observation, Finding):
        result.findings.append(observation)
    elif isinstance(observation, Partly):
        result.reason = observation.reason
    else:
        result.exhibits.append(observation)


def _require_comparable(subject: object, check: Check) -> None:
    """Raise unless every draw that a check compares bit for bit comes from the stream that official draws from.

    Raises:
        NotRunError: the subject says that one does not.
        SubjectError: what it says cannot be understood.
    """
    reason = why_not_compared(subject, check.draws)
    if reason:
        raise NotRunError(reason)


def _why_lacking(subject: object, check: Check) -> str:
    """Return which capabilities the subject lacks for a check, and why; empty where it offers them."""
    lacking = [name for name in check.needs if capability(subject, name) is None]
    joined = ", ".join(lacking)
    if not lacking and all(capability(subject, name) is None for name in check.either):
        lacking, joined = list(check.either), " or ".join(check.either)
    reasons = getattr(subject, "not_offered", {})
    known = [f"{name}: {reasons[name]}" for name in lacking if name in reasons]
    return "; ".join(known) or (f"{stack_name(subject)} does not offer {joined}" if lacking else "")


def describe_error(error: BaseException, owner: str) -> str:
    """Return one line: whose code raised what, and the innermost line that did.

    Args:
        error: with its traceback.
        owner: the stack to name unless official code is on the way to that line.
    """
    frame = error.__traceback__
    official = False
    while frame is not None and frame.tb_next is not None:
        official |= _is_official(frame.tb_frame.f_globals)
        frame = frame.tb_next
    where = ""
    if frame is not None:
        official |= _is_official(frame.tb_frame.f_globals)
        code = frame.tb_frame.f_code
        where = f" at {code.co_filename}:{frame.tb_lineno} in {code.co_name}"
    kind = "" if isinstance(error, SubjectError) else f"{type(error).__name__}: "
    text = " ".join(str(error).split())
    return f"{'the reference' if official else owner}: {kind}{text}{where}"


def _is_official(module_globals: Mapping[str, Any]) -> bool:
    return str(module_globals.get("__name__", "")).split(".")[0] == "dinov2"
