"""The configuration's keys, types, units and defaults: official's (`dinov2/configs/ssl_default_config.yaml`).

"Epoch" is always `OFFICIAL_EPOCH_LENGTH` iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from port.config_run import RunConfig

__all__ = ["Config", "StudentConfig"]


@dataclass
class ModelConfig:
    """What to start from."""

    WEIGHTS: str = ""  # checkpoint to load where there is nothing to resume; empty for none


@dataclass
class MixedPrecisionConfig:
    """Types of one module: fp32, fp16 or bf16."""

    param_dtype: str = "fp16"  # type of parameters in forward and backward
    reduce_dtype: str = "fp16"  # type in which gradients are reduced over ranks
    buffer_dtype: str = "fp32"  # type of buffers


@dataclass
class ModulePrecisionConfig:
    """How one module is sharded and in which types it computes."""

    sharding_strategy: str = "SHARD_GRAD_OP"  # NO_SHARD, SHARD_GRAD_OP or FULL_SHARD
    mixed_precision: MixedPrecisionConfig = field(default_factory=MixedPrecisionConfig)


def _gradients_reduced_in_fp32() -> ModulePrecisionConfig:
    return ModulePrecisionConfig(mixed_precision=MixedPrecisionConfig(reduce_dtype="fp32"))


@dataclass
class TeacherPrecisionConfig:
    """Precision of the teacher's modules."""

    backbone: ModulePrecisionConfig = field(default_factory=ModulePrecisionConfig)
    dino_head: ModulePrecisionConfig = field(default_factory=ModulePrecisionConfig)
    ibot_head: ModulePrecisionConfig = field(default_factory=ModulePrecisionConfig)


@dataclass
class StudentPrecisionConfig:
    """Precision of the student's modules."""

    backbone: ModulePrecisionConfig = field(default_factory=ModulePrecisionConfig)
    dino_head: ModulePrecisionConfig = field(default_factory=_gradients_reduced_in_fp32)
    ibot_head: ModulePrecisionConfig = field(default_factory=_gradients_reduced_in_fp32)


@dataclass
class ComputePrecisionConfig:
    """Precision of the whole."""

    grad_scaler: bool = True  # scale the loss against underflow in fp16
    teacher: TeacherPrecisionConfig = field(default_factory=TeacherPrecisionConfig)
    student: StudentPrecisionConfig = field(default_factory=StudentPrecisionConfig)


@dataclass
class DinoConfig:
    """DINO loss, its head, and KoLeo."""

    loss_weight: float = 1.0  # factor of the DINO terms; must be > 0
    head_n_prototypes: int = 65536  # outputs of the head
    head_bottleneck_dim: int = 256  # features before the last layer
    head_nlayers: int = 3  # linear layers before the last layer
    head_hidden_dim: int = 2048  # features between those layers
    koleo_loss_weight: float = 0.1  # factor of KoLeo; 0 turns it off


@dataclass
class IbotConfig:
    """iBOT loss, its masks and its head."""

    loss_weight: float = 1.0  # factor of the iBOT term; 0 turns it off
    mask_sample_probability: float = 0.5  # share of the 2B global crops that are masked
    mask_ratio_min_max: list[float] = field(default_factory=lambda: [0.1, 0.5])  # share of a masked crop's patches
    separate_head: bool = False  # false: patches go through the DINO head, and the four below are unused
    head_n_prototypes: int = 65536  # as in dino
    head_bottleneck_dim: int = 256  # as in dino
    head_nlayers: int = 3  # as in dino
    head_hidden_dim: int = 2048  # as in dino


@dataclass
class TrainConfig:
    """The run."""

    batch_size_per_gpu: int = 64  # images per rank and iteration
    dataset_path: str = "ImageNet:split=TRAIN"  # folder of images, or NAME:key=value:…
    output_dir: str = "."  # folder for logs and checkpoints
    saveckp_freq: int = 20  # epochs; no effect, see checkpoint.period_iterations; official never reads it (Q52)
    seed: int = 0  # of every random draw; official never reads it (Q21)
    num_workers: int = 10  # data loading processes per rank
    OFFICIAL_EPOCH_LENGTH: int = 1250  # iterations in an "epoch", whatever the data set
    cache_dataset: bool = True  # official never reads it (Q52)
    centering: str = "centering"  # how teacher targets are balanced: centering or sinkhorn_knopp


