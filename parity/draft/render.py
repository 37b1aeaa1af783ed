"""Writes a draft: what was found, the capabilities that are wired, and those that a person must write."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from parity.draft.helpers import helpers_of, quoted
from parity.draft.recognise import Candidate
from parity.draft.source import Unreadable
from parity.draft.wiring import Found, Gap, Wired, place
from parity.own_randomness import JUDGED_BY
from parity.stack import CAPABILITIES

__all__ = ["MARK", "parameters_of", "render"]

MARK = "TODO[parity adapter]"

_HELPERS = {
    "recorded_counts": "common",
    "centered": "drafted",
    "flags": "drafted",
    "OfficialLayout": "drafted",
    "register_architecture": "drafted",
    "scaled": "drafted",
    "spread": "drafted",
    "squared": "drafted",
    "typed": "drafted",
    "values": "drafted",
    "run_official_groups": "official_groups",
    "collate_of_official_training": "official_step",
    "run_official_step": "official_step",
    "run_official_trajectory": "official_trajectory",
}
_WIDTH = 116


def parameters_of(capability: str) -> list[str]:
    """Return the names of a capability's parameters, read from its contract."""
    text = CAPABILITIES[capability].signature.split("(", 1)[1]
    names, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        if letter in ",)" and depth == 0:
            names.append(text[start:at].strip())
            start = at + 1
        if letter == ")" and depth == 0:
            break
        depth += (letter in "([{") - (letter in ")]}")
    return [found[0] for name in names if (found := re.match(r"\w+", name))]


def render(
    found: Found,
    answers: Mapping[str, Wired | Gap],
    *,
    top: Path,
    output: Path | None,
    unreadable: Sequence[Unreadable] = (),
    adapters: Sequence[str] = (),
) -> str:
    """Return a draft as Python source.

    Args:
        found: the fork.
        answers: by capability, in the order of the draft.
        top: the folder that was read.
        output: where the draft will stand; None where it is printed.
        unreadable: files that could not be parsed.
        adapters: files left out because they are adapters themselves.
    """
    uses = {name for answer in answers.values() if isinstance(answer, Wired) for name in answer.uses}
    helpers = "\n\n\n".join(helpers_of(found, uses))
    blocks = [
        _docstring(top, answers),
        _imports(uses),
        _paths(found, top, output),
        _facts(found, top, answers),
        "\n".join(_findings(found, unreadable, adapters)),
        *([helpers] if helpers else []),
        *(_capability(name, answer) for name, answer in answers.items()),
    ]
    return "\n\n".join(blocks[:5]) + "\n\n\n" + "\n\n\n".join(blocks[5:]) + "\n"


def _docstring(top: Path, answers: Mapping[str, Wired | Gap]) -> str:
    gaps = [name for name, answer in answers.items() if isinstance(answer, Gap)]
    wired = [name for name in answers if name not in gaps]
    told = [
        f"wired ({len(wired)}): {', '.join(wired) or 'nothing'}",
        f"to do ({len(gaps)}): {', '.join(gaps) or 'nothing'}",
    ]
    lines = [line for text in told for line in textwrap.wrap(text, _WIDTH, subsequent_indent="    ")]
    return "\n".join(
        [
            f'"""Adapter of {_plain(top.name)} for parity, drafted from its source by `python -m parity adapter`.',
            "",
            "Names were matched, nothing was run: read it, then `python -m parity run --subject THIS_FILE`.",
            f"Search for {MARK}: what is left there is reported as not run, never as passed.",
            "",
            *lines,
            '"""',
        ]
    )


def _plain(text: str) -> str:
    """Return text that neither ends a docstring nor starts an escape."""
    return text.replace("\\", "/").replace('"""', "'''")


def _imports(uses: set[str]) -> str:
    needed = set(uses)
    if "layout" in needed:
        needed |= {"OfficialLayout", "register_architecture", "import_module"}
    if "arguments" in needed:
        needed |= {"flags", "scaled"}
    lines = ["import sys", "from pathlib import Path"]
    if "import_module" in needed:
        lines.insert(1, "from importlib import import_module")
    third = [
        text
        for name, text in (("torch", "import torch"), ("OmegaConf", "from omegaconf import OmegaConf"))
        if name in needed
    ]
    by_module: dict[str, list[str]] = {}
    for name in sorted(needed & set(_HELPERS)):
        by_module.setdefault(_HELPERS[name], []).append(name)
    own = [f"from parity.adapters.{module} import {', '.join(names)}" for module, names in sorted(by_module.items())]
    return "\n\n".join("\n".join(group) for group in (lines, third, own) if group)


