"""Several faults at once: each is named, in order, with official's value in the place of those before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import check, fork
from single_blocks import blocks, differences, found, toy
from torch import Tensor
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from parity.adapters.official import OfficialStack
from parity.results import Finding
from parity.seeding import seeded
from parity.teeth.edit import Constant, Edit, applied
from parity.trace.locate import OPERATION

AGREES = "with official's value there, all else agrees"
ALL_AGREE = "with official's values there, all else agrees"

EPS = Constant("port.models.layers:LAYER_NORM_EPS", 1e-5)
SCALE = Edit("port.models.attention:Attention._attend", "v.transpose(1, 2))", "v.transpose(1, 2), scale=0.26)")
TANH = Edit("port.models.ffn:Mlp.forward", "self.act(x)", 'functional.gelu(x, approximate="tanh")')
UNSCALED = Edit("port.models.block:get_branges_scales", "b / sample_subset_size", "1.0")
UNNORMED = Edit("port.models.block:Block._ffn_residual", "self.mlp(self.norm2(x))", "self.mlp(x)")

OPERATIONS = {
    EPS: r"native_layer_norm\(.*eps=1e-05.* official: native_layer_norm\(.*eps=1e-06",
    SCALE: r"attention_for_cpu\(.*scale=0\.26\).* official: \w+attention_for_cpu\(\) at dinov2/layers/attention\.py",
    TANH: r"gelu\(approximate=tanh\) at port/models/ffn\.py.* official: gelu\(\) at dinov2/layers/mlp\.py",
    UNSCALED: r"index_add\(dim=0\) at port/models/block\.py.* official: index_add\(dim=0, alpha=2\)",
    UNNORMED: r"addmm\(\) at port/models/ffn\.py.* official: native_layer_norm\(",
}


def of_block(official: OfficialStack, *edits: Edit | Constant, **options: Any) -> list[Finding]:
    """Return what is found of a block of `port` with edits."""
    reference, subject = blocks(official)
    with applied(*edits):
        return found(differences(reference, subject, **options), reference)


def assert_told(findings: Sequence[Finding], faults: Sequence[Edit | Constant]) -> None:
    """Assert that the faults are told one by one, in this order, and that nothing else is."""
    sentences = [f.sentence for f in findings]
    assert len(sentences) == len(faults), sentences
    starts = ("block first differs at", "block second, with", "block third, with", "block fourth, with")
    for sentence, fault, start in zip(sentences, faults, starts, strict=False):
        assert sentence.startswith(start), sentence
        assert re.search(OPERATIONS[fault], sentence), sentence
    assert {f.id for f in findings} == {OPERATION}


def test_blocks_without_a_fault_do_not_differ(official_stack: OfficialStack) -> None:
    """What the tests below start from: official's block and `port`'s compute the same, of one batch and of two."""
    reference, subject = blocks(official_stack)
    assert differences(reference, subject) is None
    assert differences(reference, subject, both=True) is None
    assert differences(reference, subject, training=False) is None


@pytest.mark.parametrize(
    "fault", [EPS, SCALE, TANH, UNSCALED, UNNORMED], ids=["eps", "scale", "tanh", "unscaled", "unnormed"]
)
def test_one_fault_explains_all(official_stack: OfficialStack, fault: Edit | Constant) -> None:
    """Forward and backward: with official's value in its place every result and gradient is official's."""
    findings = of_block(official_stack, fault)
    assert_told(findings, [fault])
    assert findings[0].sentence.endswith(AGREES)
    assert findings[0].official.startswith("dinov2/layers/")


@pytest.mark.parametrize(
    "faults",
    [(EPS, SCALE), (SCALE, UNNORMED), (EPS, SCALE, TANH), (EPS, SCALE, UNSCALED, TANH)],
    ids=["eps scale", "scale unnormed", "three", "four"],
)
def test_several_faults_are_named_in_order(official_stack: OfficialStack, faults: tuple[Edit | Constant, ...]) -> None:
    """In the order in which the computation comes to them, whichever way they are written down."""
    findings = of_block(official_stack, *reversed(faults))
    assert_told(findings, faults)
    assert findings[-1].sentence.endswith(ALL_AGREE)
    assert all("agrees" not in f.sentence for f in findings[:-1])


def test_a_fault_on_several_lines_is_told_once(official_stack: OfficialStack) -> None:
    """The same wrong argument of the same operation: its other lines are listed with it."""
    (finding,) = of_block(official_stack, EPS, training=False)
    first, more = finding.sentence.split("; likewise at ")
    assert re.search(r"port/models/block\.py:\d+ in _attn_residual", first)
    assert re.match(r"port/models/block\.py:\d+ in _ffn_residual; with official's value there", more)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            Edit(
                "port.models.attention:Attention._attend",
                "q.transpose(1, 2), k.transpose(1, 2)",
                "k.transpose(1, 2), q.transpose(1, 2)",
            ),
            "attention_for_cpu() at port/models/attention.py",
        ),
        (
            Edit("port.models.block:Block._forward_list", "gamma_of(self.ls2)", "gamma_of(self.ls1)"),
            "mul() at port/models/block.py",
        ),
    ],
    ids=["queries and keys", "scales"],
)
def test_gradients_of_a_tensor_taken_for_another_are_no_further_fault(
    official_stack: OfficialStack, edit: Edit, words: str
) -> None:
    """They go to the tensor that was taken, whatever value stands there: nothing is told of the backward pass."""
    first, second = of_block(official_stack, edit, TANH)
    told = sorted((first.sentence, second.sentence), key=lambda sentence: "gelu(" in sentence)
    assert words in told[0]
    assert re.search(OPERATIONS[TANH], told[1])
    assert not any("backward" in sentence for sentence in told)


def test_a_fault_of_the_backward_pass_alone_is_told_there(official_stack: OfficialStack) -> None:
    """A forward fault before it is put right first; gradients are official's again with both."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            return dy * 2

    def theirs(x: Tensor) -> Tensor:
        y = x.cos() @ x.t()
        y = y.exp()
        return y * 3

    def mine(x: Tensor) -> Tensor:
        y: Tensor = Doubled.apply(x.cos())
        y = y @ x.t()
        y = y.exp()
        return y * 4

    first, second = toy(theirs, mine)
    assert "first differs at mul(other=4)" in first.sentence
    assert re.search(r"second, .*mul\(other=2\) in the backward pass at \S+ in backward", second.sentence)
    assert second.sentence.endswith(ALL_AGREE)


