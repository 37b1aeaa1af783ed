"""The reference as a stack: official functions answer every capability, called as official calls them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from parity.adapters.common import SCHEDULES, centered_targets, copied_state, recorded_counts
from parity.adapters.official_build import architecture
from parity.adapters.official_data import OfficialData
from parity.adapters.official_groups import run_official_groups
from parity.adapters.official_states import OfficialStates
from parity.adapters.official_step import collate_of_official_training, run_official_step
from parity.adapters.official_trajectory import run_official_trajectory
from parity.reference import Reference
from port.models import Architecture

__all__ = ["OfficialStack"]


class OfficialStack(OfficialData, OfficialStates):
    """Official DINOv2 behind the capability contracts of `parity.stack`.

    Args:
        reference: the opened official code.
        architectures: sizes by name; those that official does not know are registered beside its own.
    """

    name = "official"
    claims_bitwise = False

    def __init__(self, reference: Reference, architectures: Mapping[str, Architecture]) -> None:
        self._reference = reference
        self._collate_cache: dict[str, Callable[..., dict[str, Any]]] = {}
        self._augmentations: dict[str, Any] = {}
        transformer = reference.module("models.vision_transformer")
        for name, sizes in architectures.items():
            if not hasattr(transformer, name):
                setattr(transformer, name, architecture(transformer, reference.module("layers"), sizes))

    @property
    def root(self) -> Path:
        """The folder that holds `dinov2/`."""
        return self._reference.root

    @cached_property
    def features(self) -> frozenset[str]:
        """Which of `parity.recipes.FEATURES` this official code has, found by looking and by building."""
        found = set()
        if "num_register_tokens" in self._reference.module("configs").dinov2_default_config.student:
            found.add("registers")
        transformer = self._reference.module("models.vision_transformer").DinoVisionTransformer
        model = transformer(
            img_size=8, patch_size=8, embed_dim=8, depth=3, num_heads=1, drop_path_rate=0.1, block_chunks=0
        )
        if model.blocks[1].sample_drop_ratio == np.linspace(0, 0.1, 3)[1]:
            found.add("float64 rates")
        return frozenset(found)

    def make_mask(self, input_size: tuple[int, int], num_masking_patches: int, max_num_patches: float) -> np.ndarray:
        """Draw one mask (H, W) with `dinov2/data/masking.py:74`."""
        generator = self._reference.module("data.masking").MaskingGenerator(
            input_size=input_size, max_num_patches=max_num_patches
        )
        return np.asarray(generator(num_masking_patches))

    def mask_counts(
        self,
        n_rows: int,
        n_tokens: int,
        mask_ratio_min_max: tuple[float, float],
        mask_probability: float,
    ) -> list[int]:
        """Record what `dinov2/data/collate.py:27-32` asks of its mask generator."""
        collate = self._reference.module("data.collate").collate_data_and_cast
        return recorded_counts(collate, n_rows, n_tokens, mask_ratio_min_max, mask_probability)

    def collate(self, samples: list[dict[str, list[Tensor]]], config: DictConfig, dtype: torch.dtype) -> dict[str, Any]:
        """Collate with the function and mask generator that official `do_train` itself builds."""
        key = OmegaConf.to_yaml(config)
        if key not in self._collate_cache:
            self._collate_cache[key] = collate_of_official_training(self._reference, self._official(config))
        return self._collate_cache[key]([(sample, ()) for sample in samples], dtype=dtype)

    def dino_loss(self, student_output_list: list[Tensor], teacher_list: list[Tensor]) -> Tensor:
        """`dinov2/loss/dino_clstoken_loss.py:63`."""
        loss = self._loss("DINOLoss", student_output_list[0])
        return _tensor(loss(student_output_list, teacher_list))

    def ibot_loss(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int,
        masks_weight: Tensor,
    ) -> Tensor:
        """`dinov2/loss/ibot_patch_loss.py:103`."""
        loss = self._loss("iBOTPatchLoss", student_patch_tokens_masked)
        return _tensor(
            loss.forward_masked(
                student_patch_tokens_masked,
                teacher_patch_tokens_masked,
                student_masks_flat=student_masks_flat,
                n_masked_patches=n_masked_patches,
                masks_weight=masks_weight,
            )
        )

    def ibot_dense(self, student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
        """`dinov2/loss/ibot_patch_loss.py:92` of whole crops (B, N, K) under masks (B, N)."""
        return _tensor(self._loss("iBOTPatchLoss", student)(student, teacher, masks))

    def koleo_loss(self, student_output: Tensor) -> Tensor:
        """`dinov2/loss/koleo_loss.py:37`."""
        return _tensor(self._reference.module("loss").KoLeoLoss()(student_output))

    def sinkhorn(self, kind: str, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """`dinov2/loss/dino_clstoken_loss.py:36`, `dinov2/loss/ibot_patch_loss.py:61`."""
        if kind == "dino":
            loss = self._loss("DINOLoss", teacher_output)
            return _tensor(loss.sinkhorn_knopp_teacher(teacher_output, teacher_temp=teacher_temp))
        loss = self._loss("iBOTPatchLoss", teacher_output)
        count = torch.full((1,), teacher_output.shape[0], dtype=torch.long)
        return _tensor(
            loss.sinkhorn_knopp_teacher(teacher_output, teacher_temp=teacher_temp, n_masked_patches_tensor=count)
        )

    def softmax_center(
        self, kind: str, teacher_outputs: Sequence[Tensor], teacher_temp: float
    ) -> tuple[list[Tensor], Tensor]:
        """Targets and the deferred centre, as `dinov2/train/ssl_meta_arch.py:202-215` calls them."""
        loss = self._loss("DINOLoss" if kind == "dino" else "iBOTPatchLoss", teacher_outputs[0])
        return centered_targets(loss, kind, teacher_outputs, teacher_temp)

    def schedules(self, config: DictConfig) -> dict[str, np.ndarray]:
        """`dinov2/train/train.py:63`, after the scaling rule of `dinov2/utils/config.py:21`."""
        built = self._reference.module("train.train").build_schedulers(self._scaled(config))
        return {name: np.asarray(s.schedule) for name, s in zip(SCHEDULES, built, strict=True)}

    def default_config(self) -> Any:
        """`dinov2/configs/ssl_default_config.yaml`, as a nested dict."""
        return OmegaConf.to_container(self._reference.module("configs").dinov2_default_config)

    def recipe_configs(self) -> dict[str, Any]:
        """`dinov2/configs/train/*.yaml` over the defaults; empty where the reference has none, as PyPI's wheel."""
        load = self._reference.module("configs").load_and_merge_config
        folder = self.root / "dinov2" / "configs" / "train"
        return {path.stem: OmegaConf.to_container(load(f"train/{path.stem}")) for path in sorted(folder.glob("*.yaml"))}

    def parameter_groups(self, config: DictConfig, iterations: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
        """Effective lr and wd of every parameter: official groups under official schedules."""
        return run_official_groups(self._reference, self._scaled(config), iterations)

    def build_backbone(self, config: DictConfig) -> nn.Module:
        """The student backbone of `dinov2/models/__init__.py:38`."""
        student, _, _ = self._reference.module("models").build_model_from_cfg(self._official(config))
        assert isinstance(student, nn.Module)
        return student

    def build_head(self, config: DictConfig, kind: str) -> nn.Module:
        """`dinov2/layers/dino_head.py:12` with the sizes of `dinov2/train/ssl_meta_arch.py:65-72, 97-104`."""
        sizes = config.dino if kind == "dino" else config.ibot
        head = self._reference.module("layers").DINOHead(
            in_dim=self.build_backbone(config).embed_dim,
            out_dim=sizes.head_n_prototypes,
            hidden_dim=sizes.head_hidden_dim,
            bottleneck_dim=sizes.head_bottleneck_dim,
            nlayers=sizes.head_nlayers,
        )
        assert isinstance(head, nn.Module)
        return head

    def attention(self, x: Tensor, num_heads: int, *, xformers: bool) -> Tensor:
        """`dinov2/layers/attention.py:34` of x (B, N, D) in x's dtype; with `xformers` as false, without that library.

        Weights are drawn from a seed of their own, the same for both.
        """
        module = self._reference.module("layers.attention")
        with mock.patch.object(module, "XFORMERS_AVAILABLE", xformers), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = module.MemEffAttention(x.shape[-1], num_heads=num_heads, qkv_bias=True).to(x.dtype)
            return _tensor(layer(x)).detach()

    def init_state(self, config: DictConfig, seed: int) -> dict[str, Tensor]:
        """Names and values of a freshly built `SSLMetaArch` under `torch.manual_seed(seed)`."""
        torch.manual_seed(seed)
        model = self._reference.module("train.ssl_meta_arch").SSLMetaArch(self._official(config))
        return copied_state(model)

    def training_step(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batch: Mapping[str, Any],
        iteration: int,
        seed: int,
    ) -> dict[str, dict[str, Any]]:
        """One iteration of official `do_train` itself, see `parity.adapters.official_step`."""
        return run_official_step(self._reference, self._scaled(config), state, batch, iteration, seed)

    def training_trajectory(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batches: Sequence[Mapping[str, Any]],
        snapshots: Sequence[int],
        seed: int,
    ) -> dict[str, Any]:
        """As many iterations of one official `do_train`, see `parity.adapters.official_trajectory`."""
        return run_official_trajectory(self._reference, self._scaled(config), state, batches, snapshots, seed)

    def _loss(self, name: str, like: Tensor) -> Any:
        """A loss with a centre of the width and dtype of `like` (…, K)."""
        return getattr(self._reference.module("loss"), name)(like.shape[-1]).to(like.dtype)

    def _official(self, config: DictConfig) -> DictConfig:
        """A copy, since official functions write into their configuration."""
        return copy.deepcopy(config)

    def _scaled(self, config: DictConfig) -> DictConfig:
        scaled = self._reference.module("utils.config").apply_scaling_rules_to_cfg(self._official(config))
        assert isinstance(scaled, DictConfig)
        return scaled


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
