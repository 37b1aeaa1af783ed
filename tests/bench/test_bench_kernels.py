from __future__ import annotations

import pytest
import torch

from bench import kernels
from bench.kernels import Case, Measured, cases, main, markdown, measure, peak_bytes

MEBIBYTE = 2**20


def megabytes(n: int) -> torch.Tensor:
    """Return a tensor of so many mebibytes."""
    return torch.zeros(n * MEBIBYTE, dtype=torch.uint8)


def test_the_peak_is_what_was_held_at_once() -> None:
    """Three, freed, then two and four together: six, and what is made before does not count."""
    before = megabytes(8)

    def run() -> None:
        first = megabytes(3)
        del first
        second = megabytes(2)
        third = megabytes(4)
        del second, third

    assert peak_bytes(run) == 6 * MEBIBYTE
    assert peak_bytes(lambda: before.add_(1)) < MEBIBYTE


def test_a_result_belongs_to_the_peak() -> None:
    """What a run returns is held while it returns it."""
    assert peak_bytes(lambda: megabytes(2)) == 2 * MEBIBYTE


def test_forms_take_turns() -> None:
    """Once each for memory, then in turn, so that both meet the machine as it is."""
    ran: list[str] = []
    measured = measure(Case("case", ran.append), repeats=2)
    assert ran == ["official_order", "fast"] * 3
    assert set(measured.seconds) == set(measured.peak) == {"official_order", "fast"}
    assert all(0 < seconds < 60 for seconds in measured.seconds.values())


def test_the_table_by_hand() -> None:
    """Times of each number of threads and their ratios; memory once; no ratio to nearly nothing."""
    one = [
        Measured("loss", {"official_order": 0.2, "fast": 0.05}, {"official_order": 3_000_000, "fast": 2_000_000}),
        Measured("step", {"official_order": 0.01, "fast": 0.02}, {"official_order": 3_000_000, "fast": 12}),
    ]
    two = [
        Measured("loss", {"official_order": 0.1, "fast": 0.04}, {"official_order": 0, "fast": 0}),
        Measured("step", {"official_order": 0.01, "fast": 0.01}, {"official_order": 0, "fast": 0}),
    ]
    assert markdown([one, two], [1, 2]).splitlines() == [
        "| what | ms, 1 thread | ratio | ms, 2 threads | ratio | peak MB | ratio |",
        "|---|---|---|---|---|---|---|",
        "| loss | 200.0 → 50.0 | 4.0 | 100.0 → 40.0 | 2.5 | 3.0 → 2.0 | 1.5 |",
        "| step | 10.0 → 20.0 | 0.5 | 10.0 → 10.0 | 1.0 | 3.0 → 0.0 | - |",
    ]


def test_every_kernel_of_port_is_a_case() -> None:
    """Losses, targets, average and optimizer; each runs in both forms and gives the same numbers to rounding."""
    names = []
    for case in cases(images=2, local_crops=3, prototypes=24, arch="vit_demo"):
        names.append(case.name)
        results = [case.run(form) for form in ("official_order", "fast")]
        tensors = [result[0] if isinstance(result, tuple) else result for result in results]
        if isinstance(tensors[0], torch.Tensor):
            torch.testing.assert_close(tensors[1], tensors[0], rtol=1e-3, atol=1e-5)
    assert names == [
        "DINO loss, local crops",
        "DINO loss, global crops",
        "iBOT loss",
        "Sinkhorn, CLS tokens",
        "Sinkhorn, patches",
        "softmax centering, patches",
        "moving average",
        "AdamW",
    ]


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For the numbers of threads that are asked for, and leaves torch's as it was."""
    before = torch.get_num_threads()
    asked: list[tuple[object, ...]] = []

    def few(*arguments: object) -> list[Case]:
        asked.append((*arguments, torch.get_num_threads()))
        return [Case("nothing", lambda form: torch.ones(1000))]

    monkeypatch.setattr(kernels, "cases", few)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    assert main(["--images", "3", "--prototypes", "12", "--repeats", "1", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| what | ms, 1 thread | ratio | peak MB | ratio |"
    assert lines[2].startswith("| nothing | ")
    assert asked == [(3, 8, 12, "vit_small", 1)]
    assert torch.get_num_threads() == before
