"""What one step of official training feeds to its networks and losses, logs, and clips."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from parity.adapters.official import OfficialStack
from parity.adapters.official_step import files_replaced
from parity.quirks.evidence.tools import Observation, raised, small_batch, small_config, small_model
from parity.quirks.sources import tree
from parity.recipes import SMALL_ARCHITECTURES
from parity.reference import Reference

__all__ = ["clipping", "koleo_inputs", "late_nan", "logged_losses", "masked_student", "swapped_halves"]

_TEMPERATURE = 0.07


class _Watched:
    """One `forward_backward` of a small official model, and what its parts were called with.

    Attributes:
        model: official `SSLMetaArch`.
        calls: positional and keyword arguments of each call, by the part's name.
        outputs: what each call returned.
        displayed: the losses that official logs.
        optimised: the sum that official differentiates.
    """

    def __init__(self, reference: Reference, **changes: Any) -> None:
        config = small_config(**changes)
        self.model = small_model(reference, config)
        self.model.train()
        self.calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self.outputs: dict[str, list[Any]] = {}
        for name in ("student.backbone", "teacher.backbone", "teacher.dino_head", "dino_loss", "koleo_loss"):
            self._watch(name)
        sums: list[float] = []
        differentiate = self.model.backprop_loss

        def backprop_loss(loss: Tensor) -> None:
            sums.append(float(loss.detach()))
            differentiate(loss)

        self.model.backprop_loss = backprop_loss
        losses = self.model.forward_backward(small_batch(reference, config), teacher_temp=_TEMPERATURE)
        self.displayed = {name: float(value.detach()) for name, value in losses.items()}
        self.optimised = sums[-1]

    def _watch(self, name: str) -> None:
        part: nn.Module = self.model.get_submodule(name)
        calls, outputs = self.calls.setdefault(name, []), self.outputs.setdefault(name, [])

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.append((args, kwargs))
            outputs.append(output)

        part.register_forward_hook(note, with_kwargs=True)


def koleo_inputs(reference: Reference) -> Observation:
    """Compare what KoLeo is given with the backbone's CLS tokens, and look for collectives in its file."""
    step = _Watched(reference)
    tokens = step.outputs["student.backbone"][0][0]["x_norm_clstoken"].chunk(2)
    given = [args[0] for args, _ in step.calls["koleo_loss"]]
    same = len(given) == 2 and all(torch.equal(a, b) for a, b in zip(given, tokens, strict=True))
    names = {node.id for node in ast.walk(tree(reference, "loss/koleo_loss.py")) if isinstance(node, ast.Name)}
    alone = not names & {"dist", "distributed"}
    where = "the CLS tokens of one global crop each, before the head" if same else "other features"
    return Observation(
        same and alone, f"called {len(given)} times, with {where}; {'no' if alone else 'a'} collective in its file"
    )


def logged_losses(reference: Reference) -> Observation:
    """Take a step with DINO weighted by 0.5 and iBOT by 0.25, and compare what is logged with what is optimised."""
    step = _Watched(reference, dino__loss_weight=0.5, ibot__loss_weight=0.25)
    shown = step.displayed
    dino = shown["dino_local_crops_loss"] + shown["dino_global_crops_loss"]
    expected = 0.5 * dino + 2 * shown["koleo_loss"] + 0.25 * 2 * shown["ibot_loss"]
    confirmed = math.isclose(step.optimised, expected, rel_tol=1e-5)
    confirmed &= not math.isclose(step.optimised, sum(shown.values()), rel_tol=1e-2)
    relation = "=" if confirmed else "where"
    seen = (
        f"logged {sum(shown.values()):.3f}, optimised {step.optimised:.3f} {relation} "
        f"0.5 DINO + 2 KoLeo + 0.25 * 2 iBOT = {expected:.3f}"
    )
    return Observation(confirmed, seen)


def masked_student(reference: Reference) -> Observation:
    """See which networks are given masks with the global crops."""
    step = _Watched(reference)
    counts = {
        name: sum(int(mask.sum()) for _, kwargs in step.calls[name] for mask in _given_masks(kwargs))
        for name in ("student.backbone", "teacher.backbone")
    }
    n_forwards = len(step.calls["student.backbone"])
    seen = f"{n_forwards} call of the student, " if n_forwards == 1 else f"{n_forwards} calls of the student, "
    seen += f"{counts['student.backbone']} patches masked; the teacher sees {counts['teacher.backbone']} masked"
    return Observation(counts["student.backbone"] > 0 and counts["teacher.backbone"] == 0 and n_forwards == 1, seen)


def _given_masks(kwargs: dict[str, Any]) -> Iterator[Tensor]:
    masks = kwargs.get("masks")
    yield from (mask for mask in (masks if isinstance(masks, list) else [masks]) if isinstance(mask, Tensor))


def swapped_halves(reference: Reference) -> Observation:
    """Compare the teacher's CLS tokens with what its head is given, and count the global term's pairs."""
    step = _Watched(reference)
    first, second = step.outputs["teacher.backbone"][0]["x_norm_clstoken"].chunk(2)
    given = step.calls["teacher.dino_head"][0][0][0][: 2 * len(first)]
    swapped = torch.equal(given, torch.cat((second, first))) and not torch.equal(first, second)
    kwargs = step.calls["dino_loss"][-1][1]
    students, teachers = (len(list(value)) for value in kwargs.values())
    order = "the second view's tokens first" if swapped else "the tokens in another order"
    return Observation(
        swapped and students == teachers == 1,
        f"the head is given {order}; {students * teachers} pair in the global term",
    )


def clipping(reference: Reference) -> Observation:
    """Run official `do_train` for one iteration with clip_grad 0.001, and take the norms of what is stepped with."""
    config = small_config(optim__clip_grad=0.001, ibot__separate_head=True)
    stack = OfficialStack(reference, SMALL_ARCHITECTURES)
    batch = small_batch(reference, config)
    step = stack.training_step(config, stack.init_state(config, 0), batch, 25, 0)
    squares: dict[str, float] = {}
    for name, gradient in step["clipped_gradients"].items():
        part = name.removeprefix("student.").split(".")[0]
        squares[part] = squares.get(part, 0.0) + float(gradient.square().sum())
    norms = {part: math.sqrt(square) for part, square in squares.items()}
    confirmed = len(norms) == 3 and all(math.isclose(norm, 0.001, rel_tol=0.02) for norm in norms.values())
    return Observation(confirmed, "norms after clip_grad 0.001: " + ", ".join(f"{k} {v:.3g}" for k, v in norms.items()))


def late_nan(reference: Reference) -> Observation:
    """Run official `do_train` on a batch with a NaN, and look at the weights when it has given up."""
    config = small_config(optim__lr=0.001)
    model = small_model(reference, config)
    batch = small_batch(reference, config)
    batch["collated_global_crops"][0, 0, 0, 0] = math.nan
    train = reference.module("train.train")
    with files_replaced(reference, config, lambda **_: iter([batch]), start=0, on_optimizer=lambda _: None):
        error = raised(lambda: train.do_train(config, model, resume=True), AssertionError)
    spoilt = {
        name: any(not bool(p.isfinite().all()) for p in network.parameters())
        for name, network in (("student", model.student), ("teacher", model.teacher))
    }
    words = ", ".join(f"{name} {'NaN' if bad else 'finite'}" for name, bad in spoilt.items())
    stopped = "does not stop" if error is None else f"stops with {type(error).__name__}"
    return Observation(error is not None and all(spoilt.values()), f"{stopped}; {words} by then")