@dataclass
class StudentConfig:
    """The backbone, the teacher's too except for drop path."""

    arch: str = "vit_large"  # vit_demo, vit_tiny, vit_small, vit_base, vit_large or vit_giant2
    patch_size: int = 16  # pixels
    drop_path_rate: float = 0.3  # share of a batch that skips a residual branch
    layerscale: float = 1.0e-05  # initial gamma; 0 for no LayerScale
    drop_path_uniform: bool = True  # false: the rate grows linearly with depth
    pretrained_weights: str = ""  # file with a backbone's state dict; empty for none
    ffn_layer: str = "mlp"  # mlp, swiglu, swiglufused or identity
    block_chunks: int = 0  # blocks are named blocks.CHUNK.BLOCK if > 0
    qkv_bias: bool = True  # bias of the query, key and value projection
    proj_bias: bool = True  # bias of the attention's output projection
    ffn_bias: bool = True  # biases of the feed-forward layers
    num_register_tokens: int = 0  # extra tokens after CLS
    interpolate_antialias: bool = False  # antialias when position embeddings shrink
    interpolate_offset: float = 0.1  # added to the number of patches when position embeddings are resized


@dataclass
class TeacherConfig:
    """The moving average and its targets."""

    momentum_teacher: float = 0.992  # share of the old teacher that an iteration keeps, at first
    final_momentum_teacher: float = 1.0  # the same, at the end
    warmup_teacher_temp: float = 0.04  # temperature at first
    teacher_temp: float = 0.07  # temperature after the warm-up
    warmup_teacher_temp_epochs: int = 30  # epochs in which the temperature rises


@dataclass
class OptimConfig:
    """AdamW and its schedules."""

    epochs: int = 100  # length of the run, in epochs of train.OFFICIAL_EPOCH_LENGTH
    weight_decay: float = 0.04  # at first
    weight_decay_end: float = 0.4  # at the end
    base_lr: float = 0.004  # learning rate for a global batch of 1024 images
    lr: float = 0.0  # peak learning rate; set by apply_scaling_rules, whatever is written here (Q43)
    warmup_epochs: int = 10  # epochs in which the learning rate rises from 0
    min_lr: float = 1.0e-06  # learning rate at the end; not scaled with the batch
    clip_grad: float = 3.0  # largest gradient norm of each submodule; 0 turns clipping off
    freeze_last_layer_epochs: int = 1  # epochs in which the heads' last layers have learning rate 0
    scaling_rule: str = "sqrt_wrt_1024"  # the only one there is
    patch_embed_lr_mult: float = 0.2  # factor of the patch embedding's learning rate
    layerwise_decay: float = 0.9  # factor of the learning rate from one layer to the layer below it
    adamw_beta1: float = 0.9  # decay of the gradient's mean
    adamw_beta2: float = 0.999  # decay of the gradient's mean square


@dataclass
class CropsConfig:
    """The views of an image."""

    global_crops_scale: list[float] = field(default_factory=lambda: [0.32, 1.0])  # share of the image's area
    local_crops_number: int = 8  # local crops per image
    local_crops_scale: list[float] = field(default_factory=lambda: [0.05, 0.32])  # share of the image's area
    global_crops_size: int = 224  # pixels
    local_crops_size: int = 96  # pixels


@dataclass
class EvaluationConfig:
    """Evaluation while training."""

    eval_period_iterations: int = 12500  # iterations between saved teachers; 0 for none


@dataclass
class Config(RunConfig):
    """All of it: official's sections, and `port/config_run.py`'s."""

    MODEL: ModelConfig = field(default_factory=ModelConfig)
    compute_precision: ComputePrecisionConfig = field(default_factory=ComputePrecisionConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    ibot: IbotConfig = field(default_factory=IbotConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
