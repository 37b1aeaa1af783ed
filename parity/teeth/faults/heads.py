"""Faults of heads, of what is drawn at first, and of what a finished backbone gives."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Edit

__all__ = ["FAULTS"]

_VIT = "port.models.vision_transformer:DinoVisionTransformer."
_HEAD = "port.models.dino_head:DINOHead."


def _head(id_: str, about: str, method: str, before: str, after: str, cause: str = "") -> Fault:
    return Fault(id_, about, (Edit(_HEAD + method, before, after),), ("modules.head[default]",), cause)


def _init(id_: str, about: str, target: str, before: str, after: str, cause: str, origin: str = "") -> Fault:
    return Fault(id_, about, (Edit(target, before, after),), ("modules.init[default]",), cause, origin)


FAULTS = (
    _head(
        "head-unnormalised",
        "no L2 normalisation",
        "forward",
        "functional.normalize(x, dim=-1, p=2, eps=eps)",
        "x * 1.0",
        r"port/models/dino_head\.py",
    ),
    _head(
        "head-eps",
        "half precision's eps for all",
        "forward",
        "else 1e-12",
        "else 1e-6",
        r"port/models/dino_head\.py:\d+ in forward|1e-06",
    ),
    _head("head-l1", "L1 normalisation", "forward", "p=2", "p=1"),
    Fault(
        "head-unscaled",
        "prototypes without their lengths",
        (
            Edit(
                "port.models.dino_head:WeightNormLinear.forward",
                "self.weight)",
                "functional.normalize(self.weight_v, dim=-1))",
            ),
        ),
        ("modules.head[default]",),
        r"port/models/dino_head\.py:\d+ in forward|weight_g",
    ),
    _init(
        "init-backbone",
        "linears drawn ten times as wide",
        f"{_VIT}init_weights",
        "trunc_normal_(module.weight, std=0.02)",
        "trunc_normal_(module.weight, std=0.2)",
        "backbone",
    ),
    _init(
        "init-head",
        "heads drawn ten times as wide",
        f"{_HEAD}__init__",
        "trunc_normal_(module.weight, std=0.02)",
        "trunc_normal_(module.weight, std=0.2)",
        "head",
        "head initialised with a spread of 0.2",
    ),
    _init(
        "init-layerscale",
        "LayerScale starts at 1",
        "port.models.layers:LayerScale.reset_parameters",
        "self.init_values",
        "1.0",
        r"ls[12]\.gamma",
        "LayerScale initialised with 1",
    ),
    _init(
        "init-positions",
        "positions start at zero",
        f"{_VIT}init_weights",
        "nn.init.trunc_normal_(self.pos_embed, std=0.02)",
        "pass",
        "pos_embed",
    ),
    Fault(
        "features-normed",
        "features of blocks are normed although that is not asked for",
        (Edit(f"{_VIT}get_intermediate_layers", "self.norm(x) if norm else x", "self.norm(x)"),),
        ("modules.features[default]",),
        r"vision_transformer\.py:\d+ in (get_intermediate_layers|<listcomp>)",
    ),
    Fault(
        "teacher-own-start",
        "the teacher starts from its own random values",
        (
            Edit(
                "port.student_teacher:StudentTeacher.synchronise_teacher",
                "self.teacher[key].load_state_dict(self.student[key].state_dict())",
                "pass",
            ),
        ),
        ("modules.start[default]",),
        "teacher is the student",
    ),
    Fault(
        "init-patches",
        "the patch projection is drawn as linears are",
        (
            Edit(
                "port.models.vision_transformer:DinoVisionTransformer.init_weights",
                "isinstance(module, nn.Linear)",
                "isinstance(module, (nn.Linear, nn.Conv2d))",
            ),
        ),
        ("modules.init[default]",),
        "patch_embed.proj",
    ),
)
