"""What a step's time goes into: the gap between a step and its matrix products, by kind of operation.

    python -m bench.profile [--arm unified] [--bench-arch vits] [--bench-batch 8] …

One arm makes three whole steps in this process: one in which FLOPs are counted, one that is timed, one that is
profiled. Seconds are those that torch's operations spent themselves, without what they called; what Python and others
took between operations is a row of its own. On CUDA, shares and rates are of the GPU's seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from bench.arms import ARMS, Arm, missing, open_arm
from bench.inputs import Subsets, make_batches, make_state
from bench.measure import Ceiling, Stopwatch, flop_counter
from bench.report import table
from bench.settings import OPTIONS, Settings, from_options
from parity.errors import ReferenceSourceError
from port.data import Batch

__all__ = ["KINDS", "Profile", "kind_of", "main", "markdown", "profile_step"]

TEACHER = "bench::update_teacher"
OPTIMIZER = "optimizer, moving average, clipping"
_UPDATES = re.compile(rf"Optimizer\..*|{TEACHER}|aten::_(foreach|fused_adam).*")
"""An operation belongs to the update where it, or what called it, is one of these."""
_PATTERNS = {
    "matrix products": r"(add|bad?d|b|_scaled_|_int_)?(mm|bmm|mv)|linear|matmul|v?dot|.*(convolution|conv2d|conv3d).*",
    "attention": r".*(scaled_dot_product|flash|efficient_attention|fmha|varlen|xformers).*",
    "elementwise, sums": r"(r?sub|add|mul|(true_)?div|neg|pow|square|r?sqrt|reciprocal|abs|sign|lerp|addc(mul|div)|"
    r"gelu|silu|relu|sigmoid|tanh|clamp(_min|_max)?|sum|mean|prod|cumsum|a?max|a?min|maximum|minimum|argmax|"
    r"eq|ne|lt|le|gt|ge|(logical|bitwise)_\w+|isfinite|isnan|where|dropout|bernoulli)(_backward)?_?",
    "copies, cat, index": r"_?(copy|clone|contiguous|to|to_copy|cat|stack|index\w*|gather|scatter\w*|masked_\w+|fill|"
    r"zeros?(_like)?|ones?(_like)?|full(_like)?|empty\w*|new_\w+|(select|slice|embedding\w*)_backward|repeat\w*|"
    r"constant_pad_nd|pad|nonzero|roll|flip|item|local_scalar_dense|resize)_?",
    "normalisation": r".*(layer_norm|weight_norm|vector_norm|batch_norm).*|norm|normalize",
    "softmax, exp": r"_?(log_)?softmax(_backward_data)?|(exp|expm1|log|log1p)_?|logsumexp|logaddexp",
}
KINDS = (*_PATTERNS, OPTIMIZER, "other")
_FLAGS = [name for name in OPTIONS if name not in ("compile", "clock", "rounds")]
"""Compiled blocks have no operations to tell apart; the profiler has a clock of its own."""


def kind_of(names: Sequence[str]) -> str:
    """Return one of `KINDS` for an operation.

    Args:
        names: the profiler's name for it, then of what called it, and so on.
    """
    if any(_UPDATES.fullmatch(name) for name in names):
        return OPTIMIZER
    name = names[0].removeprefix("aten::")
    return next((kind for kind, pattern in _PATTERNS.items() if re.fullmatch(pattern, name)), "other")


@dataclass(frozen=True)
class Profile:
    """One step.

    Attributes:
        plain: its seconds without the profiler.
        step: its seconds under the profiler.
        ceiling: FLOPs per second of a large matrix product.
        cpu, cuda, flops: by kind; seconds on the CPU and on the GPU (empty without one), and FLOPs.
    """

    plain: float
    step: float
    ceiling: float
    cpu: Mapping[str, float]
    cuda: Mapping[str, float]
    flops: Mapping[str, int]


def profile_step(settings: Settings, name: str) -> Profile:
    """Profile a whole step of an arm in this process.

    Raises:
        ValueError: the arm cannot run with these settings.
        parity.errors.ReferenceSourceError: official code is needed and cannot be found.
    """
    if reason := missing(name, settings):
        raise ValueError(f"arm {name}: {reason}")
    torch.set_num_threads(settings.threads)
    subsets, found = Subsets(), list[Profile]()
    with ExitStack() as stack:
        arm = stack.enter_context(open_arm(name, settings, make_state(settings), subsets))
        stack.enter_context(mock.patch.object(arm.model, "update_teacher", _named(arm.model.update_teacher)))
        arm.consume(_inputs(settings, subsets, arm, found.append), "step")
    return found[0]


def _named(update: Callable[..., None]) -> Callable[..., None]:
    def update_teacher(*args: Any, **kwargs: Any) -> None:
        with record_function(TEACHER):
            update(*args, **kwargs)

    return update_teacher


def _inputs(settings: Settings, subsets: Subsets, arm: Arm, found: Callable[[Profile], None]) -> Iterator[Batch]:
    """Yield one batch three times; what the arm does between two requests is a step."""
    (batch,) = make_batches(settings, 1)
    ceiling, watch = Ceiling(settings.device, settings.precision), Stopwatch(settings.device, "wall", 1)
    counter, seconds = flop_counter(), list[float]()
    subsets.begin(0)
    with counter:
        yield batch
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.device == "cuda" else [])]
    profiler = profile(activities=activities)
    for watched in (nullcontext(), profiler):
        arm.student.zero_grad()
        subsets.begin(0)
        best = ceiling.measure()
        with watched:
            watch.start()
            yield batch
            seconds.append(watch.stop())
    cpu, cuda = _by_kind(profiler.events() or ())
    flops: Counter[str] = Counter()
    for operation, count in counter.get_flop_counts()["Global"].items():
        flops[kind_of([str(operation).replace("aten.", "aten::")])] += count
    found(Profile(seconds[0], seconds[1], best, cpu, cuda if settings.device == "cuda" else {}, flops))


def _by_kind(events: Iterable[Any]) -> tuple[Counter[str], Counter[str]]:
    """Return seconds on the CPU and on the GPU by kind; a kernel's stand with the operation that launched it."""
    cpu, cuda = Counter[str](), Counter[str]()
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        names, caller = [], event
        while caller is not None:
            names.append(caller.name)
            caller = caller.cpu_parent
        kind = kind_of(names)
        cpu[kind] += event.self_cpu_time_total / 1e6
        cuda[kind] += event.self_device_time_total / 1e6
    return cpu, cuda


