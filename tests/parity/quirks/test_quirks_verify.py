from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from parity.quirks import QUIRKS, Quirk
from parity.quirks.evidence.tools import CallCounter, NotHereError, Observation, raised
from parity.quirks.table import as_json, facts, plain_table, verdict_table
from parity.quirks.verify import Status, Verdict, exit_code, verify


def quirk(number: int, probe: str = "fabricated.answer") -> Quirk:
    """Return a quirk whose evidence stands in the module below."""
    return Quirk(f"Q{number}", "does what nobody expects", ("a.py:1",), "documented", "measured", probe)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Observation]], None]:
    """Let a function stand in for the evidence `fabricated.answer`."""
    module = ModuleType("parity.quirks.evidence.fabricated")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def put(function: Callable[[Any], Observation]) -> None:
        module.answer = function  # type: ignore[attr-defined]  # a module made by hand declares no attributes

    return put


def verdict(number: int, status: Status) -> Verdict:
    """Return a verdict made by hand."""
    return Verdict(quirk(number), status, f"saw {status}")


def _raise(error: BaseException) -> Observation:
    raise error


@pytest.mark.parametrize(
    ("answer", "status", "seen"),
    [
        (lambda _: Observation(True, "3 of 3"), "confirmed", "3 of 3"),
        (lambda _: Observation(False, "0 of 3"), "no longer so", "0 of 3"),
        (lambda _: _raise(NotHereError("older than abc")), "not run", "older than abc"),
        (lambda _: _raise(AttributeError("no GaussianBlur")), "error", "the evidence: AttributeError: no GaussianBlur"),
        (lambda _: _raise(SystemExit(0)), "error", "the evidence: SystemExit: 0"),
    ],
)
def test_what_evidence_says_becomes_a_verdict(
    answering: Any, answer: Callable[[Any], Observation], status: str, seen: str
) -> None:
    """An error is no proof that a quirk is gone, and a reference that ends the process confirms nothing."""
    answering(answer)
    (found,) = verify(None, [quirk(1)])  # type: ignore[arg-type]  # the evidence above asks nothing of a reference
    assert found.status == status
    assert found.seen.startswith(seen)


def test_an_interrupt_is_no_verdict(answering: Any) -> None:
    """Ctrl-C ends the run."""
    answering(lambda _: _raise(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        verify(None, [quirk(1)])  # type: ignore[arg-type]  # as above


def test_each_evidence_has_a_seed_of_its_own(answering: Any) -> None:
    """The number of a quirk is its seed: the same whichever came before."""
    answering(lambda _: Observation(True, f"{torch.rand(()).item():.6f}"))
    both = [v.seen for v in verify(None, [quirk(1), quirk(2)])]  # type: ignore[arg-type]  # as above
    (alone,) = (v.seen for v in verify(None, [quirk(2)]))  # type: ignore[arg-type]  # as above
    assert both[0] != both[1] == alone


def test_progress_is_told_before_each_and_at_the_end(answering: Any) -> None:
    """Id, done, total, as the progress bar takes them."""
    answering(lambda _: Observation(True, ""))
    told: list[tuple[str, int, int]] = []
    verify(None, [quirk(1), quirk(2)], lambda *step: told.append(step))  # type: ignore[arg-type]  # as above
    assert told == [("Q1", 0, 2), ("Q2", 1, 2), ("", 2, 2)]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["confirmed"], 0),
        (["confirmed", "not run"], 0),
        (["confirmed", "no longer so"], 1),
        (["error", "no longer so", "confirmed"], 1),
        (["confirmed", "error"], 2),
        (["not run"], 2),
        ([], 2),
    ],
)
def test_exit_codes(statuses: list[Status], code: int) -> None:
    """0 all confirmed, 1 something mended, 2 an error or nothing run; not run is never confirmed."""
    assert exit_code([verdict(n, status) for n, status in enumerate(statuses, 1)]) == code


