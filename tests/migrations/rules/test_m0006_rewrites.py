from __future__ import annotations

import pytest
import torch
from miniature import apply_and_check, find, only, project, run
from six_groups import BUILDER, LOOP, MENDED, Student, decays, trained

from migrations.engine.model import Level, State
from migrations.engine.registry import migration

M0006 = migration("0006")


def test_the_heads_follow_the_schedule() -> None:
    """Of six groups the first, third and fifth get 0.4, the others stay at 0, as `wd * wd_multiplier` gives."""
    before = run(project(BUILDER + LOOP))
    assert trained(before, 0.4) == [0.4, 0.0, 0.01, 0.0, 0.01, 0.0]
    after = run(apply_and_check(M0006, BUILDER + LOOP, BUILDER + MENDED))
    assert trained(after, 0.4) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


def test_the_evidence_is_a_count() -> None:
    """The finding says how many of the decayed groups follow, which do not, and what they keep."""
    finding = only(M0006, BUILDER + LOOP)
    assert (finding.state, finding.level) == (State.DIVERGED, Level.SAFE)
    assert finding.evidence == "1 of 3 decayed groups gets the schedule; groups 2 and 4 do not and stay at 0.01"
    assert finding.site is not None
    assert (BUILDER + LOOP).splitlines()[finding.site.line - 1].strip() == 'group["weight_decay"] = wd_schedule[it]'


def test_a_schedule_may_pass_through_zero() -> None:
    """A schedule 0, 0.1, 0, 0.2 is followed to its end: a group that stands at 0 is not taken for a spared one."""
    names = run(apply_and_check(M0006, BUILDER + LOOP, BUILDER + MENDED))
    optimizer = names["build_optimizer"](Student())
    names["build_optimizer"] = lambda student: optimizer
    seen = [decays(names["train"](None, [1.0] * 4, [0.0, 0.1, 0.0, 0.2], it))[:3] for it in range(4)]
    assert seen == [[0.0, 0.0, 0.0], [0.1, 0.0, 0.1], [0.0, 0.0, 0.0], [0.2, 0.0, 0.2]]


def test_an_old_checkpoint_is_resumed() -> None:
    """Groups that a checkpoint from before the change puts in place are told apart by their weight decay."""
    old = run(project(BUILDER + LOOP))["train"](Student(), [1e-3], [0.3], 0)
    names = run(apply_and_check(M0006, BUILDER + LOOP, BUILDER + MENDED))
    optimizer = names["build_optimizer"](Student())
    optimizer.load_state_dict(old.state_dict())
    names["build_optimizer"] = lambda student: optimizer
    assert decays(names["train"](None, [1.0], [0.4], 0)) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


def test_a_new_checkpoint_saved_at_zero_is_resumed() -> None:
    """The mark is part of the checkpoint, so that a run saved while the schedule stood at 0 goes on."""
    names = run(apply_and_check(M0006, BUILDER + LOOP, BUILDER + MENDED))
    saved = names["train"](Student(), [1.0], [0.0], 0).state_dict()
    optimizer = names["build_optimizer"](Student())
    optimizer.load_state_dict(saved)
    names["build_optimizer"] = lambda student: optimizer
    assert decays(names["train"](None, [1.0], [0.4], 0)) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


def test_groups_with_multipliers_of_their_own_are_right_afterwards() -> None:
    """Layer-wise groups carry `wd_multiplier`, and the mended loop reads it instead of the position."""
    names = run(apply_and_check(M0006, BUILDER + LOOP, BUILDER + MENDED))
    model = torch.nn.Linear(2, 2)
    groups = [{"params": [p], "wd_multiplier": m} for p, m in zip(model.parameters(), (0.0, 1.0), strict=True)]
    names["build_optimizer"] = lambda student: torch.optim.AdamW(groups)
    assert trained(names, 0.4) == [0.0, 0.4]


def test_an_optimizer_that_starts_without_decay_is_told_apart_by_number() -> None:
    """SGD's groups all start at 0, so the proven numbers are written; a schedule reaches groups 0, 2 and 4."""
    before = (
        (BUILDER + LOOP).replace("AdamW(", "SGD(").replace("        ]\n    )", "        ],\n        lr=0.1,\n    )")
    )
    mark = '"wd_multiplier", float(i in (0, 2, 4))'
    after = before.replace(LOOP, MENDED.replace('"wd_multiplier", float(group["weight_decay"] != 0)', mark))
    names = run(apply_and_check(M0006, before, after))
    assert trained(names, 0.4) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


