from __future__ import annotations

import sys
import time

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bench.measure import Ceiling, PeakMemory, Stopwatch, flop_counter, is_out_of_memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident pages are read from /proc")


def test_a_product_of_matrices_is_counted_by_hand() -> None:
    """(3, 4) times (4, 5): 2 * 3 * 4 * 5 FLOPs; twice that again backwards, for both inputs."""
    left, right = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    counter = flop_counter()
    with counter:
        product = left @ right
    assert counter.get_total_flops() == 120
    with counter:
        product.sum().backward()
    assert counter.get_total_flops() == 240


def test_attention_of_a_cpu_is_counted() -> None:
    """2 heads, 7 tokens of 4 features: two products of 2 * 7 * 7 * 4 FLOPs per head forwards, five backwards."""
    q, k, v = (torch.randn(1, 2, 7, 4, requires_grad=True) for _ in range(3))
    counter = flop_counter()
    with counter:
        out = scaled_dot_product_attention(q, k, v)
    assert counter.get_total_flops() == 2 * 2 * (2 * 7 * 7 * 4)
    with counter:
        out.sum().backward()
    assert counter.get_total_flops() == 5 * 2 * (2 * 7 * 7 * 4)


@linux
def test_memory_that_came_and_went_is_seen() -> None:
    """64 MiB that exist only between two looks: the peak is that much above the base."""
    memory = PeakMemory("cpu")
    memory.start()
    torch.ones(64 * 2**20, dtype=torch.uint8)
    rise = memory.rise()
    assert rise is not None
    assert 60 * 2**20 < rise < 200 * 2**20


@linux
def test_memory_from_before_is_not_counted() -> None:
    """A peak of 128 MiB before the start is forgotten."""
    torch.ones(128 * 2**20, dtype=torch.uint8)
    memory = PeakMemory("cpu")
    memory.start()
    rise = memory.rise()
    assert rise is not None
    assert rise < 64 * 2**20


def test_memory_before_a_start_is_not_known() -> None:
    """None, rather than a number without a base."""
    assert PeakMemory("cpu").rise() is None


def test_the_process_s_own_seconds_leave_sleep_out() -> None:
    """The wall's clock counts the wait, that of the process hardly."""
    for clock, waited in (("wall", True), ("cpu", False)):
        watch = Stopwatch("cpu", clock, 1)
        watch.start()
        time.sleep(0.2)
        assert (watch.stop() > 0.15) is waited


def test_the_process_s_seconds_are_shared_between_threads() -> None:
    """Two threads use two seconds in one."""
    one, two = Stopwatch("cpu", "cpu", 1), Stopwatch("cpu", "cpu", 2)
    one.start()
    two.start()
    sum(range(200_000))
    first, second = one.stop(), two.stop()
    assert second < first


def test_the_ceiling_is_a_rate() -> None:
    """Positive and finite, on any machine."""
    assert 0 < Ceiling("cpu", "fp32").measure() < float("inf")


@linux
def test_measuring_the_ceiling_raises_no_peak() -> None:
    """Its three matrices of 4 MiB exist from the start: between iterations nothing of their size is added."""
    ceiling, memory = Ceiling("cpu", "fp32"), PeakMemory("cpu")
    ceiling.measure()
    memory.start()
    ceiling.measure()
    rise = memory.rise()
    assert rise is not None
    assert rise < 4 * 2**20


def test_running_out_of_memory_is_known_in_all_its_forms() -> None:
    """CUDA's class, Python's, and what torch's CPU allocator really says when it is asked for a pebibyte."""
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_no_lack_of_memory() -> None:
    """They keep their own name and their traceback."""
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("can't allocate"))