def test_the_table_has_a_line_per_quirk() -> None:
    """A heading, each quirk with all its columns, and how many there are by kind of evidence."""
    lines = plain_table(QUIRKS).splitlines()
    assert [line.split()[0] for line in lines[1:59]] == [q.id for q in QUIRKS]
    starts = {title: lines[0].index(title) for title in ("where,", "port", "switch", "evidence")}
    for line, q in zip(lines[1:59], QUIRKS, strict=True):
        assert line[starts["evidence"] :] == q.evidence
        assert line[starts["port"] :].split()[0] == q.policy
        assert line[starts["switch"] :].split()[0] == (q.switch or "-")
        assert line[starts["where,"] :].startswith(q.official[0])
        assert q.does in line
    kinds = {kind: sum(q.evidence == kind for q in QUIRKS) for kind in ("measured", "source", "read")}
    assert lines[60] == f"58 quirks: {kinds['measured']} measured, {kinds['source']} source, {kinds['read']} read"


def test_verdicts_are_printed_with_what_was_seen_and_their_sum() -> None:
    """Two lines each, and a last one that says the exit code."""
    text = verdict_table([verdict(1, "confirmed"), verdict(2, "no longer so"), verdict(3, "not run")])
    lines = text.splitlines()
    assert lines[0].split() == ["Q1", "confirmed", "measured", *["does", "what", "nobody", "expects"]]
    assert lines[3] == "     saw no longer so"
    assert lines[-1] == "NO LONGER SO: 1 confirmed, 1 no longer so, 1 not run, of 3 quirks · exit 1"


@pytest.mark.parametrize(("status", "word"), [("confirmed", "CONFIRMED"), ("error", "NO VERDICT")])
def test_the_last_line_is_the_verdict(status: Status, word: str) -> None:
    """Words, not colour, carry it."""
    assert verdict_table([verdict(1, status)]).splitlines()[-1].startswith(f"{word}: 1 {status}, of 1")


def test_json_has_what_the_table_has() -> None:
    """Every field of every quirk; status and what was seen are null for those that were not asked."""
    document = json.loads(as_json([quirk(1), quirk(2)], [verdict(2, "confirmed")]))
    first, second = document["quirks"]
    assert (first["status"], first["seen"]) == (None, None)
    assert (second["status"], second["seen"]) == ("confirmed", "saw confirmed")
    assert first["official"] == ["a.py:1"]
    assert {"id", "does", "policy", "evidence", "probe", "unproven", "switch", "threads", "since"} <= set(first)
    assert document["schema"] == 1
    assert document["commit"] == "b8931f7"
    assert (document["summary"], document["exit_code"], document["reference"]) == ({"confirmed": 1}, 0, None)


def test_the_registry_alone_is_exit_code_0_in_json() -> None:
    """Nothing was verified, and nothing was asked to be."""
    document = json.loads(as_json(QUIRKS))
    assert (document["exit_code"], document["summary"], len(document["quirks"])) == (0, {}, 58)


def test_facts_say_how_to_run_the_evidence() -> None:
    """A reader of a page can run it; what it does not show is said as well."""
    shown = " ".join(facts(QUIRKS[10]).split())
    assert "`python -m parity quirks Q11 --verify`" in shown
    assert "(`sinkhorn_argument` in `parity/quirks/evidence/centres.py`)" in shown
    assert "Not shown by it: all_reduce is replaced" in shown


def test_calls_without_tensors_are_counted() -> None:
    """`torch.randperm` takes no tensor; other calls, and those after the end, do not count."""
    counter = CallCounter("randperm")
    with counter:
        torch.randperm(3)
        torch.randint(0, 3, (1,))
        torch.randperm(4, device="cpu")
    torch.randperm(5)
    assert (dict(counter.calls), counter.devices) == ({"randperm": 2}, {"cpu"})


def test_what_a_call_raised_is_returned_if_it_was_looked_for() -> None:
    """None where nothing was raised; what else is raised is no observation, an interrupt least of all."""
    assert isinstance(raised(lambda: "abc"[3], KeyError, IndexError), IndexError)
    assert raised(lambda: 3, ValueError) is None
    with pytest.raises(IndexError):
        raised(lambda: "abc"[3], KeyError)
    with pytest.raises(KeyboardInterrupt):
        raised(lambda: _raise(KeyboardInterrupt()), Exception)