def test_a_schedule_given_a_zero_is_told_apart_by_number() -> None:
    """Where the schedule's own start is a literal 0, an old checkpoint may hold it: position, not value, decides."""
    cosine = "    wd_schedule = cosine(0, 0.4, 100)\n    optimizer ="
    define = "def cosine(start, end, steps):\n    return [end]\n\n\n"
    before = define + BUILDER + LOOP.replace("    optimizer =", cosine)
    mended = MENDED.replace('float(group["weight_decay"] != 0)', "float(i in (0, 2, 4))")
    after = define + BUILDER + mended.replace("    optimizer =", cosine)
    apply_and_check(M0006, before, after)


def test_groups_that_say_themselves_are_read() -> None:
    """Every group has a `wd_multiplier` that the loop ignores: the loop then multiplies, without a mark."""
    builder = BUILDER.replace(
        '{"params": regularized}, {"params": not_regularized, "weight_decay": 0.0}',
        '{"params": regularized, "wd_multiplier": 1.0}, {"params": not_regularized, "wd_multiplier": 0.0}',
    )
    mended = LOOP.replace(
        '        if i == 0:\n            group["weight_decay"] = wd_schedule[it]',
        "        # Each group says itself whether it is decayed.\n"
        '        group["weight_decay"] = wd_schedule[it] * group["wd_multiplier"]',
    )  # fmt: skip
    names = run(apply_and_check(M0006, builder + LOOP, builder + mended))
    assert trained(names, 0.4) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


def test_files_and_a_function_between() -> None:
    """Builder, optimizer and loop stand in three files, the loop gets the optimizer by position."""
    main = """
from training.helpers import build_optimizer as make
from training.trainer import train_one_epoch


def main(student):
    optimizer_student = make(student)
    train_one_epoch(student, optimizer_student, [0.4], 0)
"""
    trainer = """
def train_one_epoch(student, opt, wd_schedule, it):
    for i, param_group in enumerate(opt.param_groups):
        if i == 0:
            param_group["weight_decay"] = wd_schedule[it]
"""
    mended = """
def train_one_epoch(student, opt, wd_schedule, it):
    for i, param_group in enumerate(opt.param_groups):
        param_group.setdefault("wd_multiplier", float(param_group["weight_decay"] != 0))
        param_group["weight_decay"] = wd_schedule[it] * param_group["wd_multiplier"]
"""
    texts = {"main.py": main, "training/helpers.py": BUILDER, "training/trainer.py": trainer}
    apply_and_check(M0006, texts, {**texts, "training/trainer.py": mended})


def test_spared_groups_that_get_the_schedule_too() -> None:
    """Without any condition biases decay as well; the numbers tell, since old checkpoints cannot."""
    before = BUILDER + LOOP.replace("        if i == 0:\n    ", "")
    finding = only(M0006, before)
    assert finding.evidence == "3 of 3 decayed groups get the schedule; 3 of 3 spared groups get it too"
    after = BUILDER + MENDED.replace('group["weight_decay"] != 0', "i in (0, 2, 4)")
    names = run(apply_and_check(M0006, before, after))
    assert trained(names, 0.4) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        (LOOP.replace("if i == 0:\n", "if i > 0:\n            break\n        if True:\n"), "left early"),
        (LOOP.replace("[it]\n    return", "[it]\n            print(it)\n    return"), "decides about other statements"),
        (
            LOOP.replace("enumerate(optimizer.param_groups)", "enumerate(optimizer.param_groups[:1])"),
            "some groups only",
        ),
    ],
)
def test_forms_that_are_left_to_a_person(loop: str, reason: str) -> None:
    """What is proven wrong but cannot be mended by a local change is reported with the reason."""
    finding = only(M0006, BUILDER + loop)
    assert (finding.state, finding.level, finding.edits) == (State.DIVERGED, Level.MANUAL, ())
    assert reason in finding.person
    assert finding.evidence.startswith("1 of 3 decayed groups gets")


def test_a_comment_that_may_be_wrong_now_is_pointed_out() -> None:
    """Comments are kept to the byte, so the person is asked to read the one beside the condition."""
    commented = LOOP.replace("if i == 0:", "if i == 0:  # only the first group is regularized")
    assert "see whether it still holds" in only(M0006, BUILDER + commented).person
    assert "see whether it still holds" not in only(M0006, BUILDER + LOOP).person


def test_nothing_is_found_in_nothing() -> None:
    """Not found is unknown, without a site, and says what was looked for."""
    (finding,) = find(M0006, "x = 1\n")
    assert (finding.state, finding.site) == (State.UNKNOWN, None)
    assert "param_groups" in finding.evidence
