from __future__ import annotations

import pytest
from advisory_cases import found, places

from migrations.advisory.a02_drop_path import ADVISORY

DEFINITION = """
    def drop_path(x, p=0.0, training=False):
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * (torch.rand(shape) < 1 - p) / (1 - p)

    class DropPath(nn.Module):
        def forward(self, x):
            return drop_path(x, self.p, self.training)
"""
BLOCK = """
    class Block(nn.Module):
        def __init__(self, rate):
            self.drop_path = DropPath(rate) if rate > 0.0 else nn.Identity()

        def forward(self, x):
            x = x + self.drop_path(self.attn(x))
            return x + self.drop_path(self.mlp(x))
"""


def test_drop_path_that_is_dropout_is_reported() -> None:
    """An attribute of that name that holds dropout is named as it is written."""
    (finding,) = found(ADVISORY, "self.drop_path1 = nn.Dropout(rate) if rate > 0 else nn.Identity()\n")
    assert str(finding.site) == "fork.py:2"
    assert finding.evidence == (
        "`self.drop_path1 = nn.Dropout(rate) if rate > 0 else nn.Identity()` drops single elements of the residual, "
        "not the residual of an image"
    )


@pytest.mark.parametrize(
    "text",
    [
        "class DropPath(nn.Dropout):\n    pass\n",
        "def drop_path(x, p, training):\n    return F.dropout(x, p, training)\n",
        "class StochasticDepth(nn.Module):\n    def forward(self, x):\n        return F.dropout2d(x, self.p)\n",
    ],
)
def test_definitions_that_are_dropout_are_reported(text: str) -> None:
    """By base class, or by what the body calls."""
    assert places(ADVISORY, text) == ["fork.py:2"]


def test_coins_per_sample_are_reported_once_for_each_block() -> None:
    """The residual's line is reported, and the line that makes the module is related."""
    (finding,) = found(ADVISORY, DEFINITION + BLOCK)
    assert str(finding.site) == "fork.py:15"
    assert [str(site) for site in finding.related] == ["fork.py:12"]
    assert finding.evidence == (
        "`self.drop_path` in Block draws for each sample whether it is dropped, and no file of this project draws a "
        "subset of the batch"
    )


def test_timm_s_module_is_known_under_another_name() -> None:
    """`timm`'s DropPath throws a coin per sample; its source is not in the project."""
    text = "from timm.layers import DropPath\n\n" + BLOCK.replace("\n    ", "\n").replace("self.drop_path", "self.dp")
    assert places(ADVISORY, text) == ["fork.py:10"]


def test_subsets_of_the_batch_are_silent() -> None:
    """Official code has the coins too, for rates that are small."""
    subset = (
        "def subset(x, f, k):\n    kept = torch.randperm(len(x))[:k]\n    return x.index_add(0, kept, f(x[kept]))\n"
    )
    assert places(ADVISORY, {"block.py": DEFINITION + BLOCK, "subset.py": subset}) == []


def test_a_drop_path_whose_source_is_not_there_is_silent() -> None:
    """What an unknown module draws is not known."""
    assert places(ADVISORY, "from mylib import DropPath\n\n" + BLOCK.replace("\n    ", "\n")) == []


def test_dropout_that_is_no_drop_path_is_silent() -> None:
    """Dropout of a projection, of attention, and a mere rate of that name are not meant."""
    assert places(ADVISORY, "self.proj_drop = nn.Dropout(drop)\ndrop_path_rate = 0.1\nx = x + self.drop(x)\n") == []
