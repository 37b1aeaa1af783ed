"""A configuration, a model and batches small enough for a test: 2 blocks of 16 features, 4 x 4 patches."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from port.config import load_config
from port.data import Batch, MaskingGenerator, collate_data_and_cast
from port.models import Architecture
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["tiny_batch", "tiny_config", "tiny_model"]

ARCHITECTURES = {"vit_test": Architecture(embed_dim=16, depth=2, num_heads=2)}
# Tensors this small are slower on several threads, many times so on a busy machine.
torch.set_num_threads(1)

OVERRIDES = (
    "student.arch=vit_test",
    "student.patch_size=4",
    "student.layerscale=0.5",
    "student.drop_path_rate=0.0",
    "dino.head_n_prototypes=12",
    "dino.head_hidden_dim=16",
    "dino.head_bottleneck_dim=8",
    "ibot.head_n_prototypes=10",
    "ibot.head_hidden_dim=12",
    "ibot.head_bottleneck_dim=6",
    "crops.global_crops_size=16",
    "crops.local_crops_size=8",
    "crops.local_crops_number=2",
    "train.OFFICIAL_EPOCH_LENGTH=2",
    "optim.epochs=5",
    "optim.warmup_epochs=1",
    "optim.lr=0.01",
    "teacher.warmup_teacher_temp_epochs=1",
)


def tiny_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration, with overrides."""
    return load_config(None, [*OVERRIDES, *overrides])


def tiny_model(overrides: Sequence[str] = (), seed: int = 0) -> SSLMetaArch:
    """Return a model whose student has no two parameters of the same kind alike, and whose teacher differs."""
    torch.manual_seed(seed)
    model = SSLMetaArch(tiny_config(overrides), architectures=ARCHITECTURES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def tiny_batch(cfg: DictConfig, n_images: int = 2, seed: int = 0) -> Batch:
    """Return a batch of noise with masks."""
    generator = torch.Generator().manual_seed(seed)
    random.seed(seed)
    side = cfg.crops.global_crops_size // cfg.student.patch_size

    def crops(number: int, size: int) -> list[torch.Tensor]:
        return [torch.randn(3, size, size, generator=generator) for _ in range(number)]

    samples = [
        (
            {
                "global_crops": crops(2, cfg.crops.global_crops_size),
                "local_crops": crops(cfg.crops.local_crops_number, cfg.crops.local_crops_size),
            },
        )
        for _ in range(n_images)
    ]
    return collate_data_and_cast(
        samples,
        mask_ratio_tuple=cfg.ibot.mask_ratio_min_max,
        mask_probability=cfg.ibot.mask_sample_probability,
        dtype=torch.float32,
        n_tokens=side**2,
        mask_generator=MaskingGenerator(side, min_num_patches=1, max_num_patches=0.5 * side**2),
    )
