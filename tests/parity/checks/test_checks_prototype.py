from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import assert_no_alarm, assert_seen, check, port
from torch import Tensor

from parity.adapters.official import OfficialStack
from parity.errors import SubjectError
from parity.prototype_definition import SETTINGS, PrototypeDefinition, settings_of

Reduce = Callable[[Tensor, Tensor], Tensor]


def token_losses(student: Tensor, teacher: Tensor, *, student_temp: float = 0.1, pool: Tensor | None = None) -> Tensor:
    """Return the loss of every token (R, N), all at once; `pool` says which teacher tokens Sinkhorn sees."""
    with torch.no_grad():
        q = torch.exp(F.normalize(teacher, dim=-1) / 0.07)
        if pool is not None:
            q = q * pool.unsqueeze(-1)
        for _ in range(3):
            q = q / q.sum((0, 1), keepdim=True)
            q = q / q.sum(-1, keepdim=True).clamp(min=1e-30)
    return -(q * F.log_softmax(F.normalize(student, dim=-1) / student_temp, dim=-1)).sum(-1)


def per_row(losses: Tensor, masks: Tensor) -> Tensor:
    """The mean of each row's masked tokens, (R,); 0 for a row without."""
    return (losses * masks).sum(-1) / masks.sum(-1).clamp(min=1)


def right(losses: Tensor, masks: Tensor) -> Tensor:
    """The definition."""
    return per_row(losses, masks).sum() / len(masks)


def stack(reduce: Reduce, losses: Callable[..., Tensor] = token_losses, mode: str = "masked", **more: Any) -> Any:
    """A fork whose prototype loss reduces token losses in a way of its own."""
    return SimpleNamespace(
        name="fork",
        prototype_modes=(mode,),
        prototype_loss=lambda _, student, teacher, masks: reduce(losses(student, teacher), masks),
        **more,
    )


def test_port_passes(official_stack: OfficialStack) -> None:
    """By its support, its definition in both precisions, and every identity."""
    for name in ("prototype.support", "prototype.definition"):
        assert_no_alarm(check(official_stack, port(), name))
    names = {c.name for c in check(official_stack, port(), "prototype.definition").comparisons}
    assert {
        "masked/definition/loss",
        "masked/definition/gradient of student",
        "masked/definition/gradient of teacher",
        "masked/rows and tokens in another order/loss",
        "masked/every row twice/gradient of student",
        "masked/other unmasked student tokens/gradient of student",
        "masked/rows add up",
        "masked/row 3 is the mean of its 8 tokens",
        "masked/nothing masked/loss",
    } <= names


def test_another_way_to_write_it_passes(official_stack: OfficialStack) -> None:
    """Vectorised, through weights, and with the logarithm taken of the softmax: nothing is accused."""

    def weighted(losses: Tensor, masks: Tensor) -> Tensor:
        weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
        return (losses[masks] * weight).sum() / masks.shape[0]

    def of_softmax(student: Tensor, teacher: Tensor) -> Tensor:
        q = torch.exp(teacher / teacher.norm(dim=-1, keepdim=True) / 0.07).detach()
        for _ in range(3):
            q = q / q.sum((0, 1))
            q = q / q.sum(-1, keepdim=True)
        return -torch.einsum("rnk,rnk->rn", q, torch.softmax(F.normalize(student, dim=-1) / 0.1, -1).log())

    for fork in (stack(right), stack(weighted), stack(weighted, of_softmax)):
        for name in ("prototype.support", "prototype.definition"):
            assert_no_alarm(check(official_stack, fork, name))


@pytest.mark.parametrize(
    ("reduce", "ratio", "words"),
    [
        (lambda d, m: (d * m).sum() / m.sum(), "", "by the total number of masked tokens"),
        (lambda d, m: per_row(d, m).sum() / m.sum(), "3", "normalised twice"),
        (lambda d, m: 2 * right(d, m), "0.5", "by the number of images"),
        (lambda d, m: per_row(d, m).sum() / m.any(-1).sum(), "0.8", "by the masked rows alone"),
        (lambda d, m: per_row(d, m).sum(), "0.2", "not divided by the number of rows"),
        (lambda d, m: (d * m).sum() / len(m), "", "summed without weights"),
    ],
)
def test_another_average_is_named_with_its_ratio(
    official_stack: OfficialStack, reduce: Reduce, ratio: str, words: str
) -> None:
    """Difference 0005: 15 masked tokens in five rows, four of them masked, so that every average has its own ratio."""
    result = check(official_stack, stack(reduce), "prototype.definition")
    assert_seen(result, "^masked/definition/loss", "0005", words)
    (finding,) = result.findings
    assert f"definition / yours = {ratio}" in finding.sentence


