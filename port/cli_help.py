"""What `python port/train.py --help` says."""

from __future__ import annotations

import textwrap

from port.config_docs import summarize_keys

__all__ = ["DESCRIPTION", "EXAMPLES", "epilog", "keys_by_section"]

DESCRIPTION = """\
Trains DINOv2 as official code does, on anything from one CPU to many GPUs.

Without an argument it runs the demonstration: a small ViT on tiles of the photographs that scikit-image ships, in
less than three minutes on two CPU cores, results in output/demo. With train.dataset_path=FOLDER and no configuration
file the demonstration's small model trains on your images instead, results in output/NAME-OF-THE-FOLDER.
"""

EXAMPLES = (
    ("python port/train.py", "the demonstration"),
    ("python port/train.py train.dataset_path=/my/images", "the same small model on a folder of images"),
    (
        "python port/train.py --config-file vitl16_short --output-dir runs/large train.dataset_path=/my/images "
        "train.batch_size_per_gpu=16 accumulation_steps=8",
        "official's ViT-L/16 on one GPU, 128 images per step",
    ),
    (
        "torchrun --nproc-per-node=8 port/train.py --config-file vitl16_short --output-dir runs/large",
        "data-parallel on eight GPUs",
    ),
    (
        "torchrun --nproc-per-node=8 port/train.py --config-file vitg14 --output-dir runs/giant parallel=fsdp",
        "parameters sharded with FSDP2",
    ),
    (
        "python port/train.py --config-file vitl14 --print-config > mine.yaml",
        "a file to edit, with every key explained, for --config-file mine.yaml",
    ),
    (
        "python port/train.py --config-file vitl14 --output-dir runs/mine",
        "given again after a kill it resumes, on a CPU bit for bit; --no-resume starts anew",
    ),
    (
        "python port/train.py --config-file vitl14 --output-dir runs/new student.arch=vit_small student.ffn_layer=mlp "
        "student.pretrained_weights=dinov2_vits14_pretrain.pth finetune.freeze_backbone_iterations=500",
        "continue from released weights; the new heads learn alone for 500 iterations",
    ),
    (
        "python port/train.py --config-file vitl14 --output-dir runs/mine --eval-only",
        "evaluate and export the teacher of the newest checkpoint",
    ),
)
"""Commands, and what each does."""

_AFTER_EXAMPLES = """\
configuration: official's defaults, then the YAML file, then key=value; later ones win. Values are YAML:
  optim.epochs=10   ibot.mask_ratio_min_max=[0.1,0.5]   crops.local_crops_number=0   optim.base_lr=5e-4
  An unknown key or a value of the wrong type is an error. These names are understood too, as --name VALUE,
  name=VALUE and in YAML: mask_ratio_min, mask_ratio_max, mask_sample_probability, use_prototype_clustering.

results, in --output-dir: config.yaml (the merged configuration), training_metrics.json (a line per iteration),
  tensorboard/, checkpoints/, bad_files.jsonl (images that could not be read), evaluations and pictures.
  `python -m port.export DIR --to transformers --out FOLDER` makes a model of the newest checkpoint (or hub, timm).

exit codes:
  0   done
  1   training failed, for example by a loss that is not finite
  2   could not do the job: arguments, configuration, data, output folder
  75  stopped on request (SIGTERM, SIGUSR1, Ctrl-C) after the step and saving; the same command continues
  Under torchrun the launcher's own exit code is 1 for all but the first.
"""


def epilog() -> str:
    """Return what follows the options: examples, configuration, results, exit codes, keys."""
    lines = ["examples:"]
    for command, meaning in EXAMPLES:
        lines += [f"  # {meaning}", *_wrapped_command(command)]
    return "\n".join([*lines, "", _AFTER_EXAMPLES, keys_by_section()])


def _wrapped_command(command: str) -> list[str]:
    """Return the lines of a command, continued as a shell continues them."""
    lines = textwrap.wrap(command, 100, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def keys_by_section() -> str:
    """Return the names of all keys, section by section, subsections shortened."""
    lines = ["keys by section (--help-config SECTION says more):"]
    for section, _, keys in summarize_keys():
        subsections = dict.fromkeys(f"{key.partition('.')[0]}.…" for key in keys if "." in key)
        named = ", ".join([*(key for key in keys if "." not in key), *subsections])
        lines.append(textwrap.fill(f"{section}: {named}", 110, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(lines) + "\n"
