from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.deterministic

from port.config import load_config
from port.training import precision
from port.training.precision import (
    autocast,
    choose_device,
    choose_precision,
    gradient_scaler,
    keep_freed_memory,
    limit_threads,
    reproducible,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> partial[None]:
    """Pretend that this machine has so many CUDA devices, bf16 there, and MPS."""

    def pretend(cuda: int = 0, bf16: bool = True, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return partial(pretend)


def test_auto_takes_the_first_device_there_is(machine: partial[None]) -> None:
    """CUDA before MPS before the CPU."""
    machine(cuda=1, mps=True)
    assert choose_device("auto") == torch.device("cuda", 0)
    machine(mps=True)
    assert choose_device("auto") == torch.device("mps")
    machine()
    assert choose_device("auto") == CPU


def test_each_process_has_a_cuda_device_of_its_own(machine: partial[None]) -> None:
    """By its number on the machine; one too many is an error."""
    machine(cuda=2)
    assert choose_device("cuda", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 7) == CPU
    with pytest.raises(ValueError, match=r"process 2 of this machine finds 2 CUDA devices.*lower --nproc-per-node"):
        choose_device("cuda", 2)


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_here_is_an_error(machine: partial[None], name: str) -> None:
    """The message lists those that are."""
    machine()
    with pytest.raises(ValueError, match=f"device is '{name}', expected auto or one that this machine has: cpu$"):
        choose_device(name)


def test_auto_is_bf16_where_cuda_has_it(machine: partial[None]) -> None:
    """And fp32 everywhere else, as bf16 is slower on most CPUs."""
    machine(cuda=1, bf16=True)
    assert choose_precision("auto", CUDA) == "bf16"
    assert choose_precision("auto", CPU) == "fp32"
    machine(cuda=1, bf16=False)
    assert choose_precision("auto", CUDA) == "fp32"
    assert choose_precision("auto", torch.device("mps")) == "fp32"


def test_fp16_needs_cuda() -> None:
    """Other names are taken at their word."""
    assert choose_precision("fp16", CUDA) == "fp16"
    assert [choose_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(ValueError, match="precision is 'fp16' on cpu, expected bf16 or fp32"):
        choose_precision("fp16", CPU)


def test_forward_passes_compute_in_the_precision() -> None:
    """Matrix products in bf16, nothing at all changed in fp32."""
    x = torch.ones(2, 2)
    with autocast("bf16", CPU)():
        assert (x @ x).dtype == torch.bfloat16
    assert autocast("fp32", CPU) is nullcontext
    with autocast("fp32", CPU)():
        assert (x @ x).dtype == torch.float32


def test_only_fp16_has_a_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless official's key turns it off."""
    devices: list[str] = []
    monkeypatch.setattr(torch.amp, "GradScaler", devices.append)
    cfg = load_config()
    gradient_scaler("fp16", cfg)
    assert devices == ["cuda"]
    assert gradient_scaler("bf16", cfg) is None
    assert gradient_scaler("fp32", cfg) is None
    assert gradient_scaler("fp16", load_config(overrides=["compute_precision.grad_scaler=false"])) is None
    assert devices == ["cuda"]


@pytest.mark.parametrize(
    ("cores", "processes", "omp", "expected"),
    [(8, 1, None, 8), (8, 2, None, 4), (2, 4, None, 1), (8, 1, "3", None), (8, 2, "1", 4), (None, 1, None, 1)],
)
def test_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, processes: int, omp: str | None, expected: int | None
) -> None:
    """OMP_NUM_THREADS of a process alone is respected; torchrun sets it to 1 for all, which nobody asked for."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    limit_threads(processes)
    assert asked == ([] if expected is None else [expected])


class Library:
    """A C library that notes what mallopt is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        """Note it."""
        self.asked.append((parameter, value))
        return 1


def _without_malloc_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)


def test_freed_memory_is_kept_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """M_MMAP_THRESHOLD is -3 and M_TRIM_THRESHOLD -1 in glibc's malloc.h; values are C ints."""
    library = Library()
    _without_malloc_variables(monkeypatch)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert sorted(library.asked) == [(-3, 2147483647), (-1, 2147483647)]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As is an environment that sets glibc's variables itself, and a C library without mallopt, such as musl."""
    library = Library()
    _without_malloc_variables(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    keep_freed_memory()
    assert library.asked == []
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


def test_the_parameters_are_those_of_this_machine_s_header() -> None:
    """Where glibc's header is installed, it has the numbers that are used; elsewhere the ones of its manual hold."""
    header = Path("/usr/include/malloc.h")
    wanted = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3}
    if header.exists() and platform.libc_ver()[0] == "glibc":
        words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define M_")]
        wanted = {name: int(value) for _, name, value, *_ in words if name in wanted}
    assert wanted == {
        "M_TRIM_THRESHOLD": precision.M_TRIM_THRESHOLD,
        "M_MMAP_THRESHOLD": precision.M_MMAP_THRESHOLD,
    }


@pytest.mark.parametrize(
    ("device", "asked", "expected"), [(CPU, False, True), (CPU, True, True), (CUDA, False, False), (CUDA, True, True)]
)
def test_a_cpu_is_always_reproducible(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, asked: bool, expected: bool
) -> None:
    """CUDA only where asked for; afterwards everything is as before, after an error too."""
    settings: Any = torch.utils.deterministic
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    with suppress(KeyError), reproducible(device, asked):
        assert torch.are_deterministic_algorithms_enabled() is expected
        assert settings.fill_uninitialized_memory is (before[1] and not expected)
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is expected
        raise KeyError
    assert (torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory) == before


def test_reproducible_gives_the_same_sums_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a choice of rows adds many numbers into few places: the case that KoLeo's neighbours make."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 3, (5000,), generator=generator)
    weights = torch.randn(5000, 8, generator=generator)

    def gradient() -> torch.Tensor:
        x = torch.zeros(3, 8, requires_grad=True)
        (x[rows] * weights).sum().backward()
        assert x.grad is not None
        return x.grad

    with reproducible(CPU, False):
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(5))
    wanted = torch.stack([weights[rows == row].double().sum(0) for row in range(3)])
    assert torch.allclose(first.double(), wanted, rtol=0, atol=1e-3)
