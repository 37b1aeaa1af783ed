"""Difference 5: every row of masks weighs the same in losses over masked tokens."""

from __future__ import annotations

import re

from migrations.engine.model import Example, Finding, Level, Migration, State
from migrations.engine.project import Project
from migrations.flow.calls import Calls
from migrations.rules.m0005_normalisation.evaluate import Evaluator
from migrations.rules.m0005_normalisation.rewrite import Mending, mend
from migrations.rules.m0005_normalisation.sites import judge, reductions

__all__ = ["MIGRATION", "find"]

_PREFILTER = re.compile(
    rb"log_softmax|logsoftmax|kl_div|[^_]cross_entropy\(|masks_weight|\A(?=.*mask)(?=.*(?:teacher|ibot))",
    re.IGNORECASE | re.DOTALL,
)
"""Losses, and the training code that may call them."""


def find(project: Project) -> list[Finding]:
    """Return every place where a loss over masked tokens is divided."""
    files = list(project.matching(_PREFILTER))
    run = Evaluator(Calls(project, files))
    found = []
    for file in files:
        for one in reductions(run, file):
            state, evidence = judge(one)
            done = mend(run, one) if state in (State.DIVERGED, State.PARTIAL) else Mending()
            found.append(Finding("0005", state, evidence, file.site(one.node), done.level, done.edits, done.person))
    if found:
        return found
    looked = "no cross-entropy of masked tokens against a teacher's probabilities was found that is averaged or divided"
    return [Finding("0005", State.UNKNOWN, looked, level=Level.MANUAL)]


MIGRATION = Migration(
    id="0005",
    title="Per-sample normalisation of losses over masked tokens",
    official="loss/ibot_patch_loss.py:116-126 and data/collate.py:39",
    why=(
        "Rows are masked between 10 and 50 percent, so dividing by the masked tokens of the whole batch lets a row "
        "count by how much of it happens to be hidden. The gradient then comes mostly from the rows whose task is "
        "hardest, and the loss moves with the ratios that a batch drew. The iBOT loss and any clustering loss on the "
        "same tokens need the same rule."
    ),
    algebra=(
        "official:  1/R * sum over rows i of 1/M_i * sum over the masked tokens t of row i of l_t, R = 2B rows, "
        "unmasked rows included\n"
        "by tokens: 1/(M_1 + ... + M_R) * sum of all l_t\n"
        "98, 59 and 20 masked tokens: shares of 55, 33 and 11 % by tokens, 33 % each by rows\n"
        "weights 1/M_i and then a mean over the tokens: official's value times R / (M_1 + ... + M_R), "
        "1/78 where each of the rows has 78 masked tokens"
    ),
    example=Example(
        before="loss = per_token.sum() / per_token.shape[0]",
        after=(
            "masks_weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]\n"
            "loss = (per_token * masks_weight).sum() / masks.shape[0]"
        ),
    ),
    person=(
        "Where the loss does not see the mask, pass it (or collate's masks_weight and the number of rows). The rows "
        "must be all global crops, 2B. The value changes its scale, so a loss weight tuned for the old one is looked "
        "at again."
    ),
    checks=("losses.ibot", "prototype.definition"),
    depends_on=("0003", "0001", "0004"),
    prefilter=_PREFILTER,
    find=find,
)
