from __future__ import annotations

import pytest
import torch

from port.models.layers import DropPath, LayerScale, layer_norm


def test_layer_norm_divides_by_the_biased_deviation_with_epsilon_1e_6() -> None:
    """A row (0, 2) has mean 1 and biased variance 1, so it becomes -1 and 1 over sqrt(1 + 1e-6)."""
    norm = layer_norm(2).double()
    expected = torch.tensor([[-1.0, 1.0]], dtype=torch.float64) / (1.0 + 1e-6) ** 0.5
    torch.testing.assert_close(norm(torch.tensor([[0.0, 2.0]], dtype=torch.float64)), expected, rtol=1e-15, atol=0)


def test_layer_norm_epsilon_decides_where_the_variance_vanishes() -> None:
    """A row of variance 1e-6 is halved in power: 1e-5 in place of 1e-6 would give 0.30, not 0.71."""
    row = torch.tensor([-1e-3, 1e-3], dtype=torch.float64)
    assert layer_norm(2).double()(row)[1].item() == pytest.approx(0.5**0.5, rel=1e-9)


@pytest.mark.parametrize("value", [1.0, 1e-5, 0.1])
def test_layer_scale_starts_at_its_initial_value(value: float) -> None:
    """Each channel is multiplied by the initial value."""
    scale = LayerScale(3, init_values=value)
    assert torch.equal(scale.gamma.detach(), torch.full((3,), value))
    assert torch.equal(scale(torch.ones(2, 3)), torch.full((2, 3), value))


def test_layer_scale_scales_channels_not_tokens() -> None:
    """The factor belongs to the last dimension."""
    scale = LayerScale(2)
    with torch.no_grad():
        scale.gamma.copy_(torch.tensor([2.0, 3.0]))
    assert scale(torch.ones(1, 2, 2)).tolist() == [[[2.0, 3.0], [2.0, 3.0]]]


def test_layer_scale_is_restored_after_the_meta_device() -> None:
    """reset_parameters gives gamma its value where to_empty has given it none."""
    with torch.device("meta"):
        scale = LayerScale(4, init_values=0.5)
    scale = scale.to_empty(device="cpu")
    scale.reset_parameters()
    assert scale.gamma.tolist() == [0.5] * 4


def test_drop_path_drops_whole_samples_and_divides_the_rest() -> None:
    """Replaying the Bernoulli numbers of probability 1 - p gives each sample's factor: 0 or 1 / (1 - p)."""
    drop = DropPath(0.25)
    x = torch.ones(64, 3, 2)
    torch.manual_seed(0)
    dropped = drop(x)
    torch.manual_seed(0)
    kept = torch.empty(64, 1, 1).bernoulli_(0.75)
    assert 0 < int(kept.sum()) < 64
    assert torch.equal(dropped, (kept / 0.75).expand(64, 3, 2))


def test_drop_path_draws_one_number_per_sample() -> None:
    """After B samples of any size, the generator stands where B Bernoulli draws leave it."""
    torch.manual_seed(0)
    DropPath(0.5)(torch.ones(5, 7, 11))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.empty(5, 1, 1).bernoulli_(0.5)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.9, False)])
def test_drop_path_without_effect_draws_nothing(rate: float, training: bool) -> None:
    """At rate 0 or in evaluation, the input itself is returned and the generator is untouched."""
    drop = DropPath(rate).train(training)
    x = torch.randn(4, 2)
    before = torch.get_rng_state()
    assert drop(x) is x
    assert torch.equal(before, torch.get_rng_state())


def test_drop_path_at_rate_one_gives_zeros() -> None:
    """Nothing survives, and nothing is divided by zero."""
    assert torch.equal(DropPath(1.0)(torch.ones(3, 2)), torch.zeros(3, 2))


def test_drop_path_shows_its_rate() -> None:
    """The rate can be read in a printed model."""
    assert repr(DropPath(0.3)) == "DropPath(drop_prob=0.3)"
