"""Evidence against official code: confirmed there, and not where the quirk is mended."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mended import MENDED, Edit
from otherwise import OTHERWISE

from parity.quirks import QUIRKS, Quirk
from parity.quirks.verify import Verdict, verify
from parity.reference import Reference, open_reference
from parity.reference.isolation import quiet_official_warnings
from parity.reference.source import Source

RUN = tuple(quirk for quirk in QUIRKS if quirk.probe and not quirk.since)

# What each must have seen, worked out by hand or from official's own constants.
SEEN = {
    "Q1": r"p=1: 0%, p=0\.1: (8[2-9]|9[0-8])%",
    "Q2": r"fp32 11\.53, fp16 inf and NaN in the gradient; one row in fp16: inf",
    "Q3": r"224/14: 128 of 128, 98/14: 21 of 24\.5, 518/14: 666 of 684\.5",
    "Q4": r"^8\.42 for",
    "Q8": r"DINO: 3\.5 finite, 3\.6 not finite; iBOT: 3\.5 finite, 3\.6 not finite",
    "Q10": r"std 0\.03\d+ \(nn\.Linear's 0\.0361\)",
    "Q11": r"1 reductions? without a group; the argument 5 is 10",
    "Q12": r"centre 2 of",
    "Q19": r"collate raises RuntimeError; terms are divided by 6 for n = 2, by 3 for n = 0",
    "Q20": r"UnboundLocalError",
    "Q21": r"seed=7, sampler_advance=0; train\.seed is read in 0 places; .* others",
    "Q22": r"wrong at 100, 130 in world 4, at none in world 1",
    "Q24": r"^3 of 103",
    "Q25": r"SHARDED_INFINITE: 199 calls",
    "Q33": r"at 0\.3: 50\.0% of 2, 50\.0% of 4, 37\.5% of 8, 31\.2% of 16; at 0\.4: 50\.0% of 2, 66\.7% of 3",
    "Q36": r"^4 permutations",
    "Q37": r"blocks\.0\.5 is layer 6, _orig_mod\.blocks\.0\.5 is layer 1",
    "Q38": r"12 blocks in 5 chunks make 6",
    "Q39": r"patch_embed lr times 0\.1458",  # 0.2 * 0.9^3
    "Q42": r"iterations 9 and 10: 1\.000 and 1\.000; 19: 0\.0245; 20: 0",  # (1 + cos(0.9 pi)) / 2
    "Q43": r"lr 7 becomes 0\.002, min_lr stays 1e-06",  # 0.004 * sqrt(256 / 1024)
    "Q56": r"2 iterations in (\d+) s",
    "Q57": r"^1 iteration after the last of 5; 13 epochs are 16,250 iterations",
}


@pytest.fixture(scope="module")
def opened_official(official_source: Source) -> Iterator[Reference]:
    """Official code of April 2023, open for the tests of one file; a test asks for `official`."""
    with open_reference("pypi") as reference:
        torch.set_num_threads(1)
        yield reference


@pytest.fixture
def official(opened_official: Reference) -> Iterator[Reference]:
    """Official code; pytest resets the warning filters before each test, so they are set for each."""
    with quiet_official_warnings():
        yield opened_official


@contextmanager
def edited(source: Source, root: Path, edits: Sequence[Edit]) -> Iterator[Reference]:
    """Open a copy of official code with all of the edits made in it."""
    files = {path: data.decode("utf-8") for path, data in source.files.items()}
    for edit in edits:
        path = f"dinov2/{edit.path}"
        assert edit.before in files[path], f"{edit.quirk}: {edit.before!r} is not in {path}"
        files[path] = files[path].replace(edit.before, edit.after)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    with open_reference(str(root), allow_modified=True) as reference:
        torch.set_num_threads(1)
        yield reference


@pytest.fixture(scope="module")
def verdicts_of_edits(
    official_source: Source, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Verdict]]:
    """What evidence says of official code with every quirk mended, and with another part of each claim changed.

    All of it is run here, since the modules of one open reference hide those of another.
    """
    found = {}
    for name, edits in (("mended", MENDED), ("otherwise", OTHERWISE)):
        quirks = [quirk for quirk in QUIRKS if quirk.id in {edit.quirk for edit in edits}]
        with (
            quiet_official_warnings(),
            edited(official_source, tmp_path_factory.mktemp(name), edits) as reference,
        ):
            found[name] = {verdict.quirk.id: verdict for verdict in verify(reference, quirks)}
    return found


def _verdict(reference: Reference, quirk: Quirk) -> Verdict:
    (verdict,) = verify(reference, [quirk])
    return verdict


@pytest.mark.parametrize("quirk", RUN, ids=lambda quirk: quirk.id)
def test_evidence_confirms_the_quirk_on_official_code(official: Reference, quirk: Quirk) -> None:
    """Official code of April 2023 does what the registry says, and the numbers are those worked out by hand."""
    verdict = _verdict(official, quirk)
    assert verdict.status == "confirmed", verdict.seen
    assert re.search(SEEN.get(quirk.id, "."), verdict.seen), verdict.seen


@pytest.mark.parametrize("identity", dict.fromkeys(edit.quirk for edit in MENDED))
def test_evidence_says_where_the_quirk_is_mended(
    verdicts_of_edits: dict[str, dict[str, Verdict]], identity: str
) -> None:
    """In code whose authors mended it, the same evidence says `no longer so`, with what it saw; it does not fail."""
    verdict = verdicts_of_edits["mended"][identity]
    assert verdict.status == "no longer so", verdict.seen
    assert verdict.seen


@pytest.mark.parametrize("identity", dict.fromkeys(edit.quirk for edit in OTHERWISE))
def test_evidence_fails_where_another_part_of_the_claim_does(
    verdicts_of_edits: dict[str, dict[str, Verdict]], identity: str
) -> None:
    """A claim of two parts is not confirmed by one of them."""
    verdict = verdicts_of_edits["otherwise"][identity]
    assert verdict.status == "no longer so", verdict.seen


def test_every_quirk_with_evidence_has_been_seen_to_fail() -> None:
    """No evidence confirms whatever it is given: for each there is a mended text above."""
    assert {quirk.id for quirk in RUN} == {edit.quirk for edit in MENDED}


def test_evidence_repeats_itself(official: Reference) -> None:
    """Each quirk has its own seed, so that a report does not depend on which others are run with it."""
    chosen = [quirk for quirk in QUIRKS if quirk.id in ("Q1", "Q26", "Q6")]
    together = [verdict.seen for verdict in verify(official, chosen)]
    assert [_verdict(official, quirk).seen for quirk in chosen] == together


def test_old_code_is_not_run_for_what_came_later(official: Reference) -> None:
    """April 2023 has no `float | None`, because nothing had brought it yet: neither confirmed nor mended."""
    (quirk,) = (quirk for quirk in QUIRKS if quirk.since)
    verdict = _verdict(official, quirk)
    assert verdict.status == "not run"
    assert "older than 12592a9" in verdict.seen


def test_what_was_read_is_not_run(official: Reference) -> None:
    """Q54 needs two FSDP ranks on CUDA: the verdict is the reason, and never `confirmed`."""
    verdict = _verdict(official, next(quirk for quirk in QUIRKS if quirk.id == "Q54"))
    assert (verdict.status, verdict.seen[:20]) == ("not run", "needs two FSDP ranks")


def test_evidence_puts_back_what_it_replaces(official: Reference) -> None:
    """Reductions, modules, variables and clocks are those of before, and the logger has no further handler."""

    def state() -> list[object]:
        helpers, collate = official.module("logging.helpers"), official.module("data.collate")
        functions = [dist.all_reduce, dist.is_initialized, dist.get_world_size, helpers.time, collate.random, print]
        xformers = [sys.modules.get(name) for name in ("xformers", "xformers.ops")]
        replaced = official.module("train.ssl_meta_arch").get_fsdp_modules
        handlers = logging.getLogger("dinov2").handlers[:]
        return [*functions, *xformers, replaced, dict(os.environ), handlers, Path.cwd(), torch.is_grad_enabled()]

    names = ("Q11", "Q12", "Q21", "Q29", "Q40", "Q44", "Q48", "Q51", "Q53", "Q55", "Q56", "Q58")
    before = state()
    verdicts = verify(official, [quirk for quirk in QUIRKS if quirk.id in names])
    assert {verdict.status for verdict in verdicts} == {"confirmed"}
    assert state() == before
