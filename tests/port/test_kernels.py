from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console
from tiny_training import ARCHITECTURES, tiny_config, tiny_model

from port.config import check_training_config, load_config
from port.config_docs import print_keys, render_config, summarize_keys
from port.kernels import KERNELS, is_fast
from port.losses import DINOLoss, iBOTPatchLoss
from port.losses.centering import CenteredLoss
from port.preflight import check_before_training
from port.ssl_meta_arch import SSLMetaArch

LOSSES: tuple[Callable[[str], CenteredLoss], ...] = (
    lambda kernels: DINOLoss(3, kernels=kernels),
    lambda kernels: iBOTPatchLoss(3, kernels=kernels),
)


@pytest.mark.parametrize(("kernels", "fast"), [("official_order", False), ("fast", True)])
def test_there_are_two_forms(kernels: str, fast: bool) -> None:
    """One is fast, and no third is listed."""
    assert is_fast(kernels) is fast
    assert len(KERNELS) == 2


@pytest.mark.parametrize("kernels", ["Fast", "official", ""])
def test_another_form_is_an_error_that_names_both(kernels: str) -> None:
    """The value is quoted, and what may be written stands beside it."""
    with pytest.raises(ValueError, match=f"kernels is '{kernels}', expected one of official_order, fast"):
        is_fast(kernels)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_official_s_unless_asked(loss: Callable[[str], CenteredLoss]) -> None:
    """The readable form is a loss's default, and a misspelt one is refused when it is built."""
    assert not DINOLoss(3).fast
    assert not iBOTPatchLoss(3).fast
    assert [loss(kernels).fast for kernels in KERNELS] == [False, True]
    with pytest.raises(ValueError, match="kernels is 'slow'"):
        loss("slow")


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_configuration_reaches_both_losses(kernels: str) -> None:
    """The key decides for the whole objective."""
    model = tiny_model([f"kernels={kernels}"])
    assert model.dino_loss.fast is model.ibot_patch_loss.fast is (kernels == "fast")


def test_a_misspelt_form_stops_a_run_before_it_starts() -> None:
    """The check before training lists it with what else is wrong, and the objective refuses it too."""
    cfg = tiny_config(["kernels=fats", "train.dataset_path=somewhere", "parallel=dpp"])
    with pytest.raises(ValueError, match="kernels is 'fats', expected one of official_order, fast; did you") as raised:
        check_before_training(cfg, world_size=1)
    assert "parallel is 'dpp'" in str(raised.value)
    for refuse in (check_training_config, lambda cfg: SSLMetaArch(cfg, architectures=ARCHITECTURES)):
        with pytest.raises(ValueError, match="kernels is 'fats', expected one of official_order, fast"):
            refuse(cfg)


def test_the_key_is_a_word_and_is_explained() -> None:
    """`--help` names it, `--help-config kernels` says what it may be, `--print-config` writes it with its meaning."""
    ((_, _, top_level),) = (section for section in summarize_keys() if section[0] == "(top level)")
    assert "kernels" in top_level
    shown = io.StringIO()
    print_keys("kernels", Console(file=shown, width=160))
    assert "text" in shown.getvalue()
    assert all(word in shown.getvalue() for word in KERNELS)
    written = render_config(load_config(None, ["kernels=fast"])).splitlines()
    place = written.index("kernels: fast")
    assert "official_order" in written[place - 1]  # both together are too long for one line


def test_training_is_fast_unless_asked() -> None:
    """The key's default, which parity judges beside official's order."""
    assert load_config().kernels == "fast"
