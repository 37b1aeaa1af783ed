from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forks import Change, Fork, assert_no_alarm, assert_seen, check, fork, port
from torch import Tensor

from parity import states
from parity.adapters.official import OfficialStack
from parity.checks.losses import ibot_case
from port.losses import DINOLoss, KoLeoLoss, centering, iBOTPatchLoss, sinkhorn

CHECKS = ("dino", "ibot", "koleo", "sinkhorn", "centering")
TEMP = 0.1


@pytest.mark.parametrize("name", CHECKS)
def test_the_reference_and_port_pass_bit_for_bit(official_stack: OfficialStack, name: str) -> None:
    """Values, gradients, assignments and centres, in fp32 and in fp64."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, f"losses.{name}")
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared


def test_the_ibot_case_holds_official_s_weights() -> None:
    """A third of the rows is masked, and the weights of a row's tokens sum to one."""
    case = ibot_case(0)
    masks, weight = case["masks"], case["masks_weight"]
    assert masks.any(-1).tolist() == [True, False, False] * 2
    assert len(weight) == int(masks.sum()) == len(case["student"]) == len(case["teacher"])
    sums = torch.stack([part.sum() for part in weight.split([int(m.sum()) for m in masks[::3]])])
    torch.testing.assert_close(sums, torch.ones(2))


