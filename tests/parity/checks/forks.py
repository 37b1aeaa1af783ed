"""Forks of `port` with something changed, and one check made of them: what the tests of the checks share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity.adapters.port import PortStack
from parity.checks import CHECKS, Check, Context, run_check
from parity.checks.base import Observation
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from parity.results import CheckResult, Comparison, ReferenceInfo
from port.losses import DINOLoss, iBOTPatchLoss
from port.models import attention, block, vision_transformer

__all__ = ["Change", "Fork", "assert_no_alarm", "assert_seen", "check", "fork", "hand_written", "port"]

Change = Callable[[pytest.MonkeyPatch], None]
"""Changes code of `port` for one test; official code runs none of it, so that only the subject changes."""

_INFO = ReferenceInfo("pypi", "pypi", "", "dinov2 0.0.1.dev2", "verified", 44, 44)


def port() -> PortStack:
    """`port` itself, which claims official's operations in official's order."""
    return PortStack(SMALL_ARCHITECTURES)


class Fork(PortStack):
    """A stack that claims no bit, so that a fault must be found by the sizes of differences alone."""

    name = "fork"
    claims_bitwise = False

    def __init__(self) -> None:
        super().__init__(SMALL_ARCHITECTURES)


def fork(**capabilities: Any) -> Fork:
    """Return a fork of which some capabilities are other functions, called without `self`."""
    changed = Fork()
    for name, function in capabilities.items():
        assert hasattr(changed, name), name
        setattr(changed, name, function)
    return changed


def check(
    official: Any,
    subject: Any,
    name: str,
    recipe: str | None = None,
    *,
    seeds: int = 32,
    quick: bool = True,
    to_first: bool = False,
) -> CheckResult:
    """Make one check, `family.name`, under a recipe or none; with `to_first` only to the first failure."""
    (found,) = (c for c in CHECKS if c.id == name)
    if to_first:
        found = replace(found, run=_to_first_failure(found))
    chosen = next(r for r in RECIPES if r.name == recipe) if recipe else None
    return run_check(found, Context(official, _INFO, subject, chosen, seeds, quick))


def _to_first_failure(whole: Check) -> Callable[[Context], Iterator[Observation]]:
    def run(context: Context) -> Iterator[Observation]:
        for observation in whole.run(context):
            yield observation
            if isinstance(observation, Comparison) and not observation.passed:
                return

    return run


def assert_seen(result: CheckResult, first: str = "", finding: str | None = None, words: str = "") -> None:
    """Assert that the check diverged, first at a name that the pattern `first` finds, and says why.

    Args:
        result: of the check.
        first: searched for in the name of the first comparison that failed.
        finding: id of a finding that must be there; None where none is asked for.
        words: part of that finding's sentence.
    """
    assert result.status == "diverged", (result.status, result.reason, result.compared)
    failed: Comparison = result.diverged[0]
    assert re.search(first, failed.name), [c.name for c in result.diverged][:12]
    if finding is not None:
        sentences = [f.sentence for f in result.findings if f.id == finding]
        assert any(words in sentence for sentence in sentences), result.findings


def assert_no_alarm(result: CheckResult) -> None:
    """Assert that everything was compared and passed, and that nothing is accused."""
    assert result.status == "passed", (result.reason, [(c.name, c.tier, c.note) for c in result.diverged][:12])
    assert result.findings == []


def hand_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses by einsum and log-sum-exp, attention and LayerNorm written out."""

    def dino(self: Any, students: Any, teachers: Any) -> Tensor:
        logits = torch.stack(list(students)) / 0.1
        log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
        return -torch.einsum("sbk,tbk->", log_p, torch.stack(list(teachers))) / logits.shape[1]

    def likelihood(self: Any, student: Tensor, teacher: Tensor) -> Tensor:
        logits = student / 0.1
        return torch.einsum("...k,...k->...", teacher, logits - torch.logsumexp(logits, dim=-1, keepdim=True))

    def attend(self: Any, qkv: Tensor, b: int, n: int) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in qkv.view(b, n, *qkv.shape[1:]).unbind(2))
        weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q * q.shape[-1] ** -0.5, k), dim=-1)
        return torch.einsum("bhij,bhjd->bihd", weights, v).reshape(b * n, -1)

    monkeypatch.setattr(DINOLoss, "forward", dino)
    monkeypatch.setattr(iBOTPatchLoss, "_log_likelihood", likelihood)
    monkeypatch.setattr(attention.Attention, "_attend", attend)
    for module in (block, vision_transformer):
        monkeypatch.setattr(module, "layer_norm", lambda dim: _LayerNorm(dim, eps=1e-6))


class _LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias
