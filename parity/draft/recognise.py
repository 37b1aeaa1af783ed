"""Which definitions of a fork play a part that parity knows, by name, methods and parameters, best first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parity.draft.definitions import Definition, Project
from parity.stack import CAPABILITIES

__all__ = ["PARTS", "Candidate", "Part", "is_adapter", "recognise"]

_NAMED_OFFICIALLY = 100
_NAMED_ALIKE = 40
_METHOD = 12
_PARAMETER = 6
_OWN = 30
_ASIDE = 25
_ENOUGH = 24
_ADAPTER = 4


@dataclass(frozen=True)
class Part:
    """What a definition that plays this part looks like.

    Attributes:
        official: official's name.
        alike: pattern searched in the name, in lower case.
        unlike: pattern that excludes a name.
        methods: methods that speak for it; with two of them a class needs no telling name.
        parameters: parameters of the constructor, the call or the function that speak for it.
        kind: `class`, `function` or either.
        masks: whether it must (true) or must not (false) take masks, where its name alone does not tell.
    """

    official: str
    alike: str
    unlike: str = r"(?!)"
    methods: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    kind: str = ""
    masks: bool | None = None


_ELSEWHERE = frozenset(
    ("eval", "evaluation", "run", "hub", "scripts", "analysis", "tools", "legacy", "old", "thirdparty", "third_party")
)
"""Folders in which a fork keeps other things than its training."""

_CENTERED = ("softmax_center_teacher", "sinkhorn_knopp_teacher", "update_center", "apply_center_update", "forward")

PARTS: dict[str, Part] = {
    "dino loss": Part(
        "DINOLoss", r"dino.*(loss|criterion)|(cls|class)_?token.*loss", r"ibot|patch|koleo|proto|cluster|build|meta",
        _CENTERED, ("student_output_list", "teacher_out_softmaxed_centered_list"), masks=False,
    ),
    "ibot loss": Part(
        "iBOTPatchLoss", r"ibot.*(loss|criterion)|(masked|patch).*loss", r"koleo|proto|cluster|build|contrast",
        (*_CENTERED, "forward_masked"), ("student_masks_flat", "masks_weight", "token_masks"), masks=True,
    ),
    "koleo loss": Part(
        "KoLeoLoss", r"ko_?leo", r"build|weight|attribute", ("pairwise_NNs_inner",),
    ),
    "sinkhorn": Part(
        "sinkhorn_knopp", r"sinkhorn", r"log_|attribute", (), ("teacher_temp", "temperature", "epsilon"), "function",
    ),
    "mask generator": Part(
        "MaskingGenerator", r"mask\w*gen|gen\w*mask|block_?mask|draw\w*mask|random\w*mask|make_mask",
        r"attention|causal|attn|loss", ("get_shape", "_mask", "__call__"), ("num_masking_patches", "max_num_patches"),
    ),
    "collate": Part(
        "collate_data_and_cast", r"collate", r"image_classification", (),
        ("mask_generator", "samples_list", "n_tokens"), "function",
    ),
    "head": Part(
        "DINOHead", r"dino\w*head|projection_?head", r"loss|linear|shared", ("_init_weights",),
        ("in_dim", "out_dim", "bottleneck_dim", "nlayers", "hidden_dim"), "class",
    ),
    "vision transformer": Part(
        "DinoVisionTransformer", r"vision_?transformer|^vit", r"loss|config",
        ("prepare_tokens_with_masks", "interpolate_pos_encoding", "forward_features_list"),
        ("embed_dim", "num_heads", "patch_size", "depth", "block_chunks"), "class",
    ),
    "schedules": Part(
        "build_schedulers", r"(build|make|get|create)\w*sched", r"^apply", (), (), "function",
    ),
    "learning rate scaling": Part("apply_scaling_rules_to_cfg", r"apply\w*scaling\w*rule", kind="function"),
    "parameter groups": Part(
        "get_params_groups_with_decay", r"param\w*groups", r"fuse", (), ("lr_decay_rate", "patch_embed_lr_mult"),
        "function",
    ),
    "optimizer": Part("build_optimizer", r"(build|make|get|create)\w*optim", kind="function"),
    "scheduler of groups": Part("apply_optim_scheduler", r"apply\w*sched", kind="function"),
    "model": Part(
        "SSLMetaArch", r"ssl_?meta|meta_?arch", r"loss|config",
        ("forward_backward", "get_params_groups", "update_teacher", "prepare_for_distributed_training"), (), "class",
    ),
    "training loop": Part("do_train", r"do_train|train_(one_)?epoch|train(ing)?_step", kind="function"),
    "augmentation": Part("DataAugmentationDINO", r"augmentation|transforms?$", r"loss|make_|build", kind="class"),
    "flags": Part("get_args_parser", r"(get|build|make)\w*(args|arg)\w*(parser)?|get_parser", kind="function"),
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A definition that may play a part, how well it fits, and by what."""

    definition: Definition
    score: int
    reason: str


def is_adapter(definitions: Sequence[Definition]) -> bool:
    """Return whether a module's definitions are those of an adapter for parity: capabilities under their names."""
    return sum(not d.is_class and d.name in CAPABILITIES for d in definitions) >= _ADAPTER


def recognise(project: Project) -> tuple[dict[str, list[Candidate]], list[str]]:
    """Return the candidates of every part, best first, and the adapter files of the fork, which are left out."""
    by_module: dict[str, list[Definition]] = {}
    for definition in project.definitions():
        by_module.setdefault(definition.module.shown, []).append(definition)
    adapters = [shown for shown, found in by_module.items() if is_adapter([d for d in found if d.home is d.module])]
    known = [d for shown, found in by_module.items() if shown not in adapters for d in found]
    return {name: _candidates(part, known) for name, part in PARTS.items()}, adapters


def _candidates(part: Part, known: Sequence[Definition]) -> list[Candidate]:
    found: dict[int, Candidate] = {}
    for definition in known:
        score, reason = _score(part, definition)
        before = found.get(id(definition.node))
        # One definition under several names (a package that re-exports it) is one candidate, where it is defined.
        if score >= _ENOUGH and (before is None or score > before.score):
            found[id(definition.node)] = Candidate(definition, score, reason)
    ordered = sorted(found.values(), key=lambda c: (-c.score, c.definition.module.shown, c.definition.line))
    # What the fork derives from a library's class is what it trains with, not the library's.
    related = [base for candidate in ordered for base in _ancestors(candidate.definition)]
    bases = {id(base.node) for base in related if not base.home.own}
    return sorted(ordered, key=lambda c: id(c.definition.node) in bases)


def _ancestors(definition: Definition) -> Iterator[Definition]:
    for base in definition.bases:
        yield base
        yield from _ancestors(base)


def _score(part: Part, definition: Definition) -> tuple[int, str]:
    kind = "class" if definition.is_class else "function"
    name = definition.name
    if part.kind not in ("", kind) or (re.search(part.unlike, name.lower()) and name != part.official):
        return 0, ""
    # What a name is imported under tells less than what it is called where it is defined.
    original = getattr(definition.node, "name", name)
    score, reasons = 0, []
    if part.official in (name, original):
        score, reasons = _NAMED_OFFICIALLY, ["official's name"]
    elif name.lower() == part.official.lower():
        score, reasons = _NAMED_OFFICIALLY - 5, ["official's name but for case"]
    elif re.search(part.alike, name.lower()):
        score, reasons = _NAMED_ALIKE, ["its name"]
    methods = [m for m in part.methods if m in definition.methods() and m not in ("forward", "__call__")]
    given = {p.name for m in ("", "forward", "__call__") for p in definition.parameters(m) or ()}
    parameters = [p for p in part.parameters if p in given]
    masks = "forward_masked" in definition.methods() or any(re.search(r"mask", p) for p in given)
    if part.masks is not None and part.masks is not masks and (masks or not score):
        return 0, ""
    if not score and len(methods) + len(parameters) < (2 if methods else 3):
        return 0, ""
    score += _METHOD * len(methods) + _PARAMETER * len(parameters)
    reasons += [f"methods {', '.join(methods)}"] if methods else []
    reasons += [f"parameters {', '.join(parameters)}"] if parameters else []
    score -= _ASIDE * bool(_ELSEWHERE & set(definition.module.shown.split("/")))
    return score + (_OWN if definition.home.own else 0), "; ".join(reasons)
