from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity.cli import main
from parity.quirks import QUIRKS

ROOT = Path(__file__).parents[3]


def test_the_table_is_printed_without_torch() -> None:
    """It answers at once: neither torch nor numpy is imported, and all 58 are there."""
    code = (
        "import sys; from parity.cli import main; code = main(['quirks']);"
        "print(code, sorted({'torch', 'numpy', 'rich'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:59]] == [quirk.id for quirk in QUIRKS]
    assert lines[-1] == "0 []"


def test_some_quirks_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """As people type them, in the registry's order, each once."""
    assert main(["quirks", "q33", "Q1", "Q1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:3]] == ["Q1", "Q33"]
    assert out[4] == "2 quirks: 2 measured"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quirks Q59", "unknown quirk 'Q59', expected Q1 … Q58; did you mean 'Q"),
        ("quirks blur", "unknown quirk 'blur', expected Q1 … Q58"),
        ("quirks --verfy", "unknown argument '--verfy'; did you mean '--verify'?"),
        ("quirks --verify --reference githb", "unknown reference 'githb'"),
        ("quirks --json", "expected one argument"),
        (
            "quirk",
            "unknown command 'quirk', expected one of run, list, explain, quirks, doctor, adapter, certify, diff; "
            "did you mean 'quirks'?",
        ),
    ],
)
def test_a_wrong_line_is_answered_with_what_is_right(
    capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    """One line on stderr, exit code 2, nothing printed."""
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert (out, err.count("\n")) == ("", 1)


def test_json_is_written_beside_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same registry for programs."""
    assert main(["quirks", "--json", str(tmp_path / "q.json")]) == 0
    document = json.loads((tmp_path / "q.json").read_text("utf-8"))
    assert [row["id"] for row in document["quirks"]] == [quirk.id for quirk in QUIRKS]
    assert capsys.readouterr().out.startswith("id ")


@pytest.mark.parametrize("verify", [[], ["--verify", "--reference", "pypi"]])
def test_a_file_that_cannot_be_written_is_refused_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verify: list[str]
) -> None:
    """Before the evidence is run, and with nothing printed."""
    assert main(["quirks", *verify, "--json", str(tmp_path / "absent" / "q.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "absent does not exist" in err


def test_a_reference_without_verify_is_answered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whoever names code expects it to be run: a note says that it was not."""
    assert main(["quirks", "Q1", "--reference", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "note: nothing of the reference is run without --verify\n"


def test_evidence_is_run_on_official_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, official_root: Path
) -> None:
    """Provenance first, the verdict with what was seen, the sum last; JSON says the same; generators are put back."""
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    path = tmp_path / "q.json"
    assert main(["quirks", "Q4", "Q54", "--verify", "--reference", str(official_root), "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reference: facebookresearch/dinov2 ")
    assert lines[2].split()[:3] == ["Q4", "confirmed", "measured"]
    assert lines[3].startswith("     8.42 for two opposite rows")
    assert lines[4].split()[:3] == ["Q54", "not", "run"]
    assert lines[-1] == "CONFIRMED: 1 confirmed, 1 not run, of 2 quirks · exit 0"
    document = json.loads(path.read_text("utf-8"))
    assert [(row["status"], row["seen"][:4]) for row in document["quirks"]] == [
        ("confirmed", "8.42"),
        ("not run", "need"),
    ]
    assert document["reference"]["identity"] == "verified"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mended_quirk_is_named_and_exits_with_1(capsys: pytest.CaptureFixture[str], official_copy: Path) -> None:
    """Code in which blur is put right: that row, and no other, is no longer so. It is refused without permission."""
    file = official_copy / "dinov2" / "data" / "transforms.py"
    file.write_text(file.read_text("utf-8").replace("keep_p = 1 - p", "keep_p = p"), "utf-8")
    line = ["quirks", "Q1", "Q4", "--verify", "--reference", str(official_copy)]
    assert main(line) == 2
    assert "data/transforms.py" in capsys.readouterr().err
    assert main([*line, "--allow-modified-reference"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "MODIFIED" in out[0]
    assert out[2].split()[:4] == ["Q1", "no", "longer", "so"]
    assert re.search(r"p=1: 100%, p=0\.1: (1?\d)%, p=0\.5: [45]\d%", out[3])
    assert out[4].split()[:2] == ["Q4", "confirmed"]
    assert out[-1] == "NO LONGER SO: 1 confirmed, 1 no longer so, of 2 quirks · exit 1"


def test_code_that_evidence_cannot_read_is_an_error(capsys: pytest.CaptureFixture[str], official_copy: Path) -> None:
    """A renamed loss is neither confirmed nor mended: exit code 2, and the row says what was missing."""
    file = official_copy / "dinov2" / "loss" / "__init__.py"
    file.write_text(file.read_text("utf-8").replace("import KoLeoLoss", "import KoLeoLoss as Renamed"), "utf-8")
    line = ["quirks", "Q4", "--verify", "--reference", str(official_copy), "--allow-modified-reference"]
    assert main(line) == 2
    out = capsys.readouterr().out.splitlines()
    assert out[2].split()[:2] == ["Q4", "error"]
    assert "KoLeoLoss" in out[3]
    assert out[-1] == "NO VERDICT: 1 error, of 1 quirk · exit 2"


def test_help_says_what_the_columns_mean(capsys: pytest.CaptureFixture[str]) -> None:
    """Kinds of evidence, policies, examples and exit codes."""
    assert main(["quirks", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("measured", "source", "read", "corrected", "documented", "exit codes:", "--allow-modified-reference"):
        assert word in out
