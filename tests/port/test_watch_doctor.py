from __future__ import annotations

import math

import pytest
import torch
from tiny_training import ARCHITECTURES, tiny_batch, tiny_config

from port.config import load_config
from port.ssl_meta_arch import SSLMetaArch
from port.watch.doctor import Finding, check_initial_losses, masked_share, why_no_check
from port.watch.expected import cross_entropy_range

WIDE_HEAD = (
    "dino.head_bottleneck_dim=256",
    "dino.head_n_prototypes=512",
    "dino.head_hidden_dim=32",
    "crops.local_crops_number=3",
    "train.batch_size_per_gpu=4",
)
UNIFORM = {
    # By hand, from 8 local crops, half of the crops masked and ln 65,536 = 11.0904.
    "dino_local_crops_loss": 16 / 18 * 11.0904,
    "dino_global_crops_loss": 2 / 18 * 11.0904,
    "ibot_loss": 1 / 4 * 11.0904,
    "koleo_loss": 0.06,
}


def by_name(displayed: dict[str, float], *overrides: str) -> dict[str, Finding]:
    """Return the doctor's findings for official's defaults."""
    return {finding.name: finding for finding in check_initial_losses(displayed, load_config(None, overrides))}


@pytest.mark.parametrize("centering", ["centering", "sinkhorn_knopp"])
@pytest.mark.parametrize("layerscale", ["1.0e-05", "1.0"])
def test_an_untrained_network_is_healthy(centering: str, layerscale: str) -> None:
    """The model's own first losses pass, prototype terms included, with either centring and LayerScale."""
    cfg = tiny_config(
        [*WIDE_HEAD, f"train.centering={centering}", f"student.layerscale={layerscale}", "prototype.loss_weight=1"]
    )
    torch.manual_seed(0)
    model = SSLMetaArch(cfg, architectures=ARCHITECTURES)
    model.synchronise_teacher()
    batch = tiny_batch(cfg, n_images=4)
    losses = model.train().forward_backward(batch, cfg.teacher.warmup_teacher_temp).displayed
    values = {name: float(value) for name, value in losses.items()}
    findings = check_initial_losses(values, cfg, share_of_masked_crops=masked_share([batch]))
    assert [finding.name for finding in findings] == list(values)
    assert [str(finding) for finding in findings if not finding.ok] == []


def test_official_defaults_expect_the_known_shares() -> None:
    """16/18, 2/18 and 1/4 of ln K for 8 local crops and mask probability 0.5."""
    findings = by_name(UNIFORM)
    for name in ("dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss"):
        assert findings[name].expected == pytest.approx(UNIFORM[name], rel=1e-4)
        assert findings[name].ok
    line = str(findings["dino_local_crops_loss"])
    assert line.startswith("doctor: dino_local_crops 9.86, expected 9.86 (16/18 ln 65536), plausible 9.1")
    assert line.endswith(": ok")


@pytest.mark.parametrize(
    ("overrides", "name", "expected"),
    [
        (["crops.local_crops_number=2"], "dino_local_crops_loss", 4 / 6 * math.log(65536)),
        (["crops.local_crops_number=2"], "dino_global_crops_loss", 2 / 6 * math.log(65536)),
        (["crops.local_crops_number=0"], "dino_global_crops_loss", 2 / 3 * math.log(65536)),
        (["dino.head_n_prototypes=4096"], "ibot_loss", math.log(4096) / 4),
        (["ibot.separate_head=true", "ibot.head_n_prototypes=1024"], "ibot_loss", math.log(1024) / 4),
        # Official rounds the number of masked crops down: 3 of 6.
        (["train.batch_size_per_gpu=3", "ibot.mask_sample_probability=0.6"], "ibot_loss", math.log(65536) / 4),
        (["ibot.mask_sample_probability=1.0"], "ibot_loss", math.log(65536) / 2),
    ],
)
def test_the_expectation_follows_the_configuration(overrides: list[str], name: str, expected: float) -> None:
    """Crops, prototypes of either head, mask probability and batch size all enter."""
    finding = by_name({name: expected}, *overrides)[name]
    assert finding.expected == pytest.approx(expected)
    assert finding.ok


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [
        ("ibot_loss", 2.0, "2.00 times what it must be: it is the mean over masked crops"),
        ("dino_local_crops_loss", 18.0, "not divided by the 18 pairs of crops"),
        ("dino_local_crops_loss", 9 / 8, "divided by the local pairs of crops only"),
        ("dino_global_crops_loss", 9.0, "divided by the global pairs of crops only"),
        ("dino_local_crops_loss", 0.3, "0.30 times what it must be: the heads are trained or collapsed"),
        ("dino_local_crops_loss", 3.0, "a temperature is too small"),
        ("dino_local_crops_loss", math.nan, "not finite before the first step"),
        ("koleo_loss", math.inf, "not finite before the first step"),
        ("koleo_loss", 1000.0, "no distance between unit vectors gives this"),
    ],
)
def test_a_wrong_value_is_explained(name: str, factor: float, said: str) -> None:
    """Known multiples are named, others get the likely causes; the other losses stay healthy."""
    findings = by_name({**UNIFORM, name: UNIFORM[name] * factor})
    assert said in findings[name].problem
    assert "WRONG" in str(findings[name])
    assert all(finding.ok for other, finding in findings.items() if other != name)


