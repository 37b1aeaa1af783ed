"""`python -m parity.lines`: make a run of parity and say which lines of official code it executed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from parity.errors import ParityError
from parity.streams import complain, emit

__all__ = ["main"]

SHARE = 0.95
"""Share of the statements of official training code that a whole run must execute."""

_HELP = """\
usage: python -m parity.lines [ARGS of `python -m parity run`]

Makes a run and counts the lines of official training code that it executes, with coverage.py. Lines that it leaves are
listed with the reason.

exit codes: 0 at least 95 % executed and a reason known for each line left; 1 not so, or the run diverged; 2 an error
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: arguments of `python -m parity run`; those of the process where it is None.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(given):
        emit(_HELP)
        return 0
    try:
        from parity.lines.measure import executed
    except ModuleNotFoundError as error:
        complain(f"error: {error}; `pip install coverage`, or use `nox -s lines`")
        return 2
    from parity.cli import main as parity
    from parity.lines.report import as_text, verdict

    try:
        code, files = executed(lambda: parity(["run", *given]))
    except ParityError as error:
        complain(f"error: {error}")
        return 2
    if code:
        complain(f"the run ended with {code}: its lines are not judged")
        return code
    emit(as_text(files, SHARE))
    return verdict(files, SHARE)


if __name__ == "__main__":
    sys.exit(main())
