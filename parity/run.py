"""A run: open the reference and the subject, check the instrument, make every planned check, gather the result."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from parity.adapters.official import OfficialStack
from parity.attribution.reference import attribute_modified_reference
from parity.checks import CHECKS, Check, Context, run_check
from parity.checks.base import describe_error
from parity.doctor import examine
from parity.errors import NoVerdictError, ReferenceSourceError
from parity.ranks import Ranks
from parity.recipes import RECIPES, SMALL_ARCHITECTURES, Recipe, select_recipes
from parity.reference import Reference, open_reference
from parity.results import Comparison, ReferenceInfo, RunResult
from parity.stack import stack_name
from parity.subjects import open_subject
from parity.waivers import Waivers, load_waivers

__all__ = ["Options", "Planned", "plan", "planned_checks", "run"]

_LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5")
_SEEDS = 4000
_QUICK_SEEDS = 600

ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        reference: `auto`, `github`, `pypi` or a folder.
        allow_modified_reference: go on with code that is not official's.
        subject: `port`, `legacy`, `document`, `FILE.py` or `MODULE:ATTR`.
        recipes: names; empty for all.
        level: the highest level that is run.
        only: families; empty for all.
        seeds: masks drawn per check; 0 for the default of the run's length.
        quick: the three recipes without variants, fewer seeds, no full-size step, a short training, and no ranks
            unless `only` names them.
        waivers: a file of expected divergences, see `parity.waivers`; empty for none.
    """

    reference: str = "auto"
    allow_modified_reference: bool = False
    subject: str = "port"
    recipes: tuple[str, ...] = ()
    level: str = "L5"
    only: tuple[str, ...] = ()
    seeds: int = 0
    quick: bool = False
    waivers: str = ""

    @property
    def mask_seeds(self) -> int:
        """Masks to draw per check."""
        return self.seeds or (_QUICK_SEEDS if self.quick else _SEEDS)


@dataclass(frozen=True)
class Planned:
    """A check under a recipe, or under none."""

    check: Check
    recipe: Recipe | None

    @property
    def id(self) -> str:
        """The id that its result will have."""
        return f"{self.check.id}[{self.recipe.name}]" if self.recipe else self.check.id


def plan(options: Options) -> list[Planned]:
    """Return what a run would do, in order.

    Raises:
        UsageError: a recipe is not known.
    """
    recipes = select_recipes(options.recipes, quick=options.quick)
    planned = []
    for check in CHECKS:
        if options.only and check.family not in options.only:
            continue
        if _LEVELS.index(check.level) > _LEVELS.index(options.level):
            continue
        if options.quick and check.level == "L5" and not options.only:
            continue  # four processes that import torch take as long as all the rest
        if check.recipes == "none":
            planned.append(Planned(check, None))
        planned += [Planned(check, recipe) for recipe in recipes if _applies(check, recipe, options)]
    return planned


def _applies(check: Check, recipe: Recipe, options: Options) -> bool:
    if recipe.heavy:
        return check.id == "gradients.step" and not options.quick
    if check.recipes == "main":
        return not recipe.is_variant
    return check.recipes == "all"


def planned_checks(options: Options) -> list[tuple[str, str, str, str, tuple[str, ...], tuple[str, ...]]]:
    """Return (id, family, level, title, official files, capabilities) of everything a run would do."""
    return [
        (p.id, p.check.family, p.check.level, p.check.title, p.check.official, _needs(p.check)) for p in plan(options)
    ]


def _needs(check: Check) -> tuple[str, ...]:
    """Return what a check needs, in words where one of several capabilities will do."""
    return (*check.needs, " or ".join(check.either)) if check.either else check.needs


