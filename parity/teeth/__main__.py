"""`python -m parity.teeth`: make every fault and every rewrite of the catalogue, and judge the suite by them."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.errors import ParityError, UsageError
from parity.streams import complain, emit

__all__ = ["main"]

NAMED_SHARE = 0.9
"""Share of the caught faults whose cause must be told first."""

_EPILOG = """\
exit codes: 0 every fault caught, at least 90 % named, no false alarm; 1 not so; 2 an error; 130 interrupted

examples:
  python -m parity.teeth                      all of it, about ten minutes on two cores
  python -m parity.teeth --only 'koleo-*'     the faults and rewrites whose id fits
  python -m parity.teeth --list               the catalogue
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: arguments after the program's name; those of the process where it is None.
    """
    try:
        return _run(_parser().parse_args(argv))
    except ParityError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted: no verdict, nothing was written")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parity.teeth",
        description="Inject known faults into port, and legitimate rewrites, and see what the suite says of each.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--reference", default="auto", metavar="SOURCE", help="official code: auto, github, pypi or a folder"
    )
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="ids that fit a shell pattern; repeatable; no ladders"
    )
    parser.add_argument("--list", action="store_true", help="print the catalogue and make nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of each fault and rewrite")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from parity.report.files import check_writable, write_atomically
    from parity.teeth.faults import FAULTS
    from parity.teeth.rewrites import LADDERS, REWRITES

    patterns = arguments.only or ["*"]
    faults = [f for f in FAULTS if any(fnmatch.fnmatchcase(f.id, p) for p in patterns)]
    rewrites = [r for r in REWRITES if any(fnmatch.fnmatchcase(r.id, p) for p in patterns)]
    if not faults and not rewrites:
        raise UsageError(f"no fault or rewrite is called {' or '.join(patterns)}; --list shows their ids")
    if arguments.list:
        listed: list[Any] = [*faults, *rewrites]
        emit("".join(f"{item.id:<28} {item.about}\n" for item in listed))
        return 0
    if arguments.json:
        check_writable(arguments.json)
    found = _made(arguments.reference, faults, rewrites, LADDERS if arguments.only is None else ())
    if arguments.json:
        write_atomically(arguments.json, json.dumps(found, indent=1) + "\n")
    emit(_text(found))
    return 0 if found["sound"] else 1


def _made(reference: str, faults: Sequence[Any], rewrites: Sequence[Any], ladders: Sequence[Any]) -> dict[str, Any]:
    import torch

    from parity.report.progress import progress
    from parity.run import Options, opened
    from parity.teeth.bite import bite, climb, let_pass, summary

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors are faster so
    total = len(faults) + len(rewrites) + len(ladders)
    bites: list[Any] = []
    quiet: list[Any] = []
    limits: dict[str, float] = {}
    try:
        with opened(Options(reference=reference)) as (opened_reference, official), progress() as advance:
            done = 0
            for kept, make, items in ((bites, bite, faults), (quiet, let_pass, rewrites)):
                for item in items:
                    advance(item.id, done, total)
                    kept.append(make(item, official, opened_reference.info))
                    done += 1
            for ladder in ladders:
                advance(ladder.id, done, total)
                limits[ladder.id] = climb(ladder, official, opened_reference.info)
                done += 1
            version = opened_reference.info.version
    finally:
        torch.set_num_threads(threads)
    numbers = summary(bites, quiet)
    named = numbers["named"] >= NAMED_SHARE * numbers["caught"]
    return {
        "schema": 1,
        "reference": version,
        "sound": numbers["caught"] == numbers["faults"] and named and not numbers["false_alarms"],
        "summary": numbers,
        "detection_limits": limits,
        "faults": [
            {
                "id": b.fault.id,
                "about": b.fault.about,
                "origin": b.fault.origin,
                "caught": b.caught,
                "named": b.named,
                "check": b.check,
                "told": b.told,
            }
            for b in bites
        ],
        "rewrites": [
            {"id": q.rewrite.id, "about": q.rewrite.about, "compared": q.compared, "alarms": list(q.alarms)}
            for q in quiet
        ],
    }


def _text(found: dict[str, Any]) -> str:
    numbers = found["summary"]
    lines = [f"reference: {found['reference']}"]
    for fault in found["faults"]:
        if not (fault["caught"] and fault["named"]):
            word = "NOT NAMED" if fault["caught"] else "NOT CAUGHT"
            lines.append(f"{word}  {fault['id']} ({fault['about']}): {fault['told']}")
    lines += [f"FALSE ALARM  {r['id']} ({r['about']}): {alarm}" for r in found["rewrites"] for alarm in r["alarms"][:3]]
    share = numbers["named"] / numbers["caught"] if numbers["caught"] else 0.0
    lines.append(f"faults caught            {numbers['caught']} of {numbers['faults']}")
    lines.append(f"cause named first        {numbers['named']} of {numbers['caught']} ({share:.0%})")
    bound = numbers["false_alarm_bound"]
    told = f" (rate below {bound:.2g} with 95 % confidence)" if bound is not None else ""
    lines.append(
        f"false alarms             {numbers['false_alarms']} in {numbers['comparisons']:,} comparisons of "
        f"{numbers['rewrites']} rewrites{told}"
    )
    lines += [
        f"smallest {name:<15} {limit:.0e} relative is caught" for name, limit in found["detection_limits"].items()
    ]
    return "\n".join(lines) + f"\n{'the suite has teeth' if found['sound'] else 'THE SUITE LACKS TEETH'}\n"


if __name__ == "__main__":
    sys.exit(main())
