"""Migration 0004: one clustering mode, the masked one."""

from __future__ import annotations

from migrations.engine.model import Example, Migration
from migrations.rules.m0004_clustering_modes.chains import PREFILTER
from migrations.rules.m0004_clustering_modes.find import find

__all__ = ["MIGRATION"]

MIGRATION = Migration(
    id="0004",
    title="clustering modes of a prototype loss",
    official="none: official code has no prototype loss",
    why=(
        "A loss over patch prototypes is an objective of the fork's own, so there is nothing official to be equal to. "
        "Of its three modes only the masked one asks what iBOT asks, to predict what is hidden: visible tokens are "
        "given to the student, and a forward pass of its own on unmasked images costs as much as the iBOT pass that "
        "migration 0001 removes. Each further mode is a branch that nobody trains and everybody reads."
    ),
    algebra=(
        "N tokens, M of them masked. masked: M terms, on tokens that iBOT has already computed. "
        "visible: N - M terms, all gradient on tokens that the student was shown. "
        "separate: N terms, and a further student and teacher forward pass per image."
    ),
    example=Example(
        before=(
            'if args.clustering_mode == "visible":\n'
            "    loss = patch_prototype_loss(teacher, student, ~masks)\n"
            'elif args.clustering_mode == "masked":\n'
            "    loss = patch_prototype_loss(teacher, student, masks)\n"
        ),
        after="loss = patch_prototype_loss(teacher, student, masks)\n",
    ),
    person=(
        "Experiments that ran with another mode cannot be repeated afterwards: keep a tag of the code before. "
        "Launchers and YAML files that set the flag must drop it before the parser does; checkpoints may hold it in "
        "their pickled arguments, where nothing reads it any more."
    ),
    checks=("prototype.support",),
    depends_on=(),
    prefilter=PREFILTER,
    find=find,
)
