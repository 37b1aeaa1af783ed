"""The functions of a draft that several capabilities use: the fork's flags, its layout, its scaling, its names."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from parity.draft.configs import flags_of, layout_of
from parity.draft.models import factory_keywords
from parity.draft.networks import Network, network_of
from parity.draft.wiring import Found, call_lines, imported, place

__all__ = ["helpers_of", "quoted"]

_WIDTH = 116


def quoted(text: str) -> str:
    """Return a text as a literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def helpers_of(found: Found, uses: set[str]) -> Iterator[str]:
    """Yield the helpers that the wired capabilities use, and that the ones left to do will."""
    scaling = found.best("learning rate scaling")
    if "scaled" in uses and scaling is not None:
        yield (
            f"def scaled(config):  # {place(scaling)}\n"
            '    """The configuration with its learning rate set by the fork\'s own rule."""\n'
            f"    {imported(scaling)}\n\n    return {scaling.name}(config.copy())"
        )
    layout = layout_of(found)
    if "layout" in uses and not isinstance(layout, str):
        keywords = factory_keywords(found.project, layout.transformer)
        given = [f"{name}={value}" for name, value in keywords.items()]
        register = call_lines("register_architecture", ["_module", quoted(layout.transformer.name), "config", *given])
        lines = [
            '"""The fork\'s own training loop and model, which know parity\'s small architecture."""',
            f'_module = import_module("{layout.transformer.module.name}")',
            *register,
            f'return OfficialLayout("{layout.loop.module.name}", "{layout.model.module.name}")',
        ]
        yield "\n".join(["def layout(config):", *(f"    {line}" for line in lines)])
    if "arguments" in uses:
        yield "\n".join(_arguments(found))
    network = network_of(found)
    if network is not None and network.names:
        yield "\n".join(_official_names(network))


def _arguments(found: Found) -> Iterator[str]:
    flags = flags_of(found)
    yield "def arguments(config):"
    yield '    """The fork\'s flags for a configuration with official\'s keys."""'
    if flags.parser is not None:
        yield f"    {imported(flags.parser)}  # {place(flags.parser)}"
        yield ""
    yield "    config = scaled(config)"
    if flags.defaults:
        text = f"keep the parser's defaults, since their names are of no official key: {', '.join(flags.defaults)}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="    # ", subsequent_indent="    # ")
    yield "    given = {"
    yield from (f'        "{name}": {value},' for name, value in flags.known.items())
    yield "    }"
    yield f"    return flags({flags.parser.name + '()' if flags.parser is not None else 'None'}, given)"


def _official_names(network: Network) -> Iterator[str]:
    """A helper for what is left to do: the fork's parameters under official's names."""
    pairs = ", ".join(f"{quoted(attribute)}: {quoted(name)}" for attribute, name in network.names.items())
    yield f"OFFICIAL_NAMES = {{{pairs}}}  # of {place(network.definition)}"
    yield ""
    yield ""
    yield "def official_name(name):"
    yield '    """Official\'s name of a parameter of the fork\'s network, without wrappers."""'
    yield '    part, _, rest = name.removeprefix("module.").partition(".")'
    yield '    return f"{OFFICIAL_NAMES.get(part, part)}.{rest}"'
