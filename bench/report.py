"""One Markdown table, one picture and the required ratios, from pytest-benchmark's JSON.

    python -m bench.report JSON… [--output-dir output/bench] [--baseline bench/baseline.json] [--save-baseline FILE]

Exit code 0 where everything was measured, whether or not a ratio was reached; 1 where a part is missing, or a ratio is
worse than the baseline by more than a quarter; 2 where a file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import REQUIRED, ratios, verdicts
from bench.picture import draw

__all__ = ["main", "markdown", "read", "regressions", "table"]

TABLE, PICTURE, RATIOS = "bench.md", "bench.png", "ratios.json"
TOLERANCE = 0.25
"""Share by which a ratio may be worse than the baseline's: repeated runs on a busy machine differ by a fifth."""
EXIT_OK, EXIT_INCOMPLETE, EXIT_COULD_NOT = 0, 1, 2
Run = Mapping[str, Any]


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the runs in these files as one, with the first one's machine.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is not what `pytest bench --benchmark-json` writes, or the runs were of different sizes.
    """
    runs = []
    for path in paths:
        run = json.loads(path.read_text("utf-8"))
        if not isinstance(run, dict) or not {"benchmarks", "bench", "machine_info"} <= set(run):
            raise ValueError(f"{path} is no benchmark of this project, expected what `pytest bench` writes")
        runs.append(run)
    if len({run["bench"] for run in runs}) > 1:
        raise ValueError(f"runs of different sizes: {'; '.join(sorted({run['bench'] for run in runs}))}")
    return {**runs[0], "benchmarks": [b for run in runs for b in run["benchmarks"]]}


def markdown(run: Run) -> str:
    """Return the run as Markdown: what was measured, arms, parts, doubled sizes and required ratios."""
    by_kind: dict[str, list[Run]] = {"arm": [], "micro": [], "double": []}
    for benchmark in run["benchmarks"]:
        by_kind.setdefault(benchmark["extra_info"].get("kind", ""), []).append(benchmark)
    found = ratios(run["benchmarks"])
    machine = run["machine_info"].get("cpu", {}).get("brand_raw", run["machine_info"].get("machine", "unknown machine"))
    parts = [
        f"{run['bench']} · {machine}",
        table(_ARM_HEAD, [_arm_row(b) for b in by_kind["arm"]]),
        table(_PART_HEAD, [_part_row(b, found) for b in by_kind["micro"]]),
        table(("unified, whole step", "seconds", "cost", "peak MiB"), _double_rows(by_kind["double"])),
        table(
            ("required", "asked", "measured", ""),
            [
                (v.required.what, f"{_SIGN[v.required.at_most]} {v.required.bound:g}", _n(v.measured, ".2f"), v.word)
                for v in verdicts(found)
            ],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_SIGN = {False: "at least", True: "at most"}
_PART_HEAD = ("part", "", "per second", "peak MiB", "over official")
_ARM_HEAD = (
    "stage",
    "arm",
    "seconds",
    "median",
    "images/s",
    "peak MiB",
    "GFLOPs",
    "of ceiling",
    "over three-view",
    "FLOPs allow",
    "share",
    "over official",
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with numbers to the right; nothing where there is no row."""
    if not rows:
        return ""
    rule = ["---", *("---" if rows[0][i] == "" or rows[0][i][0].isalpha() else "---:" for i in range(1, len(head)))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _n(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _arm_row(benchmark: Run) -> tuple[str, ...]:
    info, stats = benchmark["extra_info"], benchmark["stats"]
    forms = {
        "images_per_s": ".3g",
        "peak_mib": ",.0f",
        "gflops": ",.0f",
        "share_of_ceiling": ".0%",
        "speed_up": ".2f",
        "flops_allow": ".2f",
        "share": ".2f",
        "over_official": ".2f",
    }
    numbers = [_n(info.get(key), form) for key, form in forms.items()]
    return (info["stage"], info["arm"], f"{stats['min']:.3g}", f"{stats['median']:.3g}", *numbers)


def _part_row(benchmark: Run, found: Mapping[str, float]) -> tuple[str, ...]:
    info = benchmark["extra_info"]
    name, side = info["what"].rsplit(" ", 1)
    ratio = found.get(name) if side == "port" else None
    return (name.replace("_", " "), side, f"{info['per_s']:,.3g}", _n(info.get("peak_mib"), ",.0f"), _n(ratio, ".2f"))


def _double_rows(benchmarks: Sequence[Run]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        words = "half the images" if info["what"] == "base" else f"twice the {info['what'].replace('_', ' ')}"
        seconds = f"{benchmark['stats']['min']:.3g}"
        rows.append((words, seconds, _n(info.get("cost"), ".2f"), _n(info.get("peak_mib"), ",.0f")))
    return rows


def regressions(found: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """Return a line per ratio that is worse than the baseline's by more than `TOLERANCE`."""
    at_most = {required.key for required in REQUIRED if required.at_most}
    lines = []
    for name in sorted(set(found) & set(baseline)):
        now, then = found[name], baseline[name]
        worse = now / then - 1 if name in at_most else 1 - now / then
        if worse > TOLERANCE:
            lines.append(f"{name}: {now:.2f}, was {then:.2f} in the baseline")
    return lines


def _baseline(path: Path | None, header: str) -> dict[str, float]:
    """Return the ratios to compare with: none where there is no file, or where it is of other sizes."""
    if path is None:
        return {}
    kept = json.loads(path.read_text("utf-8"))
    if kept["bench"].split(";")[0] != header.split(";")[0]:
        print(f"not compared with {path}, which is of other sizes: {kept['bench']}")
        return {}
    ratios_then: dict[str, float] = kept["ratios"]
    return ratios_then


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, the picture and the ratios, and print the table; see the module for the exit code."""
    parser = argparse.ArgumentParser("python -m bench.report", description="Table, picture and required ratios.")
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON", help="written by pytest bench --benchmark-json")
    parser.add_argument("--output-dir", type=Path, default=Path("output/bench"), metavar="DIR")
    parser.add_argument("--baseline", type=Path, metavar="JSON", help="ratios to compare with")
    parser.add_argument("--save-baseline", type=Path, metavar="JSON", help="write this run's ratios there")
    args = parser.parse_args(arguments)
    try:
        run = read(args.files)
        baseline = _baseline(args.baseline, run["bench"])
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_COULD_NOT
    text, found = markdown(run), ratios(run["benchmarks"])
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / TABLE).write_text(text, "utf-8")
    draw(run["benchmarks"], verdicts(found), run["bench"], args.output_dir / PICTURE)
    document = json.dumps({"bench": run["bench"], "ratios": found}, indent=1) + "\n"
    for path in [args.output_dir / RATIOS, *([args.save_baseline] if args.save_baseline else [])]:
        path.write_text(document, "utf-8")
    print(text)
    worse = regressions(found, baseline)
    for line in worse:
        print(f"worse: {line}")
    print(f"in {args.output_dir}: {TABLE}, {PICTURE}, {RATIOS}")
    complete = all(verdict.measured is not None for verdict in verdicts(found))
    return EXIT_OK if complete and not worse else EXIT_INCOMPLETE


if __name__ == "__main__":
    sys.exit(main())