def _dino(
    pairs: Callable[[int, int], float] = lambda s, t: 1.0, temp: float = TEMP, reduce: str = "mean"
) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
    """Cross-entropy by hand, with a weight for each pair."""

    def loss(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        total = teachers[0].new_zeros(())
        for i, s in enumerate(students):
            for j, t in enumerate(teachers):
                rows = -(t * F.log_softmax(s / temp, dim=-1)).sum(-1)
                total = total + pairs(i, j) * (rows.mean() if reduce == "mean" else rows.sum())
        return total

    return loss


def _double_gradient(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    loss = _dino()(students, teachers)
    return 2 * loss - loss.detach()


def _normalised_logits(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return _dino()([F.normalize(s, dim=-1) for s in students], teachers)


def _argmax_targets(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    return _dino()(students, [F.one_hot(t.argmax(-1), t.shape[-1]).to(t) for t in teachers])


@pytest.mark.parametrize(
    ("faulty", "first"),
    [
        (_dino(temp=0.1001), "1 students 1 teachers/loss"),
        (_dino(temp=0.1 * (1 + 1e-9)), "1 students 1 teachers/loss"),
        (_dino(lambda s, t: float(s != t)), "1 students 1 teachers/loss"),
        (_dino(reduce="sum"), "1 students 1 teachers/loss"),
        (_dino(lambda s, t: 0.5), "1 students 1 teachers/loss"),
        (_dino(lambda s, t: 1 - 1e-10 * t), "8 students 2 teachers/loss"),
        (_double_gradient, "1 students 1 teachers/gradient of student 0"),
        (_normalised_logits, "1 students 1 teachers/loss"),
        (_argmax_targets, "1 students 1 teachers/loss"),
    ],
)
def test_a_faulty_dino_loss_is_seen(official_stack: OfficialStack, faulty: Any, first: str) -> None:
    """Temperature, pairs, reduction, gradient and targets, by size alone: the fork claims no bit."""
    assert_seen(check(official_stack, fork(dino_loss=faulty), "losses.dino"), f"^dino/{first}$")


def _ibot(reduce: Callable[[Tensor, Tensor, Tensor], Tensor], temp: float = TEMP) -> Callable[..., Tensor]:
    """Token losses by hand, reduced by a function of (token losses, masks, weights)."""

    def loss(student: Tensor, teacher: Tensor, masks: Tensor, n_masked: int, weight: Tensor) -> Tensor:
        return reduce(-(teacher * F.log_softmax(student / temp, dim=-1)).sum(-1), masks, weight)

    return loss


IBOT_FAULTS = [
    (_ibot(lambda t, m, w: t.mean()), "divided by the total number of masked tokens"),
    (_ibot(lambda t, m, w: (t * w).mean()), "normalised twice"),
    (_ibot(lambda t, m, w: (t * w).sum() / (len(m) / 2)), "number of images, not by the 2B rows"),
    (_ibot(lambda t, m, w: (t * w).sum() / m.any(-1).sum()), "divided by the masked rows alone"),
    (_ibot(lambda t, m, w: (t * w).sum()), "is not divided by the number of rows"),
    (_ibot(lambda t, m, w: t.sum() / len(m)), "summed without weights"),
    (_ibot(lambda t, m, w: (t * w**2).sum() / len(m)), None),
    (_ibot(lambda t, m, w: (t * w).sum() / len(m), temp=0.1001), None),
    (_ibot(lambda t, m, w: (t * w).detach().sum() / len(m) + 0 * t.sum()), None),
]


@pytest.mark.parametrize(("faulty", "words"), IBOT_FAULTS)
def test_a_faulty_ibot_loss_is_seen(official_stack: OfficialStack, faulty: Any, words: str | None) -> None:
    """Reductions that forks use are named as difference 0005; anything else by its first operation alone."""
    result = check(official_stack, fork(ibot_loss=faulty), "losses.ibot")
    assert_seen(result, "^ibot/case 0/", "0005" if words else None, words or "")
    assert [finding.id for finding in result.findings] == ["0005" if words else "operation"]


def _koleo(
    eps: float = 1e-8, pair_eps: float = 1e-8, normalise: bool = True, diagonal: float = -1.0, power: int = 1
) -> Callable[[Tensor], Tensor]:
    """KoLeo by hand with one constant changed."""

    def loss(x: Tensor) -> Tensor:
        x = F.normalize(x, eps=eps, dim=-1) if normalise else x
        near = (x @ x.t()).fill_diagonal_(diagonal).argmax(1)
        gap = (x - x[near] + pair_eps).norm(dim=-1)
        return -torch.log(gap**power + eps).mean()

    return loss


@pytest.mark.parametrize(
    ("faulty", "first"),
    [
        (_koleo(normalise=False), "generic/loss"),
        (_koleo(power=2), "generic/loss"),
        (_koleo(diagonal=2.0), "generic/loss"),
        (_koleo(diagonal=0.0), "far apart/loss"),
        (_koleo(pair_eps=1e-6), "generic/loss"),
        (_koleo(eps=1e-12), "generic/loss"),
        (lambda x: torch.stack([_koleo()(part) for part in x.chunk(2)]).mean(), "generic/loss"),
        (lambda x: -_koleo()(x), "generic/loss"),
    ],
)
def test_a_faulty_koleo_loss_is_seen(official_stack: OfficialStack, faulty: Any, first: str) -> None:
    """Normalisation, exponent, diagonal, both epsilons, the batch that neighbours come from, and the sign."""
    assert_seen(check(official_stack, fork(koleo_loss=faulty), "losses.koleo"), f"^koleo/{first}$")


def _sinkhorn(iterations: int = 3, columns_first: bool = False, scale: float = 1.0, shift: bool = False) -> Any:
    """Sinkhorn-Knopp by hand over rows of samples."""

    def assign(kind: str, logits: Tensor, temp: float) -> Tensor:
        if shift:
            logits = logits - logits.max()
        q = torch.exp(logits / (temp * scale))
        for _ in range(iterations):
            for axis in (1, 0) if columns_first else (0, 1):
                q = q / q.sum(axis, keepdim=True) / q.shape[1 - axis]
        return q * q.shape[0]

    return assign


def _only_dino(faulty: Any) -> Any:
    return lambda kind, logits, temp: (
        faulty(kind, logits, temp) if kind == "ibot" else port().sinkhorn(kind, logits, temp)
    )


@pytest.mark.parametrize(
    ("faulty", "first"),
    [
        (_sinkhorn(iterations=2), "dino/6 rows"),
        (_sinkhorn(iterations=4), "dino/6 rows"),
        (_sinkhorn(columns_first=True), "dino/"),
        (_sinkhorn(scale=1.0001), "dino/6 rows"),
        (lambda kind, logits, temp: torch.softmax(logits / temp, dim=-1), "dino/"),
        (_only_dino(_sinkhorn(iterations=2)), "ibot/6 rows"),
    ],
)
def test_faulty_assignments_are_seen(official_stack: OfficialStack, faulty: Any, first: str) -> None:
    """Number and order of the iterations, the temperature, a plain softmax; of either loss."""
    assert_seen(check(official_stack, fork(sinkhorn=faulty), "losses.sinkhorn"), f"^sinkhorn/{first}")


def _momentum(value: float) -> Change:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        init = centering.CenteredLoss.__init__

        def faulty(self: Any, shape: tuple[int, ...], student_temp: float, _: float, kernels: str) -> None:
            init(self, shape, student_temp, value, kernels)

        monkeypatch.setattr(centering.CenteredLoss, "__init__", faulty)

    return change


def _applied_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Centre a batch with a centre that already holds it."""
    target = centering.CenteredLoss.softmax_center_teacher

    def faulty(self: Any, output: Tensor, teacher_temp: float) -> Tensor:
        kept = self.center.clone()
        self.apply_center_update()
        self.update_center(output)
        targets = target(self, output, teacher_temp)
        self.center, self.updated = kept, True
        return targets

    monkeypatch.setattr(centering.CenteredLoss, "softmax_center_teacher", faulty)


def _not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centering.CenteredLoss, "apply_center_update", lambda self: None)


def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(self: Any, output: Tensor, teacher_temp: float) -> Tensor:
        self.apply_center_update()
        return torch.softmax((output + self.center) / teacher_temp, dim=-1)

    monkeypatch.setattr(centering.CenteredLoss, "softmax_center_teacher", faulty)


def _summed_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iBOTPatchLoss, "batch_center", lambda self, output: output.sum(1).sum(0, keepdim=True))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (_momentum(0.99), "dino/target 1"),
        (_momentum(0.9 + 1e-9), "dino/target 1"),
        (_applied_early, "dino/target 0"),
        (_not_applied, "dino/target 1"),
        (_added, "dino/target 1"),
        (_summed_patches, "ibot/target 1"),
    ],
)
def test_faulty_centering_is_seen(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, change: Change, first: str
) -> None:
    """Momentum, the time of the update, its sign and its mean; the first batch shows none but the time."""
    change(monkeypatch)
    assert_seen(check(official_stack, fork(), "losses.centering"), f"^centering/{first}$")


def test_port_itself_must_keep_every_bit(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinkhorn with one division for two: right by size, so a fork passes, but not the operations port claims."""

    def one_division(logits: Tensor, temp: float, n_samples: Any, n_iterations: int = 3) -> Tensor:
        q = torch.exp(logits.float() / temp).t()
        for _ in range(n_iterations):
            q = q / (q.sum(1, keepdim=True) * q.shape[0])
            q = q / (q.sum(0, keepdim=True) * n_samples)
        assigned: Tensor = (q * n_samples).t()
        return assigned

    for module in ("port.losses.dino", "port.losses.ibot"):
        monkeypatch.setattr(f"{module}.sinkhorn_knopp", one_division)
    assert sinkhorn.sinkhorn_knopp is not one_division
    assert_no_alarm(check(official_stack, fork(), "losses.sinkhorn"))
    result = check(official_stack, port(), "losses.sinkhorn")
    assert_seen(result, "^sinkhorn/dino/")
    assert {c.tier for c in result.diverged} == {"T0"}


class Rewritten(Fork):
    """Every loss by other operations: sums over one stacked tensor, logarithms by hand, shifted exponentials."""

    def dino_loss(self, student_output_list: list[Tensor], teacher_out_softmaxed_centered_list: list[Tensor]) -> Tensor:
        """All pairs in one product."""
        students = torch.stack(student_output_list) / TEMP
        log_p = students - torch.logsumexp(students, dim=-1, keepdim=True)
        targets = torch.stack(teacher_out_softmaxed_centered_list)
        return -torch.einsum("sbk,tbk->", log_p, targets) / students.shape[1]

    def ibot_loss(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int,
        masks_weight: Tensor,
    ) -> Tensor:
        """Weights first, softmax by hand."""
        logits = student_patch_tokens_masked / TEMP
        exp = (logits - logits.amax(-1, keepdim=True)).exp()
        log_p = (exp / exp.sum(-1, keepdim=True)).log()
        return -torch.einsum("mk,mk,m->", teacher_patch_tokens_masked, log_p, masks_weight) / len(student_masks_flat)

    def koleo_loss(self, student_output: Tensor) -> Tensor:
        """The norm by a sum of squares."""
        x = student_output / student_output.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-8)
        dots = torch.einsum("id,jd->ij", x, x).detach()
        near = torch.where(torch.eye(len(x), dtype=torch.bool), -1.0, dots).topk(1).indices[:, 0]
        return -((x - x[near] + 1e-8).pow(2).sum(-1).sqrt() + 1e-8).log().sum() / len(x)

    def sinkhorn(self, kind: str, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """The largest logit subtracted."""
        assigned: Tensor = _sinkhorn(shift=True)(kind, teacher_output, teacher_temp)
        return assigned

    def softmax_center(
        self, kind: str, teacher_outputs: Sequence[Tensor], teacher_temp: float
    ) -> tuple[list[Tensor], Tensor]:
        """The centre by interpolation, targets through log-softmax."""
        center, targets = torch.zeros_like(teacher_outputs[0][0]), []
        for output in teacher_outputs:
            targets.append(F.log_softmax(output / teacher_temp - center / teacher_temp, dim=-1).exp())
            center = torch.lerp(output.mean(0), center, 0.9)
        return targets, center


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CHECKS)
def test_rewritten_losses_raise_no_alarm(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    """The same mathematics in another order is parity, at any logits."""
    logits = states.logits
    monkeypatch.setattr(states, "logits", lambda r, k, s, scale=0.1: logits(r, k, s + 1000 * seed, scale))
    assert_no_alarm(check(official_stack, Rewritten(), f"losses.{name}"))


def test_hand_written_losses_that_faults_start_from_are_right(official_stack: OfficialStack) -> None:
    """Without their fault they pass, so what the tests above see is the fault."""
    right = fork(
        dino_loss=_dino(),
        ibot_loss=_ibot(lambda t, m, w: (t * w).sum() / len(m)),
        koleo_loss=_koleo(),
        sinkhorn=_sinkhorn(),
    )
    for name in ("dino", "ibot", "koleo", "sinkhorn"):
        assert_no_alarm(check(official_stack, right, f"losses.{name}"))


def test_losses_of_other_names_are_classes_of_port() -> None:
    """The faults above change the classes that `PortStack` builds."""
    assert issubclass(DINOLoss, centering.CenteredLoss)
    assert issubclass(iBOTPatchLoss, centering.CenteredLoss)
    assert not issubclass(KoLeoLoss, centering.CenteredLoss)
