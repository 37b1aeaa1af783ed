"""The options of the command line, and its help."""

from __future__ import annotations

import argparse
import importlib.metadata
from typing import Any, NoReturn

from parity.arguments import (
    families,
    level,
    output_file,
    positive,
    reference_source,
    subject_name,
)
from parity.commands import adapter, certify, diff, quirks
from parity.errors import UsageError
from parity.outputs import RUN_OUTPUTS

__all__ = ["COMMANDS", "build_parser"]

COMMANDS = ("run", "list", "explain", "quirks", "doctor", "adapter", "certify", "diff")

EXIT_CODES = """\
exit codes:
  0    parity: everything that was compared agrees
  1    divergence: at least one comparison exceeds what its rule allows
  2    no verdict: an error, or nothing was compared
  130  interrupted
"""

_EXAMPLES = """\
examples:
  python -m parity run                                 the port against official code
  python -m parity run --quick --only masks,losses     two families, fewer masks
  python -m parity run --subject adapter.py            your own training stack
  python -m parity run --reference path/to/dinov2      against a checkout that you have
  python -m parity adapter path/to/fork                draft adapter.py from a fork's source
  python -m parity certify path/to/fork                which of its files are official's
  python -m parity explain 0005                        what a documented difference is
  python -m parity diff before.json after.json         what changed between two runs
  python -m parity quirks --verify                     what official code really does, run again
"""

_RUN_EXAMPLES = """\
families:
  files          official files present, and byte-identical to known commits
  masks          block masks, drawn from the same random stream
  collate        masked counts, weights, indices and casts of a batch
  augment        every crop of real images under shared seeds; samplers and data order
  losses         DINO, iBOT and KoLeo losses, Sinkhorn, centres, with input gradients
  prototype      the loss that official has not: its definition, gradients, masks, identities
  schedules      lr, weight decay, momentum and temperature at every iteration
  param_groups   effective lr and weight decay of every parameter, by name
  modules        patch embedding, blocks, packed forward and heads
  gradients      a training step: loss terms, gradients, clipping, parameters, teacher, centres
  trajectory     100 training steps, also resumed in the middle: losses, parameters, moments, teacher, centres
  checkpoint     official checkpoints into the subject and back, bit for bit; what does not fit is refused
  distributed    two ranks against two ranks: Sinkhorn, centres, averaged gradients

levels: L0 files, L1 operations, L2 modules, L3 a training step, L4 a hundred, L5 two ranks; each includes those before

subjects:
  port           the training stack of this project
  legacy         a fork before the documented changes
  document       a fork after the documented changes, taken literally
  FILE.py        an adapter file of your own; MODULE:ATTR an importable stack

examples:
  python -m parity run --recipe vitl14 --level L2
  python -m parity run --only masks,collate --seeds 500
  python -m parity run --subject adapter.py --json report.json --markdown summary.md
  python -m parity run --junit report.xml --html report.html

"""


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that every error leaves through one door."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; it raises `UsageError` where argparse would exit."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="python -m parity",
        description="Compare a PyTorch DINOv2 training stack with facebookresearch/dinov2, tensor by tensor.",
        epilog=f"{_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=raw,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands, raw)
    commands.add_parser(
        "list", help="families, checks, recipes and subjects", description="List what can be run.", allow_abbrev=False
    )
    explain = commands.add_parser(
        "explain",
        help="what a difference, quirk, family, tier or check is",
        description="Explain a difference (0001 … 0007), a quirk (Q1 …), a family, a tier, a capability or a check.",
        allow_abbrev=False,
    )
    explain.add_argument("id", metavar="ID", nargs="?", help="left out: list what can be explained")
    quirks.add_parser(commands)
    doctor = commands.add_parser(
        "doctor",
        help="check the instrument itself",
        description="Compare the reference with itself, traced with untraced: where that fails, no verdict counts.",
        epilog="exit codes: 0 sound, 2 not sound or an error",
        allow_abbrev=False,
    )
    _add_reference(doctor)
    for command in (adapter, certify, diff):
        command.add_parser(commands)
    return parser


def _version() -> str:
    try:
        return f"dinov2-parity {importlib.metadata.version('dinov2-parity')}"
    except importlib.metadata.PackageNotFoundError:
        return "dinov2-parity (not installed)"


def _add_run(commands: Any, formatter: type[argparse.HelpFormatter]) -> None:
    run = commands.add_parser(
        "run",
        help="compare a stack with official code",
        description="Compare a stack with official code and say where it first differs, and why.",
        epilog=_RUN_EXAMPLES + EXIT_CODES,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    _add_reference(run)
    run.add_argument("--subject", type=subject_name, metavar="NAME", help="what is compared (default: port)")
    run.add_argument("--recipe", action="append", metavar="NAME", help="a configuration; repeatable (default: all)")
    run.add_argument("--level", type=level, metavar="L0..L5", help="how far to go (default: L5)")
    run.add_argument(
        "--only", type=families, action="extend", metavar="FAMILY,…", help="these families alone; repeatable"
    )
    run.add_argument(
        "--seeds", type=positive, metavar="N", help="masks drawn per check (default: 4000, 600 with --quick)"
    )
    run.add_argument(
        "--quick",
        action="store_true",
        default=None,
        help="fewer masks, no variants of recipes, no full-size step, no ranks",
    )
    for name, text in RUN_OUTPUTS.items():
        run.add_argument(f"--{name}", type=output_file, metavar="FILE", help=text)
    run.add_argument(
        "--github",
        action=argparse.BooleanOptionalAction,
        help="annotate the workflow run on stderr, ten lines at most (default: where GITHUB_ACTIONS is `true`)",
    )
    run.add_argument("--waivers", metavar="FILE", help="expected divergences (python -m parity explain waivers)")


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference",
        type=reference_source,
        metavar="SOURCE",
        help="official code: auto, github, pypi or a folder (default: auto, the pinned commit, else the wheel)",
    )
    parser.add_argument(
        "--allow-modified-reference",
        action="store_true",
        default=None,
        help="compare even where the reference's files are not official's; the report says so",
    )
