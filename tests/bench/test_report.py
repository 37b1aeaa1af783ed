from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.figures import REQUIRED
from bench.report import main, markdown, read, regressions

ARM = {
    "images_per_s": 4.0,
    "peak_mib": 1234.5,
    "gflops": 812.4,
    "share_of_ceiling": 0.456,
    "speed_up": 1.5,
    "flops_allow": 1.6,
    "share": 0.9375,
    "over_official": 1.25,
}


def run(*benchmarks: dict[str, Any], header: str = "vit_small, 8 images") -> dict[str, Any]:
    """Return what `pytest bench --benchmark-json` writes, as far as it is read."""
    return {"bench": header, "machine_info": {"cpu": {"brand_raw": "A CPU"}}, "benchmarks": list(benchmarks)}


def arm(name: str, stage: str = "step", seconds: float = 2.0, **changes: Any) -> dict[str, Any]:
    """Return one arm's benchmark."""
    info = {"kind": "arm", "what": f"{stage} {name}", "arm": name, "stage": stage, **ARM, **changes}
    return {"extra_info": info, "stats": {"min": seconds, "median": seconds + 0.5}}


def micro(what: str, seconds: float) -> dict[str, Any]:
    """Return the benchmark of one side of a part."""
    return {"extra_info": {"kind": "micro", "what": what, "per_s": 64 / seconds}, "stats": {"min": seconds}}


def double(what: str, seconds: float, cost: float | None) -> dict[str, Any]:
    """Return the benchmark of one doubled size."""
    return {"extra_info": {"kind": "double", "what": what, "peak_mib": 10.0, "cost": cost}, "stats": {"min": seconds}}


def test_a_row_per_arm() -> None:
    """Seconds, median, images/s, MiB, GFLOPs, share of the ceiling, speed-up, what FLOPs allow, the share."""
    text = markdown(run(arm("unified")))
    assert text.startswith("vit_small, 8 images · A CPU\n")
    assert "| step | unified | 2 | 2.5 | 4 | 1,234 | 812 | 46% | 1.50 | 1.60 | 0.94 | 1.25 |" in text.splitlines()


def test_what_is_not_known_is_a_dash() -> None:
    """No number is made up for memory that the system does not tell, or for a missing three-view arm."""
    text = markdown(run(arm("unified", peak_mib=None, speed_up=None, flops_allow=None, share=None)))
    assert "| step | unified | 2 | 2.5 | 4 | - | 812 | 46% | - | - | - | 1.25 |" in text


def test_parts_stand_beside_official_s() -> None:
    """64 masks in 0.008 and 0.002 s: 8,000 and 32,000 a second, four times as many."""
    lines = markdown(run(micro("masks_14 official", 0.008), micro("masks_14 port", 0.002))).splitlines()
    assert "| masks 14 | official | 8e+03 | - | - |" in lines
    assert "| masks 14 | port | 3.2e+04 | - | 4.00 |" in lines


def test_doubled_sizes_stand_with_their_cost() -> None:
    """The cost is that within rounds, not the quotient of the times; without a base there is none."""
    lines = markdown(run(double("base", 2.0, 1.0), double("local_crops", 3.0, 1.75))).splitlines()
    assert "| half the images | 2 | 1.00 | 10 |" in lines
    assert "| twice the local crops | 3 | 1.75 | 10 |" in lines
    assert "| twice the batch | 3 | - | 10 |" in markdown(run(double("batch", 3.0, None)))


def test_every_required_ratio_has_its_verdict() -> None:
    """What was reached, what was not, and what nobody measured."""
    text = markdown(run(micro("masks_14 official", 0.008), micro("masks_14 port", 0.0021)))
    assert "14 x 14 | at least 4 | 3.81 | not reached |" in text
    assert text.count("not measured") == len(REQUIRED) - 1


def test_a_ratio_worse_than_the_baseline_is_a_regression() -> None:
    """By more than a quarter, in the direction that matters: a smaller share of memory is no regression."""
    baseline = {"masks_14": 5.0, "peak_over_official": 0.5, "losses_65536": 2.0, "gone": 1.0}
    assert regressions({"masks_14": 3.9, "peak_over_official": 0.4, "losses_65536": 3.0}, baseline) == []
    assert regressions({"masks_14": 3.6, "peak_over_official": 0.65}, baseline) == [
        "masks_14: 3.60, was 5.00 in the baseline",
        "peak_over_official: 0.65, was 0.50 in the baseline",
    ]


def test_files_of_one_size_are_joined(tmp_path: Path) -> None:
    """A long run may be made in parts; parts of different sizes are no run."""
    for name, content in {"a": run(arm("unified")), "b": run(arm("official")), "c": run(header="vit_large")}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert len(read([tmp_path / "a.json", tmp_path / "b.json"])["benchmarks"]) == 2
    with pytest.raises(ValueError, match="runs of different sizes: vit_large; vit_small, 8 images"):
        read([tmp_path / "a.json", tmp_path / "c.json"])


def test_table_picture_and_ratios_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1: most ratios were not measured, and the report does not pretend that they were."""
    file, out = tmp_path / "run.json", tmp_path / "out"
    arms = [arm("three-view", seconds=3.0, speed_up=1.0), arm("unified"), arm("official", seconds=2.5)]
    file.write_text(json.dumps(run(*arms)))
    assert main([str(file), "--output-dir", str(out), "--save-baseline", str(tmp_path / "baseline.json")]) == 1
    assert (out / "bench.md").read_text("utf-8") == markdown(run(*arms))
    with Image.open(out / "bench.png") as picture:
        assert min(picture.size) > 500
    assert json.loads((tmp_path / "baseline.json").read_text())["ratios"]["unified_share_of_flops"] == 0.9375
    assert "not measured" in capsys.readouterr().out


def test_a_run_worse_than_its_baseline_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says which ratio, and from what to what."""
    file, baseline = tmp_path / "run.json", tmp_path / "baseline.json"
    file.write_text(json.dumps(run(micro("masks_14 official", 0.008), micro("masks_14 port", 0.004))))
    options = [str(file), "--output-dir", str(tmp_path), "--baseline", str(baseline)]
    baseline.write_text(json.dumps({"bench": "vit_small, 8 images; fp32", "ratios": {"masks_14": 4.0}}))
    assert main(options) == 1
    assert "worse: masks_14: 2.00, was 4.00 in the baseline" in capsys.readouterr().out
    baseline.write_text(json.dumps({"bench": "vit_large, 8 images; fp32", "ratios": {"masks_14": 4.0}}))
    main(options)
    printed = capsys.readouterr().out
    assert "worse: " not in printed
    assert "which is of other sizes: vit_large, 8 images; fp32" in printed


@pytest.mark.parametrize("content", ["[]", "{}", "not JSON", None])
def test_a_file_that_is_no_benchmark(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line, for another JSON, no JSON and no file."""
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content)
    assert main([str(file), "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()
