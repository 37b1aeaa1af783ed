"""Whole runs on two gloo ranks: stopped, resumed, poisoned. What a step computes is in test_training_parallel.py."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import arguments, checkpoint_tensors, in_process, losses, make_images, metric_lines, newest_checkpoint
from two_ranks import start_two

from port.data import collate_data_and_cast
from port.training.loop import _Loop
from port.training.session import open_session

pytestmark = pytest.mark.slow

EVERYTHING = (
    *("student.drop_path_rate=0.3", "student.num_register_tokens=2", "student.ffn_layer=swiglufused"),
    *("train.centering=sinkhorn_knopp", "accumulation_steps=2", "prototype.loss_weight=0.5"),
    *("prototype.n_prototypes=16", "optim.clip_grad=0.5", "parallel=fsdp", "train.num_workers=1"),
)
"""Whatever draws random numbers, holds state or communicates."""
UNEVEN = ("crops.global_crops_size=16", "student.patch_size=8")
"""Of 2 x 2 patches many masks stay empty (Q27): in the first step rank 0 masks nothing, and rank 1 two crops."""
POISONED = 2
"""Iteration in which an image of rank 1 is not finite."""

Prepare = Callable[[int, pytest.MonkeyPatch], None]


def _as_it_is(rank: int, patch: pytest.MonkeyPatch) -> None:
    pass


def _stopped_in_a_step(rank: int, patch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM come to rank 1 alone, in a step."""
    iterate = _Loop.iterate

    def interrupted(loop: _Loop, iteration: int) -> None:
        if rank == 1 and iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        iterate(loop, iteration)

    patch.setattr(_Loop, "iterate", interrupted)


def _stopped_at_the_start(rank: int, patch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM come to rank 1 alone, before anything is built."""

    def interrupted(*given: Any, **named: Any) -> Any:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return open_session(*given, **named)

    patch.setattr("port.training.run.open_session", interrupted)


def _poisoned(rank: int, patch: pytest.MonkeyPatch) -> None:
    """Let rank 1 read a NaN; each iteration takes two micro-batches."""
    calls = iter(range(100))

    def collate(*given: Any, **named: Any) -> Any:
        batch = collate_data_and_cast(*given, **named)
        if rank == 1 and next(calls) == 2 * POISONED + 1:
            batch["collated_local_crops"][1, 2, 3, 4] = math.nan
        return batch

    patch.setattr("port.data.loader.collate_data_and_cast", collate)


RUNS: dict[str, tuple[Prepare, str, tuple[str, ...]]] = {
    "whole": (_as_it_is, "whole", EVERYTHING),
    "stopped at the start": (_stopped_at_the_start, "stopped", EVERYTHING),
    "stopped": (_stopped_in_a_step, "stopped", EVERYTHING),
    "resumed": (_as_it_is, "stopped", EVERYTHING),
    "poisoned": (_poisoned, "poisoned", (*EVERYTHING, "train.num_workers=0")),
    "uneven": (_as_it_is, "uneven", (*UNEVEN, "optim.epochs=1")),
}
"""By name: what happens to a run, the name of its folder, and its settings; carried out in this order."""


def _run_all(images: Path, folder: Path, ports: Sequence[int], rank: int) -> None:
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ended = {}
    for port, (name, (prepare, output, settings)) in zip(ports, RUNS.items(), strict=True):
        error = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(error):
            patch.setattr("port.training.run.plot_losses", lambda *arguments: None)
            for key, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
                patch.setenv(key, value)
            prepare(rank, patch)
            code = in_process(patch, arguments(images, folder / output, *settings))
        ended[name] = (code, error.getvalue())
    (folder / f"rank{rank}.json").write_text(json.dumps(ended))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs have left what they leave, and each rank its exit codes and what it said."""
    folder = tmp_path_factory.mktemp("ranks")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in RUNS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    start_two(_run_all, make_images(folder / "images", 16), folder, ports)
    return folder


def ended(folder: Path, name: str) -> tuple[list[int], list[str]]:
    """Return exit codes and stderr of a run, by rank."""
    both = [json.loads((folder / f"rank{rank}.json").read_text())[name] for rank in range(2)]
    return [code for code, _ in both], [text for _, text in both]


def test_a_signal_to_one_rank_stops_both_and_the_run_goes_on_bit_for_bit(folder: Path) -> None:
    """FSDP2 with everything that draws or holds state: exit code 75 on both ranks, then the undisturbed run's bits."""
    assert ended(folder, "whole")[0] == [0, 0]
    codes, texts = ended(folder, "stopped")
    assert codes == [75, 75], texts
    assert all("stopped after iteration 2: saved" in text for text in texts)
    codes, texts = ended(folder, "resumed")
    assert codes == [0, 0], texts
    assert "step_000000003 at iteration 3" in texts[0]
    found, wanted = (checkpoint_tensors(newest_checkpoint(folder / name)) for name in ("stopped", "whole"))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name].numpy().tobytes() != wanted[name].numpy().tobytes()] == []
    assert losses(folder / "stopped") == losses(folder / "whole")


def test_a_signal_while_a_run_starts_stops_both_ranks(folder: Path) -> None:
    """Exit code 75 as later, before the first step; there is nothing to save."""
    codes, texts = ended(folder, "stopped at the start")
    assert codes == [75, 75], texts
    assert all("stopped before iteration 0: nothing new to save" in text for text in texts)


def test_both_ranks_name_the_rank_whose_image_was_not_finite(folder: Path) -> None:
    """Both end before the step and blame the same tensor; batches of both are saved, and the state as a whole."""
    codes, texts = ended(folder, "poisoned")
    assert codes == [1, 1], texts
    for text in texts:
        assert f"error: iteration {POISONED}: dino_local_crops_loss = nan" in text
        assert "first not finite: input collated_local_crops of micro-batch 1 [4, 3, 8, 8] float32 (1 NaN) on" in text
        assert "on rank 1\nnext step: look at the images" in text
        assert "Traceback" not in text
    assert [line["iteration"] for line in metric_lines(folder / "poisoned")] == list(range(POISONED))
    incident = folder / f"poisoned/nonfinite_iteration_{POISONED}"
    of_rank_1 = incident.with_name(f"{incident.name}_rank_1")
    assert torch.load(of_rank_1 / "batch.pt", weights_only=True)[1]["collated_local_crops"].isnan().sum() == 1
    assert not (of_rank_1 / "extra.pt").exists()
    state = torch.load(incident / "extra.pt", weights_only=True)["student"]["state"]
    moments = [values["exp_avg"] for values in state.values()]
    saved = checkpoint_tensors(newest_checkpoint(folder / "poisoned"))
    wanted = [tensor for name, tensor in saved.items() if name.startswith("optimizer.student.exp_avg.")]
    assert sorted(tuple(moment.shape) for moment in moments) == sorted(tuple(tensor.shape) for tensor in wanted)
    assert all(type(moment) is torch.Tensor for moment in moments)


def test_the_doctor_knows_what_all_ranks_mask(folder: Path) -> None:
    """Rank 0 masks nothing and rank 1 two crops of four: iBOT is half of 2/8 ln K, and nothing is wrong with it."""
    codes, texts = ended(folder, "uneven")
    assert codes == [0, 0], texts
    assert "(0.125 ln 16)" in texts[0]
    assert not any("WRONG" in text for text in texts)
    assert "doctor" not in texts[1]
    assert metric_lines(folder / "uneven")[0]["ibot_loss"] > 0
