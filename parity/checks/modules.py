"""Family `modules`: backbone and heads, outputs and gradients of every parameter, and their initialisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from parity import states
from parity.checks.base import Check, Context, Observation
from parity.compare import exact, missing
from parity.errors import SubjectError
from parity.judge import Inputs, Judge
from parity.names import canonical, canonical_mapping
from parity.results import Comparison
from parity.seeding import seeded
from parity.stack import claims_bitwise, stack_name

__all__ = ["CHECKS", "generic_weights", "load_weights"]

_VIT = (
    "dinov2/models/vision_transformer.py:46-330",
    "dinov2/layers/block.py:89-316",
    "dinov2/layers/attention.py:82-99",
)
_OUTPUTS = ("x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens", "x_prenorm")
_SPREAD = 6.0
_PROJECTION = "projection"
_N_COEFFICIENTS = 10_007  # a prime, so that rows of an output do not repeat them


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], owner: str) -> None:
    """Copy weights into a module by canonical name.

    Raises:
        SubjectError: the module has a tensor that the weights lack, or of another shape.
    """
    with torch.no_grad():
        for name, target in [*module.named_parameters(), *module.named_buffers()]:
            source = weights.get(canonical(name))
            if source is None or source.shape != target.shape:
                found = "no tensor" if source is None else f"shape {tuple(source.shape)}"
                raise SubjectError(
                    f"{owner}: {name} has shape {tuple(target.shape)}, official has {found} under {canonical(name)!r}; "
                    "give official names and shapes, or rename in the adapter"
                )
            target.copy_(source)


def generic_weights(context: Context, prefix: str) -> dict[str, Tensor]:
    """Return the generic state of the recipe's student submodule, under 'weight NAME', names canonical."""
    config = _config(context)
    initial = context.reference.init_state(config, 0)
    state = canonical_mapping(states.generic_state(initial, 0), "official")
    start = f"student.{prefix}."
    return {f"weight {name.removeprefix(start)}": t for name, t in state.items() if name.startswith(start)}


def _config(context: Context) -> DictConfig:
    return context.required_recipe().config()


def _run_backbone(
    stack: Any, config: DictConfig, given: Inputs, *, training: bool, as_list: bool, seed: int
) -> dict[str, Tensor]:
    """Forward and backward of a backbone on the given crops; the loss is a fixed random projection."""
    crops = [given[name].clone().requires_grad_() for name in given if name.startswith("crop")]
    module = stack.build_backbone(config).to(crops[0].dtype).train(training)
    load_weights(module, {k.removeprefix("weight "): v for k, v in given.items()}, stack_name(stack))
    masks = [given.get("mask"), *[None] * (len(crops) - 1)]
    torch.manual_seed(seed)
    if as_list:
        outputs = module(crops, masks=masks, is_training=True)
    else:
        outputs = [module(crops[0], masks=masks[0], is_training=True)]
    found = {
        f"crop {i} {key}": out[key]
        for i, out in enumerate(outputs)
        for key in _OUTPUTS
        if out.get(key) is not None and out[key].numel()  # without registers, official may leave them out or empty
    }
    _project(found.values(), given[_PROJECTION]).backward()
    gradients = {f"gradient of {canonical(n)}": p.grad for n, p in module.named_parameters() if p.grad is not None}
    inputs = {f"gradient of crop {i}": c.grad for i, c in enumerate(crops) if c.grad is not None}
    return {**{k: v.detach() for k, v in found.items()}, **gradients, **inputs}


