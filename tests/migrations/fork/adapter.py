"""The fork as parity sees it: before, between and after the migrations.

A few lines per capability over the fork's own functions. Where a migration changes what those functions are called or
take, this file asks the code which state it is in; it never decides what a number should be.
"""

import copy
import functools
import inspect
import sys
from argparse import Namespace
from contextlib import suppress
from types import SimpleNamespace

import main
import torch
from data.transforms import TMEDinoTransforms
from losses.koleo_loss import KoLeoLoss
from models import vision_transformer
from models.multihead import TMEDinoModel
from PIL import Image
from training import helpers, trainer
from utils import SingleProcess

from port.config import apply_scaling_rules
from port.models import DINOHead

name = "miniature fork"
claims_bitwise = False
not_offered = {
    "default_config": "the fork keeps its defaults in an argument parser, under names that are not official's",
    "recipe_configs": "the fork has no recipes: a launcher sets the flags of its argument parser",
    "init_state": "the fork builds its student before its teacher, so that a seed gives other numbers",
    "training_trajectory": "the fork trains an epoch at a time; gradients.step shows one of its iterations",
}

OFFICIAL_NAMES = {"classhead": "dino_head", "patchhead": "ibot_head"}


def arguments(config):
    """The fork's flags for a configuration with official's keys, over the defaults of its parser."""
    config = apply_scaling_rules(copy.deepcopy(config), config.train.batch_size_per_gpu)
    student, crops, dino, ibot, optim = config.student, config.crops, config.dino, config.ibot, config.optim
    given = {
        **{key: config.architecture[key] for key in ("embed_dim", "depth", "num_heads", "mlp_ratio")},
        **{key: student[key] for key in ("patch_size", "drop_path_rate", "layerscale", "ffn_layer", "block_chunks")},
        "num_register_tokens": student.num_register_tokens,
        **{key: crops[key] for key in ("global_crops_size", "local_crops_size")},
        **{key: crops[key] for key in ("global_crops_scale", "local_crops_scale")},
        "n_local_crops": crops.local_crops_number,
        "out_dim": dino.head_n_prototypes,
        "hidden_dim": dino.head_hidden_dim,
        "bottleneck_dim": dino.head_bottleneck_dim,
        "head_nlayers": dino.head_nlayers,
        "patch_out_dim": ibot.head_n_prototypes,
        "patch_hidden_dim": ibot.head_hidden_dim,
        "patch_bottleneck_dim": ibot.head_bottleneck_dim,
        "shared_head": not ibot.separate_head,
        "centering": config.train.centering,
        **{f"{part}_loss_weight": config[part].loss_weight for part in ("dino", "ibot")},
        "koleo_loss_weight": dino.koleo_loss_weight,
        **{key: optim[key] for key in ("lr", "min_lr", "warmup_epochs", "weight_decay", "weight_decay_end", "epochs")},
        **{key: optim[key] for key in ("clip_grad", "adamw_beta1", "adamw_beta2")},
        **{key: config.teacher[key] for key in ("momentum_teacher", "final_momentum_teacher", "teacher_temp")},
        **{key: config.teacher[key] for key in ("warmup_teacher_temp", "warmup_teacher_temp_epochs")},
        "epoch_length": config.train.OFFICIAL_EPOCH_LENGTH,
        "batch_size": config.train.batch_size_per_gpu,
        "device": "cpu",
        # Flags that the migrations bring; before them nothing reads these.
        **{key: optim[key] for key in ("layerwise_decay", "patch_embed_lr_mult", "freeze_last_layer_epochs")},
        "mask_ratio_min": ibot.mask_ratio_min_max[0],
        "mask_ratio_max": ibot.mask_ratio_min_max[1],
        "mask_sample_probability": ibot.mask_sample_probability,
    }
    return Namespace(**{**vars(main.get_args_parser().parse_args([])), **given})


def official_name(name_in_fork):
    """`module.classhead.mlp.0.weight` to `dino_head.mlp.0.weight`."""
    part, _, rest = name_in_fork.removeprefix("module.").partition(".")
    return f"{OFFICIAL_NAMES.get(part, part)}.{rest}"


def student_names(student):
    """Official's name of every parameter, by identity."""
    return {id(param): official_name(name) for name, param in student.named_parameters()}


@functools.cache
def further_views(n_local_crops):
    """How many views the fork's transform makes besides official's, whatever the image and the sizes."""
    transform = TMEDinoTransforms((0.5, 1.0), (0.1, 0.5), n_local_crops, 16, 16)
    return len(transform(Image.new("RGB", (16, 16)))) - 2 - n_local_crops


def views_of(n_local_crops, global_crops, local_crops):
    """Tensors in the fork's order; its further views, if its transform makes any, are copies of the first."""
    return [*global_crops, *local_crops, *[global_crops[0]] * further_views(n_local_crops)]


# Masks


def make_mask(input_size, num_masking_patches, max_num_patches):
    height, width = input_size
    if hasattr(helpers, "draw_block_masks"):
        generator = sys.modules[helpers.draw_block_masks.__module__].MaskingGenerator  # which it asks for each row
        return generator(input_size, max_num_patches=max_num_patches)(num_masking_patches)
    ratio = num_masking_patches / (height * width)
    return helpers.generate_random_token_masks(1, height, width, ratio, "cpu")[0].numpy()


class Drawn(Exception):  # noqa: N818 - no error: the masks are there
    """Ends the trainer's loop."""


def until_masks(args, n_images, optimizer=None, built=None, iteration=0):
    """Run the trainer's loop until it has drawn its masks, and return these; schedules are applied by then."""
    seen = []

    def keep(*arguments_, real=trainer.generate_random_token_masks, **keywords):
        seen.append(real(*arguments_, **keywords))
        raise Drawn

    views = [torch.zeros(n_images, 3, 1, 1)] * (3 + args.n_local_crops)
    network = SimpleNamespace(train=lambda: None, eval=lambda: None)
    optimizer, built = optimizer or SimpleNamespace(param_groups=[]), built or helpers.build_schedules(args)
    with patched(trainer, "generate_random_token_masks", keep), suppress(Drawn):
        trainer.train_one_epoch(network, network, *[None] * 5, [views], optimizer, built, iteration, args)
    return seen[0]


def collate(samples, config, dtype):
    args = arguments(config)
    args.n_local_crops = len(samples[0]["local_crops"])
    rows = [views_of(args.n_local_crops, sample["global_crops"], sample["local_crops"]) for sample in samples]
    views = [torch.stack(view).to(dtype) for view in zip(*rows, strict=True)]
    n_local = args.n_local_crops
    masks = until_masks(args, len(samples))
    indices = masks.flatten().nonzero().flatten()
    further = {}
    if hasattr(helpers, "token_weights"):
        further["masks_weight"] = helpers.token_weights(masks)
    if hasattr(helpers, "patch_buffer_rows"):
        ratios = (args.mask_ratio_min, args.mask_ratio_max)
        further["upperbound"] = helpers.patch_buffer_rows(*masks.shape, ratios, args.mask_sample_probability)
    return {
        "collated_global_crops": torch.cat([*views[:2], *views[2 + n_local :]]),
        "collated_local_crops": torch.cat(views[2 : 2 + n_local]),
        "collated_masks": masks,
        "mask_indices_list": indices,
        "n_masked_patches": torch.tensor([len(indices)], dtype=torch.long),
        **further,
    }


# Losses


def dino_loss(student_output_list, teacher_out_softmaxed_centered_list):
    n_prototypes = student_output_list[0].shape[-1]
    return main.DINOLoss(n_prototypes)(student_output_list, teacher_out_softmaxed_centered_list)


