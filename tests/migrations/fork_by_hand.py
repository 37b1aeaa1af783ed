"""What a person does to the miniature fork after each migration: texts and what takes their place.

Each is what the finding asked for ("left to you"), and no more. A text that is not there, or is there twice, is an
error: the migrations changed, and these must be looked at again.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["BY_HAND", "fill"]

Patch = tuple[str, str, str]
"""A file, the text that goes and the text that comes."""

_0003: tuple[Patch, ...] = (
    (
        "training/helpers.py",
        "n_patches_w, mask_ratio, device):\n"
        '    """Independent Bernoulli sampling: each token is masked with probability mask_ratio."""\n'
        "    n_patches = n_patches_h * n_patches_w\n",
        "n_patches_w, mask_ratio_min_max, mask_sample_probability, device):\n"
        '    """Rectangles, in a share of the rows, each of them at a ratio of its own."""\n',
    ),
    ("training/helpers.py", "mask_ratio_min_max=(0.1, 0.5)", "mask_ratio_min_max=mask_ratio_min_max"),
    ("training/helpers.py", "mask_sample_probability=0.5", "mask_sample_probability=mask_sample_probability"),
    (
        "training/trainer.py",
        "            original_images.shape[0], n_patches_h, n_patches_w, args.token_mask_ratio, "
        "original_images.device\n",
        "            original_images.shape[0],\n"
        "            n_patches_h,\n"
        "            n_patches_w,\n"
        "            (args.mask_ratio_min, args.mask_ratio_max),\n"
        "            args.mask_sample_probability,\n"
        "            original_images.device,\n",
    ),
    (
        "main.py",
        '    parser.add_argument("--token_mask_ratio", type=float, default=0.3)\n',
        '    parser.add_argument("--mask_ratio_min", type=float, default=0.1)\n'
        '    parser.add_argument("--mask_ratio_max", type=float, default=0.5)\n'
        '    parser.add_argument("--mask_sample_probability", type=float, default=0.5)\n',
    ),
    ("launch.sh", "TOKEN_MASK_RATIO=0.3\n", ""),
    ("launch.sh", "    --token_mask_ratio $TOKEN_MASK_RATIO \\\n", ""),
)

_TODO = "# TODO[parity 0001] "

_0001: tuple[Patch, ...] = (
    # Masks for all global crops, and how many rows the patch head's buffer needs for any of them.
    (
        "training/trainer.py",
        f"        {_TODO}draw the masks for all of teacher_global_crops at once\n",
        "        n_global_rows = sum(len(crops) for crops in teacher_global_crops)\n",
    ),
    ("training/trainer.py", "            original_images.shape[0],\n", "            n_global_rows,\n"),
    (
        "training/trainer.py",
        "            original_images.device,\n        )\n",
        "            original_images.device,\n        )\n"
        "        patch_rows = patch_buffer_rows(\n"
        "            n_global_rows,\n"
        "            n_patches_h * n_patches_w,\n"
        "            (args.mask_ratio_min, args.mask_ratio_max),\n"
        "            args.mask_sample_probability,\n"
        "        )\n",
    ),
    (
        "training/helpers.py",
        "def get_params_groups(model):\n",
        "def patch_buffer_rows(n_rows, n_patches, mask_ratio_min_max, mask_sample_probability):\n"
        '    """Rows that hold the masked tokens of any batch: the upper ends of the ratio bins."""\n'
        "    bins = torch.linspace(*mask_ratio_min_max, int(n_rows * mask_sample_probability) + 1)\n"
        "    return sum(int(n_patches * upper) for upper in bins[1:])\n"
        "\n\n"
        "def get_params_groups(model):\n",
    ),
    (
        "training/trainer.py",
        "import generate_random_token_masks\n",
        "import generate_random_token_masks, patch_buffer_rows\n",
    ),
    # The patch head runs within the wrapped forward, on the masked tokens of the global crops.
    ("models/multihead.py", "token_masks=None, mode=", "token_masks=None, head_masks=None, patch_rows=None, mode="),
    (
        "models/multihead.py",
        "        return {\n"
        '            "clstoken": cls_tokens,\n'
        '            "cls_outputs": self.classhead(cls_tokens),\n'
        '            "patchtokens": features[0]["x_norm_patchtokens"],\n'
        "        }\n",
        '        patch_tokens = features[0]["x_norm_patchtokens"]\n'
        "        masked = patch_tokens[head_masks]\n"
        "        rows = nn.functional.pad(masked, (0, 0, 0, patch_rows - masked.shape[0]))\n"
        "        return {\n"
        '            "clstoken": cls_tokens,\n'
        '            "cls_outputs": self.classhead(cls_tokens),\n'
        '            "patchtokens": patch_tokens,\n'
        '            "patch_outputs": self.patchhead(rows)[: masked.shape[0]],\n'
        "        }\n",
    ),
    (
        "training/trainer.py",
        "teacher_output = teacher(teacher_global_crops)\n",
        "teacher_output = teacher(\n"
        "                teacher_global_crops, head_masks=random_token_masks, patch_rows=patch_rows\n"
        "            )\n",
    ),
    (
        "training/trainer.py",
        f"        {_TODO}the masks need one row for each crop in teacher_global_crops: patch and CLS tokens come from "
        "here\n",
        "",
    ),
    (
        "training/trainer.py",
        "*[None] * (len(student_all_crops) - len(teacher_global_crops))])\n",
        "*[None] * (len(student_all_crops) - len(teacher_global_crops))], head_masks=random_token_masks, "
        "patch_rows=patch_rows)\n",
    ),
    # The second calls go.
    (
        "training/trainer.py",
        "        # iBOT: a view and a forward pass of its own\n"
        "        with torch.no_grad():\n"
        f"            {_TODO}remove this call: take the patch tokens from the teacher's call on teacher_global_crops\n"
        '            teacher_ibot_output = teacher(original_images, token_masks=None, mode="ibot")\n'
        '            teacher_patch_outputs = teacher_ibot_output["patch_outputs"]\n'
        '            teacher_patch_tokens = teacher_ibot_output["patchtokens"]\n'
        f"        {_TODO}remove this second call: take the patch tokens of teacher_global_crops from the call above\n"
        '        student_ibot_output = student(original_images, token_masks=random_token_masks, mode="ibot")\n'
        '        student_patch_outputs = student_ibot_output["patch_outputs"]\n'
        '        student_patch_tokens = student_ibot_output["patchtokens"]\n',
        '        teacher_patch_outputs = teacher_output["patch_outputs"]\n'
        '        teacher_patch_tokens = teacher_output["patchtokens"]\n'
        '        student_patch_outputs = student_output["patch_outputs"]\n'
        '        student_patch_tokens = student_output["patchtokens"]\n',
    ),
    (
        "training/trainer.py",
        "            teacher_patch_outputs[random_token_masks], current_teacher_temp",
        "            teacher_patch_outputs, current_teacher_temp",
    ),
    ("training/trainer.py", "student_patch_outputs[random_token_masks]", "student_patch_outputs"),
    ("training/trainer.py", "        n_global_rows = teacher_cls.shape[0]\n", ""),
)

_0004: tuple[Patch, ...] = (
    # The last reader of the third view was the forward pass of mode `separate`.
    ("training/trainer.py", "        original_images = batch_data[-1]\n", ""),
    ("training/trainer.py", "    original_images,\n    student_patch_tokens,\n", "    student_patch_tokens,\n"),
    ("training/trainer.py", "                original_images,\n", ""),
    ("training/trainer.py", "            original_images.device,\n", "            teacher_global_crops[0].device,\n"),
)

_WEIGHTS = "(1 / token_masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(token_masks)[token_masks]"

_0005: tuple[Patch, ...] = (
    # The iBOT loss is given tokens that the network has selected, so no rule could tell by which mask; and both
    # losses shall have their weights from one place.
    (
        "training/helpers.py",
        "def patch_buffer_rows(",
        "def token_weights(token_masks):\n"
        '    """One over the masked tokens of its row, for each masked token."""\n'
        f"    return {_WEIGHTS}\n"
        "\n\n"
        "def patch_buffer_rows(",
    ),
    ("losses/prototype_loss.py", f"masks_weight = {_WEIGHTS}\n", "masks_weight = token_weights(token_masks)\n"),
    ("losses/prototype_loss.py", "        M_total = student_norm_masked.shape[0]\n", ""),
    (
        "losses/prototype_loss.py",
        "from torch import nn\n",
        "from torch import nn\n\nfrom training.helpers import token_weights\n",
    ),
    (
        "losses/ibot_loss.py",
        "        M_total = student_masked.shape[0]\n        return -loss.sum() / M_total\n",
        "        return -(loss * token_weights(token_masks)).sum() / token_masks.shape[0]\n",
    ),
    (
        "losses/ibot_loss.py",
        "import torch.nn.functional as F\n",
        "import torch.nn.functional as F\nfrom training.helpers import token_weights\n",
    ),
)

_0007: tuple[Patch, ...] = (
    # The recipe is a choice, so the rates become flags.
    (
        "training/helpers.py",
        "lr_decay_rate=0.9, patch_embed_lr_mult=0.2",
        "lr_decay_rate=args.layerwise_decay, patch_embed_lr_mult=args.patch_embed_lr_mult",
    ),
    ("training/helpers.py", "def get_params_groups(model):\n", "def get_params_groups(model, args):\n"),
    *(
        ("training/helpers.py", f"student.module.{part})", f"student.module.{part}, args)")
        for part in ("backbone", "classhead", "patchhead")
    ),
    (
        "main.py",
        '    parser.add_argument("--clip_grad"',
        '    parser.add_argument("--layerwise_decay", type=float, default=0.9)\n'
        '    parser.add_argument("--patch_embed_lr_mult", type=float, default=0.2)\n'
        '    parser.add_argument("--freeze_last_layer_epochs", type=int, default=1)\n'
        '    parser.add_argument("--clip_grad"',
    ),
    # The heads' last layers wait at rate 0.
    (
        "training/helpers.py",
        "    return {\n"
        '        "lr": CosineScheduler(args.lr, args.min_lr, total, args.warmup_epochs * args.epoch_length),\n',
        "    last_layer_lr = CosineScheduler(args.lr, args.min_lr, total, args.warmup_epochs * args.epoch_length)\n"
        "    last_layer_lr.schedule[: args.freeze_last_layer_epochs * args.epoch_length] = 0\n"
        "    return {\n"
        '        "last_layer_lr": last_layer_lr,\n'
        '        "lr": CosineScheduler(args.lr, args.min_lr, total, args.warmup_epochs * args.epoch_length),\n',
    ),
    (
        "training/trainer.py",
        '            param_group["lr"] = schedules["lr"][current_iteration] * param_group["lr_multiplier"]\n',
        '            which = "last_layer_lr" if param_group["is_last_layer"] else "lr"\n'
        '            param_group["lr"] = schedules[which][current_iteration] * param_group["lr_multiplier"]\n',
    ),
)

BY_HAND: dict[str, tuple[Patch, ...]] = {
    "0003": _0003,
    "0001": _0001,
    "0004": _0004,
    "0005": _0005,
    "0007": _0007,
}
"""Patches by the migration after which they are made, in order."""


def fill(fork: Path, migration: str) -> None:
    """Do a person's part of a migration.

    Args:
        fork: the folder of the fork.
        migration: id of the migration that was applied last.
    """
    for name, before, after in BY_HAND.get(migration, ()):
        path = fork / name
        text = path.read_text()
        count = text.count(before)
        assert count == 1, f"{name} holds {count} times, after {migration}:\n{before}"
        path.write_text(text.replace(before, after))
