"""The command line of `port/train.py`: official's (`dinov2/train/train.py:36-64`), and errors where that is silent."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from port.cli_help import DESCRIPTION, epilog
from port.config import RECIPE_FOLDER, find_config_file, load_config
from port.config_docs import print_keys, render_config
from port.config_keys import ALIASES, REMOVED_KEYS, nearest, unknown_key

__all__ = ["Arguments", "ExitCode", "load_run_config", "parse_arguments", "print_information"]


class ExitCode(IntEnum):
    """How a run ended; `torchrun` itself turns every code but 0 into 1."""

    DONE = 0
    FAILED = 1
    COULD_NOT = 2
    STOPPED = 75


@dataclass(frozen=True)
class Arguments:
    """What the command line asks for.

    Attributes:
        config_file: the YAML file to start from; the demonstration's where none is given.
        output_dir: absolute; None for the configuration's `train.output_dir`.
        no_resume: start anew although the output folder holds checkpoints.
        eval_only: evaluate and export the newest checkpoint's teacher, and do not train.
        overrides: `key=value`, later ones win.
        print_config: print the merged configuration, and nothing else.
        help_config: print this section's keys (all of them if empty), and nothing else; None to train.
        notices: lines to print before anything else.
    """

    config_file: Path
    output_dir: Path | None
    no_resume: bool
    eval_only: bool
    overrides: tuple[str, ...]
    print_config: bool
    help_config: str | None
    notices: tuple[str, ...]


DEMO_NOTICE = "configuration: the built-in demonstration; official's defaults: --config-file vitl16_short"
OWN_DATA_NOTICE = (
    "configuration: the built-in demonstration's small model and short run, on your data; "
    "longer: optim.epochs=…; official's defaults: --config-file vitl16_short"
)
SEE_HELP = "see `python port/train.py --help`"
_OPTIONS = ("--config-file", "--output-dir", "--no-resume", "--eval-only", "--print-config", "--help-config", "--help")
# Options of launchers, which people bring along from official's commands.
_LAUNCHER_OPTIONS = {
    **dict.fromkeys(
        ("ngpus", "nodes", "timeout", "partition", "use_volta32", "comment", "exclude"),
        "it belongs to official's SLURM launcher; here `torchrun --nproc-per-node=N port/train.py …` starts N ranks",
    ),
    "local_rank": "torch.distributed.launch passes it; start with torchrun, which sets LOCAL_RANK instead",
}


class _Parser(argparse.ArgumentParser):
    """Raises ValueError where argparse would leave the program."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message}; {SEE_HELP}")


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Return what the arguments (without the program's name) ask for; `--help` prints and leaves with code 0.

    Raises:
        FileNotFoundError: the configuration file does not exist.
        ValueError: an argument is not understood.
    """
    _check_characters(argv)
    given, unknown = _parser().parse_known_intermixed_args(list(_with_aliases(argv)))
    if unknown:
        raise ValueError(_unknown_option(unknown))
    _check_overrides(given.overrides)
    notices = []
    overrides = tuple(given.overrides)
    if given.config_file:
        config_file = find_config_file(given.config_file)
    else:
        config_file = RECIPE_FOLDER / "demo.yaml"
        own_data = _own_data(overrides)
        overrides = (*own_data, *overrides)
        notices.append(OWN_DATA_NOTICE if own_data else DEMO_NOTICE)
    if given.eval:
        notices.append(f"--eval {given.eval} has no effect, as in official (Q58); --eval-only evaluates")
    return Arguments(
        config_file=config_file,
        output_dir=Path(given.output_dir).expanduser().absolute() if given.output_dir else None,
        no_resume=given.no_resume,
        eval_only=given.eval_only,
        overrides=overrides,
        print_config=given.print_config,
        help_config=given.help_config,
        notices=tuple(notices),
    )


def load_run_config(arguments: Arguments) -> DictConfig:
    """Return the merged configuration; `train.output_dir` is absolute (`dinov2/utils/config.py:41`).

    Raises:
        ValueError: see `port.config.load_config`.
    """
    cfg = load_config(arguments.config_file, arguments.overrides)
    folder = arguments.output_dir or Path(cfg.train.output_dir).expanduser().absolute()
    OmegaConf.update(cfg, "train.output_dir", str(folder))
    return cfg


def print_information(arguments: Arguments, console: Console | None = None) -> bool:
    """Print what `--print-config` or `--help-config` asks for; return whether there was anything to print.

    Raises:
        ValueError: the section or the configuration is not what it should be.
    """
    console = console or Console()
    if arguments.help_config is not None:
        print_keys(arguments.help_config, console)
    elif arguments.print_config:
        # Not through rich's layout: what is printed must load again.
        console.file.write(render_config(load_run_config(arguments)))
    else:
        return False
    return True


def _parser() -> _Parser:
    parser = _Parser(
        prog="python port/train.py",
        description=DESCRIPTION,
        epilog=epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML file, or vitl16_short, vitl14, vitg14, demo")
    add("--output-dir", "--output_dir", default="", metavar="DIR", help="folder for results; default train.output_dir")
    add("--no-resume", action="store_true", help="start anew although DIR holds checkpoints")
    add("--eval-only", action="store_true", help="evaluate and export the teacher of DIR's newest checkpoint")
    add("--eval", default="", help=argparse.SUPPRESS)
    add("--print-config", action="store_true", help="print the merged configuration as commented YAML")
    add("--help-config", nargs="?", const="", metavar="SECTION", help="list keys: type, default, meaning")
    add("overrides", nargs="*", metavar="key=value", help="settings, the key with dots")
    return parser


def _check_characters(argv: Sequence[str]) -> None:
    """Raise ValueError for bytes that are no text: a path of them could not be written to `config.yaml`."""
    for argument in argv:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise ValueError(
                f"argument {argument!r} holds bytes that are not UTF-8, expected text; "
                "rename the file or folder, or give a symbolic link to it"
            )


def _with_aliases(argv: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, `--mask_ratio_min 0.1` and its like as `mask_ratio_min=0.1`.

    Raises:
        ValueError: a flag is gone, or lacks its value.
    """
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") or name not in (*ALIASES, *REMOVED_KEYS):
            yield argument
            continue
        if name in REMOVED_KEYS:
            raise ValueError(f"{flag}: {unknown_key(name, ())}")
        if not equals:
            is_value = bool(rest) and "=" not in rest[0] and not rest[0].startswith("--")
            if ALIASES[name].switch:
                value = rest.pop(0) if is_value and rest[0].lower() in ("true", "false") else "true"
            elif is_value:
                value = rest.pop(0)
            else:
                raise ValueError(f"{flag} lacks its value, expected a number such as {flag} 0.3")
        yield f"{name}={value}"


def _unknown_option(unknown: Sequence[str]) -> str:
    """Return what is wrong with arguments that look like options."""
    flag, _, value = unknown[0].partition("=")
    name = flag.lstrip("-")
    if name.replace("-", "_") in _LAUNCHER_OPTIONS:
        return f"unknown option {flag}: {_LAUNCHER_OPTIONS[name.replace('-', '_')]}"
    if "." in name:
        return f"unknown option {flag}: keys have no dashes in front, write {name}={value or 'VALUE'}"
    known = [*_OPTIONS, *(f"--{alias}" for alias in ALIASES)]
    longer = [option for option in known if option.startswith(flag)]
    return f"unknown option {flag}{nearest(longer[0] if longer else flag, known)}; {SEE_HELP}"


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raise ValueError for an argument that is no `key=value`, with what was probably meant."""
    for position, text in enumerate(overrides):
        if "=" in text:
            continue
        following = overrides[position + 1] if position + 1 < len(overrides) else "VALUE"
        if text.endswith((".yaml", ".yml")):
            hint = f"a configuration file is given as --config-file {text}"
        elif Path(text).is_dir():
            hint = f"a folder of images is given as train.dataset_path={text}"
        else:
            hint = f"write {text}={'VALUE' if '=' in following else following}"
        raise ValueError(f"argument {text!r} has no '=', expected key=value: {hint}")


def _own_data(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return what the demonstration must not bring along when the images are the user's own."""
    paths = [text.partition("=")[2] for text in overrides if text.startswith("train.dataset_path=")]
    if not paths:
        return ()
    name = re.sub(r"[^\w.-]+", "-", Path(paths[-1]).name).strip("-.") or "run"
    return ("knn.train_dataset=", "knn.test_dataset=", f"train.output_dir=output/{name}")
