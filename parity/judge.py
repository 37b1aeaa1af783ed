"""Run one computation on both sides, in fp32 and in fp64, and judge every tensor that it returns.

A computation is a function of a stack and of named inputs that returns named tensors (outputs, gradients,
updated state). It is run on the reference and on the subject with the same inputs; the noise of the rules T1
and T2 comes from the reference alone, under perturbed inputs, and is measured only where something differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.compare import PRECISION_FACTOR, SEMANTIC_FACTOR, Noise, exact, judged, missing
from parity.errors import SubjectError
from parity.oracle import Float64Oracle
from parity.results import Comparison
from parity.stack import claims_bitwise, stack_name

__all__ = ["Computation", "Failed", "Inputs", "Judge", "in_float64", "noise_in_float64", "perturbed", "promoted"]

Inputs = Mapping[str, Tensor]
"""Named input tensors: float32 ones are promoted and perturbed, others are passed as they are."""

Computation = Callable[[Any, Inputs], Mapping[str, Tensor]]
"""Called with a stack and the inputs; returns named tensors."""

_UNITS = 4.0
_REPLICATES = 4


def promoted(inputs: Inputs) -> dict[str, Tensor]:
    """Return the inputs with every float32 tensor as float64."""
    return {name: t.double() if t.dtype is torch.float32 else t for name, t in inputs.items()}


def perturbed(inputs: Inputs, seed: int) -> dict[str, Tensor]:
    """Return the inputs with every float element moved up or down by 4 units of its type's half epsilon.

    The sign is drawn per element from a generator of its own, so that no global random state moves.
    """
    generator = torch.Generator().manual_seed(seed)
    moved: dict[str, Tensor] = {}
    for name, tensor in inputs.items():
        if not tensor.is_floating_point():
            moved[name] = tensor
            continue
        unit = torch.finfo(tensor.dtype).eps / 2
        sign = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
        moved[name] = tensor * (1 + sign * (_UNITS * unit))
    return moved


def in_float64(compute: Computation, stack: object, inputs: Inputs) -> dict[str, Tensor]:
    """Run the computation on promoted inputs under the oracle."""
    with Float64Oracle():
        return _tensors(compute(stack, promoted(inputs)), stack)


def noise_in_float64(
    compute: Computation, reference: object, inputs: Inputs, base64: Mapping[str, Tensor], replicates: int = _REPLICATES
) -> dict[str, Noise]:
    """Measure how far each float64 result of the reference moves under perturbed inputs, the noise of T1.

    Args:
        compute: run on the reference.
        reference: the official stack.
        inputs: as they are given to both sides, not promoted.
        base64: the reference's results on the unperturbed inputs.
        replicates: number of perturbed runs.
    """
    noise = {name: Noise(0.0, 0.0) for name, value in base64.items() if value.is_floating_point()}
    for seed in range(replicates):
        moved = in_float64(compute, reference, perturbed(promoted(inputs), seed))
        for name in noise:
            noise[name] = noise[name].joined(Noise.between(moved[name], base64[name]))
    return noise


@dataclass(frozen=True)
class Failed:
    """A computation of which some results differ.

    Attributes:
        prefix: what the comparisons' names begin with.
        subject: the stack, or the form of it, that differs.
        compute: the computation.
        inputs: likewise, not promoted.
        names: results that differ.
    """

    prefix: str
    subject: object
    compute: Computation
    inputs: Inputs
    names: tuple[str, ...]


@dataclass
class Judge:
    """Judges one computation.

    Attributes:
        reference: the official stack.
        subject: the stack under test.
        replicates: number of perturbed runs of the reference that measure the noise.
        tiers: which rules to apply; T0 applies to floats only where the subject claims bitwise equality.
        forms: other forms of the subject by name, judged beside it by the same rules; see `parity.stack.forms_of`.
        failed: where computations whose meaning differs (T1, or what is no float) are kept, for `parity.trace`; None
            where they are too large to be run again.
        memory: where what the reference gave is kept by prefix, for a check that is made again; None to forget it.
    """

    reference: object
    subject: object
    replicates: int = _REPLICATES
    tiers: tuple[str, ...] = field(default=("T0", "T1", "T2"))
    forms: Mapping[str, object] = field(default_factory=dict)
    failed: list[Failed] | None = None
    memory: dict[str, Any] | None = None

    def __call__(self, prefix: str, compute: Computation, inputs: Inputs) -> Iterator[Comparison]:
        """Yield the comparisons of every tensor that `compute` returns, tier by tier, form by form.

        A tensor that only one side returns is a failed comparison. Names begin with that of the form, the subject's
        own with nothing.
        """
        known = _Known(self.reference, _on_copies(compute), inputs, self.replicates)
        if self.memory is not None:
            known = self.memory.setdefault(prefix, known)
        for start, stack in [
            (prefix, self.subject),
            *((f"{name}/{prefix}", form) for name, form in self.forms.items()),
        ]:
            differing: list[str] = []
            for comparison in self._form(start, stack, known):
                # Equal bits that are missing alone are rounding, which no operation is to blame for.
                if not comparison.passed and (comparison.tier == "T1" or comparison.error is None):
                    differing.append(comparison.name.removeprefix(f"{start}/"))
                yield comparison
            if differing and self.failed is not None:
                self.failed.append(Failed(start, stack, compute, inputs, tuple(dict.fromkeys(differing))))

    def _form(self, prefix: str, subject: object, known: _Known) -> Iterator[Comparison]:
        base = known.base
        mine = _tensors(known.compute(subject, known.inputs), subject)
        shared = [name for name in base if name in mine]
        for name in [n for n in base if n not in mine] + [n for n in mine if n not in base]:
            yield missing(f"{prefix}/{name}", in_subject=name in mine)
        floats = [name for name in shared if base[name].is_floating_point() and mine[name].is_floating_point()]
        for name in shared:
            if name not in floats or ("T0" in self.tiers and claims_bitwise(subject)):
                yield exact(f"{prefix}/{name}", base[name], mine[name])
        if floats and {"T1", "T2"} & set(self.tiers):
            yield from self._sized(prefix, subject, known, {name: mine[name] for name in floats})

    def _sized(self, prefix: str, subject: object, known: _Known, mine: Mapping[str, Tensor]) -> Iterator[Comparison]:
        """Yield T1 and T2 for the float tensors `mine` of the subject in fp32."""
        base, base64 = known.base, known.base64
        quiet = {name: Noise(0.0, 0.0) for name in base}
        equal32 = all(_same(base[name], mine[name]) for name in mine)
        if "T1" in self.tiers:
            if not equal32:
                # Now rather than below: beside the subject's fp64 results, a full-size step would need 3 GB more.
                _ = known.noise64
            mine64 = in_float64(known.compute, subject, known.inputs)
            equal64 = all(_same(base64[name], mine64.get(name)) for name in mine)
            noise = quiet if equal64 else known.noise64
            for name in mine:
                if name in mine64:
                    yield judged(f"{prefix}/{name}", "T1", base64[name], mine64[name], noise[name], SEMANTIC_FACTOR)
                else:
                    yield missing(f"{prefix}/{name}", in_subject=False, tier="T1")
            del mine64
        if "T2" in self.tiers:
            noise = quiet if equal32 else known.noise32
            for name in mine:
                own = Noise.between(base[name], base64[name])
                yield judged(
                    f"{prefix}/{name}",
                    "T2",
                    base64[name],
                    mine[name],
                    own.joined(noise[name]),
                    PRECISION_FACTOR,
                    same_precision=base[name],
                )


@dataclass
class _Known:
    """What the reference gives for one computation: computed where it is asked for, and once for all forms."""

    reference: object
    compute: Computation
    inputs: Inputs
    replicates: int

    @cached_property
    def base(self) -> dict[str, Tensor]:
        """The results in fp32."""
        return dict(self.compute(self.reference, self.inputs))

    @cached_property
    def base64(self) -> dict[str, Tensor]:
        """The results in fp64."""
        return in_float64(self.compute, self.reference, self.inputs)

    @cached_property
    def noise64(self) -> dict[str, Noise]:
        """How far the fp64 results move under perturbed inputs."""
        return noise_in_float64(self.compute, self.reference, self.inputs, self.base64, self.replicates)

    @cached_property
    def noise32(self) -> dict[str, Noise]:
        """How far the fp32 results under perturbed inputs lie from the fp64 ones."""
        floats = [name for name, value in self.base.items() if value.is_floating_point()]
        noise = {name: Noise(0.0, 0.0) for name in floats}
        for seed in range(self.replicates):
            moved = self.compute(self.reference, perturbed(self.inputs, seed))
            for name in floats:
                noise[name] = noise[name].joined(Noise.between(moved[name], self.base64[name]))
        return noise


def _on_copies(compute: Computation) -> Computation:
    """Give each run its own inputs: a subject that writes into them would change what the reference is given next."""

    def on_copies(stack: Any, inputs: Inputs) -> Mapping[str, Tensor]:
        return compute(stack, {name: value.clone() for name, value in inputs.items()})

    return on_copies


def _same(left: Tensor, right: Tensor | None) -> bool:
    return right is not None and exact("", left, right).bitwise


def _tensors(results: Mapping[str, Any], stack: object) -> dict[str, Tensor]:
    """Return the results as tensors; numbers and arrays are accepted.

    Raises:
        SubjectError: something else was returned.
    """
    found: dict[str, Tensor] = {}
    for name, value in results.items():
        if isinstance(value, Tensor):
            found[name] = value.detach()
        elif isinstance(value, int | float | np.ndarray | np.generic):
            found[name] = torch.as_tensor(value)
        else:
            raise SubjectError(f"{stack_name(stack)} returned a {type(value).__name__} for {name}, expected a tensor")
    return found