def test_faults_of_the_real_check_of_a_loss(official_stack: OfficialStack) -> None:
    """The centre is added, and its momentum is another: both are told, and the check has still diverged."""
    center = "port.losses.centering:CenteredLoss."
    added = Edit(f"{center}softmax_center_teacher", "teacher_output - self.center", "teacher_output + self.center")
    momentum = Edit(f"{center}apply_center_update", "+ mean * (1 - self.center_momentum)", "+ mean * 0.2")
    with applied(added, momentum):
        result = check(official_stack, fork(), "losses.centering")
    assert result.status == "diverged"
    first, second = (f.sentence for f in result.findings if f.id == OPERATION)
    assert re.search(r"mul\(other=0\.2\) at port/losses/centering\.py.* official: mul\(other=0\.1\)", first)
    assert re.search(r"second.* add\(\) at port/losses/centering\.py.* official: sub\(\)", second)
    assert second.endswith(ALL_AGREE)


def test_what_is_left_out_is_put_right_at_the_next_operation_of_both() -> None:
    """Official adds an offset that the subject does not: its logarithm is what both have next."""

    def theirs(x: Tensor) -> Tensor:
        return ((x.square() + 0.5).log() @ x.t()).tanh()

    def mine(x: Tensor) -> Tensor:
        return (x.square().log() @ x.t()).tanh()

    (finding,) = toy(theirs, mine)
    assert "first differs at log()" in finding.sentence
    assert "official: add(other=0.5)" in finding.sentence
    assert finding.sentence.endswith(AGREES)


def test_what_is_done_in_excess_is_told_as_that() -> None:
    """Where all agrees without it, official goes on with what goes in."""

    def run(factor: float | None) -> Any:
        def function(x: Tensor) -> Tensor:
            y = x.cos()
            if factor is not None:
                y = y * factor
            return (y @ x.t()).exp()

        return function

    (finding,) = toy(run(None), run(1.01))
    assert "first differs at mul(other=1.01)" in finding.sentence
    assert "official goes on with what goes in" in finding.sentence
    assert finding.sentence.endswith(AGREES)


def test_a_fault_among_operations_that_write_in_place() -> None:
    """Official's value is written where the result is, so that what views the memory sees it too."""

    def run(factor: float, bound: float) -> Any:
        def function(x: Tensor) -> Tensor:
            y = x * 1.5
            y[:3].mul_(factor)
            z = (y.abs() + 4).mul_(2.0)
            return z.clamp_(max=bound).log()

        return function

    first, second = toy(run(2.0, 12.0), run(2.5, 11.0))
    assert "first differs at mul_(other=2.5)" in first.sentence
    assert "second, with official's value there, differs at clamp_(max=11)" in second.sentence
    assert second.sentence.endswith(ALL_AGREE)


