from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest
from fabricated_reports import HOSTILE, everything, hostile, large
from fabricated_results import FAR, VERIFIED, diverged, masks, only_not_run, passing, with_comparisons
from html_reader import Node, read

from parity.report.page import as_html
from parity.report.page.elements import Html, table, tag, text
from parity.results import Exhibit, RunResult

RESULTS = [passing(), diverged(), only_not_run(), everything(), hostile(), large(1200, fail_every=7)]


def _page(result: RunResult, exit_code: int | None = None) -> Node:
    return read(as_html(result, exit_code))


@pytest.mark.parametrize("result", RESULTS)
def test_the_page_parses_and_its_ids_are_unique(result: RunResult) -> None:
    """Every element is closed in order, no id stands twice, and every link leads to one of them."""
    page = _page(result)
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    targets = [node.attributes["href"] for node in page.all("a")]
    assert all(target[0] == "#" and target[1:] in ids for target in targets)


@pytest.mark.parametrize("result", RESULTS)
def test_nothing_is_loaded(result: RunResult) -> None:
    """No element and no attribute that fetches, no style sheet's url, and no inline style or handler of events."""
    page = _page(result)
    used = {node.name for node in page.all()}
    assert not used & {"link", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "image", "use"}
    attributes = {name for node in page.all() for name in node.attributes}
    assert not attributes & {"src", "srcset", "action", "data", "poster", "style", "xlink:href"}
    assert not [name for name in attributes if name.startswith("on")]
    (style,), (script,) = page.all("style"), page.all("script")
    assert not re.search(r"url\(|@import|@font-face", style.text)
    assert not re.search(r"https?:|fetch|XMLHttpRequest|import\(|WebSocket|innerHTML", script.text)


def test_the_policy_allows_the_pages_own_style_and_script_only() -> None:
    """The browser is told by hash what may run, so that even text that escaped could load and run nothing."""
    page = as_html(everything())
    policy = read(page).one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_heading_is_the_verdict() -> None:
    """With the code that the process ends with, which the heading's colour only repeats."""
    heading = _page(everything()).one("h1")
    assert heading.text.startswith("DIVERGED: 162 comparisons, 24 within tolerance")
    assert heading.text.endswith("· exit 1")
    assert heading.attributes == {"class": "code-1", "data-exit-code": "1"}
    assert _page(passing(), exit_code=2).one("h1").attributes["class"] == "code-2"


def test_provenance_notes_and_facts_open_the_page() -> None:
    """Reference, edits, fall-back, subject, options, substitutes, self-checks and start."""
    page = _page(everything())
    told = page.text
    parts = (
        "DIVERGED: ",
        "reference: facebookresearch/dinov2",
        "also modified: dinov2/loss/koleo_loss.py line 33: differs",
        "NOTE: GITHUB COULD NOT BE REACHED",
        "subject document",
        "options reference auto, quick True, recipes default+vitl14, only all",
        "2 for missing kernels",
        "1 of 1 self-checks passed",
        "2026-11-27T02:30:00Z",
        "Families",
    )
    places = [told.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)


def test_a_verified_reference_is_not_marked() -> None:
    """Red is kept for what denies parity."""
    assert _page(passing()).one("p", class_="provenance").text.startswith("reference: ")
    edited = replace(passing(), reference=replace(VERIFIED, identity="mixed"))
    assert _page(edited).one("p", class_="provenance error")


def test_an_unsound_instrument_is_named() -> None:
    """The self-check that failed stands at the top."""
    page = _page(replace(passing(), doctor=[replace(FAR, name="doctor/repeat")]))
    assert "0 of 1 self-checks passed" in page.text
    assert page.one("li", class_="error").text.startswith("self-check failed: doctor/repeat: 3e-05")


def test_families_have_their_numbers() -> None:
    """The same numbers as in the terminal's table."""
    rows = _page(passing()).one(id="families").all("tr")
    assert [cell.text for cell in rows[1].all("td")] == ["losses", "1", "2", "1", "3", "0.25", "passed", "0.0 s"]


