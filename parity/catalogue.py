"""What `python -m parity explain ID` says: differences, quirks, families, tiers, substitutes and checks.

The texts are Markdown files in `parity/catalogue/`. In each, a line `# ID: title` begins an entry. Checks and
capabilities have no text of their own: they are explained by what the code declares about them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from parity.arguments import nearest
from parity.errors import UsageError
from parity.quirks import QUIRKS
from parity.quirks.table import facts
from parity.stack import CAPABILITIES

__all__ = ["Entry", "contents", "entries", "explain"]

_FOLDER = Path(__file__).with_name("catalogue")
_HEADING = re.compile(r"# (?P<id>\w+): (?P<title>.+)")


@dataclass(frozen=True)
class Entry:
    """One text of the catalogue.

    Attributes:
        id: what `explain` is asked for.
        title: one line.
        body: Markdown without the heading.
    """

    id: str
    title: str
    body: str

    @property
    def markdown(self) -> str:
        """The whole entry as Markdown that ends in a newline."""
        return f"# {self.id}: {self.title}\n\n{self.body}\n"


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Return every written entry, differences first, then families, tiers and the rest, then quirks."""
    found = [entry for path in sorted(_FOLDER.glob("*.md")) for entry in _parse(path.read_text("utf-8"))]
    return tuple(found)


def _parse(text: str) -> list[Entry]:
    """Split a file at its `# ID: title` lines; comments in fenced code are not headings."""
    parts: list[tuple[str, str, list[str]]] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading:
            parts.append((heading["id"], heading["title"], []))
        elif parts:
            parts[-1][2].append(line)
    return [Entry(name, title, "\n".join(lines).strip()) for name, title, lines in parts]


def explain(wanted: str) -> Entry:
    """Return the entry of an id; case and leading zeros do not matter.

    Raises:
        UsageError: there is no such id; the message names the nearest one.
    """
    key = wanted.strip()
    key = key.zfill(4) if key.isdigit() else key
    known = {entry.id.lower(): entry for entry in entries()}
    for entry in _capabilities():
        written = known.get(entry.id.lower())
        known[entry.id.lower()] = entry if written is None else _with_capability(written, entry)
    if key.lower() in known:
        return _with_facts(known[key.lower()])
    names = [entry.id for entry in known.values()]
    if "." in key:
        checks = _checks()
        for name in (key, key.split("[")[0]):
            if name in checks:
                return checks[name]
        names = list(checks)
    raise UsageError(
        f"nothing is known about {wanted!r}{nearest(key, names) or '.'} "
        "Every id is listed by `python -m parity explain`, every check by `python -m parity list`"
    )


def _with_facts(entry: Entry) -> Entry:
    """Add to a quirk's page what the registry knows: lines, policy, switch, evidence, threads."""
    quirk = next((quirk for quirk in QUIRKS if quirk.id == entry.id), None)
    return entry if quirk is None else Entry(entry.id, entry.title, f"{entry.body}\n\n{facts(quirk)}")


def _with_capability(written: Entry, capability: Entry) -> Entry:
    """A family and a capability may have one name, as `collate` and `augment`: both are told."""
    return Entry(written.id, written.title, f"{written.body}\n\n## The capability of this name\n\n{capability.body}")


def contents() -> str:
    """Return one line per id that can be explained, checks excepted."""
    lines = ["what `python -m parity explain ID` explains; checks are in `python -m parity list`", ""]
    lines += [f"  {entry.id:<18} {entry.title}" for entry in [*entries(), *_capabilities()]]
    return "\n".join(lines) + "\n"


def _capabilities() -> list[Entry]:
    """Return an entry per capability, and one that shows them all."""
    single = [
        Entry(
            name,
            "a capability that a stack may offer",
            f"Called as\n`{about.signature}`\n\nReturns: {about.returns}.\n\nOfficial: {about.official}",
        )
        for name, about in CAPABILITIES.items()
    ]
    intro = (
        "A stack, for instance the file given to `--subject`, offers any of these as functions. What it leaves out is "
        "not run. `config` has official's keys, and two things to know: `config.optim.lr` is 0 until the stack applies "
        "`config.optim.scaling_rule`, and `config.architecture` gives embed_dim, depth, num_heads and mlp_ratio of the "
        "small model that `config.student.arch` names. Optional attributes: `name` for the report, "
        "`claims_bitwise = True` where float results in fp32 on a CPU must equal official's bit for bit, "
        "`forms`, a mapping from names to stacks that compute the same in other operations: they are judged beside it, "
        "and `own_randomness`, a tuple of the capabilities (make_mask, mask_counts, collate, augment, augment_steps) "
        "that draw from generators of their own: they are judged by their distribution (`explain T4`), not by bits."
    )
    whole = "\n\n".join([intro, *(f"## {entry.id}\n\n{entry.body}" for entry in single)])
    return [
        Entry("capabilities", "the functions that a training stack may offer, with their contracts", whole),
        *single,
    ]


def _checks() -> dict[str, Entry]:
    """Return an entry per check, keyed by its id without the recipe."""
    from parity.run import Options, planned_checks

    found: dict[str, Entry] = {}
    for identity, family, level, title, official, needed in planned_checks(Options()):
        name = identity.split("[")[0]
        if name in found:
            continue
        lines = [f"Family `{family}`, level {level}.", "", "Official code that the reference side executes:"]
        lines += [f"- `{place}`" for place in official] or ["- none"]
        lines += ["", "Capabilities that the subject must offer; otherwise the check is not run:"]
        lines += [f"- `{CAPABILITIES[n].signature}`" if n in CAPABILITIES else f"- {n}" for n in needed] or ["- none"]
        found[name] = Entry(name, title, "\n".join(lines))
    return found
