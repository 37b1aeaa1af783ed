from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from two_ranks import run_on_two_ranks

from port.config import load_config
from port.losses import LinearPrototypeBank, PrototypeLoss, PrototypeTerms

torch.set_num_threads(1)

R, N, D, K, TEMPERATURE = 4, 9, 6, 5, 0.5
COUNTS = (5, 0, 1, 3)


def config(*overrides: str) -> DictConfig:
    """Return the section `prototype` with few prototypes."""
    section: DictConfig = load_config(None, [f"prototype.{o}" for o in (f"n_prototypes={K}", *overrides)]).prototype
    return section


def loss_of(*overrides: str, seed: int = 0) -> PrototypeLoss:
    """Return a loss in float64 with a bank drawn from a seed; a bias, if any, is not zero."""
    torch.manual_seed(seed)
    loss = PrototypeLoss(D, config(*overrides)).double()
    if loss.bank.bias is not None:
        torch.nn.init.normal_(loss.bank.bias)
    return loss


def tokens(seed: int, *shape: int) -> Tensor:
    """Return features in float64."""
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(counts: tuple[int, ...] = COUNTS, n_patches: int = N) -> Tensor:
    """Return masks bool (R, N) with so many masked patches per row."""
    generator = torch.Generator().manual_seed(11)
    mask = torch.zeros(len(counts), n_patches, dtype=torch.bool)
    for row, count in enumerate(counts):
        mask[row, torch.randperm(n_patches, generator=generator)[:count]] = True
    return mask


