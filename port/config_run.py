"""The configuration's keys that official code has no counterpart of: how a run is carried out, not what it computes.

The defaults of `prototype`, `finetune`, `accumulation_steps` and `data.augmentation` leave the objective official's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "FinetuneConfig",
    "KnnConfig",
    "LoggingConfig",
    "PrototypeConfig",
    "QuirksConfig",
    "RunConfig",
]


@dataclass
class DataConfig:
    """Reading images and cutting views."""

    augmentation: str = (
        "dinov2"  # dinov2, or histology: vertical flips, mild colour jitter, no grey and no solarisation
    )
    max_bad_share: float = 0.01  # share of the data set's files that may be unreadable before the run stops; 0 to 1
    worker_start: str = "auto"  # how loader processes start: auto, fork, spawn or forkserver


@dataclass
class PrototypeConfig:
    """The patch prototype loss, which official has not; off by default."""

    loss_weight: float = 0.0  # factor of the student's masked-only term; 0 leaves the whole loss out
    n_prototypes: int = 1024  # rows of the linear bank
    bias: bool = False  # whether the bank has a bias
    student_temp: float = 0.1  # temperature of the student's logits, and of the teacher's own cross-entropy
    sinkhorn_iterations: int = 3  # iterations that balance the teacher's assignments
    teacher_loss_weight: float = 1.0  # factor of the teacher's cross-entropy over all tokens, which trains the bank
    koleo_loss_weight: float = 0.1  # factor of KoLeo on the normalised prototypes; 0 turns it off
    base_lr: float = 0.001  # the bank's peak learning rate for a global batch of 1024 images
    min_lr: float = 1.0e-06  # the bank's learning rate at the end
    warmup_epochs: int = 0  # epochs in which the bank's learning rate rises from 0
    weight_decay: float = 0.0  # the bank's, constant


@dataclass
class FinetuneConfig:
    """Starting from weights without heads."""

    freeze_backbone_iterations: int = 0  # iterations in which only the heads learn; the backbone's lr is 0 meanwhile


@dataclass
class CheckpointConfig:
    """Saving and resuming."""

    period_iterations: int = 0  # iterations between checkpoints; 0 for 3 epochs, as official does
    keep: int = 3  # newest checkpoints that stay


@dataclass
class KnnConfig:
    """k-nearest-neighbour accuracy of the teacher's CLS features while training."""

    train_dataset: str = ""  # labelled images that vote, as train.dataset_path; empty for no k-NN
    test_dataset: str = ""  # labelled images that are classified
    period_iterations: int = 0  # iterations between evaluations; 0 for the first and the last only
    k: int = 10  # neighbours that vote
    temperature: float = 0.07  # of the votes' weights, exp(cosine / temperature)
    resize_size: int = 0  # pixels of the shorter side before the centre crop; 0 for 8/7 of crop_size
    crop_size: int = 0  # pixels of the centre crop; 0 for crops.global_crops_size


@dataclass
class LoggingConfig:
    """What is written while training."""

    period_iterations: int = 10  # iterations between lines in the terminal's log; training_metrics.json has every one
    tensorboard: bool = True  # write event files to OUTPUT/tensorboard
    wandb_project: str = ""  # Weights & Biases project; empty for none


@dataclass
class QuirksConfig:
    """Where port may part from official code: `official` for its behaviour, `corrected` for ours.

    Parity runs with every quirk at `official`. A default of `corrected` changes no number on the intended path.
    """

    empty_mask_center: str = "corrected"  # Q13, a batch without masks: centre kept, or NaN for good (official)
    blur: str = "official"  # Q1, blur with probability 1 - p (official), or with p as written
    sampler: str = "corrected"  # Q21 to Q25, one resumable permutation for all ranks, or official's shards
    input_dtype: str = "corrected"  # Q30, crops in float32, or rounded to float16 first (official)


@dataclass
class RunConfig:
    """Keys at the top level."""

    device: str = "auto"  # auto, cpu, cuda or mps; auto takes the first there is of cuda, mps, cpu
    precision: str = "auto"  # auto, fp32, bf16 or fp16; auto is bf16 on a CUDA device that has it, otherwise fp32
    parallel: str = "ddp"  # ddp or fsdp; under one process both are the plain model
    deterministic: bool = False  # deterministic algorithms on CUDA too, where they are slower; a CPU always uses them
    kernels: str = "fast"  # fast: official's functions in fewer passes, equal to rounding; official_order: its bits
    compile: bool = False  # compile the backbone's blocks with torch.compile
    activation_checkpointing: bool = False  # recompute blocks in the backward pass instead of keeping activations
    accumulation_steps: int = 1  # micro-batches of train.batch_size_per_gpu images per optimizer step
    data: DataConfig = field(default_factory=DataConfig)
    prototype: PrototypeConfig = field(default_factory=PrototypeConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    quirks: QuirksConfig = field(default_factory=QuirksConfig)
