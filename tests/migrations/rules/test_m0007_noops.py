from __future__ import annotations

from pathlib import Path

import pytest
from miniature import find, folder

from migrations.engine.model import State, overall
from migrations.engine.registry import migration

M0007 = migration("0007")
BEIT = """
def get_num_layer_for_vit(var_name, num_max_layer):
    if var_name in ("cls_token", "mask_token", "pos_embed"):
        return 0
    elif var_name.startswith("patch_embed"):
        return 0
    elif var_name.startswith("blocks"):
        return int(var_name.split(".")[1]) + 1
    return num_max_layer - 1


def values(layer_decay, num_layers):
    return list(layer_decay ** (num_layers + 1 - i) for i in range(num_layers + 2))


def step(optimizer, lr, schedule, it):
    for i, param_group in enumerate(optimizer.param_groups):
        param_group["lr"] = schedule[it] * param_group["lr_scale"]
"""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BEIT, id="BEiT"),
        pytest.param(
            "from port.optim import get_params_groups_with_decay as build\n\ndef step(model, opt, lr):\n"
            "    groups = build(model, 0.9, 0.2)\n    for g in opt.param_groups:\n"
            '        m = g["lr_multiplier"]\n        g["lr"] = lr * m\n',
            id="port's builder",
        ),
        pytest.param(
            "from dinov2.utils.param_groups import get_params_groups_with_decay\n\ndef step(model, opt, lr, last):\n"
            "    groups = get_params_groups_with_decay(model)\n    for g in opt.param_groups:\n"
            '        g["lr"] = (last if g["is_last_layer"] else lr) * g["lr_multiplier"]\n',
            id="official's builder",
        ),
        pytest.param(
            "from timm.optim import param_groups_layer_decay\n\ndef step(model, opt, lr):\n"
            "    groups = param_groups_layer_decay(model)\n    for g in opt.param_groups:\n"
            '        g.update(lr=lr * g.get("lr_scale", 1.0))\n',
            id="timm's builder",
        ),
    ],
)
def test_rates_by_layer_are_left_alone(text: str) -> None:
    """Multipliers that are set by layer and read by the loop are aligned, whoever's builder it is."""
    findings = find(M0007, text)
    assert overall(findings) is State.ALIGNED
    assert not any(one.edits for one in findings)


def test_official_code_and_port_are_aligned(official_root: Path) -> None:
    """Loop and builder of both are recognised, and the optimizer of `port`'s prototypes is no difference."""
    for root in (official_root, Path(__file__).parents[3] / "port"):
        findings = find(M0007, folder(root))
        assert [one.state for one in findings] == [State.ALIGNED, State.ALIGNED]


def test_nothing_is_found_in_nothing() -> None:
    """Not found is unknown, without a site, and says what was looked for."""
    (finding,) = find(M0007, "x = 1\n")
    assert (finding.state, finding.site) == (State.UNKNOWN, None)