def test_a_token_average_at_unknown_temperatures_is_named_by_its_own_token_losses(
    official_stack: OfficialStack,
) -> None:
    """The definition cannot give the value of another temperature; the subject's single tokens can."""
    cold = partial(token_losses, student_temp=0.25)
    result = check(official_stack, stack(lambda d, m: (d * m).sum() / m.sum(), cold), "prototype.definition")
    assert_seen(result, "^masked/definition/loss", "0005", "by the total number of masked tokens")
    assert "masked/rows add up" in {c.name for c in result.diverged}


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        (lambda d, m: d.mean(), "taken over every token, 60 of them, where the definition takes the 15 masked ones"),
        (lambda d, m: d[~m].mean(), "taken over unmasked tokens, 45 of them"),
        (lambda d, m: right(d, ~m), "taken over unmasked tokens, 45 of them"),
    ],
)
def test_other_tokens_are_named(official_stack: OfficialStack, reduce: Reduce, words: str) -> None:
    """Difference 0004 in the value, whatever the average."""
    assert_seen(check(official_stack, stack(reduce), "prototype.definition"), "^masked/definition/loss", "0004", words)


def _scaled_gradient(losses: Tensor, masks: Tensor) -> Tensor:
    loss = right(losses, masks)
    return loss.detach() + 0.5 * (loss - loss.detach())


def _learning_teacher(student: Tensor, teacher: Tensor) -> Tensor:
    return token_losses(student, teacher) + 1e-6 * (teacher.sum(-1) - teacher.sum(-1).detach())


@pytest.mark.parametrize(
    ("fork", "seen"),
    [
        (stack(right, partial(token_losses, student_temp=0.2)), {"masked/definition/loss"}),
        (stack(_scaled_gradient), {"masked/definition/gradient of student"}),
        (stack(right, _learning_teacher), {"masked/definition/gradient of teacher"}),
        (
            stack(lambda d, m: right(d, m) + 1e-7 * d[~m].mean()),
            {"masked/other unmasked student tokens/loss", "masked/nothing masked/loss"},
        ),
        (
            stack(lambda d, m: right(d * torch.linspace(0.9, 1.1, len(d), dtype=d.dtype).unsqueeze(-1), m)),
            {"masked/rows and tokens in another order/loss"},
        ),
        (stack(lambda d, m: right(d, m) * len(m) / 5), {"masked/every row twice/loss"}),
        (
            stack(lambda d, m: ((d * m).square().sum(-1) / m.sum(-1).clamp(min=1)).sum() / len(m)),
            {"masked/definition/loss"},
        ),
        (
            stack(lambda d, m: ((d * m).sum(-1).sqrt() / m.sum(-1).clamp(min=1)).nan_to_num().sum() / len(m)),
            {"masked/row 0 is the mean of its 4 tokens", "masked/row 3 is the mean of its 8 tokens"},
        ),
        (
            stack(lambda d, m: torch.stack([d[r][m[r]].mean() for r in range(len(m)) if m[r].any()]).sum() / len(m)),
            set(),
        ),
    ],
)
def test_what_does_not_follow_from_the_definition_is_seen(
    official_stack: OfficialStack, fork: Any, seen: set[str]
) -> None:
    """Each fault fails the identities that it breaks, beside the comparison with the definition itself."""
    result = check(official_stack, fork, "prototype.definition")
    if seen:
        assert result.status == "diverged", result.reason
        assert seen <= {c.name for c in result.diverged}, [c.name for c in result.diverged]
    else:  # it cannot make a number of a batch without masks
        assert (result.status, "RuntimeError" in result.reason) == ("error", True), result.reason


def test_sinkhorn_over_masked_tokens_alone_is_seen(official_stack: OfficialStack) -> None:
    """Unmasked teacher tokens take part in the assignment: without them the value is another."""
    fork = stack(right)
    fork.prototype_loss = lambda _, s, t, masks: right(token_losses(s, t, pool=masks), masks)
    assert_seen(check(official_stack, fork, "prototype.definition"), "^masked/definition/loss")


