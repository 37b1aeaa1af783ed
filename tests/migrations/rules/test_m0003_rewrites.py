"""Difference 3: masks of single tokens and overshooting blocks are found and swapped for `port`'s."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mask_texts import BLOCKS, STEP
from masks_cases import apply, load

from migrations.engine.model import Level, State
from migrations.engine.project import Project
from migrations.rules.m0003_masks import MIGRATION
from parity.adapters.official import OfficialStack

_BERNOULLI = """import torch


def generate_random_token_masks(batch_size, n_patches_h, n_patches_w, mask_ratio, device):
    n_patches = n_patches_h * n_patches_w  # Größe
    token_masks = torch.bernoulli(
        torch.ones(batch_size, n_patches) * mask_ratio
    ).bool().to(device)
    return token_masks
"""

_CALL = "draw_block_masks({rows}, {grid}, mask_ratio_min_max=(0.1, 0.5), mask_sample_probability=0.5)"
_IMPORT = "from port.data.block_masks import draw_block_masks\n"

_CASES = {
    "ones": (
        _BERNOULLI,
        "generate_random_token_masks",
        "14, 14, args.token_mask_ratio, 'cpu'",
        "torch.bernoulli(\n        torch.ones(batch_size, n_patches) * mask_ratio\n    ).bool()",
        _CALL.format(rows="batch_size", grid="(n_patches_h, n_patches_w)"),
    ),
    "full": (
        "import torch\n\n\ndef drop(b, h, w, r):\n    p = torch.full((b, h * w), r)\n"
        "    return torch.bernoulli(p).bool()\n",
        "drop",
        "14, 14, 0.3",
        "torch.bernoulli(p).bool()",
        _CALL.format(rows="b", grid="(h, w)"),
    ),
    "rand": (
        "import torch\n\n\ndef pick(b, n, r, dev):\n    return torch.rand(b, n, device=dev) < r  # links\n",
        "pick",
        "196, 0.3, 'cpu'",
        "torch.rand(b, n, device=dev) < r",
        _CALL.format(rows="b", grid="(int(n ** 0.5), int(n ** 0.5))") + ".to(dev)",
    ),
    "grid": (
        "import torch\n\n\nclass Masks:\n    @staticmethod\n    def cubes(b, h, w, r):\n"
        "        m = torch.rand(b, h, w) < r\n        return m\n",
        "cubes",
        "14, 14, 0.3",
        "torch.rand(b, h, w) < r",
        _CALL.format(rows="b", grid="(h, w)") + ".view(b, h, w)",
    ),
    "in place": (
        "import torch\n\n\ndef fill(b, h, w, r):\n    return torch.empty(b, h * w).bernoulli_(r).bool()\n",
        "fill",
        "14, 14, 0.3",
        "torch.empty(b, h * w).bernoulli_(r).bool()",
        _CALL.format(rows="b", grid="(h, w)"),
    ),
    "numpy": (
        "import torch\nimport numpy as np\n\n\ndef noise(b, h, w, r):\n    return np.random.rand(b, h * w) < r\n",
        "noise",
        "14, 14, 0.3",
        "np.random.rand(b, h * w) < r",
        _CALL.format(rows="b", grid="(h, w)") + ".numpy()",
    ),
}


def _after(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    last = "import numpy as np\n" if "import numpy as np\n" in text else "import torch\n"
    return text.replace(old, new).replace(last, last + _IMPORT)


@pytest.mark.parametrize("name", _CASES)
@pytest.mark.parametrize("windows", [False, True])
def test_single_tokens_are_swapped_for_blocks(name: str, windows: bool) -> None:
    """The draw alone changes, below an import; with tabs and CRLF too."""
    text, function, arguments, old, new = _CASES[name]
    parts = [text, _after(text, old, new), STEP.format(name=function, arguments=arguments)]
    if windows:
        parts = [part.replace("    ", "\t").replace("\n", "\r\n") for part in parts]
    before, expected, step = parts
    after = apply(MIGRATION.find, {"helpers.py": before, "train.py": step}, Level.UNSAFE)
    assert after == {"helpers.py": expected, "train.py": step}


def test_the_swapped_function_draws_officials_masks(official_stack: OfficialStack) -> None:
    """It runs with its old arguments, and seeded alike gives the masks of official's own collate."""
    text = apply(MIGRATION.find, {"helpers.py": _BERNOULLI, "train.py": _step()}, Level.UNSAFE)["helpers.py"]
    random.seed(7)
    masks = load(text).generate_random_token_masks(32, 14, 14, 0.3, "cpu")
    samples = [[{"global_crops": [torch.zeros(1, 1, 1)] * 2, "local_crops": [torch.zeros(1, 1, 1)]}]] * 16
    random.seed(7)
    from dinov2.data.collate import collate_data_and_cast
    from dinov2.data.masking import MaskingGenerator

    generator = MaskingGenerator((14, 14), max_num_patches=0.5 * 14 * 14)
    batch = collate_data_and_cast(samples, (0.1, 0.5), 0.5, torch.float32, 196, generator)
    assert torch.equal(masks, batch["collated_masks"])


