"""`checkpoint IN --out OUT`: show, then write, a checkpoint under `port`'s names and groups."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.streams import complain, emit

_EPILOG = """\
exit codes:
  0    written, or nothing to do
  1    shown only: something would change (add --write)
  2    could not do the job; nothing was written

examples:
  python -m migrations checkpoint run/checkpoint.pth --out run/official.pth
  python -m migrations checkpoint run/checkpoint.pth --out run/official.pth --set mask_ratio_min=0.1 --write
  python -m migrations checkpoint run/official.pth --out run/back.pth --downgrade --write
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "checkpoint",
        help="rename a checkpoint's modules and regroup its optimizer, keeping all moments",
        description="Convert a fork's checkpoint to official's names and port's parameter groups. IN is only read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option(
        "input", metavar="IN", type=Path, help="a file that torch.save wrote: {'student', 'teacher', 'optimizer', …}"
    )
    option("--out", metavar="OUT", type=Path, required=True, help="the new file; must not exist")
    option("--write", action="store_true", help="write it; without, the changes are shown")
    option("--downgrade", action="store_true", help="back to the fork's names and groups, of what this command made")
    option(
        "--layout", default="flat", help="flat or chunks=N, weight_g or parametrized, joined by commas (default: flat)"
    )
    option(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="a part's new name: head=dino_head; repeatable"
    )
    option(
        "--config", metavar="YAML", help="port's configuration, for its layer-wise decay (default: official's 0.9, 0.2)"
    )
    option("--groups", default="", metavar="NAME", help="which builder made the old groups, where shapes do not tell")
    option(
        "--frozen", action="append", default=[], metavar="NAME", help="a parameter that the old optimizer did not hold"
    )
    option("--set", action="append", default=[], metavar="FLAG=VALUE", help="a new flag in args; repeatable")
    option("--format", choices=("text", "json"), default="text", help="(default: text)")


def run(arguments: argparse.Namespace, rules: object = None) -> int:
    """Carry the command out and return its exit code; it needs no rules."""
    try:
        return _run(arguments)
    except (OSError, ValueError) as error:
        problems: Sequence[str] = getattr(error, "problems", (str(error),))
        for problem in problems[:8]:
            complain(f"error: {problem}")
        if len(problems) > 8:
            complain(f"error: and {len(problems) - 8} more of this kind")
        return 2


def _run(arguments: argparse.Namespace) -> int:
    # torch takes seconds to import, which --help should not.
    from migrations.checkpoint.convert import downgrade, upgrade
    from migrations.checkpoint.files import read_checkpoint, refuse_existing, write_checkpoint
    from migrations.checkpoint.report import as_json, as_text

    refuse_existing(arguments.out)
    if not arguments.out.parent.is_dir():
        raise FileNotFoundError(f"the folder {arguments.out.parent} does not exist; create it first")
    settings = _settings(arguments)
    content = read_checkpoint(arguments.input)
    conversion = downgrade(content) if arguments.downgrade else upgrade(content, settings)
    written = arguments.write and conversion.changed
    if written:
        write_checkpoint(conversion.checkpoint, arguments.out)
    code = 1 if conversion.changed and not written else 0
    verdict = "nothing to do: names, groups and flags are official's already"
    if conversion.changed:
        verdict = f"written: {arguments.out}" if written else f"nothing was written; --write makes {arguments.out}"
    if arguments.format == "json":
        emit(as_json(conversion, written=str(arguments.out) if written else None, exit_code=code))
    else:
        emit(as_text(conversion, verdict))
    return code


def _settings(arguments: argparse.Namespace) -> Any:
    from migrations.checkpoint.convert import Settings
    from migrations.checkpoint.names import MODULES
    from migrations.checkpoint.old_groups import BUILDERS
    from migrations.checkpoint.target import parse_layout
    from port.config import find_config_file, load_config

    if arguments.groups and arguments.groups not in BUILDERS:
        raise ValueError(f"--groups {arguments.groups}: expected one of {', '.join(BUILDERS)}")
    config = load_config(find_config_file(arguments.config) if arguments.config else None)
    return Settings(
        layout=parse_layout(arguments.layout),
        modules={**MODULES, **_pairs("--rename", arguments.rename)},
        layerwise_decay=config.optim.layerwise_decay,
        patch_embed_lr_mult=config.optim.patch_embed_lr_mult,
        builder=arguments.groups,
        frozen=tuple(arguments.frozen),
        args={name: _literal(value) for name, value in _pairs("--set", arguments.set).items()},
    )


def _pairs(option: str, given: Sequence[str]) -> Mapping[str, str]:
    pairs = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} {one}: expected NAME=VALUE")
        pairs[name] = value
    return pairs


def _literal(text: str) -> Any:
    """Return a number, None or a boolean for what is one; the text for all else."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