def _paths(found: Found, top: Path, output: Path | None) -> str:
    """The fork's place: relative to the draft where one lies inside the other, so that both may move together."""
    text = f"Path({quoted(str(top))})"
    if output is not None:
        home = output.resolve().parent
        if top.is_relative_to(home) or home.is_relative_to(top):
            text = f"Path(__file__).resolve().parent / {quoted(Path(os.path.relpath(top, home)).as_posix())}"
    roots = dict.fromkeys(c.definition.module.root for found_for in found.parts.values() for c in found_for)
    lines = [f"FORK_PATH = ({text}).resolve()"]
    for root in roots or [top]:
        relative = Path(os.path.relpath(root, top)).as_posix()
        where = "FORK_PATH" if relative == "." else f'(FORK_PATH / "{relative}").resolve()'
        lines.append(f"sys.path.insert(0, str({where}))")
    return "\n".join(lines)


def _features(found: Found) -> Iterator[str]:
    """Whether there are register tokens: without them, parity asks for no rule about theirs."""
    transformer = found.best("vision transformer")
    if transformer is not None:
        has = any("register" in parameter.name for parameter in transformer.parameters() or ())
        yield 'features = ("registers",)  # register tokens' if has else "features = ()  # no register tokens"


def _facts(found: Found, top: Path, answers: Mapping[str, Wired | Gap]) -> str:
    gaps = {name: answer.reason for name, answer in answers.items() if isinstance(answer, Gap)}
    told = "to do in the drafted adapter: "
    reasons = [f"    {quoted(name)}: {quoted(told + reason)}," for name, reason in gaps.items()]
    return "\n".join(
        [
            f"name = {quoted(top.name)}",
            "claims_bitwise = False  # True where official's operations in official's order are claimed: equal bits",
            *_own_randomness(answers),
            *_features(found),
            *(["not_offered = {", *reasons, "}"] if reasons else []),
        ]
    )


def _own_randomness(answers: Mapping[str, Wired | Gap]) -> Iterator[str]:
    """How to declare draws that no seed aligns with official's; a source does not tell which generator it ends at."""
    drawn = ", ".join(quoted(name) for name in JUDGED_BY if name in answers)
    if drawn:
        yield f"# Of {drawn}, name those that draw from generators of"
        yield "# their own, or in another order than official's: judged by their distribution, not bit for bit."
        yield "own_randomness = ()"


def _findings(found: Found, unreadable: Sequence[Unreadable], adapters: Sequence[str]) -> Iterator[str]:
    """Comments: for each part what was chosen and why, the others, and what could not be read."""
    yield "# What was found, by part (the best candidate is used; others are for you to choose instead):"
    for part, candidates in found.parts.items():
        yield f"#   {part}: {_chosen(candidates[0]) if candidates else 'not found'}"
        yield from (f"#     or {_chosen(other)}" for other in candidates[1:])
    yield from (f"# Left out, an adapter itself: {shown}" for shown in adapters)
    yield from (f"# Could not be parsed: {file.shown}: {' '.join(file.reason.split())}" for file in unreadable)


def _chosen(candidate: Candidate) -> str:
    return f"{place(candidate.definition)} ({candidate.reason})"


def _spaced(body: Sequence[str]) -> Iterator[str]:
    """Yield a body with an empty line after its imports."""
    for line, following in zip(body, [*body[1:], ""], strict=True):
        yield line
        indent = line[: len(line) - len(line.lstrip())]
        if line.lstrip().startswith("from ") and following and not following.startswith(f"{indent}from "):
            yield ""


def _capability(name: str, answer: Wired | Gap) -> str:
    head = f"def {name}({', '.join(parameters_of(name))}):"
    if isinstance(answer, Wired):
        notes = [f"# from {source}" for source in answer.sources] + [f"# {remark}" for remark in answer.remarks]
        return "\n".join([*notes, head, *(f"    {line}" if line else "" for line in _spaced(answer.body))])
    about = CAPABILITIES[name]
    told = [
        f"{MARK}: {name}: {answer.reason}",
        f"  contract: {about.signature}",
        f"  returns:  {about.returns}",
        f"  official: {about.official}",
        *(f"  found:    {where}" for where in answer.found),
    ]
    lines = [
        line
        for text in told
        for line in textwrap.wrap(text, _WIDTH, subsequent_indent="            ", drop_whitespace=True)
    ]
    begun = [head, *(f"    {line}" if line else "" for line in answer.body or ("...",))]
    return "\n".join(f"# {line}".rstrip() for line in [*lines, *begun])
