"""Recipes: the official configurations under which parity is claimed, small enough for a CPU.

A verdict is about a recipe: official code has two families that share almost no branch. `default`
(= `vitl16_short`) has a shared head, softmax centering, layer-wise decay 0.9 and weight decay rising to 0.4;
`vitl14` and `vitg14` have separate heads, Sinkhorn, SwiGLU, decay 1.0 and weight decay ending at 0.2. Their
small versions keep every such choice and shrink widths, depths, prototypes and crops; the variants take the
branches that the recipes themselves leave out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from parity.errors import UsageError
from port.config import load_recipe
from port.models import ARCHITECTURES, Architecture

__all__ = ["FEATURES", "RECIPES", "SMALL_ARCHITECTURES", "Recipe", "select_recipes", "with_architecture"]

SMALL_ARCHITECTURES: Mapping[str, Architecture] = {
    **ARCHITECTURES,
    "vit_parity4": Architecture(embed_dim=48, depth=4, num_heads=3),
    "vit_parity5": Architecture(embed_dim=48, depth=5, num_heads=3),
}
"""Official's architectures and two small ones: depth 4 divides into chunks, depth 5 leaves a shorter one."""

FEATURES: Mapping[str, str] = {
    "registers": "register tokens (since 9c7e324, October 2023)",
    "float64 rates": "drop path rates in float64, by np.linspace (since 85a2460, October 2024)",
}
"""What official code of April 2023 lacks, and the commit that brought it."""

_SMALL: Mapping[str, Any] = {
    "dino.head_n_prototypes": 96,
    "dino.head_hidden_dim": 64,
    "dino.head_bottleneck_dim": 24,
    "ibot.head_n_prototypes": 80,
    "ibot.head_hidden_dim": 56,
    "ibot.head_bottleneck_dim": 16,
    "crops.local_crops_number": 3,
    "student.block_chunks": 2,
    "train.OFFICIAL_EPOCH_LENGTH": 10,
    "optim.epochs": 12,
    "optim.warmup_epochs": 2,
    "teacher.warmup_teacher_temp_epochs": 4,
}
_SMALL16 = {
    **_SMALL,
    "student.arch": "vit_parity4",
    "crops.global_crops_size": 96,
    "crops.local_crops_size": 48,
}
_SMALL14 = {
    **_SMALL,
    "student.arch": "vit_parity4",
    "crops.global_crops_size": 98,
    "crops.local_crops_size": 42,
}
_FULL: Mapping[str, Any] = {
    "student.arch": "vit_small",
    "student.drop_path_rate": 0.1,
    "crops.local_crops_number": 2,
    "dino.head_n_prototypes": 65536,
}


@dataclass(frozen=True)
class Recipe:
    """A configuration and the size of the batch that it is stepped with.

    Attributes:
        name: as given to `--recipe`; a variant is called `RECIPE-what`.
        base: the official configuration that it starts from.
        changes: official keys (dotted) and their values in this version.
        batch_size: images in the batch; official makes two global crops of each.
        about: one line for `python -m parity list`.
        iteration: the step taken; past warm-up and last-layer freeze unless the variant is about them.
        heavy: a full-size step: one fp32 comparison, left out by `--quick`.
        since: a feature that older official code lacks, one of `FEATURES`; the recipe is not run against it.
    """

    name: str
    base: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 3
    about: str = ""
    iteration: int = 25
    heavy: bool = False
    since: str = ""

    def config(self) -> DictConfig:
        """Return the resolved configuration, with official's keys; `optim.lr` is not yet scaled."""
        config = OmegaConf.create(OmegaConf.to_container(load_recipe(self.base), resolve=True))
        assert isinstance(config, DictConfig)
        for key, value in self.changes.items():
            OmegaConf.update(config, key, value)
        # fp16 loss scaling needs CUDA; evaluation would write checkpoints in the middle of a comparison.
        config.compute_precision.grad_scaler = False
        config.evaluation.eval_period_iterations = 0
        config.train.batch_size_per_gpu = self.batch_size
        return with_architecture(config)

    @property
    def group(self) -> str:
        """The recipe that this is, or is a variant of."""
        return self.name.split("-")[0]

    @property
    def is_variant(self) -> bool:
        """Whether this is a variant rather than one of the three recipes."""
        return "-" in self.name


