from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fabricated_results import EQUAL, FAR, diverged, only_not_run, passing

from parity.cli import main
from parity.errors import NoVerdictError, ReferenceSourceError
from parity.options import COMMANDS
from parity.results import Comparison, RunResult

COMMAND_LIST = "run, list, explain, quirks, doctor, adapter, certify, diff"

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """The runner's options, as the command line fills them."""

    reference: str = "auto"
    allow_modified_reference: bool = False
    subject: str = "port"
    recipes: tuple[str, ...] = ()
    level: str = "L5"
    only: tuple[str, ...] = ()
    seeds: int = 7
    quick: bool = False


class Runner:
    """Stands in for `parity.run` and `parity.doctor`: gives a result made by hand, or raises."""

    def __init__(self) -> None:
        self.outcome: RunResult | BaseException = passing()
        self.doctor: list[Comparison] = [EQUAL]
        self.given: list[Options] = []

    def run(self, options: Options, progress: Callable[[str, int, int], None]) -> RunResult:
        """Remember the options, report progress, and give the outcome."""
        self.given.append(options)
        progress("masks.block[default]", 0, 1)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        progress("", 1, 1)
        return self.outcome

    def examine(self, options: Options) -> list[Comparison]:
        """As `run`, for the doctor."""
        self.given.append(options)
        return self.doctor


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Put the stand-in where the command line imports the real one."""
    fake = Runner()
    run: Any = ModuleType("parity.run")
    run.Options, run.run = Options, fake.run
    run.planned_checks = lambda _: [("masks.block[default]", "masks", "L1", "block masks", ("a.py:1",), ("make_mask",))]
    doctor: Any = ModuleType("parity.doctor")
    doctor.doctor = fake.examine
    monkeypatch.setitem(sys.modules, "parity.run", run)
    monkeypatch.setitem(sys.modules, "parity.doctor", doctor)
    return fake


@pytest.mark.parametrize(("outcome", "code"), [(passing(), 0), (diverged(), 1), (only_not_run(), 2)])
def test_exit_codes_are_the_runs_own(
    runner: Runner, capsys: pytest.CaptureFixture[str], outcome: RunResult, code: int
) -> None:
    """0 parity, 1 divergence, 2 nothing compared; the last line says the same."""
    runner.outcome = outcome
    assert main(["run"]) == code
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"exit {code}")


def test_an_error_among_passed_checks_is_no_parity(runner: Runner) -> None:
    """A check that raised leaves no verdict, whatever the others say."""
    failed = [c for c in diverged().checks if c.status != "diverged"]
    runner.outcome = replace(passing(), checks=failed)
    assert main(["run"]) == 2


@pytest.mark.parametrize("error", [ReferenceSourceError("no network;\nuse --reference PATH"), NoVerdictError("canary")])
def test_our_errors_are_one_line(runner: Runner, capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    """No traceback, nothing on stdout, exit code 2."""
    runner.outcome = error
    assert main(["run"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {' '.join(str(error).split())}\n"


def test_a_crash_has_a_traceback_and_is_no_divergence(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """A bug of parity's exits with 2: 1 would mean that the subject diverges."""
    runner.outcome = ZeroDivisionError("bug")
    assert main(["run"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: bug" in err


def test_an_interrupt_exits_with_130(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line, and no report of half a run."""
    runner.outcome = KeyboardInterrupt()
    assert main(["run", "--json", str(tmp_path / "r.json")]) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted: no verdict, nothing was written"]
    assert list(tmp_path.iterdir()) == []


def test_options_reach_the_runner(runner: Runner, tmp_path: Path) -> None:
    """What is given is passed on; what is not keeps the runner's default."""
    adapter = tmp_path / "a.py"
    adapter.touch()
    line = f"run --reference {tmp_path} --allow-modified-reference --subject {adapter} --recipe default --recipe vitl14"
    assert (
        main(
            [
                *line.split(),
                *[
                    "--level",
                    "l2",
                    "--only",
                    "masks,losses",
                    "--only",
                    "files",
                    "--seeds",
                    "3",
                    "--quick",
                ],
            ]
        )
        == 0
    )
    assert main(["run"]) == 0
    assert runner.given == [
        Options(str(tmp_path), True, str(adapter), ("default", "vitl14"), "L2", ("masks", "losses", "files"), 3, True),
        Options(),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rnu", f"unknown command 'rnu', expected one of {COMMAND_LIST}; did you mean 'run'?"),
        ("run --levle L1", "unknown argument '--levle'; did you mean '--level'?"),
        ("run --level L9", "unknown level 'L9', expected L0, L1, L2, L3, L4, L5"),
        ("run --only maks", "unknown family 'maks', expected files, masks,"),
        ("run --only maks", "did you mean 'masks'?"),
        ("run --only masks,gradient", "did you mean 'gradients'?"),
        ("run --only ,", "no family named"),
        (
            "run --reference githb",
            "unknown reference 'githb', expected auto, github, pypi or a folder that exists; did you mean 'github'?",
        ),
        ("run --subject legcy", "did you mean 'legacy'?"),
        ("run --subject absent.py", "the adapter file 'absent.py' does not exist"),
        ("run --seeds 0", "'0' is not a whole number of at least 1"),
        ("run --seeds three", "'three' is not a whole number"),
        ("run --seeds", "expected one argument"),
        ("run extra", "unknown argument 'extra'"),
        ("explain 0009", "nothing is known about '0009'; did you mean '000"),
        ("--colour", "the following arguments are required: COMMAND"),
        ("", f"no command given; expected one of {COMMAND_LIST}"),
    ],
)
def test_a_wrong_line_is_answered_with_what_is_right(
    runner: Runner, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    """Value, expectation, nearest name; one line on stderr, exit code 2, and nothing is run."""
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1
    assert runner.given == []


def test_outputs_are_written(runner: Runner, tmp_path: Path) -> None:
    """JSON and Markdown hold the run that was printed."""
    runner.outcome = diverged()
    assert main(["run", "--json", str(tmp_path / "r.json"), "--markdown", str(tmp_path / "r.md")]) == 1
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["exit_code"] == 1
    assert (tmp_path / "r.md").read_text("utf-8").startswith("## DIVERGED: 135 comparisons")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("option", ["--json", "--markdown"])
@pytest.mark.parametrize("name", ["absent/r", ".", "/dev/full"])
def test_an_impossible_output_is_refused_before_the_run(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str, name: str
) -> None:
    """Nobody waits an hour to learn that the folder is missing."""
    assert main(["run", option, str(tmp_path / name)]) == 2
    assert runner.given == []
    assert f"cannot write {tmp_path / name}: " in capsys.readouterr().err


def test_two_reports_cannot_share_a_file(runner: Runner, tmp_path: Path) -> None:
    """The second would replace the first."""
    path = str(tmp_path / "r")
    assert main(["run", "--json", path, "--markdown", path]) == 2
    assert runner.given == []


def test_a_disk_that_fills_during_the_run(
    runner: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The result is still printed, the old report still whole, and the code is 2 on both."""
    path = tmp_path / "r.json"
    path.write_text("old")

    def run(options: Options, progress: object) -> RunResult:
        monkeypatch.setattr("os.fsync", _no_space)
        return passing()

    monkeypatch.setattr(sys.modules["parity.run"], "run", run)
    assert main(["run", "--json", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("PARITY: ")
    assert out.splitlines()[-1].endswith("exit 2")
    assert "r.json: No space left on device" in err
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_list_names_families_checks_recipes_and_subjects(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each; a family without checks says so."""
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  masks (L1): block masks under one random stream" in lines
    assert "    masks.block  L1  block masks" in lines
    assert any(line.startswith("  losses (no checks): ") for line in lines)
    assert any(line.startswith("  vitg14 ") for line in lines)
    assert any(line.startswith("  document ") for line in lines)


def test_explain_prints_markdown_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the text stays Markdown, so that it can be kept in a file."""
    assert main(["explain", "5"]) == 0
    assert capsys.readouterr().out.startswith("# 0005: every masked image weighs the same")


def test_explain_renders_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal the markup becomes type: no asterisks, no fences."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["explain", "0006"]) == 0
    out = capsys.readouterr().out
    assert "40 times too little" in out
    assert "**" not in out
    assert "```" not in out


def test_explain_without_an_id_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    """The list is where an unknown id sends the reader."""
    assert main(["explain"]) == 0
    assert "  0007               layer-wise learning-rate decay" in capsys.readouterr().out.splitlines()


def test_doctor_says_whether_the_instrument_is_sound(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """0 sound, 2 otherwise: a failed self-check is no divergence of anybody's, and no checks prove nothing."""
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 self-checks passed: sound"
    runner.doctor = [EQUAL, FAR]
    assert main(["doctor", "--reference", "pypi"]) == 2
    assert "FAILED  gradients/backbone.cls_token" in capsys.readouterr().out
    runner.doctor = []
    assert main(["doctor"]) == 2
    assert [options.reference for options in runner.given] == ["auto", "pypi", "auto"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """`--help` of every command exits with 0."""
    assert main([command, "--help"]) == 0
    assert f"usage: python -m parity {command}" in capsys.readouterr().out


def test_help_of_run_is_worth_reading(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option, family, level, subject and exit code is explained, and examples are given."""
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    words = "--reference --allow-modified-reference --subject --recipe --level --only --seeds --quick --json"
    words += " --markdown --junit --html --github --no-github"
    words += " files masks collate losses schedules param_groups modules gradients trajectory"
    words += " prototype checkpoint distributed L0 L5"
    words += " legacy MODULE:ATTR"
    assert [word for word in words.split() if word not in text] == []
    for code in ("0    parity", "1    divergence", "2    no verdict", "130  interrupted"):
        assert code in text
    assert "python -m parity run --recipe vitl14 --level L2" in text


def test_options_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    """A new option is a decision: it changes this list, too."""
    assert main(["run", "--help"]) == 0
    shown = {word.strip("[],") for word in capsys.readouterr().out.split("\n\n")[0].split() if "--" in word}
    assert shown == {
        "--reference", "--allow-modified-reference", "--subject", "--recipe", "--level", "--only",
        "--seeds", "--quick", "--waivers", "--json", "--markdown", "--junit", "--html", "--github", "--no-github",
    }  # fmt: skip


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=120
    )


def test_help_and_explain_do_not_import_torch() -> None:
    """They answer at once, and so does the drafter, which only reads."""
    code = "import sys; from parity.cli import main; main({}); print('torch' in sys.modules, file=sys.stderr)"
    for line in (["run", "--help"], ["explain", "Q3"], ["--version"], ["adapter", "tests/migrations/fork"]):
        done = _python("-c", code.format(line))
        assert done.stderr.strip() == b"False"


def test_the_module_runs() -> None:
    """`python -m parity` is the command line, exit code included."""
    done = _python("-m", "parity", "explain", "no-such-id")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: nothing is known about 'no-such-id'")


_SCRIPT = f"""
import sys, types
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fabricated_results import diverged, masks
from parity.cli import main
module = types.ModuleType("parity.run")
module.Options = lambda **given: given
module.run = lambda options, progress: diverged()
sys.modules["parity.run"] = module
sys.exit(main(["run"]))
"""


def test_a_closed_pipe_keeps_the_exit_code() -> None:
    """`parity run | head -1` still exits with the run's code: rich itself would exit with 1, python with 120."""
    script = _SCRIPT.replace("diverged()", "__import__('fabricated_results').passing()")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, timeout=120
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_on_stdout_keeps_the_exit_code() -> None:
    """The report is lost, which stderr says, and the verdict is not."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=120
        )
    assert done.returncode == 1
    assert b"warning: the report could not be printed: No space left on device" in done.stderr


def test_an_ascii_terminal_gets_plain_pictures() -> None:
    """Half blocks become ^, frames become +-|, and nothing fails."""
    done = _python("-c", _SCRIPT, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (1, b"")
    text = done.stdout.decode("ascii")
    assert f"|{'^' * 14}|" in text
    assert f"+{'-' * 14}+" in text


def test_no_color_is_honoured() -> None:
    """NO_COLOR wins even where colour is forced."""
    coloured = _python("-c", _SCRIPT, FORCE_COLOR="1", TERM="xterm", NO_COLOR="")
    plain = _python("-c", _SCRIPT, FORCE_COLOR="1", TERM="xterm", NO_COLOR="1")
    assert b"\x1b[1;31m" in coloured.stdout
    assert b"\x1b[1;31m" not in plain.stdout
    assert b"[31m" not in plain.stdout


@pytest.mark.parametrize("width", ["80", "140"])
def test_pipes_get_the_width_that_is_asked_for(width: str) -> None:
    """Between the first and the last line, nothing is wider than COLUMNS."""
    done = _python("-c", _SCRIPT, COLUMNS=width, PYTHONIOENCODING="utf-8")
    lines = done.stdout.decode().splitlines()
    assert [line for line in lines[1:-1] if len(line) > int(width)] == []
    assert lines[0].startswith("reference: facebookresearch/dinov2 commit b8931f7")


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), BaseException("odd")])
def test_nothing_that_is_raised_looks_like_a_verdict(
    runner: Runner, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    """Python would end with 0 or 1 for these; here whatever leaves the run is 2, and stderr says what it was."""
    runner.outcome = error
    assert main(["run"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert type(error).__name__ in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [("run --only losses --quick", "line {}: `sys.exit(0)`"), ("doctor", "SystemExit: 0 at {path}:{}")],
)
def test_a_reference_that_exits_on_import_is_no_parity(
    official_copy: Path, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    """`sys.exit(0)` at the end of an edited module ends neither command with 0, and its file and line are told."""
    path = official_copy / "dinov2/train/ssl_meta_arch.py"
    text = path.read_text() + "\nimport sys\nsys.exit(0)\n"
    path.write_text(text)
    assert main([*line.split(), "--reference", str(official_copy), "--allow-modified-reference"]) in (1, 2)
    out, err = capsys.readouterr()
    told = " ".join((out + err).split())
    assert expected.format(text.count("\n"), path=path) in told


@pytest.mark.parametrize("spelling", ["sub/../r", "link"])
def test_two_spellings_of_one_report_are_refused(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, spelling: str
) -> None:
    """Through `..` or through a link it is the same file, and the second report would replace the first."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "r")
    assert main(["run", "--json", str(tmp_path / "r"), "--markdown", str(tmp_path / spelling)]) == 2
    assert "name the same file" in capsys.readouterr().err
    assert runner.given == []


@pytest.mark.parametrize(("outcome", "code"), [(passing(), 0), (diverged(), 1)])
def test_a_stdout_that_is_gone_keeps_the_exit_code(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: RunResult, code: int
) -> None:
    """Where Python has no stdout at all, the verdict is still the code, and stderr says that nothing was printed."""
    runner.outcome = outcome
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["run"]) == code
    assert capsys.readouterr().err == "warning: stdout is closed, nothing could be printed\n"
