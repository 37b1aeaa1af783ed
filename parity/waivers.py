"""Expected divergences: declared in a file with a reason, reported as waived, and refused once they are not needed.

```toml
[[waiver]]
check = "gradients.step"            # a check, under every recipe, or one recipe: "gradients.step[default]"
name = "generic/losses/koleo_loss"  # of the comparison; `*` and `?` stand for any letters and any letter
reason = "KoLeo over both global crops at once, on purpose"
issue = "https://example.org/42"    # optional
expires = 2027-03-31                # optional: the last day on which it holds
```

Strict: a waiver whose comparisons all pass again fails the run (exit 1), as does an expired one; one that matches no
comparison of a check that was run is a mistake in the file (exit 2). A waived divergence is never counted as passed.
"""

from __future__ import annotations

import datetime
import importlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from parity.arguments import nearest
from parity.errors import UsageError
from parity.results import CheckResult, Comparison, WaiverOutcome

__all__ = ["Waiver", "Waivers", "load_waivers", "matches"]

_REQUIRED = ("check", "name", "reason")
_KEYS = (*_REQUIRED, "issue", "expires")


@dataclass(frozen=True)
class Waiver:
    """One expected divergence; see the module for its keys.

    Attributes:
        check: pattern of check ids; without a recipe in brackets it holds under every recipe.
        name: pattern of comparison names.
        reason: why the divergence is accepted.
        issue: where it is discussed.
        expires: the last day on which it holds.
    """

    check: str
    name: str
    reason: str
    issue: str = ""
    expires: datetime.date | None = None

    def about(self, check_id: str) -> bool:
        """Whether it is about a check."""
        return matches(self.check, check_id) or matches(self.check, check_id.split("[")[0])


def matches(pattern: str, text: str) -> bool:
    """Whether a text matches a pattern in which `*` and `?` alone are special: ids and names hold brackets."""
    regex = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(regex, text, re.DOTALL) is not None


def load_waivers(path: Path, checks: Sequence[str] = ()) -> tuple[Waiver, ...]:
    """Read a file of waivers.

    Args:
        path: a TOML file.
        checks: ids of every check there is; a waiver must be about one of them, unless empty.

    Raises:
        UsageError: it cannot be read, or holds something that is no complete waiver.
    """
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document = parser.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"the waivers {path} cannot be read ({error.strerror}); give a TOML file") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"the waivers {path} are no TOML: {error}") from error
    other = [key for key in document if key != "waiver"]
    tables = document.get("waiver", [])
    if other or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"the waivers {path} hold {other or ['waiver']}, expected [[waiver]] tables alone")
    return tuple(_waiver(table, f"{path}, waiver {place}", checks) for place, table in enumerate(tables, start=1))


def _waiver(table: Mapping[str, Any], where: str, checks: Sequence[str]) -> Waiver:
    for key in table:
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}, expected {', '.join(_KEYS)}{nearest(key, _KEYS)}")
    for key in _KEYS[:4]:
        value = table.get(key, "" if key == "issue" else None)
        if not isinstance(value, str) or (key in _REQUIRED and not value.strip()):
            given = f"{key} is {value!r}" if key in table else f"it has no {key}"
            why = "; say why the divergence is accepted" if key == "reason" else ""
            raise UsageError(f"{where}: {given}, expected a text{why}")
    expires = table.get("expires")
    if expires is not None and type(expires) is not datetime.date:
        raise UsageError(f"{where}: expires is {expires!r}, expected a date, written 2027-03-31 without quotes")
    waiver = Waiver(table["check"], table["name"], table["reason"], table.get("issue", ""), expires)
    if waiver.check.startswith("files.") or waiver.about("files.identity"):
        raise UsageError(f"{where}: check {waiver.check!r} is about the reference's own files, which cannot be waived")
    if checks and not any(waiver.about(check) for check in checks):
        bases = list(dict.fromkeys(check.split("[")[0] for check in checks))
        raise UsageError(
            f"{where}: no check is called {waiver.check!r}{nearest(waiver.check, bases)}; "
            "`python -m parity list` shows them"
        )
    return waiver


class Waivers:
    """The waivers of one run, and what became of each.

    Args:
        waivers: in the order of their file; the first that matches counts.
        today: decides which have expired.
    """

    def __init__(self, waivers: Iterable[Waiver] = (), today: datetime.date | None = None) -> None:
        self._waivers = tuple(waivers)
        self._today = today or datetime.date.today()
        self._matched = [0] * len(self._waivers)
        self._waived = [0] * len(self._waivers)

    def applied(self, check_id: str, comparison: Comparison) -> Comparison:
        """Return the comparison, marked as waived where it diverges and a waiver that holds expects that."""
        result = comparison
        for place, waiver in enumerate(self._waivers):
            if not waiver.about(check_id) or not matches(waiver.name, comparison.name):
                continue
            self._matched[place] += 1
            if not comparison.passed:
                self._waived[place] += 1
                if not self._expired(waiver) and not result.waived:
                    result = replace(comparison, waived=waiver.reason)
        return result

    def outcomes(self, checks: Sequence[CheckResult]) -> list[WaiverOutcome]:
        """Return what became of each waiver in a run of the given checks."""
        return [self._outcome(place, waiver, checks) for place, waiver in enumerate(self._waivers)]

    def _outcome(self, place: int, waiver: Waiver, checks: Sequence[CheckResult]) -> WaiverOutcome:
        judged = [c for c in checks if waiver.about(c.id)]
        # A check that ended early may not have come to what the waiver is about.
        whole = bool(judged) and not any(c.status in ("error", "not_run") for c in judged)
        problem: Literal["", "expired", "no longer needed", "matches nothing"] = ""
        if self._expired(waiver):
            problem = "expired"
        elif whole and not self._matched[place]:
            problem = "matches nothing"
        elif whole and not self._waived[place]:
            problem = "no longer needed"
        expires = waiver.expires.isoformat() if waiver.expires else ""
        held = 0 if problem == "expired" else self._waived[place]
        return WaiverOutcome(
            waiver.check, waiver.name, waiver.reason, waiver.issue, expires, self._matched[place], held, problem
        )

    def _expired(self, waiver: Waiver) -> bool:
        return waiver.expires is not None and waiver.expires < self._today