def _project(outputs: Iterable[Tensor], coefficients: Tensor) -> Tensor:
    """A random projection of all outputs, each starting at another coefficient.

    The coefficients are an input of the computation, so that the judge perturbs them: some gradients, the final
    norm's bias for one, are sums of them alone, and no other perturbation would show how far rounding moves these.
    """
    terms = []
    for i, out in enumerate(outputs):
        repeated = coefficients.roll(17 * i).repeat(-(-out.numel() // coefficients.numel()))
        terms.append((out * repeated[: out.numel()].view(out.shape)).mean())
    return torch.stack(terms).sum()


def _coefficients() -> dict[str, Tensor]:
    return {_PROJECTION: torch.randn(_N_COEFFICIENTS, generator=torch.Generator().manual_seed(0))}


def _backbone(context: Context) -> Iterator[Observation]:
    """Packed forward of masked globals and locals; single tensors in training and evaluation, any drop path."""
    config = _config(context)
    weights = generic_weights(context, "backbone")
    size, local, patch = config.crops.global_crops_size, config.crops.local_crops_size, config.student.patch_size
    side = size // patch
    mask = torch.rand(4, side * side, generator=torch.Generator().manual_seed(1)) < 0.4
    globals_, locals_ = states.images((4, 3, size, size), 1), states.images((6, 3, local, local), 2)
    oblong = states.images((2, 3, size - patch, size + 2 * patch), 3)
    # As many patches as the square grid in another shape: positions must be interpolated all the same.
    rows = next(rows for rows in range(side - 1, 0, -1) if side * side % rows == 0)
    reshaped = states.images((2, 3, rows * patch, side * side // rows * patch), 4)
    rate = config.student.drop_path_rate
    cases: Sequence[tuple[str, dict[str, Tensor], bool, bool, float]] = (
        ("packed, training", {"crop 0": globals_, "crop 1": locals_, "mask": mask}, True, True, rate),
        ("packed, evaluation", {"crop 0": globals_, "crop 1": locals_, "mask": mask}, False, True, rate),
        ("tensor, training", {"crop 0": globals_, "mask": mask}, True, False, rate),
        ("tensor, same count", {"crop 0": reshaped}, False, False, rate),
        ("tensor, drop path 0.05", {"crop 0": globals_}, True, False, 0.05),
        ("tensor, evaluation", {"crop 0": globals_}, False, False, rate),
        ("tensor, oblong", {"crop 0": oblong}, False, False, rate),
        ("tensor, one patch", {"crop 0": globals_[:, :, :patch, :patch].contiguous()}, False, False, rate),
    )
    for name, crops, training, as_list, drop in cases[:5] if context.quick else cases:
        config.student.drop_path_rate = drop

        def compute(stack: Any, given: Inputs, training: bool = training, as_list: bool = as_list) -> dict[str, Tensor]:
            return _run_backbone(stack, config, given, training=training, as_list=as_list, seed=5)

        yield from Judge(context.reference, context.subject, failed=context.failed, memory=context.memory)(
            f"backbone/{name}", compute, {**weights, **crops, **_coefficients()}
        )


def _head(context: Context) -> Iterator[Observation]:
    """Heads: outputs and gradients; also where the bottleneck is nearly zero, so that the eps of its norm decides."""
    config = _config(context)
    kinds = ("dino", "ibot") if config.ibot.separate_head and config.ibot.loss_weight > 0 else ("dino",)
    width = context.reference.build_backbone(config).embed_dim
    for kind in kinds:
        weights = generic_weights(context, f"{kind}_head")
        tiny = {k: t * (1e-9 if k.startswith("weight mlp.4") else 1.0) for k, t in weights.items()}
        for name, tensors in (("generic", weights), ("bottleneck near zero", tiny)):

            def compute(stack: Any, given: Inputs, kind: str = kind) -> dict[str, Tensor]:
                tokens = given["tokens"].clone().requires_grad_()
                module = stack.build_head(config, kind).to(tokens.dtype)
                load_weights(module, {k.removeprefix("weight "): v for k, v in given.items()}, stack_name(stack))
                logits = module(tokens)
                _project([logits], given[_PROJECTION]).backward()
                gradients = {
                    f"gradient of {canonical(n)}": p.grad for n, p in module.named_parameters() if p.grad is not None
                }
                assert tokens.grad is not None
                return {"logits": logits.detach(), "gradient of tokens": tokens.grad, **gradients}

            inputs = {**tensors, **_coefficients(), "tokens": states.logits(11, width, 3, scale=1.0)}
            yield from Judge(context.reference, context.subject, failed=context.failed, memory=context.memory)(
                f"head/{kind}/{name}", compute, inputs
            )


def _init(context: Context) -> Iterator[Observation]:
    """Names, shapes, dtypes and initial values of every parameter and buffer under the same seed."""
    config = _config(context)
    drawn = []
    for stack in (context.reference, context.subject):
        seeded(11)
        drawn.append(canonical_mapping(stack.init_state(config, 11), stack_name(stack)))
    reference, subject = drawn
    bitwise = claims_bitwise(context.subject)
    for name in [*reference, *(n for n in subject if n not in reference)]:
        if name not in reference or name not in subject:
            yield missing(f"init/{name}", in_subject=name in subject)
        elif bitwise or reference[name].shape != subject[name].shape or reference[name].dtype != subject[name].dtype:
            yield exact(f"init/{name}", reference[name], subject[name])
        else:
            yield _same_spread(f"init/{name}", reference[name], subject[name])


def _same_spread(name: str, reference: Tensor, subject: Tensor) -> Comparison:
    """Initial values drawn in another order: constants must agree, spreads must agree within their sampling error."""
    left, right = float(reference.double().std(correction=0)), float(subject.double().std(correction=0))
    if left == 0.0:
        return exact(name, reference, subject, note="a constant in official code")
    allowed = _SPREAD * left / reference.numel() ** 0.5
    return Comparison(
        name,
        "T1",
        abs(left - right) <= allowed,
        bitwise=bool(torch.equal(reference, subject)),
        error=abs(left - right),
        allowed=allowed,
        reference=f"{left:.6g}",
        subject=f"{right:.6g}",
        note="standard deviation at initialisation",
    )


CHECKS = (
    Check(
        "modules.init",
        "L2",
        "state-dict names, shapes, dtypes and initial values",
        ("dinov2/train/ssl_meta_arch.py:31-133", "dinov2/models/vision_transformer.py:173-178, 333-338"),
        ("init_state",),
        _init,
        recipes="all",
    ),
    Check(
        "modules.backbone",
        "L2",
        "patch embedding, positions, masks, blocks, drop path: outputs and every gradient",
        _VIT,
        ("build_backbone",),
        _backbone,
        recipes="all",
    ),
    Check(
        "modules.head",
        "L2",
        "projection heads: outputs and every gradient",
        ("dinov2/layers/dino_head.py:12-58",),
        ("build_head",),
        _head,
        recipes="main",
    ),
)
