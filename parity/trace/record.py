"""Records every operation that a computation executes: its name, scalars, place in the source, and contents.

A dispatch mode changes no result and needs no cooperation of the code that it watches; `doctor` checks that on each
run. Operations of a backward pass that torch itself runs are given the place of the forward operation that they belong
to: autograd numbers both alike.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from parity.trace.fingerprint import Fingerprint, fingerprint

__all__ = ["CONSTANT", "UNWRITTEN", "Operation", "Recorder", "arguments", "outputs"]

UNWRITTEN = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_"})
"""Operations whose result is memory that was not written: its content says nothing."""

CONSTANT = frozenset(
    {"zeros", "zeros_like", "new_zeros", "zero_", "ones", "ones_like", "new_ones"}
    | {"full", "full_like", "new_full", "fill_", "scalar_tensor"}
)
"""Operations whose result depends on no tensor: what they make, anybody may make."""

_SCALARS = (bool, int, float, complex, str, torch.dtype, torch.layout, torch.memory_format, type(None))

_STDLIB = sysconfig.get_path("stdlib") + "/"
_SKIPPED = tuple(
    f"{folder}/" for folder in (Path(torch.__file__).parent, Path(np.__file__).parent, Path(__file__).parents[1])
)
_INSTALLED = re.compile(r"/(?:site|dist)-packages/")


# Torch offers neither to the public; without them, operations of the backward pass are taken for others.
_CURRENT_NODE: Callable[[], Any] = getattr(torch._C, "_current_autograd_node", lambda: None)
_NEXT_NUMBER: Callable[[], int] = getattr(torch.autograd, "_get_sequence_nr", lambda: 0)


@dataclass(frozen=True)
class Operation:
    """One executed operation.

    Attributes:
        index: position in the order of execution.
        name: of the operation without its name space, e.g. `native_layer_norm`.
        scalars: its arguments that are no tensors, as text by name; those left at their default are left out.
        inputs: contents of the tensors that it read.
        outputs: contents of the tensors that it returned or wrote.
        forms: shape and dtype of each of these.
        writers: for each input, earlier operations that wrote to its memory through some view.
        place: `file:line in function` of the innermost line that is neither torch's nor parity's; empty if unknown.
        backward: whether it belongs to a backward pass.
    """

    index: int
    name: str
    scalars: tuple[tuple[str, str], ...]
    inputs: tuple[Fingerprint, ...]
    outputs: tuple[Fingerprint, ...]
    forms: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    writers: tuple[tuple[int, ...], ...]
    place: str
    backward: bool


@dataclass
class _Memory:
    """Which operations wrote to each storage since it was made."""

    writes: dict[int, list[int]] = field(default_factory=dict)

    def of(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(self.writes.get(_storage(tensor), ()))

    def wrote(self, tensor: Tensor, index: int, *, fresh: bool) -> None:
        place = _storage(tensor)
        if fresh:
            self.writes[place] = [index]
        else:
            self.writes.setdefault(place, []).append(index)


class Recorder(TorchDispatchMode):
    """Records operations while it is active.

    Attributes:
        operations: what was executed, in order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.operations: list[Operation] = []
        self._memory = _Memory()
        self._places: dict[int, str] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "profiler":  # torch.optim's marks
            return func(*args, **dict(kwargs or {}))
        named, read, written = arguments(func, args, kwargs or {})
        prints = tuple(fingerprint(t) for t in read)
        writers = tuple(self._memory.of(t) for t in read)
        before = {_storage(t) for t in (*read, *written)}
        scalars = _scalars(func, named)
        backward, place = self._where()
        result = func(*args, **dict(kwargs or {}))
        index = len(self.operations)
        views = {id(t) for t in outputs(result, ()) if _storage(t) in before and not any(t is w for w in written)}
        made = outputs(result, written)

        def operation(made: Sequence[Tensor]) -> Operation:
            name, contents = func.overloadpacket.__name__, tuple(fingerprint(t) for t in made)
            forms = tuple((tuple(t.shape), t.dtype) for t in made)
            return Operation(index, name, scalars, prints, contents, forms, writers, place, backward)

        done = operation(made)
        put = self.altered(done, read, made)
        if put is not None:
            result = _put(result, made, put, views)
            made = outputs(result, written)
            done = operation(made)
        for tensor in made:
            if id(tensor) not in views:
                self._memory.wrote(tensor, index, fresh=_storage(tensor) not in before)
        self.operations.append(done)
        return result

    def altered(self, done: Operation, read: Sequence[Tensor], made: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """Return what is put in the place of an operation's results; None, as here, to leave them.

        Args:
            done: the operation, as it was computed.
            read: the tensors that it read; what was written in place has its new content.
            made: its results, in the order of `done.outputs`; what is returned has their shapes and dtypes.
        """
        return None

    def _where(self) -> tuple[bool, str]:
        """Return whether a backward pass is running, and the place of the line that asked for the operation."""
        node = _CURRENT_NODE()
        place = _place(sys._getframe(2))
        if node is None:
            # The operation's node, if it has one, was numbered just before the operation reached this mode.
            self._places.setdefault(_NEXT_NUMBER() - 1, place)
            return False, place
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True, place
        return True, self._places.get(node._sequence_nr(), "")


def arguments(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Tensor], list[Tensor]]:
    """Return the arguments of a call by name, the tensors that it reads, and those that it writes."""
    named = dict(_named(func, args, kwargs))
    return named, *_tensors(func, named)


def outputs(result: Any, written: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors that a call returned or wrote, each once, in the order of `Operation.outputs`."""
    returned = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
    return list({id(t): t for t in (*returned, *written)}.values())


def _put(result: Any, made: Sequence[Tensor], values: Sequence[Tensor], views: set[int]) -> Any:
    """Write values into results, so that autograd, which may have them already, keeps its graph and saves them.

    Into a view they are not written, as that would change what is viewed: it is replaced.
    """
    replaced: dict[int, Tensor] = {}
    with torch.no_grad():
        for tensor, value in zip(made, values, strict=True):
            if id(tensor) in views:
                replaced[id(tensor)] = value.clone()
            else:
                tensor.detach().copy_(value)
    return tree_map(lambda leaf: replaced.get(id(leaf), leaf), result)


def _named(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the arguments of a call by the names in the operation's schema."""
    names = [argument.name for argument in func._schema.arguments]
    yield from zip(names, args, strict=False)
    yield from kwargs.items()


def _tensors(func: Any, named: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that a call reads, and those that it writes; what is written in place is in both."""
    read: list[Tensor] = []
    written: list[Tensor] = []
    for argument in func._schema.arguments:
        leaves = [t for t in tree_leaves(named.get(argument.name)) if isinstance(t, Tensor)]
        changes = argument.alias_info is not None and argument.alias_info.is_write
        if changes:
            written += leaves
        if not (changes and argument.is_out):
            read += leaves
    return read, written


def _scalars(func: Any, named: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    for argument in func._schema.arguments:
        value = named.get(argument.name)
        plain = argument.name in named and all(isinstance(leaf, _SCALARS) for leaf in tree_leaves(value))
        if plain and value != argument.default_value:
            found.append((argument.name, f"{value}" if not isinstance(value, float) else f"{value:.12g}"))
    return tuple(found)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        if not _skipped(code.co_filename):
            return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return ""


def _skipped(filename: str) -> bool:
    """Whether a file is torch's, NumPy's, parity's or Python's own; installed packages lie in Python's folder too."""
    in_stdlib = filename.startswith(_STDLIB) and not _INSTALLED.search(filename)
    return in_stdlib or filename.startswith(("<", *_SKIPPED))