def ibot_loss(
    student_patch_tokens_masked, teacher_patch_tokens_masked, student_masks_flat, n_masked_patches, masks_weight
):
    n_prototypes = student_patch_tokens_masked.shape[-1]
    return main.IBOTPatchLoss(n_prototypes)(
        student_patch_tokens_masked, teacher_patch_tokens_masked, student_masks_flat
    )


def koleo_loss(student_output):
    return KoLeoLoss()(student_output)


def sinkhorn(kind, teacher_output, teacher_temp):
    loss = (main.DINOLoss if kind == "dino" else main.IBOTPatchLoss)(teacher_output.shape[-1])
    return loss.teacher_targets(teacher_output, teacher_temp, "sinkhorn_knopp")


def softmax_center(kind, teacher_outputs, teacher_temp):
    loss = (main.DINOLoss if kind == "dino" else main.IBOTPatchLoss)(teacher_outputs[0].shape[-1])
    loss = loss.to(teacher_outputs[0].dtype)
    targets = [loss.teacher_targets(output, teacher_temp, "centering") for output in teacher_outputs]
    loss.apply_center_update()
    return targets, loss.center.flatten()


def clustering_flag():
    """The action of the parser that chooses among masked and other tokens; None once it is gone."""
    return next((action for action in main.get_args_parser()._actions if "masked" in (action.choices or ())), None)


prototype_modes = tuple(clustering_flag().choices) if clustering_flag() else ("masked",)


def prototype_loss(mode, student_tokens, teacher_tokens, masks):
    bank = main.LinearPrototypeBank(student_tokens.shape[-1], student_tokens.shape[-1]).to(student_tokens.dtype)
    with torch.no_grad():
        bank.weight.copy_(torch.eye(student_tokens.shape[-1]))
    student, teacher = (
        lambda *_, tokens=tokens, **__: {"patchtokens": tokens} for tokens in (student_tokens, teacher_tokens)
    )
    given = {
        "args": Namespace(**({clustering_flag().dest: mode} if clustering_flag() else {})),
        "student": student,
        "teacher": teacher,
        "original_images": None,
        "student_patch_tokens": student_tokens,
        "teacher_patch_tokens": teacher_tokens,
        "random_token_masks": masks,
        "patch_prototype_loss": main.PatchPrototypeLoss(),
        "prototype_bank": bank,
        "teacher_temp": 0.07,
    }
    taken = inspect.signature(trainer.compute_clustering_loss).parameters
    return trainer.compute_clustering_loss(**{key: given[key] for key in taken})


# Schedules, groups, modules


def schedules(config):
    built = helpers.build_schedules(arguments(config))
    arrays = {key: built[key].schedule for key in ("lr", "wd", "momentum", "teacher_temp")}
    # Without a schedule of its own, the last layer follows the others.
    return {**arrays, "last_layer_lr": built.get("last_layer_lr", built["lr"]).schedule.copy()}


def rows_of(optimizer, names):
    return {
        names[id(param)]: {"lr": float(group["lr"]), "weight_decay": float(group["weight_decay"]), "group": index}
        for index, group in enumerate(optimizer.param_groups)
        for param in group["params"]
    }


def parameter_groups(config, iterations):
    args = arguments(config)
    with torch.device("meta"):
        student = SingleProcess(TMEDinoModel(args, args.drop_path_rate))
    optimizer, built = helpers.build_optimizer(student, args), helpers.build_schedules(args)
    names, table = student_names(student), {}
    for iteration in iterations:
        until_masks(args, 1, optimizer, built, iteration)
        table[iteration] = rows_of(optimizer, names)
    return table


def build_backbone(config):
    return vision_transformer.build_vit(arguments(config), config.student.drop_path_rate)


def build_head(config, kind):
    sizes = config.dino if kind == "dino" else config.ibot
    return DINOHead(
        config.architecture.embed_dim,
        sizes.head_n_prototypes,
        nlayers=sizes.head_nlayers,
        hidden_dim=sizes.head_hidden_dim,
        bottleneck_dim=sizes.head_bottleneck_dim,
    )


