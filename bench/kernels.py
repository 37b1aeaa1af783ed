"""Measures both forms of `port`'s losses, moving average and optimizer beside each other, on this machine's CPU.

`python -m bench.kernels` prints a Markdown table of ratios, `official_order` over `fast`, of time and of peak memory.
Both forms get the same tensors, take turns in one process, and the shortest of several runs of each counts, so that
a busy machine disturbs a ratio less than it disturbs a time. Peak memory is what torch's allocator held at most during
one run, above what it held before.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from port.config import load_config
from port.kernels import KERNELS
from port.losses import DINOLoss, iBOTPatchLoss
from port.optim import build_optimizer
from port.student_teacher import StudentTeacher

__all__ = ["Case", "Measured", "cases", "main", "markdown", "measure", "peak_bytes"]

TEMPERATURE = 0.07
PATCHES_PER_IMAGE = 59
"""Masked patches of an image's two global crops, on the average of official's ratios: 196 * 0.3, half of the crops."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: as the table calls it.
        run: called with one of `KERNELS`; does the work once.
    """

    name: str
    run: Callable[[str], object]


@dataclass(frozen=True)
class Measured:
    """What one case took, by form.

    Attributes:
        name: the case's.
        seconds: the shortest run of each form.
        peak: bytes of each form.
    """

    name: str
    seconds: dict[str, float]
    peak: dict[str, int]


def peak_bytes(run: Callable[[], object]) -> int:
    """Return by how many bytes torch's CPU allocations grew at most while `run` ran, its result included."""
    gc.collect()
    with profile(profile_memory=True) as profiler:
        result = run()
    del result
    assert profiler.kineto_results is not None
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measure(case: Case, repeats: int) -> Measured:
    """Run both forms in turn, once for memory and `repeats` times for time.

    Args:
        case: what to run.
        repeats: runs of each form, at least 1, after the one that warms up.
    """
    peak = {kernels: peak_bytes(partial(case.run, kernels)) for kernels in KERNELS}
    seconds = dict.fromkeys(KERNELS, float("inf"))
    for _ in range(repeats):
        for kernels in KERNELS:
            start = time.perf_counter()
            case.run(kernels)
            seconds[kernels] = min(seconds[kernels], time.perf_counter() - start)
    return Measured(case.name, seconds, peak)


def cases(images: int, local_crops: int, prototypes: int, arch: str) -> Iterator[Case]:
    """Yield the cases; each makes its tensors when it is reached.

    Args:
        images: of the batch.
        local_crops: of an image.
        prototypes: of the head.
        arch: of the student whose parameters are averaged and stepped.
    """
    generator = torch.Generator().manual_seed(0)

    def logits(*rows: int) -> Tensor:
        return 0.3 * torch.randn(*rows, prototypes, generator=generator)

    def targets(*rows: int) -> Tensor:
        return torch.softmax(logits(*rows) / TEMPERATURE, -1)

    cls_targets, n_patches = targets(2, images), PATCHES_PER_IMAGE * images
    student = logits(local_crops, images).requires_grad_()
    yield Case("DINO loss, local crops", partial(_dino, student, cls_targets))
    student = logits(1, 2 * images).requires_grad_()
    yield Case("DINO loss, global crops", partial(_dino, student, cls_targets.flatten(0, 1).unsqueeze(0)))
    student = logits(n_patches).requires_grad_()
    yield Case("iBOT loss", partial(_ibot, student, targets(n_patches)))
    del student, cls_targets
    for name, rows in (("CLS tokens", 2 * images), ("patches", n_patches)):
        teacher = logits(rows)
        yield Case(f"Sinkhorn, {name}", partial(_sinkhorn, teacher))
    yield Case("softmax centering, patches", partial(_centering, teacher))
    del teacher
    yield from _of_parameters(arch, prototypes)


def _dino(student: Tensor, targets: Tensor, kernels: str) -> object:
    loss = DINOLoss(student.shape[-1], kernels=kernels)(student, targets)
    return torch.autograd.grad(loss, student)


def _ibot(student: Tensor, targets: Tensor, kernels: str) -> object:
    masks, weights = torch.zeros(len(student), 1, dtype=torch.bool), torch.ones(len(student))
    loss = iBOTPatchLoss(student.shape[-1], kernels=kernels)
    return torch.autograd.grad(loss.forward_masked(student, targets, masks, len(student), weights), student)


def _sinkhorn(teacher: Tensor, kernels: str) -> object:
    count = torch.tensor([len(teacher)])
    return iBOTPatchLoss(teacher.shape[-1], kernels=kernels).sinkhorn_knopp_teacher(teacher, TEMPERATURE, count)


def _centering(teacher: Tensor, kernels: str) -> object:
    return iBOTPatchLoss(teacher.shape[-1], kernels=kernels).softmax_center_teacher(teacher[None], TEMPERATURE)


def _of_parameters(arch: str, prototypes: int) -> Iterator[Case]:
    cfg = load_config(None, [f"student.arch={arch}", f"dino.head_n_prototypes={prototypes}"])
    model = StudentTeacher(cfg)

    def average(kernels: str) -> None:
        model.fast = kernels == "fast"
        model.update_teacher(0.99)

    yield Case("moving average", average)
    optimizers = {}
    for parameter in model.student.parameters():
        parameter.grad = 0.01 * torch.ones_like(parameter)
    for kernels in KERNELS:
        model.fast = kernels == "fast"
        optimizers[kernels] = build_optimizer(cfg, model.get_params_groups())
        optimizers[kernels].step()  # which makes the moments
    yield Case("AdamW", lambda kernels: optimizers[kernels].step())


def markdown(measured: Sequence[Sequence[Measured]], threads: Sequence[int]) -> str:
    """Return the table: a row for each case, a column of times for each number of threads.

    A ratio of memory is left out where the fast form takes less than a hundredth.

    Args:
        measured: for each number of threads, the cases in one order.
        threads: how many each was measured with.
    """
    official, fast = KERNELS
    heads = [f"ms, {n} thread{'s' * (n > 1)}" for n in threads]
    lines = [f"| what | {' | '.join(f'{head} | ratio' for head in heads)} | peak MB | ratio |"]
    lines.append("|---" * (3 + 2 * len(threads)) + "|")
    for rows in zip(*measured, strict=True):
        cells = [rows[0].name]
        for row in rows:
            cells += [f"{1e3 * row.seconds[official]:.1f} → {1e3 * row.seconds[fast]:.1f}"]
            cells += [f"{row.seconds[official] / row.seconds[fast]:.1f}"]
        before, after = rows[0].peak[official], rows[0].peak[fast]
        cells += [f"{before / 1e6:.1f} → {after / 1e6:.1f}", f"{before / after:.1f}" if 100 * after > before else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=8, help="images of the batch (default: 8)")
    parser.add_argument("--local-crops", type=int, default=8, help="local crops of an image (default: 8)")
    parser.add_argument("--prototypes", type=int, default=65_536, help="of the head (default: 65536)")
    parser.add_argument("--arch", default="vit_small", help="backbone of the parameters (default: vit_small)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each form (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    options = parser.parse_args(argv)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its starts and stops otherwise
    before = torch.get_num_threads()
    measured = []
    try:
        for threads in options.threads:
            torch.set_num_threads(threads)
            given = cases(options.images, options.local_crops, options.prototypes, options.arch)
            measured.append([measure(case, options.repeats) for case in given])
    finally:
        torch.set_num_threads(before)
    print(markdown(measured, options.threads))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
