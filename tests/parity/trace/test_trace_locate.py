"""First divergence on real checks: a fault in `port` is named with operation, scalars and both lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import Change, Fork, assert_seen, check, fork, hand_written
from torch import Tensor, nn

from parity.adapters.official import OfficialStack
from parity.judge import Failed
from parity.results import CheckResult
from parity.trace.locate import OPERATION, locate
from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss
from port.models import attention, block, dino_head, vision_transformer


def first(result: CheckResult) -> str:
    """Return the sentence that names the first operation; there is at least one."""
    sentences = [f.sentence for f in result.findings if f.id == OPERATION]
    assert sentences, (result.status, result.reason, result.findings)
    return sentences[0]


def _layer_norm_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (block, vision_transformer):
        monkeypatch.setattr(module, "layer_norm", lambda dim: nn.LayerNorm(dim, eps=1e-5))


def _attention_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(self: Any, qkv: Tensor, b: int, n: int) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in qkv.view(b, n, *qkv.shape[1:]).unbind(2))
        return F.scaled_dot_product_attention(q, k, v, scale=0.26).transpose(1, 2).reshape(b * n, -1)

    monkeypatch.setattr(attention.Attention, "_attend", attend)


def _no_subset_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = block.get_branges_scales
    monkeypatch.setattr(block, "get_branges_scales", lambda x, ratio=0.0: (scales(x, ratio)[0], 1.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_layer_norm_eps, ("native_layer_norm(", "eps=1e-05", "eps=1e-06", "dinov2/layers/block.py")),
        (_attention_scale, ("attention", "scale=0.26", "dinov2/layers/attention.py:80")),
        (_no_subset_scale, ("index_add", "port/models/block.py")),
    ],
    ids=["eps", "attention scale", "subset scale"],
)
def test_a_faulty_backbone_is_traced_to_its_operation(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, change: Change, words: tuple[str, ...]
) -> None:
    """The operation with its scalars and line, and official's beside it."""
    change(monkeypatch)
    sentence = first(check(official_stack, fork(), "modules.backbone", "default"))
    assert all(word in sentence for word in words), sentence


