from __future__ import annotations

import pytest

from bench.settings import Settings, architecture_name, from_options
from port.config_run import RunConfig


def test_a_cpu_has_small_defaults_and_says_so() -> None:
    """Two images of ViT-S on two cores; the header names the device and the reason."""
    settings = from_options({"device": "cpu"})
    assert (settings.arch, settings.batch, settings.prototypes, settings.local_crops) == ("vit_small", 2, 65_536, 8)
    assert settings.precision == "fp32"
    assert "sizes are small for want of a GPU" in settings.header()
    assert "65,536 prototypes" in settings.header()


def test_the_sizes_of_the_required_ratios() -> None:
    """ViT-S/16, 8 images, 8 local crops, 65,536 prototypes, fp32: the table's heading."""
    settings = from_options({"device": "cpu", "figures": True})
    assert (settings.arch, settings.batch, settings.prototypes, settings.local_crops, settings.precision) == (
        "vit_small",
        8,
        65_536,
        8,
        "fp32",
    )


def test_what_is_given_wins_over_the_required_sizes() -> None:
    """An option beside --bench-figures is obeyed; None stands for an option that was not given."""
    settings = from_options({"device": "cpu", "figures": True, "batch": 4, "arch": "vitb", "prototypes": None})
    assert (settings.arch, settings.batch, settings.prototypes) == ("vit_base", 4, 65_536)


@pytest.mark.parametrize(("short", "full"), [("vits", "vit_small"), ("vitl", "vit_large"), ("vit_demo", "vit_demo")])
def test_names_of_backbones(short: str, full: str) -> None:
    """Short names, and full ones as they are."""
    assert architecture_name(short) == full


def test_an_unknown_backbone_is_named_with_the_nearest() -> None:
    """The message holds what was given, what there is, and a guess."""
    with pytest.raises(ValueError, match=r"--bench-arch is 'vitx_small'.*vits.*did you mean 'vit_small'\?"):
        architecture_name("vitx_small")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 1}, "--bench-batch is 1, expected at least 2"),
        ({"prototypes": 1}, "--bench-prototypes is 1, expected at least 2"),
        ({"local_crops": 0}, "--bench-local-crops is 0, expected at least 1"),
        ({"rounds": 0}, "--bench-rounds is 0, expected at least 1"),
        ({"precision": "fp64"}, "--bench-precision is 'fp64', expected fp32 or bf16"),
        ({"kernels": "slow"}, "--bench-kernels is 'slow', expected official_order or fast"),
        ({"clock": "sun"}, "--bench-clock is 'sun', expected wall or cpu"),
    ],
)
def test_impossible_values(options: dict[str, object], message: str) -> None:
    """Each is refused by name, with what is possible."""
    with pytest.raises(ValueError, match=message):
        from_options({"device": "cpu", **options})


def test_the_configuration_is_official_s_recipe_at_these_sizes() -> None:
    """Every arm is built from it; its learning rate is official: base_lr * sqrt(batch / 1024)."""
    cfg = Settings(batch=4, prototypes=128, local_crops=3, arch="vit_demo").config()
    assert cfg.student.arch == "vit_demo"
    assert cfg.dino.head_n_prototypes == 128
    assert cfg.crops.local_crops_number == 3
    assert cfg.train.batch_size_per_gpu == 4
    assert cfg.optim.lr == cfg.optim.base_lr * (4 / 1024) ** 0.5
    assert cfg.compute_precision.grad_scaler is False


def test_arms_are_checked_with_the_same_network_on_little() -> None:
    """Two images, two local crops, at most 1,024 prototypes, never compiled; what is computed stays the same."""
    large = Settings(arch="vit_large", batch=64, prototypes=131_072, compile=True, kernels="official_order")
    assert large.small() == Settings(
        arch="vit_large", batch=2, prototypes=1024, local_crops=2, kernels="official_order"
    )
    assert Settings(prototypes=64, local_crops=1).small().prototypes == 64


def test_the_header_names_the_clock() -> None:
    """Seconds of the process itself are not those of the wall."""
    assert "wall-clock seconds" in Settings().header()
    assert "the process's own seconds" in Settings(clock="cpu").header()
    assert "bf16, kernels fast, compiled" in Settings(precision="bf16", compile=True).header()


def test_kernels_are_training_s_unless_another_form_is_asked_for() -> None:
    """The default is the one of `port`'s configuration; the option reaches it, and the header says which was run."""
    assert from_options({"device": "cpu"}).kernels == Settings().config().kernels == RunConfig().kernels
    chosen = from_options({"device": "cpu", "kernels": "official_order"})
    assert chosen.config().kernels == "official_order"
    assert "fp32, kernels official_order, 3 rounds" in chosen.header()