def test_the_optimised_ibot_value_is_recognised() -> None:
    """With three crops of four masked, twice the displayed value is told from the mean over masked crops."""
    override = "ibot.mask_sample_probability=0.75"
    right = 3 / 8 * math.log(65536)
    doubled = by_name({"ibot_loss": 2 * right}, override)["ibot_loss"]
    assert "twice the displayed one (Q15)" in doubled.problem
    averaged = by_name({"ibot_loss": 4 / 3 * right}, override)["ibot_loss"]
    assert "mean over masked crops" in averaged.problem


def test_a_trained_head_is_noticed() -> None:
    """Prototypes whose lengths are 10 instead of 1 leave the range of untrained heads."""
    cfg = tiny_config(WIDE_HEAD)
    torch.manual_seed(0)
    model = SSLMetaArch(cfg, architectures=ARCHITECTURES).train()
    with torch.no_grad():
        model.student["dino_head"].get_parameter("last_layer.weight_g").fill_(10.0)
    model.synchronise_teacher()
    losses = model.forward_backward(tiny_batch(cfg, n_images=4), 0.04).displayed
    findings = check_initial_losses({name: float(value) for name, value in losses.items()}, cfg)
    assert not all(finding.ok for finding in findings)


def test_a_small_bottleneck_is_said_to_tell_little() -> None:
    """8 features allow cosines of any size: the range is wide, and the line says so."""
    finding = by_name(UNIFORM, "dino.head_bottleneck_dim=8")["dino_local_crops_loss"]
    assert finding.plausible.highest > 2 * UNIFORM["dino_local_crops_loss"]
    assert "tells little" in str(finding)


def test_unknown_losses_need_only_be_finite() -> None:
    """A term that the doctor has no formula for is accepted at any finite value."""
    findings = by_name({"prototype_student_loss": 12.5, "prototype_koleo_loss": math.nan})
    assert findings["prototype_student_loss"].ok
    assert "inf" not in str(findings["prototype_student_loss"])
    assert not findings["prototype_koleo_loss"].ok


def test_crops_without_a_patch_count() -> None:
    """The share is that of crops with a mask, over all micro-batches."""
    cfg = tiny_config()
    first, second = tiny_batch(cfg), tiny_batch(cfg)
    first["collated_masks"] = torch.tensor([[True, False], [False, False]])
    second["collated_masks"] = torch.tensor([[True, True], [False, True]])
    assert masked_share([first, second]) == 0.75


def test_it_says_why_it_does_not_run() -> None:
    """Resumed runs and loaded heads have no untrained losses; a fresh run has."""
    cfg = load_config()
    assert why_no_check(cfg, 0) == ""
    assert "resumes at iteration 7" in why_no_check(cfg, 7)
    cfg.MODEL.WEIGHTS = "heads.pth"
    assert "MODEL.WEIGHTS is heads.pth" in why_no_check(cfg, 0)


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 256])
def test_the_range_holds_sampled_heads(dim: int) -> None:
    """Cross-entropies of 2,000 prototypes drawn on the sphere, features alike and unrelated, lie within."""
    generator = torch.Generator().manual_seed(dim)
    plausible = cross_entropy_range(2000, dim, 0.1, 0.04)
    prototypes = torch.nn.functional.normalize(torch.randn(2000, dim, generator=generator, dtype=torch.float64))
    features = torch.nn.functional.normalize(torch.randn(2, dim, generator=generator, dtype=torch.float64))
    student, other = features @ prototypes.T
    for teacher in (student, other):
        cross_entropy = -(torch.softmax(teacher / 0.04, -1) * torch.log_softmax(student / 0.1, -1)).sum()
        assert plausible.lowest <= float(cross_entropy) <= plausible.highest


def test_the_range_closes_around_ln_k() -> None:
    """In ever more dimensions cosines vanish, and only ln K is left."""
    plausible = cross_entropy_range(2**30, 2**20, 0.1, 0.04)
    assert plausible.lowest == pytest.approx(math.log(2**30), abs=1e-3)
    assert plausible.highest == pytest.approx(math.log(2**30), abs=2e-2)


def test_two_dimensions_agree_with_bessel_functions() -> None:
    """On the circle M(k) = I0(k) and A(k) = I1(k)/I0(k): the range's centre line is theirs."""
    k_student, k_teacher = torch.tensor([10.0, 25.0], dtype=torch.float64)
    many = 2**60  # no fluctuation
    bessel = torch.special
    log_mean = float(torch.log(bessel.i0(k_student)))
    mean = float(bessel.i1(k_teacher) / bessel.i0(k_teacher))
    plausible = cross_entropy_range(many, 2, 0.1, 0.04)
    assert plausible.lowest == pytest.approx(math.log(many) + log_mean - 10 * mean, abs=1e-5)
    assert plausible.highest == pytest.approx(math.log(many) + log_mean + 10 * mean, abs=1e-5)
