"""`port` as a stack, and an example of an adapter: each capability is a few lines over the stack's own functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from parity.adapters.common import SCHEDULES, centered_targets, moments, optimizer_rows, recorded_counts, state_parts
from port.config import RECIPES, apply_scaling_rules, default_config, load_recipe
from port.data import MaskingGenerator, collate_data_and_cast
from port.data.masking import max_num_patches
from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss
from port.models import Architecture, DINOHead, build_model
from port.optim import apply_optim_scheduler, build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import TrainStep

__all__ = ["PortStack"]


class PortStack:
    """This project's own training stack.

    Args:
        architectures: sizes by name, with parity's small ones.
    """

    name = "port"
    claims_bitwise = True
    not_offered: Mapping[str, str] = {
        "prototype_loss": "port has no prototype loss yet, and official has none to compare with",
    }

    def __init__(self, architectures: Mapping[str, Architecture]) -> None:
        self._architectures = architectures

    def make_mask(self, input_size: tuple[int, int], num_masking_patches: int, max_num_patches: float) -> np.ndarray:
        """`port.data.MaskingGenerator`."""
        return MaskingGenerator(input_size, max_num_patches=max_num_patches)(num_masking_patches)

    def mask_counts(
        self, n_rows: int, n_tokens: int, mask_ratio_min_max: tuple[float, float], mask_probability: float
    ) -> list[int]:
        """What `port.data.collate` asks of its mask generator."""
        return recorded_counts(collate_data_and_cast, n_rows, n_tokens, mask_ratio_min_max, mask_probability)

    def collate(self, samples: list[dict[str, list[Tensor]]], config: DictConfig, dtype: torch.dtype) -> dict[str, Any]:
        """`port.data.collate_data_and_cast` with the generator that training builds."""
        size, patch = config.crops.global_crops_size, config.student.patch_size
        side = size // patch
        generator = MaskingGenerator((side, side), max_num_patches=max_num_patches(size, patch))
        batch = collate_data_and_cast(
            [(sample, ()) for sample in samples],
            config.ibot.mask_ratio_min_max,
            config.ibot.mask_sample_probability,
            dtype,
            n_tokens=side * side,
            mask_generator=generator,
        )
        return dict(batch)

    def dino_loss(self, student_output_list: list[Tensor], teacher_out_softmaxed_centered_list: list[Tensor]) -> Tensor:
        """`port.losses.DINOLoss`."""
        loss: Tensor = DINOLoss(student_output_list[0].shape[-1])(
            student_output_list, teacher_out_softmaxed_centered_list
        )
        return loss

    def ibot_loss(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int,
        masks_weight: Tensor,
    ) -> Tensor:
        """`port.losses.iBOTPatchLoss.forward_masked`."""
        return iBOTPatchLoss(student_patch_tokens_masked.shape[-1]).forward_masked(
            student_patch_tokens_masked,
            teacher_patch_tokens_masked,
            student_masks_flat=student_masks_flat,
            n_masked_patches=n_masked_patches,
            masks_weight=masks_weight,
        )

    def koleo_loss(self, student_output: Tensor) -> Tensor:
        """`port.losses.KoLeoLoss`."""
        loss: Tensor = KoLeoLoss()(student_output)
        return loss

    def sinkhorn(self, kind: str, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """The assignments of either loss."""
        if kind == "dino":
            return DINOLoss(teacher_output.shape[-1]).sinkhorn_knopp_teacher(teacher_output, teacher_temp)
        count = torch.full((1,), teacher_output.shape[0], dtype=torch.long)
        loss = iBOTPatchLoss(teacher_output.shape[-1])
        return loss.sinkhorn_knopp_teacher(teacher_output, teacher_temp, n_masked_patches_tensor=count)

    def softmax_center(
        self, kind: str, teacher_outputs: Sequence[Tensor], teacher_temp: float
    ) -> tuple[list[Tensor], Tensor]:
        """Targets of successive batches and the centre after them."""
        width, dtype = teacher_outputs[0].shape[-1], teacher_outputs[0].dtype
        loss = (DINOLoss(width) if kind == "dino" else iBOTPatchLoss(width)).to(dtype)
        return centered_targets(loss, kind, teacher_outputs, teacher_temp)

    def schedules(self, config: DictConfig) -> dict[str, np.ndarray]:
        """Every value of `port.optim.build_schedulers`."""
        built = build_schedulers(_scaled(config))
        return {name: np.asarray(getattr(built, name).schedule) for name in SCHEDULES}

    def default_config(self) -> Any:
        """`port.config.default_config`, as a nested dict."""
        return OmegaConf.to_container(default_config())

    def recipe_configs(self) -> dict[str, Any]:
        """`port/configs/*.yaml` over the defaults."""
        return {name: OmegaConf.to_container(load_recipe(name)) for name in RECIPES}

    def parameter_groups(self, config: DictConfig, iterations: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
        """Effective lr and weight decay of every parameter at the given iterations."""
        scaled = _scaled(config)
        with torch.device("meta"):
            model = SSLMetaArch(scaled, architectures=self._architectures)
        optimizer = build_optimizer(scaled, model.get_params_groups())
        schedules = build_schedulers(scaled)
        names = {id(p): name for name, p in model.student.named_parameters()}
        table = {}
        for iteration in iterations:
            now = schedules.at(iteration)
            apply_optim_scheduler(optimizer, now.lr, now.wd, now.last_layer_lr)
            table[iteration] = optimizer_rows(optimizer, names)
        return table

    def build_backbone(self, config: DictConfig) -> nn.Module:
        """The student backbone."""
        student, _, _ = build_model(config.student, config.crops.global_crops_size, architectures=self._architectures)
        return student

    def build_head(self, config: DictConfig, kind: str) -> nn.Module:
        """The projection head of either loss."""
        sizes = config.dino if kind == "dino" else config.ibot
        return DINOHead(
            in_dim=self._architectures[config.student.arch].embed_dim,
            out_dim=sizes.head_n_prototypes,
            hidden_dim=sizes.head_hidden_dim,
            bottleneck_dim=sizes.head_bottleneck_dim,
            nlayers=sizes.head_nlayers,
        )

    def init_state(self, config: DictConfig, seed: int) -> dict[str, Tensor]:
        """Names and values of a freshly built model."""
        torch.manual_seed(seed)
        return dict(SSLMetaArch(config, architectures=self._architectures).state_dict())

    def training_step(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batch: Mapping[str, Any],
        iteration: int,
        seed: int,
    ) -> dict[str, dict[str, Any]]:
        """One `port.step.TrainStep`, observed through its gradient hook."""
        config = _scaled(config)
        dtype = next(t.dtype for t in state.values() if t.is_floating_point())
        model = SSLMetaArch(config, architectures=self._architectures).to(dtype).train()
        model.load_state_dict(dict(state), strict=True)
        optimizer = build_optimizer(config, model.get_params_groups())
        seen: dict[str, dict[str, Any]] = {}

        def watch(stage: str, student: nn.ModuleDict) -> None:
            seen[stage] = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}

        step = TrainStep(model, optimizer, build_schedulers(config), config, on_gradients=(watch,))
        images = {k: v.to(dtype) for k, v in batch.items() if k.endswith("_crops")}
        torch.manual_seed(seed)
        losses = step({**batch, **images}, iteration)  # type: ignore[typeddict-item] # official's keys, as documented
        return {**seen, "losses": losses, **_after(model, optimizer)}


def _after(model: SSLMetaArch, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The updated state, with the pending centre update applied as parity asks, and the rates in force."""
    model.dino_loss.apply_center_update()
    if model.do_ibot:
        model.ibot_patch_loss.apply_center_update()
    names = {id(p): name for name, p in model.student.named_parameters()}
    rates = optimizer_rows(optimizer, names)
    return {**state_parts(model.state_dict()), **moments(optimizer, names), "hyperparameters": rates}


def _scaled(config: DictConfig) -> DictConfig:
    """A copy with the learning rate scaled for one rank and every quirk at official's behaviour."""
    config = config.copy()
    config.quirks = dict.fromkeys(config.quirks, "official")
    return apply_scaling_rules(config, global_batch_size=config.train.batch_size_per_gpu)
