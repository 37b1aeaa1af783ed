"""Read a JSON report of `python -m parity run`, schema 1, and refuse everything else with what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from parity.errors import ReportError
from parity.report.json_report import SCHEMA
from parity.report.records import Record, number_of, records_of
from parity.results import Status

__all__ = ["INSTRUMENT", "Check", "Report", "load_report"]

INSTRUMENT = "instrument"
"""The id under which a run's self-checks are compared."""

_WRITTEN_BY = "what `python -m parity run --json FILE` writes"
_STATUSES = get_args(Status)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Check:
    """A check of a report.

    Attributes:
        id: `family.check[recipe]`.
        status: passed, diverged, not_run or error.
        reason: why it was not run or ran only in part, or what was raised.
        compared: number of comparisons.
        diverged: number of these that failed.
        causes: ids of its findings, root cause first.
        records: every comparison, in order; None where the report does not hold them.
    """

    id: str
    status: str
    reason: str
    compared: int
    diverged: int
    causes: tuple[str, ...]
    records: tuple[Record, ...] | None

    @property
    def within(self) -> int:
        """Number of comparisons within tolerance."""
        return self.compared - self.diverged


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        path: the file.
        settings: provenance and options by dotted name, e.g. `reference.version`; values as JSON has them.
        exit_code: the run's.
        causes: ids named by any diverged check, in order.
        checks: by id, in order; the self-checks, where there are any, as `INSTRUMENT`.
    """

    path: Path
    settings: Mapping[str, Any]
    exit_code: int
    causes: tuple[str, ...]
    checks: Mapping[str, Check]

    @property
    def has_records(self) -> bool:
        """Whether every comparison is there by name."""
        return all(check.records is not None for check in self.checks.values())


def load_report(path: Path) -> Report:
    """Return the report in a file.

    Raises:
        ReportError: the file cannot be read, is no JSON, or is not a report of schema 1.
    """
    document = _parsed(path)
    if not isinstance(document, dict) or "schema" not in document:
        what = f"a JSON {_kind(document)}" + " without 'schema'" * isinstance(document, dict)
        raise ReportError(f"{path}: {what}, expected {_WRITTEN_BY}")
    schema = document["schema"]
    if isinstance(schema, bool) or schema != SCHEMA:
        raise ReportError(
            f"{path}: schema {schema!r}, this version reads schema {SCHEMA}; compare with the version that wrote it"
        )
    try:
        return _report(path, document)
    except _WrongError as wrong:
        raise ReportError(f"{path}: {wrong}; expected {_WRITTEN_BY}, unchanged") from wrong


def _parsed(path: Path) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        what = "it is a folder" if path.is_dir() else error.strerror or str(error)
        raise ReportError(f"cannot read {path}: {what}; expected {_WRITTEN_BY}") from error
    if not content.strip():
        raise ReportError(f"{path}: the file is empty, expected {_WRITTEN_BY}")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: byte {error.start} is not UTF-8, expected {_WRITTEN_BY}") from error
    except json.JSONDecodeError as error:
        cut = " (it ends too early: was it cut off?)" if error.pos >= len(content.decode("utf-8-sig").rstrip()) else ""
        where = f"line {error.lineno}, column {error.colno}"
        raise ReportError(f"{path}: no JSON: {error.msg} at {where}{cut}; expected {_WRITTEN_BY}") from error
    except (ValueError, RecursionError) as error:  # numbers of more digits than Python reads; nested without end
        raise ReportError(f"{path}: no JSON that can be read: {error}; expected {_WRITTEN_BY}") from error


class _WrongError(Exception):
    """What is wrong, without the file's name."""


def _report(path: Path, document: dict[str, Any]) -> Report:
    reference, options = _get(document, "reference", dict), _get(document, "options", dict)
    settings = {f"reference.{key}": value for key, value in reference.items()}
    settings["subject"] = _get(document, "subject", str)
    settings |= {f"environment.{key}": value for key, value in _get(document, "environment", dict).items()}
    settings |= {f"options.{key}": value for key, value in options.items()}
    names = _get(document, "names", list) if "names" in document else None
    if names is not None and not all(map(_is_pair, names)):
        raise _WrongError("'names' holds something that is not a pair of strings, tier and name")
    checks: dict[str, Check] = {}
    for place, entry in enumerate(_get(document, "checks", list)):
        check = _check(entry, f"checks[{place}]", names)
        if check.id in checks:
            raise _WrongError(f"two checks have the id {check.id!r}")
        checks[check.id] = check
    self_checks = _get(document, "doctor", list)
    if self_checks:
        checks[INSTRUMENT] = _instrument(self_checks)
    return Report(
        path=path,
        settings=settings,
        exit_code=_get(document, "exit_code", int),
        causes=_strings(_get(document, "summary", dict), "attribution", "summary"),
        checks=checks,
    )


def _check(entry: Any, where: str, names: list[list[str]] | None) -> Check:
    if not isinstance(entry, dict):
        raise _WrongError(f"{where} is a JSON {_kind(entry)}, not an object")
    status = _get(entry, "status", str, where)
    if status not in _STATUSES:
        raise _WrongError(f"{where}.status is {status!r}, not one of {', '.join(_STATUSES)}")
    check = Check(
        id=_get(entry, "id", str, where),
        status=status,
        reason=_get(entry, "reason", str, where),
        compared=_get(entry, "compared", int, where),
        diverged=_get(entry, "diverged", int, where),
        causes=_strings(entry, "attribution", where),
        records=None,
    )
    if names is None:
        return check
    try:
        records = tuple(records_of(entry, names))
    except (KeyError, TypeError, ValueError) as error:
        raise _WrongError(f"the comparisons of {where} ({check.id}) cannot be read: {error}") from error
    if (len(records), sum(not r.passed for r in records)) != (check.compared, check.diverged):
        raise _WrongError(
            f"{where} ({check.id}) counts {check.compared} comparisons of which {check.diverged} diverged, "
            f"and lists {len(records)} of which {sum(not r.passed for r in records)} did"
        )
    return replace(check, records=records)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _instrument(entries: list[Any]) -> Check:
    records = []
    for place, entry in enumerate(entries):
        where = f"doctor[{place}]"
        if not isinstance(entry, dict):
            raise _WrongError(f"{where} is a JSON {_kind(entry)}, not an object")
        name, tier = _get(entry, "name", str, where), _get(entry, "tier", str, where)
        passed, bitwise = _get(entry, "passed", bool, where), _get(entry, "bitwise", bool, where)
        try:
            sizes = number_of(entry.get("error")), number_of(entry.get("allowed"))
        except ValueError as error:
            raise _WrongError(f"{where}: {error}") from error
        records.append(Record(name, tier, passed, bitwise, *sizes))
    failed = sum(not record.passed for record in records)
    return Check(INSTRUMENT, "error" if failed else "passed", "", len(records), failed, (), tuple(records))


def _get(mapping: Mapping[str, Any], key: str, kind: type[_T], where: str = "") -> _T:
    name = f"{where}.{key}" if where else key
    if key not in mapping:
        raise _WrongError(f"{name!r} is missing")
    value = mapping[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _WrongError(f"{name!r} is a JSON {_kind(value)}")
    return value


def _strings(mapping: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _get(mapping, key, list, where)
    if not all(isinstance(value, str) for value in values):
        raise _WrongError(f"'{where}.{key}' holds something that is not a string")
    return tuple(values)


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