def markdown(profile: Profile) -> str:
    """Return a row per kind, longest first, then what lies between operations, the step, and a product for measure."""
    spent, wide = profile.cuda or profile.cpu, bool(profile.cuda)

    def row(what: str, seconds: float, flops: int, cpu: float) -> tuple[str, ...]:
        rate = flops / seconds if flops and seconds else None
        numbers = ("-", "-", "-") if rate is None else (f"{flops / 1e9:,.3g}", *_rates(rate, profile.ceiling))
        share = f"{seconds / profile.step:.1%}"
        return (what, *([f"{cpu:.3g}"] if wide else []), f"{seconds:.3g}", share, *numbers)

    kinds = sorted((kind for kind in KINDS if spent.get(kind)), key=lambda kind: -spent[kind])
    rows = [row(kind, spent[kind], profile.flops.get(kind, 0), profile.cpu.get(kind, 0.0)) for kind in kinds]
    between = max(profile.step - sum(spent.values()), 0.0)
    rows.append(row("between operations", between, 0, max(profile.step - sum(profile.cpu.values()), 0.0)))
    rows.append(row("whole step", profile.step, sum(profile.flops.values()), profile.step))
    rows.append(("a large matrix product", *["-"] * (4 if wide else 3), *_rates(profile.ceiling, profile.ceiling)))
    seconds = ("CPU seconds", "CUDA seconds") if wide else ("seconds",)
    return table(("kind", *seconds, "share of step", "GFLOPs", "GFLOP/s", "of ceiling"), rows)


def _rates(rate: float, ceiling: float) -> tuple[str, str]:
    return f"{rate / 1e9:,.3g}", f"{rate / ceiling:.0%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table under what was measured; exit code 2 where the arm or the options are not possible here."""
    parser = argparse.ArgumentParser("python -m bench.profile", description="What a step's time goes into.")
    parser.add_argument("--arm", choices=list(ARMS), default="unified")
    for name in _FLAGS:
        parser.add_argument(f"--bench-{name}", dest=name.replace("-", "_"), **OPTIONS[name])
    options = vars(parser.parse_args(arguments))
    arm = options.pop("arm")
    try:
        settings = from_options(options | {"rounds": 1})
        measured = profile_step(settings, arm)
    except (ValueError, ReferenceSourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arm}, whole step: {measured.plain:.3g} s, {measured.step:.3g} s under the profiler; {settings.header()}\n")
    print(markdown(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