def test_causes_stand_in_their_order_with_all_that_is_known() -> None:
    """Root causes first; sentences, official lines, next steps; checks without a cause at the end."""
    section = _page(everything()).one(id="causes")
    assert [node.attributes["data-cause"] for node in section.all("h3")] == ["reference", "0005", "Q3"]
    assert "official / yours = 79.50 = masked tokens per image" in section.text
    assert "dinov2/loss/ibot_patch_loss.py:126" in [node.text for node in section.all("code")]
    assert "next: migration 0005" in section.text
    bare = "no cause recorded : collate.batch[default], trajectory.steps[default]: no known difference"
    assert bare in section.text


def test_every_divergence_is_shown_under_every_recipe() -> None:
    """One block per check: causes, each recipe's failing comparisons with values and sizes, the rest counted."""
    page = _page(everything())
    blocks = page.one(id="divergences").all("article")
    names = [block.one("h3").text for block in blocks]
    assert names == ["files.identity", "gradients.step", "collate.batch", "trajectory.steps"]
    step = blocks[1]
    assert [node.text for node in step.all("summary")] == [
        "vitl14: 129 of 130 comparisons differ",
        "default: 1 of 1 comparisons differ",
    ]
    cells = [cell.text for cell in step.all("tr")[1].all("td")]
    size = "3e-05, allowed 2e-10 (150,000 times as much); index (0, 0, 7)"
    assert cells == ["gradients/backbone.cls_token", "T1", "0.79499", "0.01000", size]
    assert "and 109 more, see the JSON report" in step.text
    assert "causes 0005, Q3" in step.text
    assert "no known difference has this signature" in blocks[2].text


def test_masks_are_pictures_side_by_side() -> None:
    """Two of 14 x 14 with the first row masked, and what differs from the first outlined."""
    first = masks(14, ("official", "yours"))
    other = [[row == column for column in range(14)] for row in range(14)]
    rows = (first.rows[0], {"title": "yours", "mask": other})
    page = _page(with_comparisons(FAR, exhibits=[Exhibit("masks", "one seed", rows)]))
    pictures = page.one(id="divergences").all("svg")
    labels = [picture.attributes["aria-label"] for picture in pictures]
    # The first row has 14; the diagonal 14, one of which is in the first row: 13 + 13 differ.
    assert labels == ["official, 14 of 196 patches masked", "yours, 14 of 196 patches masked, 26 unlike the first"]
    (run,) = re.findall(r"M0 0h(\d+)v(\d+)h-\d+z", pictures[0].one("path", class_="masked").attributes["d"])
    assert (int(run[0]), int(run[1])) == (14 * 9, 9)
    assert pictures[1].one("path", class_="masked").attributes["d"].count("M") == 14
    assert pictures[0].one("path", class_="other").attributes["d"] == ""
    assert pictures[1].one("path", class_="other").attributes["d"].count("M") == 26


def test_odd_masks_are_drawn() -> None:
    """No rows, lines of unequal length, another size than the first: shown as they are, and not compared."""
    rows = ({"title": "none", "mask": []}, {"title": "odd", "mask": [[True], [False, True]]}, {"title": "bare"})
    page = _page(with_comparisons(FAR, exhibits=[Exhibit("masks", "odd", rows)]))
    labels = [p.attributes["aria-label"] for p in page.one(id="divergences").all("svg")]
    assert labels == ["none, 0 of 0 patches masked", "odd, 2 of 3 patches masked", "bare, 0 of 0 patches masked"]


def test_tables_are_shown_and_cut() -> None:
    """A hundred rows, and how many more there are."""
    rows = tuple({"name": f"p{n}", "lr": n / 1000} for n in range(130))
    page = _page(with_comparisons(FAR, exhibits=[Exhibit("table", "lr by name", rows)]))
    figure = page.one(id="divergences").one("figure")
    assert len(figure.all("tr")) == 101
    assert "and 30 more rows, see the JSON report" in figure.text