def test_a_view_is_replaced_and_what_it_views_is_left() -> None:
    """The wrong row is chosen: official's row stands in its place, and the tensor that it is a row of is unchanged."""

    def run(index: int) -> Any:
        def function(x: Tensor) -> Tensor:
            y = x.exp()
            row = y[index]
            return torch.cat((row * 2, y.sum(0), y[0].cos()))

        return function

    (finding,) = toy(run(2), run(4))
    assert "first differs at select(dim=0, index=4)" in finding.sentence
    assert finding.sentence.endswith(AGREES)


def test_a_value_of_another_shape_is_not_put_in() -> None:
    """The finding says that nothing is known of what comes after."""
    (finding,) = toy(lambda x: x.exp().sum(0).amax(), lambda x: x.exp().sum(1).amin())
    assert "first differs at sum(dim=[1])" in finding.sentence
    assert "whether more is wrong behind it is not known: " in finding.sentence


def test_a_value_that_leads_nowhere_is_not_believed() -> None:
    """Everything after is another computation: no second fault is made up."""

    def theirs(x: Tensor) -> Tensor:
        return (x.exp() @ x.t()).tanh() @ x

    def mine(x: Tensor) -> Tensor:
        return (x.sinh() + x.t().cos().mean()).atan() * 2

    findings = toy(theirs, mine)
    assert "first differs at" in findings[0].sentence
    assert all("perhaps part of the one before" in f.sentence for f in findings[1:])
    assert "agrees" not in findings[-1].sentence


def test_no_more_than_five_faults_are_told() -> None:
    """The last one says that there may be more."""

    def run(wrong: float) -> Any:
        def function(x: Tensor) -> Tensor:
            x = (x.cos() * (0.5 + wrong)).exp()
            x = (x.cos() * (0.6 + wrong)).exp()
            x = (x.cos() * (0.7 + wrong)).exp()
            x = (x.cos() * (0.8 + wrong)).exp()
            x = (x.cos() * (0.9 + wrong)).exp()
            return (x.cos() * (1.0 + wrong)).exp()

        return function

    findings = toy(run(0.0), run(0.04))
    told = [re.findall(r"mul\(other=([\d.]+)\)", f.sentence) for f in findings]
    assert told == [["0.54", "0.5"], ["0.64", "0.6"], ["0.74", "0.7"], ["0.84", "0.8"], ["0.94", "0.9"]]
    assert findings[-1].sentence.endswith("more may be wrong behind it: no more than this is looked for")


def test_without_a_replay_the_first_alone_is_told(official_stack: OfficialStack) -> None:
    """As the catalogue of faults asks, where no further run is worth its time."""
    reference, subject = blocks(official_stack)
    with applied(EPS, TANH):
        (finding,) = found(differences(reference, subject), reference, faults=0)
    assert re.search(OPERATIONS[EPS], finding.sentence)
    assert "official's value there" not in finding.sentence


def test_a_search_leaves_generators_modes_and_inputs_as_they_were(official_stack: OfficialStack) -> None:
    """However often the computation is run again."""
    reference, subject = blocks(official_stack)
    seeded(9)
    with applied(EPS, TANH):
        failed = differences(reference, subject)
        assert failed is not None
        before = {name: value.clone() for name, value in failed.inputs.items()}
        torch.rand(3)
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        assert len(found(failed, reference)) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert _get_current_dispatch_mode() is None
    assert _get_current_function_mode() is None
    assert all(torch.equal(value, before[name]) for name, value in failed.inputs.items())


def test_the_same_is_found_again(official_stack: OfficialStack) -> None:
    """Nothing depends on time, or on an order that is not fixed."""
    assert of_block(official_stack, EPS, TANH) == of_block(official_stack, EPS, TANH)


def test_a_rewrite_among_faults_is_not_accused() -> None:
    """Softmax and norm by hand between two faults come to official's tensors again."""

    def theirs(x: Tensor) -> Tensor:
        h = F.layer_norm(x, (8,), eps=1e-6)
        scores = torch.sin(h @ x.t())
        return torch.softmax(F.gelu(scores), -1) @ x

    def mine(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        h = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
        scores = torch.sin(h @ x.t())
        scores = F.gelu(scores, approximate="tanh")
        return (scores - scores.logsumexp(-1, keepdim=True)).exp() @ x

    first, second = toy(theirs, mine)
    assert "in mine" in first.sentence
    assert "gelu(approximate=tanh)" in second.sentence