def terms_of(loss: PrototypeLoss, teacher: Tensor, student: Tensor, mask: Tensor, **options: Any) -> PrototypeTerms:
    """Call the loss as training does: masked student tokens, their places and weights as `collate` makes them."""
    weight = (1 / mask.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(mask)[mask]
    indices = mask.flatten().nonzero().flatten()
    terms: PrototypeTerms = loss(teacher, student[mask], indices, weight, TEMPERATURE, **options)
    return terms


def by_definition(loss: PrototypeLoss, teacher: Tensor, student: Tensor, mask: Tensor) -> tuple[float, float]:
    """Return the student's and the teacher's term, written token by token from their definition."""
    weight = loss.bank.weight.detach()
    bias = torch.zeros(len(weight), dtype=torch.float64) if loss.bank.bias is None else loss.bank.bias.detach()

    def scores(token: Tensor) -> Tensor:
        return torch.stack([(token / token.norm()).dot(p) for p in weight]) + bias

    q = torch.stack([torch.exp(scores(t) / TEMPERATURE) for t in teacher.flatten(0, 1)])
    for _ in range(3):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    q = q.view(*mask.shape, -1)

    def cross_entropy(target: Tensor, token: Tensor) -> float:
        p = torch.exp(scores(token) / 0.1)
        return -float((target * (p / p.sum()).log()).sum())

    student_term = teacher_term = 0.0
    n_rows, n_patches = mask.shape
    for i in range(n_rows):
        masked = [cross_entropy(q[i, j], student[i, j]) for j in range(n_patches) if mask[i, j]]
        student_term += sum(masked) / len(masked) / n_rows if masked else 0.0
        teacher_term += sum(cross_entropy(q[i, j], teacher[i, j]) for j in range(n_patches)) / (n_rows * n_patches)
    return student_term, teacher_term


@pytest.mark.parametrize("bias", [False, True])
def test_terms_are_the_definition_s(bias: bool) -> None:
    """Student's and teacher's cross-entropy, against loops over rows and tokens; with and without a bias."""
    loss, teacher, student, mask = loss_of(f"bias={bias}"), tokens(1, R, N), tokens(2, R, N), masks()
    terms = terms_of(loss, teacher, student, mask)
    expected = by_definition(loss, teacher, student, mask)
    assert (terms.student.item(), terms.teacher.item()) == pytest.approx(expected, rel=1e-7)  # weights are float32


def test_koleo_is_that_of_unit_prototypes() -> None:
    """Minus the mean log distance of each prototype's direction to the nearest other one."""
    loss = loss_of()
    directions = loss.bank.weight.detach() / loss.bank.weight.detach().norm(dim=1, keepdim=True)
    distances = torch.cdist(directions, directions).fill_diagonal_(9.0)
    terms = terms_of(loss, tokens(1, R, N), tokens(2, R, N), masks())
    torch.testing.assert_close(terms.koleo.detach(), -distances.amin(1).log().mean(), rtol=0, atol=1e-7)


def test_koleo_of_no_weight_is_not_computed() -> None:
    """The term is a zero; K * K distances would not fit for many prototypes."""
    terms = terms_of(loss_of("koleo_loss_weight=0"), tokens(1, R, N), tokens(2, R, N), masks())
    assert (terms.koleo.item(), terms.koleo.requires_grad) == (0.0, False)


def test_every_masked_row_weighs_alike() -> None:
    """The student's term is the mean over masked rows of each row's mean, times their share of all rows."""
    loss, teacher, student, mask = loss_of(), tokens(1, R, N), tokens(2, R, N), masks()
    assignments = loss.assign(teacher, TEMPERATURE).view(R, N, K)
    row_means = []
    for i, count in enumerate(COUNTS):
        if count:
            log_p = torch.log_softmax(loss.bank(student[i, mask[i]]).detach() / 0.1, dim=-1)
            row_means.append(-(assignments[i, mask[i]] * log_p).sum(-1).mean().item())
    share = len(row_means) / R
    expected = sum(row_means) / len(row_means) * share
    assert terms_of(loss, teacher, student, mask).student.item() == pytest.approx(expected, rel=1e-7)


def test_order_does_not_matter() -> None:
    """Rows may change places, and so may patches, together with their masks."""
    loss, teacher, student, mask = loss_of(), tokens(1, R, N), tokens(2, R, N), masks()
    rows, patches = torch.tensor([2, 0, 3, 1]), torch.randperm(N, generator=torch.Generator().manual_seed(5))
    moved = terms_of(loss, teacher[rows][:, patches], student[rows][:, patches], mask[rows][:, patches])
    torch.testing.assert_close(moved, terms_of(loss, teacher, student, mask))


def test_a_batch_twice_is_the_batch() -> None:
    """Each term is a mean: the same rows once more change nothing."""
    loss, teacher, student, mask = loss_of(), tokens(1, R, N), tokens(2, R, N), masks()
    doubled = terms_of(loss, *(torch.cat((x, x)) for x in (teacher, student, mask)))
    torch.testing.assert_close(doubled, terms_of(loss, teacher, student, mask))


def test_lengths_of_features_do_not_matter() -> None:
    """The bank sees directions; its own prototypes keep their lengths."""
    loss, teacher, student, mask = loss_of(), tokens(1, R, N), tokens(2, R, N), masks()
    once = terms_of(loss, teacher, student, mask)
    torch.testing.assert_close(terms_of(loss, 7 * teacher, 0.3 * student, mask), once)
    with torch.no_grad():
        loss.bank.weight.mul_(2)
    assert terms_of(loss, teacher, student, mask).teacher.item() != pytest.approx(once.teacher.item(), rel=1e-2)


def test_each_gradient_has_its_place() -> None:
    """Student's term: masked student tokens alone. Teacher's and KoLeo: the bank alone. No gradient on the teacher."""
    loss, mask = loss_of("bias=True"), masks()
    teacher, student = tokens(1, R, N).requires_grad_(), tokens(2, R, N).requires_grad_()
    terms = terms_of(loss, teacher, student, mask)
    leaves = [teacher, student, *loss.bank.parameters()]
    reached = {
        name: [
            g is not None and bool(g.abs().sum() > 0)
            for g in torch.autograd.grad(term, leaves, allow_unused=True, retain_graph=True)
        ]
        for name, term in terms._asdict().items()
    }
    assert reached["student"] == [False, True, False, False]
    assert reached["teacher"] == [False, False, True, True]
    assert reached["koleo"] == [False, False, True, False]
    (gradient,) = torch.autograd.grad(terms.student, student)
    assert torch.equal(gradient.abs().sum(-1) > 0, mask)


def test_gradients_are_the_definition_s_differences() -> None:
    """Finite differences of the terms, assignments held: moving the bank moves them too, outside the graph."""
    loss, teacher, student, mask = loss_of(), tokens(1, R, N), tokens(2, R, N).requires_grad_(), masks()
    assignments = loss.assign(teacher, TEMPERATURE)

    def student_term(x: Tensor) -> Tensor:
        return terms_of(loss, teacher, x, mask, assignments=assignments).student

    assert torch.autograd.gradcheck(student_term, student)
    terms_of(loss, teacher, student, mask).teacher.backward()
    gradient, step = loss.bank.weight.grad, 1e-6
    assert gradient is not None
    with torch.no_grad():
        loss.bank.weight[1, 2] += step
        upper = terms_of(loss, teacher, student, mask, assignments=assignments).teacher
        loss.bank.weight[1, 2] -= 2 * step
        lower = terms_of(loss, teacher, student, mask, assignments=assignments).teacher
    assert float(gradient[1, 2]) == pytest.approx(float((upper - lower) / (2 * step)), rel=1e-5)


def test_no_masked_patch_gives_a_zero_with_a_graph() -> None:
    """A batch without masks: nothing for the student, and the bank still learns."""
    loss, teacher, student = loss_of(), tokens(1, R, N), tokens(2, R, N).requires_grad_()
    terms = terms_of(loss, teacher, student, masks((0, 0, 0, 0)))
    assert terms.student.item() == 0
    sum(terms, start=torch.zeros((), dtype=torch.float64)).backward()
    assert student.grad is not None
    assert not student.grad.any()
    assert loss.bank.weight.grad is not None
    assert loss.bank.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_change_nothing_but_the_tokens(dtype: torch.dtype) -> None:
    """Terms of rounded tokens, computed in float32: equal to those of the same tokens widened first."""
    loss, mask = loss_of().float(), masks()
    teacher, student = tokens(1, R, N).to(dtype), tokens(2, R, N).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = terms_of(loss, teacher, student, mask)
    expected = terms_of(loss, teacher.float(), student.float(), mask)
    assert [term.dtype for term in found] == [torch.float32] * 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_alike_tokens_and_long_prototypes_stay_finite(scale: float) -> None:
    """An untrained backbone: tokens all but alike, temperature 0.04, prototypes far apart in every token's eyes."""
    torch.manual_seed(0)
    loss = PrototypeLoss(64, config("n_prototypes=512"))
    with torch.no_grad():
        loss.bank.weight.mul_(scale)
    alike = torch.randn(64) + 0.01 * torch.randn(2, 4, 64)
    student = alike[0].clone().requires_grad_()
    terms = loss(alike, student, torch.arange(4), torch.full((4,), 0.25), 0.04)
    (terms.student + terms.teacher + terms.koleo).backward()
    assert all(term.isfinite() for term in terms)
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert loss.bank.weight.grad is not None
    assert loss.bank.weight.grad.isfinite().all()


def test_unmasked_teacher_tokens_count() -> None:
    """They take part in the assignment, though the student's term has none of them."""
    loss, teacher, student, mask = loss_of(), tokens(1, R, N), tokens(2, R, N), masks()
    before = terms_of(loss, teacher, student, mask).student.item()
    changed = torch.where(mask.unsqueeze(-1), teacher, tokens(3, R, N))
    assert terms_of(loss, changed, student, mask).student.item() != pytest.approx(before, rel=1e-3)


def test_micro_batches_assigned_together_are_one_batch() -> None:
    """Halves with their part of common assignments: the mean of their terms and gradients is the whole's."""
    teacher, student, mask, loss = tokens(1, R, N), tokens(2, R, N), masks(), loss_of()
    whole = terms_of(loss, teacher, student, mask)
    whole.teacher.backward()
    assert loss.bank.weight.grad is not None
    expected = loss.bank.weight.grad.clone()
    assignments = loss.assign(teacher, TEMPERATURE).split(R * N // 2)
    loss.zero_grad()
    halves = []
    for part, rows in enumerate((slice(0, 2), slice(2, 4))):
        halves.append(terms_of(loss, teacher[rows], student[rows], mask[rows], assignments=assignments[part]))
        (halves[-1].teacher / 2).backward()
    for name in ("student", "teacher"):
        mean = (getattr(halves[0], name) + getattr(halves[1], name)) / 2
        torch.testing.assert_close(mean, getattr(whole, name))
    torch.testing.assert_close(loss.bank.weight.grad, expected)


def _terms_on_rank(rank: int, folder: Path) -> None:
    rows = slice(2 * rank, 2 * rank + 2)
    loss = loss_of()
    terms = terms_of(loss, tokens(1, R, N)[rows], tokens(2, R, N)[rows], masks()[rows])
    terms.teacher.backward()
    torch.save((terms.student.detach(), terms.teacher.detach(), loss.bank.weight.grad), folder / f"rank{rank}")


def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    """Terms and bank gradients, averaged over two ranks with half the rows each, are those of all rows."""
    run_on_two_ranks(_terms_on_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}") for rank in range(2)]
    loss = loss_of()
    terms = terms_of(loss, tokens(1, R, N), tokens(2, R, N), masks())
    terms.teacher.backward()
    expected = (terms.student.detach(), terms.teacher.detach(), loss.bank.weight.grad)
    for first, second, one in zip(*ranks, expected, strict=True):
        torch.testing.assert_close((first + second) / 2, one)


def test_training_lowers_both_cross_entropies() -> None:
    """200 steps on one batch: bank and student tokens, each by its own term."""
    loss, teacher, mask = loss_of(), tokens(1, R, N), masks()
    student = tokens(2, R, N).requires_grad_()
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.02)
    start = terms_of(loss, teacher, student, mask)
    for _ in range(200):
        optimizer.zero_grad()
        terms = terms_of(loss, teacher, student, mask)
        (terms.student + terms.teacher).backward()
        optimizer.step()
    assert terms.student.item() < 0.5 * start.student.item()
    assert terms.teacher.item() < start.teacher.item()


def test_the_bank_is_drawn_from_the_normal_distribution() -> None:
    """Mean 0 and deviation 1, by torch's seed; the bias is zero where there is one."""
    torch.manual_seed(3)
    bank = LinearPrototypeBank(64, 400, bias=True)
    assert bank.weight.shape == (400, 64)
    assert abs(bank.weight.mean().item()) < 0.02
    assert bank.weight.std().item() == pytest.approx(1, abs=0.02)
    assert bank.bias is not None
    assert not bank.bias.any()
    torch.manual_seed(3)
    assert torch.equal(LinearPrototypeBank(64, 400).weight, bank.weight)
    assert [name for name, _ in LinearPrototypeBank(2, 3).named_parameters()] == ["weight"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("n_prototypes=1", "n_prototypes is 1; expected at least 2"),
        ("student_temp=0", "student_temp is 0.0; expected more than 0"),
        ("sinkhorn_iterations=0", "sinkhorn_iterations is 0; expected 1 or more"),
    ],
)
def test_values_out_of_range_are_refused(override: str, words: str) -> None:
    """Each names the key, the value and what is expected."""
    with pytest.raises(ValueError, match=words):
        PrototypeLoss(D, config(override))