def test_what_has_no_verdict_is_listed_with_its_reason() -> None:
    """Errors, not run, run in part: each under a heading that counts them."""
    page = _page(everything())
    titles = [page.one(id=name).one("h2").text for name in ("errors", "not-run", "run-in-part")]
    assert titles == ["Errors (2)", "Not run (2)", "Run in part (1)"]
    assert "modules.head[vitl14, default] : no capability build_head" in page.one(id="not-run").text
    assert "lr_at returns no warm-up" in page.one(id="run-in-part").text
    assert _page(passing()).all(id="errors") == []


def test_all_checks_are_in_the_table_to_search_in() -> None:
    """Each with its status, its counts and a link to its divergence; the choices are the statuses that occur."""
    run = everything()
    page = _page(run)
    rows = page.one("table", id="all-checks").all("tr")[1:]
    assert [row.all("code")[0].text for row in rows] == [check.id for check in run.checks]
    assert [row.all("span")[0].attributes["data-status"] for row in rows] == [check.status for check in run.checks]
    choices = [option.attributes["value"] for option in page.one(id="search-status").all("option")]
    assert choices == ["", "diverged", "passed", "not_run", "error"]
    links = {row.all("code")[0].text: row.all("a") for row in rows}
    (link,) = links["gradients.step[default]"]
    article = page.one("article", id=link.attributes["href"][1:])
    assert article.one("h3").text == "gradients.step"
    assert links["losses.dino[default]"] == []


def test_search_is_hidden_where_scripts_do_not_run() -> None:
    """Without the script all rows are shown, and a field that does nothing is not."""
    page = as_html(everything())
    assert "hidden" in read(page).one("div", class_="search").attributes
    script = read(page).one("script").text
    for needed in ("search-words", "search-status", "search-found", "all-checks"):
        assert needed in script
        assert read(page).one(id=needed)


def test_hostile_text_stays_text() -> None:
    """Names, values, reasons, titles and options that are markup are shown, and make no element and no attribute."""
    tame = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")
    clean, page = _page(hostile(tame)), _page(hostile())
    shape = [(node.name, sorted(node.attributes)) for node in clean.all()]
    assert [(node.name, sorted(node.attributes)) for node in page.all()] == shape
    for told in (HOSTILE[0], HOSTILE[1], HOSTILE[5], HOSTILE[6]):
        assert told in page.text
    assert "\\x1b[31m" in page.text
    assert as_html(hostile()).encode("utf-8")


def test_the_page_stays_small() -> None:
    """48,000 comparisons, none of them equal, half of them failing, take no more room than 12,000 twice over."""
    page = as_html(large(48_000, fail_every=2))
    assert "48,000 drawn, 24,000 of them beyond" in page
    assert len(page.encode()) < min(500_000, 2 * len(as_html(large(12_000, fail_every=2)).encode()))


def test_light_and_dark_have_the_same_names() -> None:
    """Every colour of the light theme has one in the dark theme, and each that is used is defined."""
    style = read(as_html(passing())).one("style").text
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in style.split("@media (prefers-color-scheme: dark)"))
    used = set(re.findall(r"var\((--\w+)\)", style))
    assert light == used
    assert light <= dark


def test_elements_escape_what_is_given_as_text() -> None:
    """Text and attributes are escaped once; a blank at an end of text is kept, control characters are shown."""
    made = tag("p", text("a < b & "), tag("b", text("\x1b")), title='"<')
    assert made == '<p title="&quot;&lt;">a &lt; b &amp; <b>\\x1b</b></p>'
    assert tag("input", aria_label="x", class_="y") == '<input aria-label="x" class="y">'
    rows = read(table(("a",), [[Html("<i>x</i>")]], id="t")).all("tr")
    assert [row.text for row in rows] == ["a", "x"]