RECIPES: tuple[Recipe, ...] = (
    Recipe("default", "vitl16_short", _SMALL16, about="shared head, centering, layer-wise decay 0.9"),
    Recipe("vitl14", "vitl14", _SMALL14, about="separate heads, Sinkhorn, SwiGLU, odd grid, decay 1.0"),
    Recipe(
        "vitg14",
        "vitg14",
        {**_SMALL14, "student.arch": "vit_parity5"},
        batch_size=2,
        about="as vitl14, with a depth that its chunks do not divide",
    ),
    Recipe(
        "default-no-local",
        "vitl16_short",
        {**_SMALL16, "crops.local_crops_number": 0},
        about="zero local crops: the global term is divided by 3",
    ),
    Recipe(
        "default-unmasked",
        "vitl16_short",
        {**_SMALL16, "ibot.mask_sample_probability": 0.01},
        about="a batch in which no crop is masked: official's iBOT centre becomes NaN (Q13)",
    ),
    Recipe("default-batch1", "vitl16_short", _SMALL16, batch_size=1, about="one image: KoLeo meets itself"),
    Recipe(
        "default-warmup",
        "vitl16_short",
        _SMALL16,
        iteration=3,
        about="inside warm-up, last layer frozen by lr 0 (Q41)",
    ),
    Recipe(
        "default-finished",
        "vitl16_short",
        _SMALL16,
        iteration=120,
        about="the step after the last: every schedule is at its final value (Q57)",
    ),
    Recipe(
        "default-plain",
        "vitl16_short",
        {
            **_SMALL16,
            "student.layerscale": 0.0,
            "student.drop_path_rate": 0.0,
            "student.block_chunks": 0,
            "optim.clip_grad": 0.0,
            "dino.koleo_loss_weight": 0.0,
        },
        about="no LayerScale, drop path, chunks, clipping or KoLeo",
    ),
    Recipe(
        "default-no-ibot",
        "vitl16_short",
        {**_SMALL16, "ibot.loss_weight": 0.0},
        about="iBOT off: masks are applied, patches are not predicted",
    ),
    Recipe(
        "vitl14-shared",
        "vitl14",
        {**_SMALL14, "ibot.separate_head": False},
        about="Sinkhorn with a shared head",
    ),
    Recipe(
        "vitl14-unmasked",
        "vitl14",
        {**_SMALL14, "ibot.mask_sample_probability": 0.01},
        about="Sinkhorn over no patches",
    ),
    Recipe(
        "vitl14-centering",
        "vitl14",
        {**_SMALL14, "train.centering": "centering", "student.layerscale": 0.0},
        about="separate heads with centering; drop path without LayerScale",
    ),
    Recipe(
        "default-registers",
        "vitl16_short",
        {
            **_SMALL16,
            "student.num_register_tokens": 4,
            "student.interpolate_antialias": True,
            "student.interpolate_offset": 0.0,
        },
        about="register tokens, positions antialiased and resized to the exact size (official since October 2023)",
        since="registers",
    ),
    Recipe(
        "default-growing",
        "vitl16_short",
        {**_SMALL16, "student.drop_path_uniform": False},
        about="drop path growing with depth, at rates in float64 (official since October 2024)",
        since="float64 rates",
    ),
    Recipe(
        "default-full",
        "vitl16_short",
        _FULL,
        batch_size=2,
        about="full-size ViT-S/16 with 65,536 prototypes, 224² and 96² crops",
        heavy=True,
        iteration=20000,
    ),
)


def with_architecture(config: DictConfig) -> DictConfig:
    """Return the configuration with the sizes of `config.student.arch` under `config.architecture`.

    Official keys give an architecture by name only, and a user's stack does not know parity's small ones.
    """
    config.architecture = asdict(SMALL_ARCHITECTURES[config.student.arch])
    return config


def select_recipes(names: Sequence[str], *, quick: bool) -> tuple[Recipe, ...]:
    """Return the recipes called `names`, each with its variants; all of them where `names` is empty.

    With `quick`, variants are left out unless named themselves.

    Raises:
        UsageError: a name is not known.
    """
    known = [recipe.name for recipe in RECIPES]
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise UsageError(f"unknown recipe {name!r}, expected one of {', '.join(known)}{hint}")
    chosen = [r for r in RECIPES if not names or r.name in names or (r.group in names and not quick)]
    return tuple(r for r in chosen if not quick or not r.is_variant or r.name in names)
