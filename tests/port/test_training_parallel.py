"""Two gloo ranks, replicated or sharded, carry out the step of one; and checkpoints go from each way to the others.

Each rank is one micro-batch: what holds for accumulation (test_step_accumulation.py) holds here, KoLeo included, which
is per rank in official code too. One thing more differs: the iBOT centre takes the mean of the ranks' means (Q12), so
ranks that mask unlike numbers of patches weigh their patches unlike. Official has that as well.

No GPU has run this: NCCL, and FSDP2's overlap of copies with CUDA streams, are not tested.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from checkpoint_runs import alike
from equal_steps import ROUNDING, WAYS, DoubleRun, double_batch, even_batches, joined, largest_difference
from tiny_training import tiny_config, tiny_model
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from two_ranks import run_on_two_ranks

from port.checkpoint import Checkpointer, Metadata
from port.data import Batch
from port.step import StepReport
from port.training.parallel import Processes, compile_blocks, parallelise, process_group
from port.training.precision import limit_threads

NO_KOLEO = "dino.koleo_loss_weight=0"
PROTOTYPES, SINKHORN = WAYS["centring, two heads, prototypes"], WAYS["Sinkhorn, one head, prototypes"]
FIRST, LAST = 1, 3
"""Iterations before a checkpoint, and in all; they start at 1."""
Result = dict[str, Tensor]


def batches_of_ranks(iterations: int, n_micro: int = 1) -> list[list[list[Batch]]]:
    """Return, by iteration and rank, micro-batches of two images; all of an iteration mask equally many patches."""
    cfg = tiny_config()
    even = [even_batches(cfg, 2 * n_micro, 2, seed=i) for i in range(iterations)]
    return [[micro[:n_micro], micro[n_micro:]] for micro in even]


def uneven_batches() -> list[list[Batch]]:
    """Return one batch per rank, of which the second masks nothing."""
    cfg, unmasked = tiny_config(), tiny_config(["ibot.mask_sample_probability=0.01"])
    return [[double_batch(cfg, 2, seed=0)], [double_batch(unmasked, 2, seed=1)]]


def numbers(report: StepReport) -> Result:
    """Return a step's losses and gradient norms."""
    losses = {f"displayed/{name}": value for name, value in report.losses.displayed.items()}
    norms = {f"norm/{name}": value for name, value in report.gradient_norms.items()}
    return {"total": report.losses.total, **losses, **norms}


def train(run: DoubleRun, batches: list[list[list[Batch]]], rank: int | None, start: int = 1) -> list[Result]:
    """Carry out iterations with one rank's micro-batches, or with those of both."""
    own = [of_ranks[0] + of_ranks[1] if rank is None else of_ranks[rank] for of_ranks in batches]
    return [numbers(report) for report in run.advance(own, start)]


def _replicated(rank: int) -> dict[str, tuple[list[Result], Result]]:
    """Train in several ways with DDP, and return each run's reports and result."""
    results: dict[str, tuple[list[Result], Result]] = {}
    for way, overrides in WAYS.items():
        run = DoubleRun([*overrides, NO_KOLEO], mode="ddp")
        results[way] = (train(run, batches_of_ranks(3), rank), run.result())
    run = DoubleRun(PROTOTYPES, mode="ddp")
    results["accumulated"] = (train(run, batches_of_ranks(3, n_micro=2), rank), run.result())
    run = DoubleRun([*SINKHORN, NO_KOLEO], mode="ddp")
    results["uneven Sinkhorn"] = (train(run, [uneven_batches()], rank), run.result())
    run = DoubleRun([*PROTOTYPES, NO_KOLEO], mode="ddp")
    results["uneven centring"] = (train(run, [uneven_batches()], rank), run.result())
    return results


def _checkpointer(folder: Path, name: str) -> Checkpointer:
    return Checkpointer(folder / name)


def _save(run: DoubleRun, folder: Path, name: str) -> None:
    _checkpointer(folder, name).save(run.state(), Metadata.of_run(FIRST + 1, run.model.cfg))


def _resumed(folder: Path, name: str, mode: str) -> tuple[DoubleRun, Result]:
    """Return a run that loads a checkpoint into other values, and what it holds then."""
    run = DoubleRun(PROTOTYPES, mode=mode, seed=9)
    _checkpointer(folder, name).load(run.state())
    return run, run.result()


