from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port
from omegaconf import DictConfig
from torch import Tensor, nn

from parity import spellings
from parity.adapters.official import OfficialStack
from parity.adapters.port import PortStack
from parity.checks.checkpoint import held_by_training
from parity.names import canonical
from parity.recipes import RECIPES
from port.weights import position

Held = dict[str, dict[str, Tensor]]
PROJECTION = "student.backbone.blocks.1.attn.proj.weight"


def loading(change: Callable[[Held], Held], *, strict: bool = True) -> Any:
    """A fork that changes what it has loaded; not strict, it goes on without what does not fit."""
    stack = port()

    def load(config: DictConfig, checkpoint: Mapping[str, Any]) -> Held:
        if strict:
            return change(stack.load_checkpoint(config, checkpoint))
        model, _, _ = stack._built(config)
        model.load_state_dict(checkpoint["model"], strict=False)
        return {"model": dict(model.state_dict())}

    return fork(load_checkpoint=load)


def exporting(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A fork that changes what it exports."""
    stack = port()

    def export(config: DictConfig, held: Held, iteration: int) -> dict[str, Any]:
        return change(stack.export_checkpoint(config, held, iteration))

    return fork(export_checkpoint=export)


def of_model(change: Callable[[str, Tensor], tuple[str, Tensor]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Change each tensor of the model and its name."""
    return lambda given: {**given, "model": dict(change(name, tensor) for name, tensor in given["model"].items())}


def transposed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """One square weight the other way around: no shape tells."""
    return (name, tensor.T.contiguous()) if canonical(name) == PROJECTION else (name, tensor)


@pytest.mark.parametrize("recipe", ["default", "vitl14", "vitg14"])
def test_port_loads_and_gives_official_checkpoints(official_stack: OfficialStack, recipe: str) -> None:
    """Every tensor, moment and step count, there and back, bit for bit; three layouts of blocks with a shared head."""
    result = check(official_stack, port(), "checkpoint.training", recipe)
    assert_no_alarm(result)
    assert result.reason == ""
    names = {c.name for c in result.comparisons}
    for layout in ("0 chunks", "2 chunks", "3 chunks") if recipe == "default" else ("2 chunks",):
        assert f"{layout}/official loads it" in names
        for part in ("model", "exp_avg", "exp_avg_sq", "step"):
            for stage in ("loaded", "back in official"):
                assert any(name.startswith(f"{layout}/{stage}/{part}/") for name in names), (layout, stage, part)
    assert "2 chunks/exported/model/student.backbone.blocks.1.2.norm1.weight" in names
    assert ("0 chunks/exported/model/student.backbone.blocks.2.norm1.weight" in names) is (recipe == "default")
    heads = {name.split("/")[3].split(".")[1] for name in names if "/loaded/model/teacher" in name}
    assert heads == {"backbone", "dino_head"} | ({"ibot_head"} if recipe != "default" else set())


def test_three_chunks_of_four_blocks_leave_a_shorter_one(official_stack: OfficialStack) -> None:
    """What official calls the blocks of a depth that the chunks do not divide (Q38)."""
    config = RECIPES[0].config()
    config.student.block_chunks = 3
    names = held_by_training(official_stack, config)["model"]
    chunks = {m[1] + "." + m[2] for n in names if (m := re.match(r"student\.backbone\.blocks\.(\d+)\.(\d+)\.norm1", n))}
    assert chunks == {"0.0", "1.1", "2.2", "3.3"}


def test_the_state_that_is_carried_is_not_degenerate(official_stack: OfficialStack) -> None:
    """No tensor is zero, none equals another, and every parameter counts its own steps."""
    held = held_by_training(official_stack, RECIPES[1].config())
    assert all(bool(tensor.abs().sum() > 0) for part in held.values() for tensor in part.values())
    assert len({float(step) for step in held["step"].values()}) == len(held["step"])
    students = [tensor for name, tensor in held["model"].items() if name.startswith("student.")]
    assert len(held["exp_avg"]) == len(held["exp_avg_sq"]) == len(students)


def test_the_reference_equals_itself(official_stack: OfficialStack) -> None:
    """Official code loads and gives its own checkpoints, in the stack's own capabilities."""
    for name, recipe in (("training", "vitl14"), ("weights", None), ("refused", None)):
        assert_no_alarm(check(official_stack, official_stack, f"checkpoint.{name}", recipe))


def test_official_s_own_loader_swallows_what_it_does_not_know(official_stack: OfficialStack) -> None:
    """strict=False: an extra tensor passes; a missing one shows only since parity filled the model with NaN first."""
    result = check(official_stack, official_stack, "checkpoint.weights_refused")
    assert_seen(result, "^an extra key$")
    assert [c.name for c in result.diverged] == ["an extra key"]


def test_registers_are_not_run_where_official_has_none(official_stack: OfficialStack) -> None:
    """April 2023 has no register tokens."""
    result = check(official_stack, port(), "checkpoint.registers")
    assert (result.status, result.compared) == ("not_run", 0)
    assert "lacks register tokens" in result.reason


def _reversed_moments(held: Held) -> Held:
    """Number by number in the order of the groups, as a loader that does not look at names in another order."""
    names = list(held["exp_avg"])
    return {**held, "exp_avg": dict(zip(names, reversed(held["exp_avg"].values()), strict=True))}


@pytest.mark.parametrize(
    ("subject", "first"),
    [
        (loading(of_model(transposed)), "^0 chunks/loaded/model/student.backbone.blocks.1.attn.proj.weight$"),
        (loading(of_model(lambda n, t: (n, t.half().float()))), "^0 chunks/loaded/model/"),
        (loading(of_model(lambda n, t: (n, t.double()))), "^0 chunks/loaded/model/"),
        (loading(of_model(lambda n, t: (n.replace("ls1", "scale1"), t))), "^0 chunks/loaded/model/.*ls1.gamma"),
        (loading(lambda held: {**held, "model": {**held["model"], "student.extra": torch.ones(1)}}), "student.extra$"),
        (loading(_reversed_moments), "^0 chunks/loaded/exp_avg/"),
        (loading(lambda h: {**h, "step": {n: t * 0 for n, t in h["step"].items()}}), "^0 chunks/loaded/step/"),
        (loading(lambda h: {**h, "exp_avg_sq": {n: t * 0 for n, t in h["exp_avg_sq"].items()}}), "loaded/exp_avg_sq/"),
        (exporting(of_model(transposed)), "^0 chunks/exported/model/student.backbone.blocks.1.attn.proj.weight$"),
        (exporting(of_model(lambda n, t: (canonical(n), t))), "^2 chunks/exported/model/.*blocks.0.0.norm1.weight$"),
        (
            exporting(of_model(lambda n, t: (n.replace("weight_g", "parametrizations.weight.original0"), t))),
            "^0 chunks/exported/model/student.dino_head.last_layer.weight_g$",
        ),
        (exporting(lambda given: {**given, "iteration": given["iteration"] + 1}), "^0 chunks/exported/iteration$"),
    ],
)
def test_a_fault_is_named_with_the_tensor(official_stack: OfficialStack, subject: Any, first: str) -> None:
    """Values, types, names, moments and counts, on the way in and on the way out."""
    assert_seen(check(official_stack, subject, "checkpoint.training", "default", to_first=True), first)


def test_a_fault_that_undoes_itself_on_the_way_back_is_seen(official_stack: OfficialStack) -> None:
    """A weight transposed in and out again: what the model held in between was wrong."""
    both = loading(of_model(transposed))
    both.export_checkpoint = lambda config, held, n: of_model(transposed)(
        PortStack.export_checkpoint(both, config, of_model(transposed)(held), n)
    )
    result = check(official_stack, both, "checkpoint.training", "vitl14")
    assert_seen(result, "loaded/model/student.backbone.blocks.1.attn.proj.weight$")
    assert not any("/exported/" in c.name for c in result.diverged)


def test_official_refuses_what_does_not_fit_it(official_stack: OfficialStack) -> None:
    """A renamed tensor is named twice: as a key that official has, and by official's own strict loading."""
    renamed = exporting(of_model(lambda n, t: (n.replace("mask_token", "masked_token"), t)))
    result = check(official_stack, renamed, "checkpoint.training", "vitl14")
    assert_seen(result, "exported/model/student.backbone.mask_token$")
    (said,) = (c.subject for c in result.diverged if c.name == "2 chunks/official loads it")
    assert "Missing key(s) in state_dict" in said
    assert "mask_token" in said


def test_an_export_that_is_not_offered_is_listed(official_stack: OfficialStack) -> None:
    """What is loaded is compared, and the rest is said not to be."""
    stack = port()
    only_in = type("Fork", (), {"name": "fork", "load_checkpoint": lambda _, *given: stack.load_checkpoint(*given)})()
    result = check(official_stack, only_in, "checkpoint.training", "vitl14")
    assert result.status == "passed"
    assert result.reason == "export_checkpoint is not offered: only what is loaded was compared"


def test_port_reads_every_spelling(official_stack: OfficialStack) -> None:
    """All nine, of which official's loader reads five: heads included where the file has them."""
    result = check(official_stack, port(), "checkpoint.weights")
    assert_no_alarm(result)
    names = {c.name.split("/")[0] for c in result.comparisons}
    state = {
        n: t for n, t in held_by_training(official_stack, RECIPES[0].config())["model"].items() if "center" not in n
    }
    assert names == set(spellings.files(state))
    assert not any("refused" in c.subject for c in result.comparisons)
    assert "weight norm as a parametrization/dino_head.last_layer.weight_g" in {c.name for c in result.comparisons}


def test_official_s_loader_reads_the_plain_spellings_alone(official_stack: OfficialStack) -> None:
    """It strips `module.` and `backbone.`; chunks, `_orig_mod.` and a training's names leave tensors as they were."""
    config = RECIPES[0].config()
    state = {n: t for n, t in held_by_training(official_stack, config)["model"].items() if "center" not in n}
    read = {
        name
        for name, content in spellings.files(state).items()
        if not official_stack.lenient_weights(config, content)[1]
    }
    assert read == {
        "teacher of an evaluation",
        "backbone in the model's own names",
        "backbone under model",
        "module. before each name",
        "weight norm as a parametrization",
    }


def _ignores(config: DictConfig, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Load nothing and say nothing."""
    return {f"backbone.{n}": t for n, t in port().build_backbone(config).state_dict().items()}


def _refuses(config: DictConfig, content: Mapping[str, Any]) -> dict[str, Tensor]:
    raise ValueError("no file of ours")


def test_weights_that_are_swallowed_or_refused_are_seen(official_stack: OfficialStack) -> None:
    """A network that was left as it was; and a refusal of what official reads, which is not allowed."""
    assert_seen(check(official_stack, fork(load_weights=_ignores), "checkpoint.weights"), "^teacher of an ev")
    result = check(official_stack, fork(load_weights=_refuses), "checkpoint.weights")
    assert_seen(result, "^teacher of an evaluation/read by official's loader$")
    failed = {c.name.rsplit("/", 1)[0] for c in result.diverged}
    assert "_orig_mod. before each name" not in failed
    assert "module. before each name" in failed


def test_positions_of_another_size_are_official_s(official_stack: OfficialStack) -> None:
    """`port` resizes once to what official computes in each forward pass, bit for bit."""
    result = check(official_stack, port(), "checkpoint.positions")
    assert_no_alarm(result)
    assert [c.tier for c in result.comparisons] == ["T0", "T2"]


def test_positions_may_be_refused_by_name_and_not_by_chance(official_stack: OfficialStack) -> None:
    """As official does, which raises for their shape; an error about something else is no answer."""
    for words, passed in (("size mismatch for pos_embed", True), ("no file of ours", False)):

        def refuses(config: DictConfig, content: Mapping[str, Any], words: str = words) -> dict[str, Tensor]:
            raise ValueError(words)

        result = check(official_stack, fork(load_weights=refuses), "checkpoint.positions")
        assert (result.status == "passed") is passed


def test_positions_resized_in_another_way_are_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bilinear, where official is bicubic."""

    def bilinear(positions: Tensor, grid: tuple[int, int], **_: object) -> Tensor:
        side = int((positions.shape[1] - 1) ** 0.5)
        square = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = nn.functional.interpolate(square, grid, mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat((positions[:, :1], resized), dim=1)

    monkeypatch.setattr(position, "resize_positions", bilinear)
    assert_seen(check(official_stack, fork(), "checkpoint.positions"), "^positions of another size/pos_embed")


@pytest.mark.parametrize("name", ["checkpoint.refused", "checkpoint.weights_refused"])
def test_port_refuses_by_name(official_stack: OfficialStack, name: str) -> None:
    """A missing, an extra, a misshapen and a transposed tensor, from a training and from a file."""
    result = check(official_stack, port(), name)
    assert_no_alarm(result)
    assert [c.name for c in result.comparisons] == [
        "a missing key",
        "an extra key",
        "a shorter tensor",
        "a transposed weight",
    ]


def test_a_swallowed_difference_is_seen(official_stack: OfficialStack) -> None:
    """strict=False: a missing and an extra key are loaded without a word; torch refuses shapes all the same."""
    result = check(official_stack, loading(lambda held: held, strict=False), "checkpoint.refused")
    assert_seen(result, "^a missing key$")
    assert [c.name for c in result.diverged] == ["a missing key", "an extra key"]
    assert result.diverged[0].reference == "refused, naming blocks.1.attn.proj.bias"
    assert "swallowed" in result.diverged[0].subject


def test_a_refusal_that_names_nothing_is_seen(official_stack: OfficialStack) -> None:
    """An error alone could be about anything; what was said is shown."""
    result = check(official_stack, fork(load_weights=_refuses), "checkpoint.weights_refused")
    assert_seen(result, "^a missing key$")
    assert len(result.diverged) == 4
    assert "fork: ValueError: no file of ours" in result.diverged[0].subject
