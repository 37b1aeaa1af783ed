"""Export a trained backbone: `python port/export.py RUN --to hub|transformers|timm --out FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file: its folder, whose modules have common names, gives way to the folder above.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from port.weights import TARGETS, export_backbone, open_source

__all__ = ["main"]

DESCRIPTION = """\
Write a trained backbone as official's hub, transformers or timm loads it. The exported model is then loaded with
that library and run beside the backbone on images of noise; unless the outputs agree in double precision, nothing is
kept. Where the library is not installed, the files are written and the last line says "not verified"; hub is compared
through port's own model, which has official's names and numbers. Exit codes: 0 exported, 2 not exported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for the process's own.

    Returns:
        0, or 2 after an error, which is said on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        source = open_source(options.checkpoint, config_file=options.config_file, network=options.network)
        facts = source.facts
        print(
            f"{source.network} of {source.file}: {source.arch}, patch {facts.patch_size}, {source.image_size} pixels, "
            f"{facts.registers} registers, {facts.ffn}"
        )
        exported = export_backbone(source, options.to, options.out)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {', '.join(exported.files)}")
    for note in exported.notes:
        print(f"- {note}")
    if exported.verification:
        print(f"verified ({TARGETS[options.to].judge}): {exported.verification}")
    else:
        print(f"not verified: {exported.unverified}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python port/export.py", description=DESCRIPTION)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT_OR_RUN_FOLDER",
        type=Path,
        help="a run's output folder (the newest of its saved teachers and checkpoints is taken), a checkpoint's folder "
        "checkpoints/step_*, or a .pth or .safetensors",
    )
    parser.add_argument("--to", choices=TARGETS, required=True, help="the layout")
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--network", choices=("teacher", "student"), default="teacher", help="which network (default: teacher)"
    )
    parser.add_argument(
        "--config-file",
        metavar="YAML",
        type=Path,
        help="the run's configuration (default: config.yaml in the run's folder)",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