def _sharded(rank: int, folder: Path) -> dict[str, Any]:
    """Train with DDP and with FSDP, save, load each other's checkpoints, and go on."""
    batches = batches_of_ranks(LAST, n_micro=2)
    early, late = batches[:FIRST], batches[FIRST:]
    results: dict[str, Any] = {}
    for mode in ("ddp", "fsdp"):
        run = DoubleRun(PROTOTYPES, mode=mode)
        reports = train(run, early, rank)
        results[f"{mode} saved"] = run.result()
        _save(run, folder, mode)
        reports += train(run, late, rank, FIRST + 1)
        results[mode] = (reports, run.result())
    parameters = list(run.model.student.parameters())
    results["sharded"] = [isinstance(parameter, DTensor) for parameter in parameters]
    results["share"] = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    for name, mode in (("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp"), ("plain", "fsdp")):
        run, loaded = _resumed(folder, name, mode)
        train(run, late, rank, FIRST + 1)
        results[f"{name} to {mode}"] = (loaded, run.result())
    for mode, recompute in (("fsdp", True), ("ddp", False)):
        run = DoubleRun(["student.drop_path_rate=0.3", *SINKHORN], mode=mode, recompute=recompute)
        torch.manual_seed(rank)
        train(run, early[:1], rank)
        results[f"recompute {recompute}"] = run.result()
    return results


