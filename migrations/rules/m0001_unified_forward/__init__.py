"""Migration 0001: one student call per step, with masks on the global crops."""

from __future__ import annotations

from migrations.engine.model import Example, Migration
from migrations.rules.m0001_unified_forward.calls import PREFILTER
from migrations.rules.m0001_unified_forward.find import find

__all__ = ["MIGRATION"]

MIGRATION = Migration(
    id="0001",
    title="separate forward passes for DINO and iBOT",
    official="train/ssl_meta_arch.py:160, 235-237",
    why=(
        "Official passes the two global crops through the student once, with masks, and takes both losses from that "
        "pass: the CLS tokens that DINO trains have seen masked images. A fork that runs DINO on unmasked crops and "
        "iBOT in a call of its own trains another objective, and pays for a further student and teacher pass per step. "
        "Splitting the same crops over two calls, as iBOT did, is the same objective."
    ),
    algebra=(
        "Global crops through the student per image: official 2, the fork 3; through the teacher 2 and 3. "
        "Official's DINO term is H(teacher(g), student(mask(g))), the fork's H(teacher(g), student(g))."
    ),
    example=Example(
        before=('student_output = student(all_crops)\npatches = student(third_view, token_masks=masks, mode="ibot")\n'),
        after="student_output = student(all_crops, token_masks=[*masks.chunk(2), *[None] * n_local])\n",
    ),
    person=(
        "Losses, heads and the wrapping for several processes: where patch tokens come from, on which tokens the patch "
        "head runs, how many rows the masks have, and that heads are called through the wrapped module. The rewrite "
        "leaves `# TODO[parity 0001]` at each."
    ),
    checks=("gradients.step",),
    depends_on=("0003",),
    prefilter=PREFILTER,
    find=find,
)
