"""Both sides of a comparison on two ranks, each behind the face of one stack in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch import Tensor

from parity.ranks.pair import WORLD_SIZE, GroupError, Pair
from parity.results import ReferenceInfo
from parity.stack import claims_bitwise, stack_name

__all__ = ["Ranks", "RemoteStack"]


class RemoteStack:
    """A stack on two ranks.

    Attributes:
        name: of the stack.
        claims_bitwise: whether the stack claims it.
    """

    def __init__(self, stack: object, pair: Pair) -> None:
        self.name = stack_name(stack)
        self.claims_bitwise = claims_bitwise(stack)
        self._pair = pair

    def run(self, case: str, options: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a case on both ranks.

        Args:
            case: see `parity.ranks.cases`.
            options: plain data.
            given: tensors called `rank N/…` go to that rank under the rest of their name, others to both.

        Returns:
            What the ranks returned, under `rank N/…`.
        """
        own: list[dict[str, Tensor]] = [{} for _ in range(WORLD_SIZE)]
        for name, tensor in given.items():
            for rank, tensors in enumerate(own):
                prefix = f"rank {rank}/"
                if name.startswith(prefix) or not name.startswith("rank "):
                    tensors[name.removeprefix(prefix)] = tensor
        answers = self._pair.ask(case, options, own)
        return {f"rank {rank}/{name}": tensor for rank, found in enumerate(answers) for name, tensor in found.items()}


class Ranks:
    """Starts the processes of both sides when they are first asked for, and ends them with the run.

    Make it before the subject is opened.

    Args:
        reference: the opened official code, which each process opens again from its folder.
        subject: as given to `--subject`, which the subject's processes load again.
    """

    def __init__(self, reference: ReferenceInfo, subject: str) -> None:
        self._reference = reference
        self._subject = subject
        # Now: a subject's folder goes to the front, ahead of Python's own modules where a process starts with it.
        self._path = tuple(sys.path)
        self._pairs: dict[str, Pair] = {}

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pair in self._pairs.values():
            pair.close()

    def sides(self, reference: object, subject: object) -> tuple[RemoteStack, RemoteStack]:
        """Return both sides; a pair that has failed is started anew.

        Raises:
            GroupError: this torch has no gloo.
        """
        if not (dist.is_available() and dist.is_gloo_available()):
            raise GroupError("this torch is built without gloo, so two processes cannot form a group on a CPU")
        # Both before either is waited for: they load at the same time.
        official, mine = self._pair("official", " of official code"), self._pair("subject", "")
        return RemoteStack(reference, official), RemoteStack(subject, mine)

    def _pair(self, side: str, owner: str) -> Pair:
        known = self._pairs.get(side)
        if known is None or not known.alive:
            modified = self._reference.identity != "verified"
            known = Pair(
                owner,
                side,
                self._reference.location,
                allow_modified=modified,
                subject=self._subject,
                path=self._path,
            )
            self._pairs[side] = known
        return known
