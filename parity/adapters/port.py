"""`port` as a stack, and an example of an adapter: each capability is a few lines over the stack's own functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from parity.adapters.common import SCHEDULES, centered_targets, optimizer_rows, recorded_counts, snapshot
from parity.adapters.port_data import PortData
from parity.adapters.port_parts import dtype_of, official_settings, prototype_settings, student_names, typed_batch
from parity.adapters.port_states import PortStates
from port.config import RECIPES, default_config, load_recipe
from port.data import MaskingGenerator, collate_data_and_cast
from port.data.masking import max_num_patches
from port.losses import DINOLoss, KoLeoLoss, PrototypeLoss, iBOTPatchLoss
from port.models import Architecture, DINOHead, build_model
from port.optim import apply_optim_scheduler, build_optimizer, build_schedulers
from port.ssl_meta_arch import SSLMetaArch
from port.step import GradientHook, TrainStep
from port.training.parallel import parallelise

__all__ = ["FastPortStack", "PortStack"]


class PortStack(PortData, PortStates):
    """This project's own training stack, in official's order of operations.

    Args:
        architectures: sizes by name, with parity's small ones.
        forms: see `parity.stack`; `FastPortStack` is one.
    """

    name = "port"
    claims_bitwise = True
    kernels = "official_order"
    prototype_modes = ("masked",)

    def __init__(
        self, architectures: Mapping[str, Architecture], forms: Mapping[str, FastPortStack] | None = None
    ) -> None:
        super().__init__()
        self._architectures = architectures
        self.forms = dict(forms or {})

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
        loss = DINOLoss(student_output_list[0].shape[-1], kernels=self.kernels)
        total: Tensor = loss(student_output_list, teacher_out_softmaxed_centered_list)
        return total

    def ibot_loss(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int,
        masks_weight: Tensor,
    ) -> Tensor:
        """`port.losses.iBOTPatchLoss.forward_masked`."""
        return iBOTPatchLoss(student_patch_tokens_masked.shape[-1], kernels=self.kernels).forward_masked(
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
            dino = DINOLoss(teacher_output.shape[-1], kernels=self.kernels)
            return dino.sinkhorn_knopp_teacher(teacher_output, teacher_temp)
        count = torch.full((1,), teacher_output.shape[0], dtype=torch.long)
        loss = iBOTPatchLoss(teacher_output.shape[-1], kernels=self.kernels)
        return loss.sinkhorn_knopp_teacher(teacher_output, teacher_temp, n_masked_patches_tensor=count)

    def softmax_center(
        self, kind: str, teacher_outputs: Sequence[Tensor], teacher_temp: float
    ) -> tuple[list[Tensor], Tensor]:
        """Targets of successive batches and the centre after them."""
        width, dtype = teacher_outputs[0].shape[-1], teacher_outputs[0].dtype
        # Quirk Q13 as official has it: a rank without masked patches makes the centre NaN.
        ibot = partial(iBOTPatchLoss, keep_center_without_masks=False)
        loss = (DINOLoss if kind == "dino" else ibot)(width, kernels=self.kernels).to(dtype)
        return centered_targets(loss, kind, teacher_outputs, teacher_temp)

    def prototype_loss(self, mode: str, student_tokens: Tensor, teacher_tokens: Tensor, masks: Tensor) -> Tensor:
        """The student's term of `port.losses.PrototypeLoss`, with the axes of the feature space as prototypes.

        Raises:
            ValueError: `mode` is not `masked`.
        """
        if mode not in self.prototype_modes:
            offered = ", ".join(self.prototype_modes)
            raise ValueError(f"prototype mode {mode!r} is not offered, expected {offered}")
        embed_dim, config = student_tokens.shape[-1], prototype_settings(student_tokens.shape[-1])
        loss = PrototypeLoss(embed_dim, config.prototype).to(student_tokens.dtype)
        with torch.no_grad():
            loss.bank.weight.copy_(torch.eye(embed_dim))
        weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks].to(student_tokens.dtype)
        indices = masks.flatten().nonzero().flatten()
        terms = loss(teacher_tokens, student_tokens[masks], indices, weight, config.teacher.teacher_temp)
        student: Tensor = terms.student
        return student

    def schedules(self, config: DictConfig) -> dict[str, np.ndarray]:
        """Every value of `port.optim.build_schedulers`."""
        built = build_schedulers(official_settings(config, self.kernels))
        return {name: np.asarray(getattr(built, name).schedule) for name in SCHEDULES}

    def default_config(self) -> Any:
        """`port.config.default_config`, as a nested dict."""
        return OmegaConf.to_container(default_config())

    def recipe_configs(self) -> dict[str, Any]:
        """`port/configs/*.yaml` over the defaults."""
        return {name: OmegaConf.to_container(load_recipe(name)) for name in RECIPES}

    def parameter_groups(self, config: DictConfig, iterations: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
        """Effective lr and weight decay of every parameter at the given iterations."""
        scaled = official_settings(config, self.kernels)
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
        seen: dict[str, dict[str, Any]] = {}

        def watch(stage: str, student: nn.ModuleDict) -> None:
            seen[stage] = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}

        step = self._train_step(config, state, watch)
        typed = typed_batch(batch, state)
        torch.manual_seed(seed)
        losses = step(typed, iteration)
        names = student_names(step)
        rates = optimizer_rows(step.optimizer, names)
        return {**seen, "losses": losses, **snapshot(step.model, step.optimizer, names), "hyperparameters": rates}

    def _train_step(self, config: DictConfig, state: Mapping[str, Tensor], *hooks: GradientHook) -> TrainStep:
        """A step over a model that has the given state, in the dtype of that state, spread over all ranks."""
        config = official_settings(config, self.kernels)
        model = SSLMetaArch(config, architectures=self._architectures).to(dtype_of(state)).train()
        model.load_state_dict(dict(state), strict=True)
        parallelise(model, "ddp", torch.device("cpu"))
        optimizer = build_optimizer(config, model.get_params_groups())
        return TrainStep(model, optimizer, build_schedulers(config), config, on_gradients=hooks)


class FastPortStack(PortStack):
    """The same stack in its fast form, which is judged by size."""

    name = "port, kernels=fast"
    claims_bitwise = False
    kernels = "fast"