def test_one_weight_per_image_is_refused() -> None:
    """The document's weights have one number per image; they would be multiplied with tokens."""
    mask = masks()
    indices = mask.flatten().nonzero().flatten()
    with pytest.raises(ValueError, match="9 student tokens, 9 mask indices and 4 weights"):
        loss_of()(tokens(1, R, N), tokens(2, R, N)[mask], indices, torch.ones(R), TEMPERATURE)


def test_it_makes_its_tensors_on_the_device_of_its_tokens() -> None:
    """Fake CUDA tensors refuse a CPU tensor among them; without a CUDA device they have no backward pass."""
    with FakeTensorMode(), torch.device("cuda"):
        student, places = torch.randn(5, D, requires_grad=True), torch.zeros(5, dtype=torch.long)
        loss = PrototypeLoss(D, config())
        terms = loss(torch.randn(R, N, D), student, places, torch.ones(5), TEMPERATURE)
        assert {term.device.type for term in terms} == {"cuda"}


def test_it_runs_on_the_meta_device() -> None:
    """Shapes without numbers, forward and backward; the device knows no autocast."""
    with torch.device("meta"):
        student, places = torch.randn(5, D, requires_grad=True), torch.zeros(5, dtype=torch.long)
        loss = PrototypeLoss(D, config("koleo_loss_weight=0"))
        terms = loss(torch.randn(R, N, D), student, places, torch.ones(5), TEMPERATURE)
        (terms.student + terms.teacher).backward()
    assert student.grad is not None
    assert (student.grad.shape, student.grad.device.type) == ((5, D), "meta")
