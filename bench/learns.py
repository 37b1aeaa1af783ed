"""Does training teach anything? Three seeds, k-NN accuracy on tiles that no training saw, and what it must beat.

    python -m bench.learns              as the README reports it: at most 45 minutes on two cores
    python -m bench.learns --split val  the tiles on which the hyperparameters of learns.yaml were chosen

The tiles are grey and equalised, so that neither colour nor brightness gives their image away, and those that are
classified come from another region of each image than those that train and vote.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from port.train import main as train
from port.training.evaluation import KNN_FILE
from port.watch.plots import plot_knn_curves

__all__ = ["Outcome", "SeedResult", "main", "verdict"]

HERE = Path(__file__).parent
CONFIG = HERE / "learns.yaml"
PICTURE = "learns.png"
REPORT = "learns.json"
SEEDS = (0, 1, 2)
EXIT_LEARNT, EXIT_NOT_LEARNT, EXIT_COULD_NOT = 0, 1, 2


@dataclass(frozen=True)
class SeedResult:
    """One training.

    Attributes:
        seed: of the run.
        curve: iterations done, and k-NN accuracy after them; the first is untrained.
        raw_pixels: k-NN accuracy of the tiles themselves.
    """

    seed: int
    curve: Mapping[int, float]
    raw_pixels: float

    @property
    def untrained(self) -> float:
        """Accuracy of the same network before its first step."""
        return self.curve[min(self.curve)]

    @property
    def trained(self) -> float:
        """Accuracy after the last step, whether or not an earlier one was better."""
        return self.curve[max(self.curve)]


@dataclass(frozen=True)
class Outcome:
    """What three trainings say together.

    Attributes:
        trained: mean accuracy over seeds.
        untrained: mean accuracy over seeds.
        raw_pixels: the largest over seeds; it is the same for all, as pixels have no seed.
        spread: the larger of the ranges, highest minus lowest, of trained and untrained accuracies.
    """

    trained: float
    untrained: float
    raw_pixels: float
    spread: float

    @property
    def learnt(self) -> bool:
        """Whether training beats both by more than the spread over seeds."""
        return min(self.trained - self.untrained, self.trained - self.raw_pixels) > self.spread


def verdict(results: Sequence[SeedResult]) -> Outcome:
    """Compare trainings with their own beginnings and with raw pixels.

    Raises:
        ValueError: there are fewer than two trainings, so no spread, or one has no two measurements.
    """
    if len(results) < 2:
        raise ValueError(f"{len(results)} training has no spread over seeds, expected at least 2 seeds")
    if short := [result.seed for result in results if len(result.curve) < 2]:
        raise ValueError(f"seeds {short} were measured once, expected before and after training")
    trained, untrained = ([getattr(r, name) for r in results] for name in ("trained", "untrained"))
    return Outcome(
        trained=sum(trained) / len(trained),
        untrained=sum(untrained) / len(untrained),
        raw_pixels=max(result.raw_pixels for result in results),
        spread=max(max(trained) - min(trained), max(untrained) - min(untrained)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train, report, and return 0 where it learnt, 1 where it did not, 2 where something could not be done."""
    arguments = _parser().parse_args(argv)
    began = time.monotonic()
    results = []
    for seed in arguments.seeds:
        folder = arguments.output_dir / f"{arguments.split}-seed-{seed}"
        code = train(_command(seed, folder, arguments.split, arguments.overrides))
        if code != 0:
            return code if code == EXIT_COULD_NOT else EXIT_NOT_LEARNT
        results.append(_read(seed, folder))
    try:
        outcome = verdict(results)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_COULD_NOT
    _report(results, outcome, arguments.split, arguments.output_dir, time.monotonic() - began)
    return EXIT_LEARNT if outcome.learnt else EXIT_NOT_LEARNT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.learns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--split", choices=("val", "test"), default="test", help="tiles to classify; default test")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="N", help="seeds; default 0 1 2")
    add("--output-dir", type=Path, default=Path("output/learns"), metavar="DIR", help="default output/learns")
    add("overrides", nargs="*", metavar="key=value", help="settings of port/train.py, to try others")
    return parser


def _command(seed: int, folder: Path, split: str, overrides: Sequence[str]) -> list[str]:
    """Return the arguments of `port/train.py`; a run that was interrupted goes on where it was."""
    classified = f"knn.test_dataset=skimage:split={split}:size=96:grey=true:normalise=true"
    return ["--config-file", str(CONFIG), "--output-dir", str(folder), f"train.seed={seed}", classified, *overrides]


def _read(seed: int, folder: Path) -> SeedResult:
    record = json.loads((folder / KNN_FILE).read_text(encoding="utf-8"))
    curve = {int(done): float(accuracy) for done, accuracy in record["curve"].items()}
    return SeedResult(seed, dict(sorted(curve.items())), float(record["raw_pixels"]))


def _report(results: Sequence[SeedResult], outcome: Outcome, split: str, folder: Path, seconds: float) -> None:
    """Print a table, and write the picture and the numbers."""
    table = Table("seed", "raw pixels", "untrained", "trained", title=f"k-NN accuracy, {split} tiles", title_style="")
    for result in results:
        table.add_row(str(result.seed), *(f"{v:.3f}" for v in (result.raw_pixels, result.untrained, result.trained)))
    table.add_section()
    table.add_row("mean", *(f"{v:.3f}" for v in (outcome.raw_pixels, outcome.untrained, outcome.trained)))
    console = Console()
    console.print(table)
    plot_knn_curves(
        {str(result.seed): list(result.curve.items()) for result in results},
        folder / PICTURE,
        baselines={
            "untrained": [result.untrained for result in results],
            "raw pixels": [outcome.raw_pixels],
        },
        title=f"k-NN accuracy on held-out regions ({split} tiles)",
    )
    document = {"split": split, "learnt": outcome.learnt, **asdict(outcome), "seeds": [asdict(r) for r in results]}
    (folder / REPORT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(
        f"{'LEARNT' if outcome.learnt else 'NOT LEARNT'}: {outcome.trained:.3f} after training, "
        f"{outcome.trained - outcome.untrained:+.3f} against untrained, "
        f"{outcome.trained - outcome.raw_pixels:+.3f} against raw pixels, spread over seeds {outcome.spread:.3f} "
        f"(needed: both above the spread) · {seconds / 60:.1f} min · {folder / PICTURE}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
