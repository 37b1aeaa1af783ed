"""What is measured: sizes, precision and device of a run, from command-line options, in one place.

Every arm is built from the configuration that `Settings.config` returns, so an option of `port` that is added there
reaches all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from parity.recipes import SMALL_ARCHITECTURES
from port.config import apply_scaling_rules, load_recipe
from port.kernels import KERNELS
from port.training.precision import choose_device, choose_precision

__all__ = ["ITERATION", "OPTIONS", "Settings", "architecture_name", "from_options"]

SHORT_NAMES = {"vits": "vit_small", "vitb": "vit_base", "vitl": "vit_large", "vitg": "vit_giant2"}
PRECISIONS = ("fp32", "bf16")
CLOCKS = ("wall", "cpu")
ITERATION = 20_000
"""The iteration whose schedules are used: past warm-up and the freezing of the last layer."""
OPTIONS: dict[str, dict[str, Any]] = {
    "arch": {"help": "backbone: vits, vitb, vitl, vitg, vit_demo, …"},
    "batch": {"type": int, "help": "images per step"},
    "precision": {"choices": PRECISIONS, "help": "precision of matrix products"},
    "kernels": {
        "choices": KERNELS,
        "help": "of port: fast (default, as in training), or official's order of operations",
    },
    "compile": {"action": "store_const", "const": True, "help": "compile port's blocks"},
    "prototypes": {"type": int, "help": "outputs of the head"},
    "local-crops": {"type": int, "help": "local crops per image"},
    "device": {"choices": ("auto", "cpu", "cuda"), "help": "where to run; default auto"},
    "clock": {"choices": CLOCKS, "help": "on a CPU: wall (default), or the seconds that the process itself used"},
    "rounds": {"type": int, "help": "timed iterations per arm and stage"},
    "reference": {"help": "official code: auto (default), github, pypi or a folder"},
    "figures": {"action": "store_const", "const": True, "help": "the sizes at which the required ratios are stated"},
}
"""What follows `--bench-` on a command line, with what argparse and pytest take of it."""


@dataclass(frozen=True)
class Settings:
    """One run's sizes.

    Attributes:
        arch: name of the backbone, as `student.arch`.
        batch: images per step.
        precision: fp32 or bf16 (autocast).
        kernels: of `port`, one of `port.kernels.KERNELS`; official's operations are official's.
        compile: whether the blocks of `port` are compiled; official's never are.
        prototypes: outputs of the head.
        local_crops: per image.
        device: cpu or cuda.
        clock: `wall`, or `cpu` for the process's own seconds; on CUDA, events are used whatever it says.
        rounds: timed iterations per arm and stage.
        threads: of torch on a CPU.
        reference: where official code comes from, as `parity.reference.open_reference` takes it.
        global_size: pixels of a side of a global crop.
        local_size: pixels of a side of a local crop.
    """

    arch: str = "vit_small"
    batch: int = 2
    precision: str = "fp32"
    kernels: str = "fast"
    compile: bool = False
    prototypes: int = 65_536
    local_crops: int = 8
    device: str = "cpu"
    clock: str = "wall"
    rounds: int = 3
    threads: int = 1
    reference: str = "auto"
    global_size: int = 224
    local_size: int = 96

    def config(self) -> DictConfig:
        """Return official's recipe `vitl16_short` at these sizes, with the learning rate scaled for one rank."""
        cfg = load_recipe(
            "vitl16_short",
            [
                f"student.arch={self.arch}",
                f"kernels={self.kernels}",
                f"dino.head_n_prototypes={self.prototypes}",
                f"crops.local_crops_number={self.local_crops}",
                f"crops.global_crops_size={self.global_size}",
                f"crops.local_crops_size={self.local_size}",
                f"train.batch_size_per_gpu={self.batch}",
                "compute_precision.grad_scaler=false",
                "evaluation.eval_period_iterations=0",
            ],
        )
        # Official code adds keys of its own, which a structured configuration would refuse.
        plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        assert isinstance(plain, DictConfig)
        return apply_scaling_rules(plain, self.batch)

    def small(self) -> Settings:
        """Return the sizes at which arms are checked against each other: same network, few images and prototypes."""
        small = min(self.prototypes, 1024)
        return replace(self, batch=2, local_crops=min(self.local_crops, 2), prototypes=small, compile=False)

    def header(self) -> str:
        """Return the line under which a run's figures stand; it says where a CPU measures less than a GPU would."""
        compiled = ", compiled" if self.compile else ""
        words = [
            f"{self.arch}, {self.batch} images, {self.local_crops} local crops, {self.prototypes:,} prototypes",
            f"{self.precision}, kernels {self.kernels}{compiled}, {self.rounds} rounds",
        ]
        if self.device == "cuda":
            return "; ".join([*words, f"{torch.cuda.get_device_name()}, timed by events"])
        seconds = "the process's own seconds" if self.clock == "cpu" else "wall-clock seconds"
        return "; ".join([*words, f"CPU, threads {self.threads}, {seconds}; sizes are small for want of a GPU"])


def architecture_name(name: str) -> str:
    """Return the full name of a backbone: `vits` is `vit_small`.

    Raises:
        ValueError: there is none of that name.
    """
    full = SHORT_NAMES.get(name, name)
    if full not in SMALL_ARCHITECTURES:
        known = (*SHORT_NAMES, *SMALL_ARCHITECTURES)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"--bench-arch is {name!r}, expected one of {', '.join(known)}{hint}")
    return full


def from_options(options: Mapping[str, Any]) -> Settings:
    """Return the settings of a run; None stands for the device's default.

    The defaults of a CPU suit two cores and minutes; those of CUDA suit one GPU. `figures` takes the sizes at which the
    required ratios are stated: ViT-S/16, 8 images, 8 local crops, 65,536 prototypes, fp32.

    Args:
        options: `device` (auto, cpu, cuda), `figures`, and the fields of `Settings` by name.

    Raises:
        ValueError: a value is not possible, or not on this machine.
    """
    device = choose_device(options.get("device") or "auto").type
    if device not in ("cpu", "cuda"):
        device = "cpu"
    defaults: dict[str, Any] = {"device": device, "threads": torch.get_num_threads()}
    if options.get("figures"):
        defaults |= {"batch": 8, "precision": "fp32"}
    elif device == "cuda":
        defaults |= {"arch": "vit_large", "batch": 32, "precision": choose_precision("auto", torch.device(device))}
    if device == "cuda":
        defaults["rounds"] = 20
    given = {key: value for key, value in options.items() if value is not None and key not in ("device", "figures")}
    settings = Settings(**{**defaults, **given})
    _check(settings)
    return replace(settings, arch=architecture_name(settings.arch))


def _check(settings: Settings) -> None:
    for name, least in {"batch": 2, "prototypes": 2, "local_crops": 1, "rounds": 1}.items():
        value = getattr(settings, name)
        if value < least:
            raise ValueError(f"--bench-{name.replace('_', '-')} is {value}, expected at least {least}")
    for name, allowed in {"precision": PRECISIONS, "kernels": KERNELS, "clock": CLOCKS}.items():
        value = getattr(settings, name)
        if value not in allowed:
            raise ValueError(f"--bench-{name} is {value!r}, expected {' or '.join(allowed)}")
