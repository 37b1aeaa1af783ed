from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

import port
from parity.catalogue import entries, explain
from parity.quirks import COMMIT, QUIRKS, Quirk
from parity.quirks.verify import probe_of
from parity.reference.manifest import load_manifest
from port.config_run import QuirksConfig

ROOT = Path(__file__).parents[3]
BY_ID = {quirk.id: quirk for quirk in QUIRKS}
SWITCHES = {f"quirks.{field.name}": field.default for field in fields(QuirksConfig)}
every_quirk = pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)


def test_the_numbers_have_no_gap() -> None:
    """Q1 to Q58, each once, in order."""
    assert [quirk.id for quirk in QUIRKS] == [f"Q{n}" for n in range(1, 59)]


def test_every_quirk_has_a_page_and_every_page_a_quirk() -> None:
    """The registry and the catalogue speak of the same things."""
    pages = [entry.id for entry in entries() if re.fullmatch(r"Q\d+", entry.id)]
    assert pages == [quirk.id for quirk in QUIRKS]


@every_quirk
def test_a_page_says_what_official_does_what_port_does_and_what_would_change(quirk: Quirk) -> None:
    """Three paragraphs in this order, then the registry's facts; a line of official code in the first."""
    body = explain(quirk.id).body
    parts = ["Official: ", "\n\nPort: ", "\n\nIf corrected: ", "\n\n- Where, at b8931f7: ", "\n- Evidence: "]
    places = [body.find(part) for part in parts]
    assert places[0] == 0
    assert all(0 <= a < b for a, b in pairwise(places))
    assert re.search(r"\w+\.py:\d+", body[: places[1]])


@every_quirk
def test_a_page_names_the_lines_of_the_registry(quirk: Quirk) -> None:
    """Whoever looks a place up in the page finds every file that the table names, and its lines in one of them."""
    told = " ".join(explain(quirk.id).body.split("\n- Where")[0].split())
    for place in quirk.official:
        file, _, lines = place.partition(":")
        assert file in told
        assert re.search(rf"\b{lines.split('-')[0]}\b", told), place


@every_quirk
def test_pages_fit_eighty_columns(quirk: Quirk) -> None:
    """The facts that are added too; a name that is longer than a line does not occur."""
    assert max(map(len, explain(quirk.id).markdown.splitlines())) <= 80


@every_quirk
def test_official_places_exist(quirk: Quirk) -> None:
    """Each file is one of official training code at the registry's commit, and has as many lines."""
    manifest = load_manifest()
    commit = next(i for i, c in enumerate(manifest.commits) if c.sha.startswith(COMMIT))
    for place in quirk.official:
        file, _, lines = place.partition(":")
        blob = manifest.blob_at(f"dinov2/{file}", commit)
        assert blob is not None, place
        numbers = [int(n) for n in lines.split("-")]
        assert numbers == sorted(numbers)
        assert numbers[0] >= 1
        assert numbers[-1] <= len(blob.lines)


@every_quirk
def test_evidence_is_what_it_says(quirk: Quirk) -> None:
    """A quirk that is measured or searched has a function of its own; one that was read says why it is not run."""
    if quirk.evidence == "read":
        assert not quirk.probe
        assert len(quirk.unproven) > 40
        with pytest.raises(LookupError, match=f"{quirk.id} has no evidence that can be executed: needs"):
            probe_of(quirk)
        return
    probe = probe_of(quirk)
    assert probe.__module__ == f"parity.quirks.evidence.{quirk.probe.split('.')[0]}"
    assert probe.__doc__
    assert [other.id for other in QUIRKS if other.probe == quirk.probe] == [quirk.id]


@every_quirk
def test_a_quirk_fits_a_line(quirk: Quirk) -> None:
    """What official does is one phrase of at most 76 characters, without a full stop."""
    assert 15 < len(quirk.does) <= 76
    assert not quirk.does.endswith(".")


def test_every_switch_of_port_is_in_the_registry_and_the_other_way_round() -> None:
    """A switch that nobody documents, and a documented one that does nothing, are both wrong."""
    assert {quirk.switch for quirk in QUIRKS if quirk.switch} == set(SWITCHES)


@every_quirk
def test_the_policy_is_the_default_of_the_switch(quirk: Quirk) -> None:
    """`official` offers a correction by its switch; a switch of a corrected quirk leads back to official."""
    if quirk.policy == "official":
        assert SWITCHES[quirk.switch] == "official"
    elif quirk.policy == "corrected":
        assert SWITCHES.get(quirk.switch, "corrected") == "corrected"
    else:
        assert not quirk.switch


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_page_tells_its_switch(switch: str) -> None:
    """`explain` of each quirk that a switch is about names the switch and both of its values."""
    for quirk in QUIRKS:
        if quirk.switch == switch:
            assert f"Switch: `{switch}=official` or `corrected`" in explain(quirk.id).body


def test_ids_in_the_code_exist() -> None:
    """Every Q number that `port`, `parity`, `migrations`, `bench` and the README refer to has a page."""
    folders = [Path(port.__file__).parent, *(ROOT / name for name in ("parity", "migrations", "bench"))]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix in (".py", ".md", ".yaml")]
    referred = {
        (file.name, name)
        for file in [*files, ROOT / "README.md"]
        for name in re.findall(r"\bQ[1-9]\d*\b", file.read_text("utf-8"))
        if file.parent.name != "evidence"
    }
    assert len(referred) > 150
    assert [pair for pair in sorted(referred) if pair[1] not in BY_ID and pair != ("quirks.py", "Q59")] == []


def test_quirks_whose_number_changes_are_cited_by_port() -> None:
    """A reader of `port` meets the quirks that it corrects by default: the code that does so names each."""
    text = "\n".join(file.read_text("utf-8") for file in sorted(Path(port.__file__).parent.rglob("*.py")))
    cited = set(re.findall(r"\bQ\d+\b", text))
    switched = {quirk.id for quirk in QUIRKS if quirk.switch}
    # a range in a comment, `Q21 to Q25`, stands for what lies in it
    ranges = re.findall(r"\bQ(\d+) to Q(\d+)\b", text)
    cited |= {f"Q{n}" for first, last in ranges for n in range(int(first), int(last) + 1)}
    assert switched <= cited


def test_threads_are_named_as_github_names_them() -> None:
    """`dinov2#…` and `dinov3#…`, which the page turns into links' names."""
    threads = [thread for quirk in QUIRKS for thread in quirk.threads]
    assert len(threads) > 20
    assert all(re.fullmatch(r"dinov[23]#\d+", thread) for thread in threads)
    assert "facebookresearch/dinov3#286" in explain("Q1").body


def test_what_is_newer_than_april_2023_says_since_when() -> None:
    """The wheel of April 2023 lacks Q50, so that a run against it cannot confirm it."""
    assert {quirk.id: quirk.since for quirk in QUIRKS if quirk.since} == {"Q50": "12592a9"}
    known = load_manifest().commits
    assert any(commit.sha.startswith("12592a9") for commit in known)
    assert "Since: commit 12592a9" in explain("Q50").body
