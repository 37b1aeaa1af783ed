"""The one abstraction: a stack is anything that offers some of the named capabilities below.

The reference (official code) and every subject (`port`, the document's legacy code, a user's adapter file)
are stacks. A capability is a callable attribute with the contract documented in `CAPABILITIES`; each is
optional, and a check whose capability the subject lacks is reported as *not run*, never as *passed*.

A stack is a plain Python object: a module, a class instance, or a class (instantiated without arguments).
Adapters exchange only tensors, numbers and mappings with parity, so a user's file need not import it.

Four attributes, all optional, describe the stack itself:

- `name`: how the report calls it;
- `claims_bitwise`: true where the stack claims official's operations in official's order, so that float
  results in fp32 on a CPU are required to be equal bit for bit (tier T0). `port` claims it;
- `forms`: other forms of the same stack by name, each a stack that claims no equal bits, such as one in faster
  operations. The families `losses` and `gradients` judge them beside it, by T1 and T2. `port` has `kernels=fast`;
- `own_randomness`: a tuple of the capabilities among `make_mask`, `mask_counts`, `collate`, `augment` and
  `augment_steps` whose random numbers come from generators, or in an order, of the stack's own, so that no seed gives
  official's draws. They are then not compared bit for bit but by their distribution (T4), see
  `parity.own_randomness`. What training computes from given batches stays compared as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from parity.errors import SubjectError

__all__ = ["CAPABILITIES", "Capability", "capabilities_of", "capability", "claims_bitwise", "forms_of", "stack_name"]


@dataclass(frozen=True)
class Capability:
    """What one capability is called, how parity calls it and what it returns.

    Attributes:
        signature: the call that parity makes.
        returns: shape, dtype and meaning of the result.
        official: the official file and line that the reference side executes.
    """

    signature: str
    returns: str
    official: str


CAPABILITIES: Mapping[str, Capability] = {
    "make_mask": Capability(
        "make_mask(input_size: tuple[int, int], num_masking_patches: int, max_num_patches: float)",
        "bool array (H, W) or (H*W,), True = masked; drawn from Python's `random` module",
        "dinov2/data/masking.py:74",
    ),
    "mask_counts": Capability(
        "mask_counts(n_rows: int, n_tokens: int, mask_ratio_min_max: tuple[float, float], mask_probability: float)",
        "list[int]: the number of patches asked of the mask generator for each of the n_rows global crops, "
        "before the shuffle; 0 = unmasked",
        "dinov2/data/collate.py:20-32",
    ),
    "collate": Capability(
        "collate(samples: list[dict[str, list[Tensor]]], config, dtype: torch.dtype)",
        "dict with official's keys: collated_global_crops (2B, 3, G, G), collated_local_crops (nB, 3, L, L), "
        "collated_masks bool (2B, N), mask_indices_list int64 (M,), masks_weight float32 (M,), "
        "upperbound int, n_masked_patches int64 (1,)",
        "dinov2/data/collate.py:10-49",
    ),
    "augment": Capability(
        "augment(image: PIL.Image in RGB, config, seed: int)",
        "mapping with official's keys: global_crops, two float32 tensors (3, G, G); local_crops, n of (3, L, L). "
        "global_crops_teacher and offsets, which nothing reads (Q32), are compared where they are returned. Python's "
        "`random`, NumPy and torch are seeded with `seed` before; it is given for generators of the stack's own",
        "dinov2/data/augmentations.py:19-118",
    ),
    "augment_steps": Capability(
        "augment_steps(image: PIL.Image in RGB, config, view: 'global_1' | 'global_2' | 'local', seed: int)",
        "mapping from each transform of one view to the image after it: crop, flip, jitter, grayscale, blur and, for "
        "global_2, solarize as uint8 (3, H, W), then normalize as float32 (3, H, W); generators as for augment",
        "dinov2/data/augmentations.py:44-94",
    ),
    "evaluation_view": Capability(
        "evaluation_view(image: PIL.Image in RGB, resize_size: int, crop_size: int)",
        "float32 tensor (3, crop_size, crop_size): resized, cropped in the middle, normalised",
        "dinov2/data/transforms.py:77-91",
    ),
    "decode_image": Capability(
        "decode_image(data: bytes)",
        "PIL.Image in RGB, or an array uint8 (H, W, 3), of a file's content",
        "dinov2/data/datasets/decoders.py:17-23",
    ),
    "data_order": Capability(
        "data_order(kind: str, sample_count: int, rank: int, world_size: int, seed: int, advance: int, count: int), "
        "with an attribute sampler_kinds: tuple[str, …] on the stack that names those of official's samplers that it "
        "answers for: SHARDED_INFINITE, SHARDED_INFINITE_NEW, INFINITE, EPOCH",
        "list[int]: the first `count` indices that a rank reads of `sample_count` images, shuffled with `seed`, after "
        "`advance` that are skipped; of EPOCH one epoch after the other",
        "dinov2/data/samplers.py:17-229",
    ),
    "training_order": Capability(
        "training_order(config, sample_count: int, rank: int, world_size: int, iterations: int)",
        "list of `iterations` lists of indices: what a rank reads in each iteration of a fresh run, "
        "config.train.batch_size_per_gpu images at a time",
        "dinov2/train/train.py:194-211, dinov2/data/loaders.py:100-223",
    ),
    "dino_loss": Capability(
        "dino_loss(student_output_list: list[Tensor (B, K)], teacher_out_softmaxed_centered_list: list[Tensor (B, K)])",
        "scalar tensor",
        "dinov2/loss/dino_clstoken_loss.py:63-74",
    ),
    "ibot_loss": Capability(
        "ibot_loss(student_patch_tokens_masked (M, K), teacher_patch_tokens_masked (M, K), "
        "student_masks_flat bool (2B, N), n_masked_patches: int, masks_weight (M,))",
        "scalar tensor",
        "dinov2/loss/ibot_patch_loss.py:103-126",
    ),
    "koleo_loss": Capability("koleo_loss(student_output (B, D))", "scalar tensor", "dinov2/loss/koleo_loss.py:37-48"),
    "sinkhorn": Capability(
        "sinkhorn(kind: 'dino' | 'ibot', teacher_output (M, K), teacher_temp: float)",
        "assignment probabilities (M, K); rows sum to 1. In a process group of several ranks the rows are this "
        "rank's, and sums are over all ranks",
        "dinov2/loss/dino_clstoken_loss.py:35-61, dinov2/loss/ibot_patch_loss.py:60-91",
    ),
    "softmax_center": Capability(
        "softmax_center(kind: 'dino' | 'ibot', teacher_outputs: list[Tensor (M, K)], teacher_temp: float)",
        "(list of targets (M, K), one per batch, each followed by a centre update; centre (K,) with the "
        "pending update applied). In a process group of several ranks the batches are this rank's, and the centre is "
        "of all",
        "dinov2/loss/dino_clstoken_loss.py:29-33, 76-99",
    ),
    "schedules": Capability(
        "schedules(config)",
        "dict of float64 arrays, one value per iteration: lr, wd, momentum, teacher_temp, last_layer_lr",
        "dinov2/train/train.py:63-109",
    ),
    "default_config": Capability(
        "default_config()",
        "nested mapping of the default configuration, with official's keys",
        "dinov2/configs/ssl_default_config.yaml",
    ),
    "recipe_configs": Capability(
        "recipe_configs()",
        "{recipe name: nested mapping with official's keys}: vitl16_short, vitl14 and vitg14 as they resolve",
        "dinov2/configs/train/vitl16_short.yaml, vitl14.yaml, vitg14.yaml",
    ),
    "parameter_groups": Capability(
        "parameter_groups(config, iterations: list[int])",
        "{iteration: {official parameter name: {'lr': float, 'weight_decay': float, and optionally "
        "'lr_multiplier', 'wd_multiplier', 'is_last_layer', 'group': int}}}, student parameters only, named "
        "'backbone.…', 'dino_head.…', 'ibot_head.…'; a module whose groups cannot be built maps "
        "'MODULE' to {'error': message}",
        "dinov2/utils/param_groups.py:56-103, dinov2/train/train.py:112-119",
    ),
    "build_backbone": Capability(
        "build_backbone(config)",
        "nn.Module with official parameter names, drop path included, called as "
        "module(crops | [crops, …], masks=mask | [mask | None, …], is_training=True) and returning "
        "official's dict or list of dicts",
        "dinov2/models/vision_transformer.py:46-330",
    ),
    "build_head": Capability(
        "build_head(config, kind: 'dino' | 'ibot')",
        "nn.Module, called as module(x (M, D)) -> (M, K)",
        "dinov2/layers/dino_head.py:12-41",
    ),
    "init_state": Capability(
        "init_state(config, seed: int)",
        "dict of tensors named 'student.backbone.…', 'student.dino_head.…', 'teacher.…', 'dino_loss.center', "
        "'ibot_patch_loss.center' as constructed under torch.manual_seed(seed), teacher before it is "
        "synchronised with the student",
        "dinov2/train/ssl_meta_arch.py:31-133",
    ),
    "start_state": Capability(
        "start_state(config, seed: int)",
        "as init_state, but as the first iteration finds it: after the teacher was given the student's weights",
        "dinov2/train/ssl_meta_arch.py:390-403",
    ),
    "training_step": Capability(
        "training_step(config, state: dict[str, Tensor], batch: dict, iteration: int, seed: int)",
        "dict of dicts of tensors after one iteration from `state` (names as in init_state, the dtype of "
        "`state`): "
        "'losses' (official's loss_dict), 'gradients' (before clipping), 'clipped_gradients', 'parameters' "
        "(student after the optimizer), 'exp_avg' and 'exp_avg_sq' (AdamW's moments after the step), 'teacher' "
        "(after EMA), 'centers'; and 'hyperparameters' "
        "{name: {'lr', 'weight_decay'}} as applied. torch is seeded with `seed` at the start of the step",
        "dinov2/train/train.py:134-300, dinov2/train/ssl_meta_arch.py:144-400",
    ),
    "training_trajectory": Capability(
        "training_trajectory(config, state: dict[str, Tensor], batches: list[dict], snapshots: list[int], seed: int)",
        "{'losses': [official's loss_dict of each iteration, in order], 'snapshots': {iteration: dict of dicts of "
        "tensors after that iteration, with the parts 'parameters', 'exp_avg', 'exp_avg_sq', 'teacher' and 'centers' "
        "of training_step}}: training from iteration 0 and `state` over as many iterations as there are batches. "
        "torch is seeded with `seed + iteration` before each; 'snapshots' may hold fewer parts or none",
        "dinov2/train/train.py:134-300",
    ),
    "resumed_trajectory": Capability(
        "resumed_trajectory(config, state: dict[str, Tensor], batches: list[dict], snapshots: list[int], seed: int, "
        "stop: int)",
        "as training_trajectory: the same training, but after iteration `stop` everything is saved in the stack's own "
        "way, dropped, and loaded into a fresh model, optimizer and whatever else, which goes on",
        "dinov2/train/train.py:150-153",
    ),
    "load_checkpoint": Capability(
        "load_checkpoint(config, checkpoint: dict)",
        "{'model': {name: tensor}, 'exp_avg': …, 'exp_avg_sq': …, 'step': …} as a fresh model (names as in init_state) "
        "and optimizer (names of the student's parameters, without 'student.') hold it after loading official's "
        "training checkpoint {'model': state dict, 'optimizer': state dict of AdamW over official's groups, "
        "'iteration': int}; 'model' alone will do. Raises an error that names the tensor where one is missing, extra "
        "or misshapen",
        "dinov2/fsdp/__init__.py:114",
    ),
    "export_checkpoint": Capability(
        "export_checkpoint(config, held: dict[str, dict[str, Tensor]], iteration: int)",
        "official's training checkpoint, as load_checkpoint is given it, of a model and optimizer that hold what "
        "load_checkpoint returned; names as official spells them for this config, chunks included; 'model' alone "
        "will do",
        "dinov2/fsdp/__init__.py:86",
    ),
    "load_weights": Capability(
        "load_weights(config, checkpoint: dict)",
        "{'backbone.…': tensor, and 'dino_head.…', 'ibot_head.…' where the stack reads heads} after a file with this "
        "content was loaded into a fresh network: the teacher's where it has both. Raises an error that names the "
        "tensor where one is missing, extra or misshapen",
        "dinov2/utils/utils.py:20",
    ),
    "distributed_step": Capability(
        "distributed_step(config, state: dict[str, Tensor], batch: dict, iteration: int, seed: int)",
        "as training_step, called on each rank of an initialised gloo group at once: `batch` and `seed` are the "
        "rank's own; 'losses' are averaged over ranks, and gradients before anything uses them. At least 'gradients'",
        "dinov2/train/train.py:134-300, dinov2/fsdp/__init__.py:21-58",
    ),
    "prototype_loss": Capability(
        "prototype_loss(mode: str, student_tokens (R, N, D), teacher_tokens (R, N, D), masks bool (R, N)), "
        "with an attribute prototype_modes: tuple[str, …] on the stack",
        "scalar tensor: the student's term, with the D axes of the feature space as prototypes. It is taken to use "
        "student_temp 0.1, teacher_temp 0.07 and three sinkhorn_iterations over all R * N teacher tokens, unless an "
        "attribute prototype_settings, a mapping with these keys, says otherwise",
        "none: official has no prototype loss; judged by its definition",
    ),
}


def capability(stack: object, name: str) -> Callable[..., Any] | None:
    """Return the stack's callable for a capability, or None where the stack does not offer it.

    Raises:
        KeyError: `name` is not one of `CAPABILITIES`.
        SubjectError: the attribute exists but cannot be called.
    """
    if name not in CAPABILITIES:
        raise KeyError(f"unknown capability {name!r}; known: {', '.join(CAPABILITIES)}")
    found: object = getattr(stack, name, None)
    if found is None:
        return None
    if not callable(found):
        raise SubjectError(
            f"{stack_name(stack)}.{name} is a {type(found).__name__}, expected a callable: "
            f"{CAPABILITIES[name].signature}"
        )
    return found


def capabilities_of(stack: object) -> tuple[str, ...]:
    """Return the names of the capabilities that the stack offers, in the order of `CAPABILITIES`."""
    return tuple(name for name in CAPABILITIES if capability(stack, name) is not None)


def stack_name(stack: object) -> str:
    """Return how a report calls the stack: its `name` attribute, else its module or class name."""
    name = getattr(stack, "name", None)
    if isinstance(name, str):
        return name
    return str(getattr(stack, "__name__", type(stack).__name__))


def claims_bitwise(stack: object) -> bool:
    """Return whether the stack claims official's operations in official's order (fp32, CPU)."""
    return bool(getattr(stack, "claims_bitwise", False))


def forms_of(stack: object) -> dict[str, object]:
    """Return the stack's other forms by name; none where it has no attribute `forms`.

    Raises:
        SubjectError: `forms` is no mapping from names.
    """
    found = getattr(stack, "forms", None) or {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise SubjectError(f"{stack_name(stack)}.forms is {found!r:.80}, expected a mapping from names to stacks")
    return dict(found)