# One iteration


class patched:  # noqa: N801 - read as a word in `with patched(...)`
    """Put something in the place of a module's name for a while."""

    def __init__(self, module, attribute, value):
        self.module, self.attribute, self.value = module, attribute, value

    def __enter__(self):
        self.before = getattr(self.module, self.attribute)
        setattr(self.module, self.attribute, self.value)

    def __exit__(self, *_):
        setattr(self.module, self.attribute, self.before)


def load(student, teacher, losses, state):
    """Give networks and centres the values that official's names hold."""
    in_fork = {official: fork for fork, official in OFFICIAL_NAMES.items()}
    for owner, network in (("student", student), ("teacher", teacher)):
        values = {}
        for key, value in state.items():
            if key.startswith(owner + "."):
                part, _, rest = key.removeprefix(owner + ".").partition(".")
                values[f"module.{in_fork.get(part, part)}.{rest}"] = value
        network.load_state_dict(values, strict=True)
    for key, loss in zip(("dino_loss", "ibot_patch_loss"), losses[:2], strict=True):
        if f"{key}.center" in state:
            loss.center.copy_(state[f"{key}.center"])


def training_step(config, state, batch, iteration, seed):
    args = arguments(config)
    dtype = next(value.dtype for value in state.values() if value.is_floating_point())
    student = SingleProcess(TMEDinoModel(args, args.drop_path_rate)).to(dtype)
    teacher = SingleProcess(TMEDinoModel(args)).to(dtype).requires_grad_(False)
    losses = [loss.to(dtype) for loss in main.build_losses(args)]
    load(student, teacher, losses, state)
    optimizer, built = helpers.build_optimizer(student, args), helpers.build_schedules(args)
    names = student_names(student)
    seen = {"gradients": {}, "clipped_gradients": {}}

    def gradients(module):
        return {names[id(p)]: p.grad.detach().clone() for p in module.parameters() if p.grad is not None}

    def clip(module, max_norm, real=trainer.clip_gradients):
        seen["gradients"].update(gradients(module))
        real(module, max_norm)
        seen["clipped_gradients"].update(gradients(module))

    def draw(n_rows, *rest, real=trainer.generate_random_token_masks):
        return batch["collated_masks"] if n_rows == len(batch["collated_masks"]) else real(n_rows, *rest)

    crops = [
        part.to(dtype)
        for key, count in (("collated_global_crops", 2), ("collated_local_crops", args.n_local_crops))
        for part in (batch[key].chunk(count) if count else ())
    ]
    views = views_of(args.n_local_crops, crops[:2], crops[2:])
    with patched(trainer, "clip_gradients", clip), patched(trainer, "generate_random_token_masks", draw):
        torch.manual_seed(seed)
        (shown,) = trainer.train_one_epoch(student, teacher, *losses, None, [views], optimizer, built, iteration, args)
    return {
        "losses": shown,
        **seen,
        **after(student, teacher, losses, optimizer, names, state),
        "hyperparameters": rows_of(optimizer, names),
    }


def after(student, teacher, losses, optimizer, names, state):
    """What an iteration leaves behind, under official's names."""
    centers = {"dino_loss.center": losses[0], "ibot_patch_loss.center": losses[1]}
    for loss in centers.values():
        loss.apply_center_update()
    return {
        "parameters": {f"student.{official_name(n)}": p.detach().clone() for n, p in student.named_parameters()},
        "teacher": {f"teacher.{official_name(n)}": p.detach().clone() for n, p in teacher.named_parameters()},
        "centers": {key: loss.center.clone() for key, loss in centers.items() if key in state},
        **{
            part: {names[id(param)]: values[part].clone() for param, values in optimizer.state.items()}
            for part in ("exp_avg", "exp_avg_sq")
        },
    }
