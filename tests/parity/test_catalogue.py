from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from parity.arguments import FAMILIES
from parity.catalogue import contents, entries, explain
from parity.checks.statistical import ALPHA
from parity.errors import UsageError
from parity.own_randomness import JUDGED_BY
from parity.permutation import POWER
from parity.stack import CAPABILITIES

DIFFERENCES = tuple(f"000{n}" for n in range(1, 8))
QUIRKS = tuple(f"Q{n}" for n in range(1, 59))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the runner, which is slow to import: one check under two recipes, one without capabilities."""
    module = ModuleType("parity.run")
    rows: Sequence[tuple[object, ...]] = [
        ("masks.block[default]", "masks", "L1", "block masks", ("dinov2/data/masking.py:49",), ("make_mask",)),
        ("masks.block[vitl14]", "masks", "L1", "block masks", ("dinov2/data/masking.py:49",), ("make_mask",)),
        ("files.identity", "files", "L0", "blob ids", (), ()),
    ]
    module.Options = dict  # type: ignore[attr-defined]  # a module made by hand declares no attributes
    module.planned_checks = lambda options: rows  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "parity.run", module)


@pytest.mark.parametrize(
    "name",
    [
        *DIFFERENCES,
        *FAMILIES,
        "T0",
        "T1",
        "T2",
        "T4",
        "substitutes",
        "document",
        "reference",
        "reports",
        "diff",
        *QUIRKS,
    ],
)
def test_every_id_has_a_text(name: str) -> None:
    """Differences, families, tiers, substitutes, causes and the quirks of these checks are explained."""
    entry = explain(name)
    assert entry.id == name
    assert len(entry.body) > 100


@pytest.mark.parametrize("name", ["augment", "collate"])
def test_a_family_and_a_capability_of_one_name_are_both_told(name: str) -> None:
    """What the family compares, then how the capability is called."""
    body = explain(name).body
    family = next(entry for entry in entries() if entry.id == name)
    assert body.startswith(family.body)
    assert CAPABILITIES[name].signature in body[len(family.body) :]


def test_ids_are_unique() -> None:
    """No entry shadows another."""
    names = [entry.id.lower() for entry in entries()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_says_what_a_reader_needs(name: str) -> None:
    """Fork, official with a line, reason, before and after, the document's own errors, and how it is seen."""
    body = explain(name).body
    for part in ("**A fork**", "**Official**", "**Why it matters.**", "**Where the document goes wrong.**"):
        assert part in body
    assert "**What parity sees.**" in body
    assert "# before" in body
    assert "# after" in body
    if name != "0004":  # official has no prototype loss, hence no line
        assert re.search(r"\w+\.py:\d+", body)


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk_names_official_line_and_port(name: str) -> None:
    """Official's behaviour with its line, then the port's."""
    body = explain(name).body
    assert body.startswith("Official: ")
    assert re.search(r"\w+\.py:\d+", body)
    assert "\nPort: " in body


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0003", "72.8"),
        ("0005", "55, 33 and 11"),
        ("0006", "40 times"),
        ("0007", "0.01436"),
        ("Q3", "666"),
        ("Q33", "31.25"),
    ],
)
def test_numbers_that_name_a_difference(name: str, number: str) -> None:
    """0.9^25 * 0.2 = 0.01436, 0.4 / 0.01 = 40, 98 : 59 : 20 of 177 = 55 : 33 : 11 %."""
    assert number in explain(name).body


def test_texts_fit_eighty_columns() -> None:
    """Texts are printed as they are where there is no terminal."""
    lines = [line for entry in entries() for line in entry.markdown.splitlines()]
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize(
    ("given", "expected"), [("5", "0005"), ("05", "0005"), ("q3", "Q3"), (" t1 ", "T1"), ("MASKS", "masks")]
)
def test_ids_are_found_as_people_type_them(given: str, expected: str) -> None:
    """Case and leading zeros do not matter."""
    assert explain(given).id == expected


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("0008", "0001|0002|000"), ("Q99", "Q"), ("gradient", "gradients"), ("schedule", "schedules")],
)
def test_an_unknown_id_names_the_nearest_and_how_to_list(given: str, nearest: str) -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(UsageError, match=rf"'{given}'; did you mean '({nearest}).*'.*`python -m parity explain`"):
        explain(given)


def test_an_unknown_id_like_no_other_only_says_how_to_list() -> None:
    """Two sentences, with nothing guessed between them."""
    with pytest.raises(UsageError, match=r"about 'xyzzy'\. Every id is listed by `python -m parity explain`"):
        explain("xyzzy")


def test_comments_in_code_are_no_headings() -> None:
    """`# before` inside a fence belongs to its entry."""
    assert "before" not in {entry.id for entry in entries()}
    assert explain("0001").body.count("```") == 2


@pytest.mark.parametrize("name", CAPABILITIES)
def test_capabilities_are_explained_by_their_contract(name: str) -> None:
    """Whoever writes an adapter finds call, result and official line."""
    body = explain(name).body
    assert CAPABILITIES[name].signature in body
    assert CAPABILITIES[name].official in body


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("name", ["masks.block", "masks.block[vitl14]", "masks.block[no-such-recipe]"])
def test_checks_are_explained_by_what_they_declare(name: str) -> None:
    """Official lines and the capability's contract, with or without a recipe."""
    entry = explain(name)
    assert (entry.id, entry.title) == ("masks.block", "block masks")
    assert "dinov2/data/masking.py:49" in entry.body
    assert CAPABILITIES["make_mask"].signature in entry.body


@pytest.mark.usefixtures("planned")
def test_a_check_without_subject_says_so() -> None:
    """Empty lists read `none` rather than nothing."""
    assert explain("files.identity").body.count("- none") == 2


@pytest.mark.usefixtures("planned")
def test_an_unknown_check_names_the_nearest() -> None:
    """A misspelt check is answered with a check."""
    with pytest.raises(UsageError, match=r"did you mean 'masks\.block'"):
        explain("masks.blok")


def test_contents_list_every_id() -> None:
    """One line per id, title included."""
    listed = [line.split()[0] for line in contents().splitlines()[2:]]
    assert listed == [*(entry.id for entry in entries()), "capabilities", *CAPABILITIES]


def test_all_capabilities_are_explained_together() -> None:
    """`explain capabilities` shows each signature, and what a user's file must know of the configuration."""
    body = explain("capabilities").body
    assert all(f"## {name}\n" in body and about.signature in body for name, about in CAPABILITIES.items())
    assert "config.architecture" in body


def test_texts_are_read_without_torch() -> None:
    """`explain` answers at once: neither torch nor numpy is imported for it."""
    code = "import sys; from parity.catalogue import explain; explain('5'); print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_a_check_for_which_one_of_several_capabilities_will_do_says_so() -> None:
    """Masks come collated or one by one; the alternative is told in one line."""
    assert "\n- collate or make_mask or mask_counts" in explain("masks.statistical").body


def test_the_statistical_tier_tells_its_level_and_the_declaration() -> None:
    """Alpha, the power and how a stack declares its own generators, as the code has them."""
    body = " ".join(explain("T4").body.split())
    assert f"false alarm is {ALPHA:g} per run" in body
    assert f"found with {100 * POWER:.0f} %" in body
    assert "own_randomness" in body
    assert "own_randomness" in explain("capabilities").body
    assert all(name in explain("capabilities").body for name in JUDGED_BY)