def run(options: Options, progress: ProgressCallback | None = None) -> RunResult:
    """Compare the subject with the reference.

    Everything that the run touches in this process is as it was afterwards: see `parity.reference`.

    Args:
        options: what to compare.
        progress: called with (title, done, total) before each check and once at the end.

    Raises:
        ParityError: the job cannot be done: reference or subject cannot be loaded, or the instrument is unsound.
    """
    start, started = time.perf_counter(), datetime.now(timezone.utc)
    planned = plan(options)
    waivers = opened_waivers(options)
    threads = torch.get_num_threads()
    notify = progress or (lambda *_: None)
    with (
        opened(options) as (reference, official),
        Ranks(reference.info, options.subject) as ranks,
        open_subject(options.subject) as subject,
    ):
        planned = _with_identity(planned, reference.info)
        notify("self-check", 0, len(planned) + 1)
        _use_threads(None, threads)
        examined = examine(official, select_recipes(("default",), quick=True)[0])
        _require_sound(examined, reference.info)
        results, shared = [], dict[str, dict[str, Any]]()
        for done, item in enumerate(planned, start=1):
            notify(item.id, done, len(planned) + 1)
            _use_threads(item.recipe, threads)
            given = (official, reference.info, subject, item.recipe, options.mask_seeds, options.quick)
            left = shared.setdefault(item.recipe.name if item.recipe else "", {})
            context = Context(*given, shared=left, ranks=ranks, waivers=waivers)
            results.append(run_check(item.check, context))
        notify("done", len(planned) + 1, len(planned) + 1)
        attribute_modified_reference(reference.info, results)
        return RunResult(
            reference=reference.info,
            subject=stack_name(subject),
            checks=results,
            doctor=examined,
            environment=_environment(threads),
            options={**asdict(options), "recipes": sorted({r.name for r in _recipes(planned)})},
            seconds=time.perf_counter() - start,
            started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
            waivers=waivers.outcomes(results),
        )


def opened_waivers(options: Options) -> Waivers:
    """Return the waivers of a run.

    Raises:
        UsageError: their file cannot be read, or is about checks that do not exist.
    """
    if not options.waivers:
        return Waivers()
    return Waivers(load_waivers(Path(options.waivers), [item.id for item in plan(Options())]))


def _with_identity(planned: list[Planned], info: ReferenceInfo) -> list[Planned]:
    """Put the identity of a reference that is not official first, whatever `--only` names: else it could pass."""
    if info.identity == "verified" or any(item.check.family == "files" for item in planned):
        return planned
    return [*(Planned(check, None) for check in CHECKS if check.family == "files"), *planned]


def _use_threads(recipe: Recipe | None, available: int) -> None:
    """Compute small recipes on one thread, full-size ones on all; `open_reference` restores the count.

    Tensors this small are slower on several threads, many times so on a busy machine, and one thread adds in one
    order: the backward of official KoLeo's indexing is not reproducible on several.
    """
    torch.set_num_threads(available if recipe is not None and recipe.heavy else 1)


def _require_sound(examined: list[Comparison], info: ReferenceInfo) -> None:
    """Refuse a verdict of an unsound instrument.

    An edited reference may itself be what fails: it was allowed, so its other checks are still made, the report
    shows the failed self-check, and `files.identity` denies parity.

    Raises:
        NoVerdictError: a self-check failed on official code.
    """
    unsound = [c for c in examined if not c.passed]
    if unsound and info.identity == "verified":
        raise NoVerdictError(
            f"the instrument failed its own check, so no verdict: {unsound[0].name}: {unsound[0].note}; "
            "see `python -m parity doctor`: where that is sound, loading the subject changed something it shares"
        )


@contextmanager
def opened(options: Options) -> Iterator[tuple[Reference, OfficialStack]]:
    """Open the reference and wrap it as a stack."""
    with open_reference(options.reference, allow_modified=options.allow_modified_reference) as reference:
        try:
            official = OfficialStack(reference, SMALL_ARCHITECTURES)
        except (Exception, SystemExit) as error:
            if reference.info.identity == "verified":
                raise
            raise ReferenceSourceError(
                f"the edited reference {reference.root} cannot be imported: {describe_error(error, 'the reference')}; "
                f"{'; '.join(reference.info.modified)}"
            ) from error
        yield reference, official


def _recipes(planned: list[Planned]) -> list[Recipe]:
    names = {p.recipe.name for p in planned if p.recipe}
    return [recipe for recipe in RECIPES if recipe.name in names]


def _environment(available: int) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": f"1, {available} for full-size steps",
        "platform": platform.platform(terse=True),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
