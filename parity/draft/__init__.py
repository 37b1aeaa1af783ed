"""Drafts an adapter for a fork by reading its source: `python -m parity adapter`. The fork is never imported.

Names, methods and arguments decide what is what; a capability that cannot be written in full is left out of the
draft with its contract beside it, so that it is not run rather than wrongly passed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from parity.draft import data, losses, models, targets, training, views
from parity.draft.definitions import Project
from parity.draft.recognise import recognise
from parity.draft.render import MARK, render
from parity.draft.source import Unreadable, read_modules
from parity.draft.wiring import Found, Gap, Wired
from parity.errors import ParityError
from parity.stack import CAPABILITIES

__all__ = ["MARK", "Draft", "Gap", "Wired", "draft"]

_WIRES: Mapping[str, Callable[[Found], Wired | Gap]] = {
    "make_mask": data.wire_make_mask,
    "mask_counts": data.wire_mask_counts,
    "collate": data.wire_collate,
    "augment": views.wire_augment,
    "dino_loss": losses.wire_dino_loss,
    "ibot_loss": losses.wire_ibot_loss,
    "koleo_loss": losses.wire_koleo_loss,
    "sinkhorn": targets.wire_sinkhorn,
    "softmax_center": targets.wire_softmax_center,
    "schedules": training.wire_schedules,
    "default_config": training.wire_default_config,
    "recipe_configs": training.wire_recipe_configs,
    "parameter_groups": training.wire_parameter_groups,
    "build_backbone": models.wire_build_backbone,
    "build_head": models.wire_build_head,
    "init_state": training.wire_init_state,
    "start_state": training.wire_start_state,
    "training_step": training.wire_training_step,
    "training_trajectory": training.wire_training_trajectory,
    "distributed_step": training.wire_distributed_step,
}


@dataclass(frozen=True)
class Draft:
    """A drafted adapter.

    Attributes:
        text: its source.
        answers: by capability, how it is wired or why not.
        unreadable: files that could not be parsed.
        files: number of files that were read.
    """

    text: str
    answers: Mapping[str, Wired | Gap]
    unreadable: tuple[Unreadable, ...]
    files: int

    @property
    def wired(self) -> tuple[str, ...]:
        """The capabilities that the draft offers."""
        return tuple(name for name, answer in self.answers.items() if isinstance(answer, Wired))

    @property
    def gaps(self) -> tuple[str, ...]:
        """The capabilities that are left to do."""
        return tuple(name for name, answer in self.answers.items() if isinstance(answer, Gap))


def draft(path: Path, output: Path | None = None) -> Draft:
    """Read a fork and draft its adapter.

    Args:
        path: the fork's folder, or its single file.
        output: where the draft will stand, which decides how it finds the fork; nothing is written.

    Raises:
        UsageError: there is nothing to read at `path`.
        ParityError: what was put together is no Python, which is a mistake of the drafter's.
    """
    modules, unreadable = read_modules(path)
    given = path.resolve()
    top = given if given.is_dir() else given.parent
    project = Project(modules)
    parts, adapters = recognise(project)
    found = Found(project, parts, _yaml_files(top))
    answers = {name: _WIRES[name](found) if name in _WIRES else _unknown(name) for name in CAPABILITIES}
    text = render(found, answers, top=top, output=output, unreadable=unreadable, adapters=adapters)
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ParityError(f"the draft for {path} would be no Python (line {error.lineno}: {error.msg})") from error
    return Draft(text, answers, tuple(unreadable), len(modules))


def _unknown(name: str) -> Gap:
    if name == "prototype_loss":
        return Gap("optional: official has no prototype loss; only for a fork that has one")
    return Gap("optional, and a draft does not know how to find it: the checks that need it are not run")


def _yaml_files(top: Path) -> tuple[str, ...]:
    found = []
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            (Path(folder) / n).relative_to(top).as_posix() for n in sorted(names) if n.endswith((".yaml", ".yml"))
        ]
    return tuple(found)