def test_declared_settings_are_those_of_the_definition(official_stack: OfficialStack) -> None:
    """Another temperature passes where the stack says so."""
    fork = stack(right, partial(token_losses, student_temp=0.2), prototype_settings={"student_temp": 0.2})
    assert_no_alarm(check(official_stack, fork, "prototype.definition"))


def test_unknown_settings_are_refused() -> None:
    """A misspelt key would be ignored, and the definition be another."""
    assert settings_of(SimpleNamespace()) == dict(SETTINGS)
    with pytest.raises(
        SubjectError, match=r"fork.prototype_settings is .*expected a mapping with some of student_temp"
    ):
        settings_of(SimpleNamespace(name="fork", prototype_settings={"temperature": 0.2}))


def test_the_definition_of_one_token_by_hand() -> None:
    """One token takes half of either prototype; logits 10 and 0 then cost 5 + log(1 + exp(-10))."""
    definition = PrototypeDefinition(SETTINGS)
    student = torch.tensor([[[3.0, 0.0]]], dtype=torch.float64)
    teacher = torch.tensor([[[0.3, 4.0]]], dtype=torch.float64)
    expected = 5 + torch.log1p(torch.exp(torch.tensor(-10.0, dtype=torch.float64)))
    torch.testing.assert_close(definition.assignments(teacher), torch.full((1, 1, 2), 0.5, dtype=torch.float64))
    loss = definition.prototype_loss("masked", student, teacher, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(loss, expected)


def test_the_definition_s_gradients_are_those_of_finite_differences() -> None:
    """Two rows of three tokens, masked tokens 2 and 1: central differences of the value, coordinate by coordinate."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    masks = torch.tensor([[True, True, False], [False, True, False]])
    definition = PrototypeDefinition(SETTINGS)

    def loss(tokens: Tensor) -> Tensor:
        return definition.prototype_loss("masked", tokens, teacher, masks)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(),), eps=1e-6, atol=1e-8)


def test_the_definition_by_its_sum() -> None:
    """A row's masked tokens average, rows without masks count in the divisor: 1/3 of (mean of two + the third)."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    definition = PrototypeDefinition(SETTINGS)
    losses = definition.token_losses(student, teacher)
    masks = torch.tensor([[True, True], [False, False], [False, True]])
    expected = ((losses[0, 0] + losses[0, 1]) / 2 + losses[2, 1]) / 3
    torch.testing.assert_close(definition.prototype_loss("masked", student, teacher, masks), expected)
    assert float(definition.prototype_loss("masked", student, teacher, torch.zeros_like(masks))) == 0.0


def _distance(**modes: Reduce) -> Any:
    """A stack with prototype losses, each a function of (squared distances, masks)."""
    return SimpleNamespace(
        name="fork",
        prototype_modes=tuple(modes),
        prototype_loss=lambda mode, student, teacher, masks: modes[mode]((student - teacher).pow(2).sum(-1), masks),
    )


def test_the_prototype_loss_is_judged_by_its_support(official_stack: OfficialStack) -> None:
    """One mode that reaches the masked tokens alone passes; official code needs no such loss."""
    result = check(official_stack, _distance(masked=lambda d, m: d[m].mean()), "prototype.support")
    assert_no_alarm(result)
    assert [c.name for c in result.comparisons] == ["modes", "masked/tokens reached"]


@pytest.mark.parametrize(
    ("modes", "first", "words"),
    [
        ({"all": lambda d, m: d.mean()}, "all/tokens reached", "mode 'all' puts"),
        ({"visible": lambda d, m: d[~m].mean()}, "visible/tokens", "100% of its gradient on unmasked"),
        (
            {"masked": lambda d, m: d[m].mean(), "all": lambda d, m: d.mean()},
            "modes",
            "2 modes are offered: masked, all",
        ),
    ],
)
def test_a_prototype_loss_on_unmasked_tokens_is_named(
    official_stack: OfficialStack, modes: dict[str, Any], first: str, words: str
) -> None:
    """Difference 0004, with the share of the gradient that falls outside."""
    assert_seen(check(official_stack, _distance(**modes), "prototype.support"), first, "0004", words)
