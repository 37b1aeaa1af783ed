"""Wires the teacher's targets: Sinkhorn-Knopp assignments, and softmax centering with its centre."""

from __future__ import annotations

from collections.abc import Sequence

from parity.draft.definitions import Definition
from parity.draft.loss_calls import TYPED, UndecidedError, made_loss
from parity.draft.roles import Roles, UnboundError, bind
from parity.draft.wiring import Found, Gap, Wired, call_lines, imported, place

__all__ = ["wire_sinkhorn", "wire_softmax_center"]


def _of_both(found: Found, methods: Sequence[str]) -> tuple[Definition, Definition]:
    """Return the DINO and the iBOT loss, which must be classes with the given methods, the first with a temperature.

    Raises:
        UndecidedError: they are not.
    """
    pair = []
    for part in ("dino loss", "ibot loss"):
        loss = found.best(part)
        lacking = [m for m in methods if loss is None or m not in loss.methods()]
        if loss is None or lacking:
            owner = f"no {part} was found" if loss is None else f"{place(loss)} has no method {', '.join(lacking)}"
            raise UndecidedError(owner)
        if not any("temp" in p.name for p in loss.parameters(methods[0]) or ()):
            raise UndecidedError(f"{place(loss, methods[0])} takes no temperature")
        pair.append(loss)
    return pair[0], pair[1]


def _both_places(found: Found) -> tuple[str, ...]:
    return tuple(place(loss) for part in ("dino loss", "ibot loss") if (loss := found.best(part)) is not None)


def wire_sinkhorn(found: Found) -> Wired | Gap:
    """`sinkhorn`: the assignments of either loss."""
    roles: Roles = (
        (r".*temp(erature)?|epsilon|eps", "teacher_temp"),
        (r"n_masked.*_tensor|n_masked.*|num_masked.*", "torch.full((1,), teacher_output.shape[0], dtype=torch.long)"),
        (r"n_samples|n_tokens|n_rows", "teacher_output.shape[0]"),
    )
    lines: list[str] = []
    try:
        both = _of_both(found, ("sinkhorn_knopp_teacher",))
        for kind, loss in zip(("dino", "ibot"), both, strict=True):
            first, *rest = loss.parameters("sinkhorn_knopp_teacher") or ()
            arguments = [f"{first.name}=teacher_output", *bind(rest, roles)]
            begin = [imported(loss), f"loss = {made_loss(found, loss, 'teacher_output')}"]
            inner = [*begin, *call_lines("return loss.sinkhorn_knopp_teacher", arguments)]
            lines += [f'if kind == "{kind}":', *(f"    {line}" for line in inner)]
        sources = tuple(place(loss, "sinkhorn_knopp_teacher") for loss in both)
        return Wired((*lines, "raise ValueError(kind)"), sources, (), TYPED | {"torch"})
    except (UndecidedError, UnboundError, ValueError) as error:
        return _free_sinkhorn(found, roles, str(error))


def _free_sinkhorn(found: Found, roles: Roles, reason: str) -> Wired | Gap:
    """A function for both losses, where the losses have no method of their own."""
    function = found.best("sinkhorn")
    parameters = (function.parameters() if function else None) or ()
    if function is None or not parameters:
        return Gap(reason, _both_places(found))
    try:
        arguments = [f"{parameters[0].name}=teacher_output", *bind(parameters[1:], roles)]
    except UnboundError as error:
        return Gap(f"{reason}; {place(function)}: {error}", (place(function),))
    return Wired(
        (imported(function), *call_lines(f"return {function.name}", arguments)),
        (place(function),),
        (f"one function for both kinds: {reason}",),
        frozenset({"torch"}),
    )


def wire_softmax_center(found: Found) -> Wired | Gap:
    """`softmax_center`: targets, centre updates, and the centre with the pending update applied."""
    lines = []
    try:
        both = _of_both(found, ("softmax_center_teacher", "update_center", "apply_center_update"))
        for kind, loss in zip(("dino", "ibot"), both, strict=True):
            made = f"    loss = {made_loss(found, loss, 'teacher_outputs[0]')}"
            lines += [f'if kind == "{kind}":', f"    {imported(loss)}", made]
    except UndecidedError as error:
        return Gap(str(error), _both_places(found))
    sources = tuple(place(loss, "softmax_center_teacher") for loss in both)
    body = (*lines, "return centered(loss, teacher_outputs, teacher_temp)")
    return Wired(body, sources, (), TYPED | {"centered"})