def test_a_fault_among_rewrites_is_traced_past_them(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With losses, attention and norms written by hand, the one wrong operation is still the one named."""
    hand_written(monkeypatch)
    forward = dino_head.DINOHead.forward
    monkeypatch.setattr(dino_head.DINOHead, "forward", lambda self, x: forward(self, x * 1.001))
    sentence = first(check(official_stack, fork(), "modules.head", "default"))
    assert "first differs at mul(" in sentence
    assert "test_trace_locate.py" in sentence


def _temperature(self: Any, student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher * F.log_softmax(student / 0.2, dim=-1)).sum(-1)


def _koleo_eps(self: Any, student_output: Tensor) -> Tensor:
    x = F.normalize(student_output, p=2.0, dim=-1, eps=1e-8)
    dots = x @ x.t()
    dots.view(-1)[:: len(x) + 1].fill_(-1)
    neighbours = x[dots.max(dim=1).indices]
    return -torch.log(nn.PairwiseDistance(2, eps=1e-6)(x, neighbours) + 1e-8).mean()


@pytest.mark.parametrize(
    ("target", "method", "faulty", "name", "words"),
    [
        (iBOTPatchLoss, "_log_likelihood", _temperature, "losses.ibot", ("div(", "0.2", "0.1")),
        (KoLeoLoss, "forward", _koleo_eps, "losses.koleo", ("1e-06", "dinov2/loss/koleo_loss.py")),
    ],
    ids=["temperature", "koleo eps"],
)
def test_a_faulty_loss_is_traced_to_its_operation(
    official_stack: OfficialStack,
    monkeypatch: pytest.MonkeyPatch,
    target: type,
    method: str,
    faulty: Callable[..., Tensor],
    name: str,
    words: tuple[str, ...],
) -> None:
    """A constant that is wrong is told beside official's."""
    monkeypatch.setattr(target, method, faulty)
    sentence = first(check(official_stack, fork(), name))
    assert all(word in sentence for word in words), sentence


def test_a_step_is_traced_to_the_loss_that_is_wrong(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every gradient of the student differs; the cause is one product in the loss."""
    forward = DINOLoss.forward
    monkeypatch.setattr(DINOLoss, "forward", lambda self, *given: forward(self, *given) * 1.125)
    result = check(official_stack, fork(), "gradients.step", "default")
    assert_seen(result, "losses/dino")
    sentence = first(result)
    assert "first differs at mul(" in sentence
    assert "test_trace_locate.py" in sentence


def test_a_known_cause_hides_the_operation(official_stack: OfficialStack) -> None:
    """Where a difference has a name, its operations are consequences and are not told."""

    def by_tokens(student: Tensor, teacher: Tensor, masks: Tensor, n_masked_patches: int, weight: Tensor) -> Tensor:
        return -(teacher * F.log_softmax(student / 0.1, dim=-1)).sum(-1).mean()

    result = check(official_stack, fork(ibot_loss=by_tokens), "losses.ibot")
    assert_seen(result, finding="0005")
    assert OPERATION not in {f.id for f in result.findings}


def test_a_check_that_passes_is_not_traced(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Legitimate rewrites raise nothing, and cost no second run."""
    hand_written(monkeypatch)

    def forbidden(*_: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr("parity.checks.base.locate", forbidden)
    result = check(official_stack, fork(), "losses.dino")
    assert (result.status, result.findings) == ("passed", [])


def test_a_stack_that_cannot_be_run_again_costs_only_the_operation(official_stack: OfficialStack) -> None:
    """The divergence stays; the reason says why no operation is named."""
    calls = []

    def koleo(student_output: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 10:
            raise OSError("out of calls")
        return student_output.square().sum()

    result = check(official_stack, fork(koleo_loss=koleo), "losses.koleo")
    assert result.status == "diverged"
    assert "OSError: out of calls" in result.reason
    assert result.findings == []


def test_the_same_numbers_in_another_order_are_said_to_be_that(official_stack: OfficialStack) -> None:
    """Rows that a fork returns in another order are no other computation."""

    def compute(stack: Any, given: Any) -> dict[str, Tensor]:
        x = given["x"] * 2
        return {"x": x.flip(0) if isinstance(stack, Fork) else x}

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    (finding,) = locate(Failed("rows", fork(), compute, {"x": x}, ("x",)), official_stack)
    assert "official's numbers in another order" in finding.sentence
    assert locate(Failed("rows", official_stack, compute, {"x": x}, ("x",)), official_stack) == []


def test_a_wrong_choice_is_named_before_what_follows_from_it(official_stack: OfficialStack) -> None:
    """The farthest token in place of the nearest: the choice of indices, not the distance that comes of it."""

    def compute(stack: Any, given: Any) -> dict[str, Tensor]:
        x = given["x"]
        dots = (x @ x.t()).fill_diagonal_(-1)
        chosen = dots.min(dim=1).indices if isinstance(stack, Fork) else dots.max(dim=1).indices
        return {"x": (x - x[chosen] + 1e-8).norm(dim=-1)}

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    (finding,) = locate(Failed("choice", fork(), compute, {"x": x}, ("x",)), official_stack)
    assert "first differs at min(dim=1)" in finding.sentence


def test_a_result_that_official_has_earlier_is_said_to_be_that(official_stack: OfficialStack) -> None:
    """One iteration less ends where official has not ended yet: every number of it is official's."""

    def compute(stack: Any, given: Any) -> dict[str, Tensor]:
        x = given["x"]
        for _ in range(2 if isinstance(stack, Fork) else 3):
            x = x.sin()
        known = given["x"].sin().sin().sin()  # so that official's result is among yours
        return {"x": x, "known": known}

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    (finding,) = locate(Failed("steps", fork(), compute, {"x": x}, ("x",)), official_stack)
    assert "x is what official has earlier, at sin()" in finding.sentence


def test_what_is_missing_is_named_where_official_does_it(official_stack: OfficialStack) -> None:
    """A term that is left out shows in the backward pass; official's line is told first."""

    def compute(stack: Any, given: Any) -> dict[str, Tensor]:
        x = given["x"].clone().requires_grad_()
        total = x.sin().sum()
        if not isinstance(stack, Fork):
            total = total + x.square().mean()
        (gradient,) = torch.autograd.grad(total, x)
        return {"gradient": gradient}

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    (finding,) = locate(Failed("term", fork(), compute, {"x": x}, ("gradient",)), official_stack)
    assert re.search(r"yours lacks what official does at (pow|mul|mean|expand|div)", finding.sentence), finding.sentence