def _step() -> str:
    return STEP.format(name="generate_random_token_masks", arguments="14, 14, args.token_mask_ratio, 'cpu'")


def test_the_fixed_ratio_is_left_to_a_person() -> None:
    """No flag is converted: the finding says which three take its place, with official's values."""
    (finding,) = MIGRATION.find(Project.of_texts({"helpers.py": _BERNOULLI, "train.py": _step()}))
    assert finding.state is State.DIVERGED
    assert "official 0.1, 0.5 and 0.5" in finding.person
    assert "all 2B global crops" in finding.person


def test_overshooting_blocks_become_ports() -> None:
    """The document's class keeps its name and arguments, and its masks their shape; the rest of the file stays."""
    after = apply(MIGRATION.find, {"helpers.py": BLOCKS}, Level.UNSAFE)["helpers.py"]
    passed = "".join(f", {name}={name}" for name in ("min_num_patches", "min_aspect", "max_aspect"))
    start, end = BLOCKS.index("class "), BLOCKS.index("# What follows")
    assert after == (
        BLOCKS[:start].replace("as np\n", "as np\nfrom port.data.masking import MaskingGenerator\n")
        + '''class BlockMaskGenerator(MaskingGenerator):
    """Official block masks, capped at half the grid, flat."""

    def __init__(self, input_size, min_num_patches=4, min_aspect=0.3, max_aspect=None):
        height, width = input_size if isinstance(input_size, tuple) else (input_size, input_size)
        super().__init__((height, width), max_num_patches=height // 2 * width{ARGS})

    def __call__(self, num_masking_patches):
        return super().__call__(num_masking_patches).flatten()


'''.replace("{ARGS}", passed)
        + BLOCKS[end:]
    )


def test_ports_blocks_do_not_overshoot() -> None:
    """Asked for 58 of 196 patches, the document's masks hold more in most draws, the swapped ones never."""
    after = apply(MIGRATION.find, {"helpers.py": BLOCKS}, Level.UNSAFE)["helpers.py"]
    random.seed(0)
    before = [int(load(BLOCKS).BlockMaskGenerator(14)(58).sum()) for _ in range(100)]
    swapped = [load(after).BlockMaskGenerator((14, 14))(58) for _ in range(100)]
    assert np.mean(np.array(before) > 58) > 0.8
    assert max(int(mask.sum()) for mask in swapped) <= 58
    assert swapped[0].shape == (196,)


def test_bins_in_double_precision_are_partial() -> None:
    """`np.linspace` of the ratios becomes `torch.linspace`, which has the same arguments."""
    loop = """import random
import numpy as np
import torch


def masks_of(rows, generator):
    probs = np.linspace(0.1, 0.5, rows + 1)
    masks = []
    for i in range(rows):
        masks.append(generator(int(196 * random.uniform(probs[i], probs[i + 1]))))
    return masks
"""
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": loop}))
    assert (finding.state, finding.level) == (State.PARTIAL, Level.UNSAFE)
    after = Project.of_texts({"a.py": loop}).with_edits(finding.edits).files["a.py"].text
    assert after == loop.replace("np.linspace", "torch.linspace")
    random.seed(3)
    # Each count is in its own bin of 0.1 wide: 19 to 39, 39 to 58, 58 to 78, 78 to 98 patches of 196.
    counts = load(after).masks_of(4, lambda count: count)
    assert [19 <= counts[0] <= 39, 39 <= counts[1] <= 58, 58 <= counts[2] <= 78, 78 <= counts[3] <= 98] == [True] * 4


def test_masks_drawn_crop_by_crop_are_partial() -> None:
    """Two calls with one crop's rows are found; which of them to widen is a person's decision."""
    text = """from port.data.block_masks import draw_block_masks


def blocks(rows, height, width):
    return draw_block_masks(rows, (height, width))


def train(student, teacher, crops):
    masks_1 = blocks(len(crops[0]), 14, 14)
    masks_2 = blocks(len(crops[0]), 14, 14)
    return teacher(crops), student(crops, masks=[masks_1, masks_2])
"""
    found = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert [(f.site.line if f.site else 0, f.state) for f in found] == [(5, State.ALIGNED), (9, State.PARTIAL)]
    assert "called 2 times" in found[1].evidence
