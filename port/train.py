"""Trains DINOv2: `python port/train.py [--config-file FILE] [--output-dir DIR] [key=value …]`.

Started alone or by torchrun; `--help` says what it can do.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python looks for modules in port/ itself, where `import port` finds nothing.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from port.cli import Arguments, ExitCode, load_run_config, parse_arguments, print_information
from port.training.logs import log_to_stderr
from port.training.parallel import Processes
from port.training.run import run
from port.watch.incident import NonFiniteError

__all__ = ["main"]

INTERRUPTED = 130
MEMORY_STEPS = (
    "lower train.batch_size_per_gpu and raise accumulation_steps by as much, or set activation_checkpointing=true; "
    "parallel=fsdp under torchrun shards the model"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; see `--help`."""
    _print_utf8()
    try:
        arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
        if _printed(arguments):
            return ExitCode.DONE
        processes = Processes.from_environment()
        with log_to_stderr(processes.rank):
            if processes.rank == 0:
                for notice in arguments.notices:
                    _say(notice)
            return run(load_run_config(arguments), resume=not arguments.no_resume, eval_only=arguments.eval_only)
    except NonFiniteError as error:
        return _failed(str(error), ExitCode.FAILED)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        return _failed(f"out of memory: {error}\nnext step: {MEMORY_STEPS}", ExitCode.FAILED)
    except (ValueError, OSError, ImportError) as error:
        return _failed(str(error), ExitCode.COULD_NOT)
    except KeyboardInterrupt:
        return _failed("interrupted; checkpoints are intact, and the same command goes on from the newest", INTERRUPTED)


def _print_utf8() -> None:
    """Print in UTF-8 whatever the locale: as such `--config-file` reads what `--print-config` printed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def _printed(arguments: Arguments) -> bool:
    """Print what was asked for instead of a run; return whether anything was."""
    try:
        return print_information(arguments)
    except BrokenPipeError:
        # Whoever read the output has gone, as in `--print-config | head`; Python would complain once more at its end.
        sys.stdout = None
        return True


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on a CPU torch has no error of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _failed(message: str, code: int) -> int:
    _say(f"error: {message}")
    return code


def _say(line: str) -> None:
    """Write to stderr; where nobody reads it, or its disk is full, training goes on and the exit code still tells."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
