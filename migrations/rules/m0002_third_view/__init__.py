"""Migration 0002: two global views."""

from __future__ import annotations

from migrations.engine.model import Example, Migration
from migrations.rules.m0002_third_view.find import PREFILTER, find

__all__ = ["MIGRATION"]

MIGRATION = Migration(
    id="0002",
    title="a third global view",
    official="data/augmentations.py:96-118",
    why=(
        "Official makes two global views of an image and uses both twice: DINO compares their CLS tokens, iBOT "
        "predicts their masked patches. A view of its own for iBOT is cut, distorted, sent to the device and embedded "
        "on top, and it is drawn from another distribution than the views that DINO learns from. Once iBOT works on "
        "the two global views (migration 0001), the third is computed for nobody."
    ),
    algebra=(
        "Images per input: official 2 global + N local; fork 3 global + N local. With 224 and 96 pixels in patches of "
        "16 and N = 8: 2 * 197 + 8 * 37 = 690 tokens, and 197 more for the third view, 29 %."
    ),
    example=Example(
        before=(
            "crops = [self.global_1(x), self.global_2(x)]\n"
            "crops += [self.local(x) for _ in range(self.n_local_crops)]\n"
            "crops.append(self.global_3(x))\n"
        ),
        after=(
            "crops = [self.global_1(x), self.global_2(x)]\n"
            "crops += [self.local(x) for _ in range(self.n_local_crops)]\n"
        ),
    ),
    person=(
        "What reads the third view (`batch[-1]`) decides what to use instead: it blocks the removal and is named. "
        "The strengths of blur, solarisation and colour jitter, in which forks differ too, are not touched."
    ),
    checks=("collate.batch",),
    depends_on=("0001", "0004"),
    prefilter=PREFILTER,
    find=find,
)
