"""`pytest bench` itself: what it collects, its options, and that other suites do not collect it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from bench.figures import ratios

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytest_benchmark") is None, reason="pytest-benchmark is in the dependency group bench"
)


def bench(*arguments: str, folder: str = "bench") -> subprocess.CompletedProcess[str]:
    """Run pytest over a folder of the project."""
    command = [sys.executable, "-m", "pytest", folder, "-p", "no:cacheprovider", *arguments]
    # Under xdist these variables would make the inner pytest a worker, which benchmarks refuse.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=outside)


def seconds_of_children() -> float:
    """Return the seconds that programs started from here have used: a busy machine adds none."""
    times = os.times()
    return times.children_user + times.children_system


def test_collection_takes_seconds_and_builds_nothing() -> None:
    """Every arm at every stage, the doubled sizes and the parts are listed; mostly torch's import takes the time."""
    began = seconds_of_children()
    done = bench("--collect-only", "-q", "--bench-device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert seconds_of_children() - began < 30
    for stage in ("forward", "forward+backward", "step"):
        for arm in ("three-view", "unified", "packed", "separate", "official"):
            assert f"test_arm[{stage}-{arm}]" in done.stdout
    for part in ("test_masks[37-port]", "test_losses[131072-official]", "test_doubling[local_crops]", "test_augment"):
        assert part in done.stdout


def test_the_header_says_what_a_cpu_measures() -> None:
    """Before anything runs: sizes, device and why they are small."""
    done = bench("--collect-only", "--bench-device", "cpu", "--bench-arch", "vit_demo", "--bench-batch", "4")
    assert "bench: vit_demo, 4 images, 8 local crops, 65,536 prototypes; fp32" in done.stdout
    assert "sizes are small for want of a GPU" in done.stdout


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--bench-arch", "vit_smal"), "--bench-arch is 'vit_smal', expected one of"),
        (("--bench-batch", "0"), "--bench-batch is 0, expected at least 2"),
    ],
)
def test_an_impossible_option_ends_the_run(option: tuple[str, str], message: str) -> None:
    """Exit code 4, pytest's for wrong usage, and a line without a traceback."""
    done = bench("--collect-only", "--bench-device", "cpu", *option)
    assert done.returncode == 4
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_arm_that_runs_out_of_memory_fails_and_the_others_go_on() -> None:
    """A billion images: a failure with a line of its own, masks measured all the same, exit code 1."""
    sizes = ("--bench-device", "cpu", "--bench-arch", "vit_parity4", "--bench-prototypes", "16")
    options = ("--benchmark-only", "--bench-batch", "1000000000", "--bench-local-crops", "2")
    chosen = "test_doubling and base or test_masks and 14-port"
    done = bench(*sizes, *options, "--bench-reference", "pypi", "-k", chosen)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "unified step, base: out of memory (" in done.stdout
    assert "| masks 14 | port |" in done.stdout


@pytest.mark.slow
def test_both_sides_of_a_part_have_as_many_rounds_and_a_ratio_within_them(tmp_path: Path) -> None:
    """The times of each stand under its own test; the ratio is the median of official's over port's, round by round."""
    sizes = ("--bench-device", "cpu", "--bench-arch", "vit_parity4", "--bench-prototypes", "16", "--bench-rounds", "3")
    file = tmp_path / "run.json"
    options = ("--benchmark-only", "--benchmark-json", str(file), "--bench-reference", "pypi", "-k", "test_update")
    done = bench(*sizes, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads(file.read_text())
    assert "kernels fast, 3 rounds" in run["bench"]
    seconds = {b["name"]: b["stats"]["data"] for b in run["benchmarks"]}
    official, port = seconds["test_update[official]"], seconds["test_update[port]"]
    assert len(official) == len(port) == 3
    ratio = median(theirs / mine for theirs, mine in zip(official, port, strict=True))
    assert ratios(run["benchmarks"]) == {"update": pytest.approx(ratio)}


def test_the_test_suite_does_not_collect_benchmarks() -> None:
    """`pytest` alone looks into `tests`, as pyproject.toml says."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'testpaths = ["tests"]' in text