def _train_on_rank(rank: int, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.save((_replicated(rank), _sharded(rank, folder)), folder / f"rank{rank}")


Replicated = list[dict[str, tuple[list[Result], Result]]]
Shared = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder of checkpoints by one process and by two, and what each of two ranks ends with; they start once."""
    folder = tmp_path_factory.mktemp("ranks")
    run = DoubleRun(PROTOTYPES)
    train(run, batches_of_ranks(FIRST, n_micro=2), None)
    _save(run, folder, "plain")
    torch.save(run.result(), folder / "plain.pt")
    run_on_two_ranks(_train_on_rank, folder)
    return folder, [torch.load(folder / f"rank{rank}") for rank in range(2)]


@pytest.fixture
def replicated(ranks: tuple[Path, list[Any]]) -> Replicated:
    """What DDP ends with on each rank."""
    return [of_rank[0] for of_rank in ranks[1]]


@pytest.fixture
def sharded(ranks: tuple[Path, list[Any]]) -> Shared:
    """What the runs that save and load end with on each rank."""
    return ranks[0], [of_rank[1] for of_rank in ranks[1]]


def test_ranks_hold_the_same_bits(replicated: Replicated) -> None:
    """Parameters, teacher, centres, moments and reported losses of both ranks, in every way."""
    for name, (reports, result) in replicated[0].items():
        assert alike(result, replicated[1][name][1]), name
        assert all(alike(*pair) for pair in zip(reports, replicated[1][name][0], strict=True)), name


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_are_one_with_twice_the_batch(replicated: Replicated, way: str) -> None:
    """Without KoLeo, after three steps: every tensor of the run, Sinkhorn over the tokens of both ranks included."""
    one = DoubleRun([*WAYS[way], NO_KOLEO])
    batches = [[[joined(of_ranks[0] + of_ranks[1])], []] for of_ranks in batches_of_ranks(3)]
    expected = train(one, batches, None)
    reports, result = replicated[0][way]
    assert largest_difference(result, one.result())[0] < ROUNDING
    for report, other in zip(reports, expected, strict=True):
        assert largest_difference(report, other)[0] < ROUNDING


def test_two_ranks_that_accumulate_are_one_with_all_micro_batches(replicated: Replicated) -> None:
    """2 ranks * 2 micro-batches = 4 micro-batches, with KoLeo, whose neighbours are the micro-batch's in both."""
    one = DoubleRun(PROTOTYPES)
    expected = train(one, batches_of_ranks(3, n_micro=2), None)
    reports, result = replicated[0]["accumulated"]
    assert largest_difference(result, one.result())[0] < ROUNDING
    assert all(largest_difference(*pair)[0] < ROUNDING for pair in zip(reports, expected, strict=True))
    assert "displayed/koleo_loss" in reports[0]


def test_koleo_of_two_ranks_is_not_that_of_twice_the_batch(replicated: Replicated) -> None:
    """The first step's KoLeo is the mean of the ranks'; of the joined batch it is larger, all else being equal."""
    (of_ranks, *_) = batches_of_ranks(1, n_micro=2)
    whole = numbers(DoubleRun(PROTOTYPES).advance([[joined(of_ranks[0] + of_ranks[1])]])[0])
    alone = [numbers(DoubleRun(PROTOTYPES).advance([[batch]])[0]) for batch in of_ranks[0] + of_ranks[1]]
    reported = replicated[0]["accumulated"][0][0]
    name = "displayed/koleo_loss"
    torch.testing.assert_close(reported[name], torch.stack([x[name] for x in alone]).mean(), rtol=ROUNDING, atol=0)
    assert whole[name] > reported[name] + 1e-3
    equal = [key for key in whole if key.startswith("displayed/") and key != name]
    assert largest_difference({k: reported[k] for k in equal}, {k: whole[k] for k in equal})[0] < ROUNDING


def test_sinkhorn_counts_patches_and_not_ranks(replicated: Replicated) -> None:
    """A rank without masked patches: the joint assignment, the losses and the step are still the joined batch's."""
    first, second = uneven_batches()
    one = DoubleRun([*SINKHORN, NO_KOLEO])
    (expected,) = train(one, [[[joined(first + second)], []]], None)
    reports, result = replicated[0]["uneven Sinkhorn"]
    assert largest_difference(reports[0], expected)[0] < ROUNDING
    assert largest_difference(result, one.result())[0] < ROUNDING


def test_ibot_centres_weigh_ranks_alike(replicated: Replicated) -> None:
    """Q12, Q13: a rank without masks votes for the old centre, 0, so half the joined batch's update comes out."""
    first, second = uneven_batches()
    one = DoubleRun([*PROTOTYPES, NO_KOLEO])
    train(one, [[[joined(first + second)], []]], None)
    result, expected = replicated[0]["uneven centring"][1], one.result()
    name = "model.ibot_patch_loss.center"
    torch.testing.assert_close(result.pop(name), expected.pop(name) / 2, rtol=1e-12, atol=1e-15)
    assert largest_difference(result, expected)[0] < ROUNDING


def test_sharded_is_replicated(sharded: Shared) -> None:
    """Three steps: clipping, warm-up, frozen last layer, two micro-batches, KoLeo and prototypes."""
    _, (first, second) = sharded
    (reports, result), (expected, other) = first["fsdp"], first["ddp"]
    assert largest_difference(result, other)[0] < ROUNDING
    assert all(largest_difference(*pair)[0] < ROUNDING for pair in zip(reports, expected, strict=True))
    clipped = [norm for name, norm in reports[0].items() if name.startswith("norm/") and "prototype" not in name]
    assert min(clipped) > 0.5
    assert alike(result, second["fsdp"][1])


def test_every_parameter_is_shared_out(sharded: Shared) -> None:
    """Each of the student's parameters is a DTensor, and the two ranks' shards add up to it."""
    _, ranks = sharded
    assert all(ranks[0]["sharded"])
    whole = sum(parameter.numel() for parameter in tiny_model(["ibot.separate_head=true"]).student.parameters())
    assert ranks[0]["share"] + ranks[1]["share"] == whole
    assert min(rank["share"] for rank in ranks) > 0.4 * whole


def test_a_sharded_checkpoint_goes_on_sharded_bit_for_bit(sharded: Shared) -> None:
    """Saved after a step and loaded into a run of other values: the same bits then, and two steps later."""
    _, (results, _) = sharded
    loaded, after = results["fsdp to fsdp"]
    assert alike(loaded, results["fsdp saved"])
    assert alike(after, results["fsdp"][1])


@pytest.mark.parametrize(("saved", "mode"), [("fsdp", "ddp"), ("ddp", "fsdp"), ("plain", "fsdp")])
def test_checkpoints_change_hands(sharded: Shared, saved: str, mode: str) -> None:
    """From any way to two ranks: the same bits on loading, and equal steps to rounding."""
    folder, (results, _) = sharded
    loaded, after = results[f"{saved} to {mode}"]
    assert alike(loaded, torch.load(folder / "plain.pt") if saved == "plain" else results[f"{saved} saved"])
    assert largest_difference(after, results["ddp"][1])[0] < ROUNDING


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, as torchrun --nproc-per-node=1 makes it."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_a_sharded_checkpoint_goes_on_in_a_group_of_one(sharded: Shared, mode: str) -> None:
    """Two ranks' shards, loaded by a group of one, which takes both ranks' micro-batches."""
    folder, (results, _) = sharded
    run, loaded = _resumed(folder, "fsdp", mode)
    assert alike(loaded, results["fsdp saved"])
    train(run, batches_of_ranks(LAST, n_micro=2)[FIRST:], None, FIRST + 1)
    assert largest_difference(run.result(), results["ddp"][1])[0] < ROUNDING
    assert run.model.wrapped_forward is None
    assert not any(isinstance(module, FSDPModule) for module in run.model.modules())


def test_a_sharded_checkpoint_goes_on_without_a_group(sharded: Shared) -> None:
    """The same in one process that torchrun did not start."""
    folder, (results, _) = sharded
    run, loaded = _resumed(folder, "fsdp", "plain")
    assert alike(loaded, results["fsdp saved"])
    train(run, batches_of_ranks(LAST, n_micro=2)[FIRST:], None, FIRST + 1)
    assert largest_difference(run.result(), results["ddp"][1])[0] < ROUNDING


def test_recomputing_sharded_blocks_draws_the_same_subsets(sharded: Shared) -> None:
    """Activation checkpointing under FSDP2, with stochastic depth: the step that keeps activations takes."""
    _, (results, _) = sharded
    assert largest_difference(results["recompute True"], results["recompute False"])[0] < ROUNDING


def test_recomputing_changes_no_bit_in_one_process() -> None:
    """Parameters after two steps with stochastic depth, and the names in the state dict."""
    results = []
    for recompute in (False, True):
        run = DoubleRun(["student.drop_path_rate=0.3"], recompute=recompute)
        torch.manual_seed(3)
        train(run, batches_of_ranks(2), None)
        results.append(run.result())
    assert alike(*results)


# Importing torch 2.11's own compiler warns.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_blocks_keep_names_and_numbers() -> None:
    """Names in the state dict, and, with the compiler told to stand aside, every bit of a step."""
    plain, compiled = DoubleRun(), DoubleRun()
    for networks in (compiled.model.student, compiled.model.teacher):
        compile_blocks(networks["backbone"])
    with torch.compiler.set_stance("force_eager"):
        train(compiled, batches_of_ranks(1), None)
    train(plain, batches_of_ranks(1), None)
    assert alike(plain.result(), compiled.result())


def test_one_process_stays_as_it_is() -> None:
    """Without a group nothing is wrapped, whatever the mode."""
    for mode in ("ddp", "fsdp"):
        model = tiny_model()
        parallelise(model, mode, torch.device("cpu"))
        assert model.wrapped_forward is None
        assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())


def test_a_process_alone_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun there is no group; with its variables there is one, and it is left again."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with process_group(Processes(), torch.device("cpu")):
        assert not dist.is_initialized()
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with process_group(Processes(), torch.device("cpu")):
        assert dist.get_backend() == "gloo"
    assert not dist.is_initialized()


def test_processes_are_read_from_torchrun_s_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """All, all but the last (then there is one machine), or none."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert Processes.from_environment() == Processes(0, 1, 0, 1)
    for name, value in zip(names[:3], ("5", "8", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert Processes.from_environment() == Processes(5, 8, 1, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Processes.from_environment() == Processes(5, 8, 1, 4)


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("LOCAL_RANK", None)])
def test_half_of_torchrun_s_variables_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    """They are shown as they are, and the message names torchrun."""
    for known in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(known, "1")
    monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=f"{name}={value}.*; start with torchrun"):
        Processes.from_environment()


@pytest.fixture
def threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("cores", "processes", "asked", "expected"),
    [(8, 1, None, 8), (8, 2, None, 4), (2, 4, None, 1), (8, 1, "3", 1), (8, 2, "1", 4), (None, 1, None, 1)],
)
def test_cores_are_shared_between_processes(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, processes: int, asked: str | None, expected: int
) -> None:
    """An equal share, at least 1; a single process heeds OMP_NUM_THREADS, which torchrun sets to 1 for several."""
    torch.set_num_threads(1)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    limit_threads(processes)
    assert torch.get_num_threads() == expected
