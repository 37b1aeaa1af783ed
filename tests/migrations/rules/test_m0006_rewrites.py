from __future__ import annotations

from typing import Any

import pytest
import torch
from miniature import apply_and_check, find, only, project, run
from torch import nn

from migrations.engine.model import Level, State
from migrations.engine.registry import migration

M0006 = migration("0006")
BUILDER = """
import torch


def get_params_groups(model):
    regularized, not_regularized = [], []
    for name, param in model.named_parameters():
        if name.endswith(".bias") or len(param.shape) == 1:
            not_regularized.append(param)
        else:
            regularized.append(param)
    return [{"params": regularized}, {"params": not_regularized, "weight_decay": 0.0}]


def build_optimizer(student):
    return torch.optim.AdamW(
        [
            *get_params_groups(student.backbone),
            *get_params_groups(student.classhead),
            *get_params_groups(student.patchhead),
        ]
    )


"""
LOOP = """
def train(student, lr_schedule, wd_schedule, it):
    optimizer = build_optimizer(student)
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr_schedule[it]
        if i == 0:
            group["weight_decay"] = wd_schedule[it]
    return optimizer
"""
MENDED = """
def train(student, lr_schedule, wd_schedule, it):
    optimizer = build_optimizer(student)
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr_schedule[it]
        group.setdefault("wd_multiplier", float(group["weight_decay"] != 0))
        group["weight_decay"] = wd_schedule[it] * group["wd_multiplier"]
    return optimizer
"""


class Student(nn.Module):
    """A backbone and two heads of a linear each, so that two groups each are not empty."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.classhead, self.patchhead = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)


def decays(optimizer: torch.optim.Optimizer) -> list[float]:
    """The weight decay of each group."""
    return [float(group["weight_decay"]) for group in optimizer.param_groups]


def trained(names: dict[str, Any], wd: float) -> list[float]:
    """What `train` leaves as weight decays, in its first iteration."""
    return decays(names["train"](Student(), [1e-3], [wd], 0))


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
    model = nn.Linear(2, 2)
    groups = [{"params": [p], "wd_multiplier": m} for p, m in zip(model.parameters(), (0.0, 1.0), strict=True)]
    names["build_optimizer"] = lambda student: torch.optim.AdamW(groups)
    assert trained(names, 0.4) == [0.0, 0.4]


@pytest.mark.parametrize(
    ("loop", "mended"),
    [
        pytest.param(LOOP.replace("\n", "\r\n"), MENDED.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(LOOP.replace("    ", "\t"), MENDED.replace("    ", "\t"), id="tabs"),
        pytest.param(
            LOOP.replace("if i == 0:", "if i == 0:  # nur das Rückgrat").replace("[it]\n    return", "[it]  # ü\n    return"),
            MENDED.replace("!= 0))", "!= 0))  # nur das Rückgrat").replace('multiplier"]\n', 'multiplier"]  # ü\n'),
            id="comments, not ASCII",
        ),
        pytest.param(
            LOOP.replace("            group", "            # the decay\n            group"),
            MENDED.replace('        group["weight_decay"] =', '        # the decay\n        group["weight_decay"] ='),
            id="comment in the block",
        ),
        pytest.param(
            LOOP.replace("i, group", "number, pg").replace("group[", "pg[").replace("i == 0", "number < 1"),
            MENDED.replace("i, group", "number, pg").replace("group[", "pg[").replace("group.s", "pg.s"),
            id="renamed",
        ),
        pytest.param(
            LOOP.replace("if i == 0:\n            group", "if i == 0: group"),
            MENDED,
            id="one line",
        ),
        pytest.param(
            LOOP.replace("= wd_schedule[it]", "= wd_schedule[it] if it >= 0 else 0.1"),
            MENDED.replace("wd_schedule[it] *", "(wd_schedule[it] if it >= 0 else 0.1) *"),
            id="value in need of parentheses",
        ),
        pytest.param(
            LOOP.replace("if i == 0:", "if i == 0 and wd_schedule is not None:"),
            MENDED.replace("        group.set", "        if wd_schedule is not None:\n            group.set").replace(
                '        group["weight_decay"] =', '            group["weight_decay"] ='
            ),
            id="a guard stays",
        ),
        pytest.param(
            LOOP.replace('group["weight_decay"] = wd_schedule[it]', "group.update(weight_decay=wd_schedule[it])"),
            MENDED.replace(
                'group["weight_decay"] = wd_schedule[it] * group["wd_multiplier"]',
                'group.update(weight_decay=wd_schedule[it] * group["wd_multiplier"])',
            ),
            id="update",
        ),
        pytest.param(
            LOOP.replace("if i == 0:", "if group is optimizer.param_groups[0]:").replace("i, group", "_, group"),
            MENDED.replace("i, group", "_, group"),
            id="identity",
        ),
        pytest.param(LOOP.replace("i == 0", "i in (0, 2)"), MENDED, id="two of three"),
        pytest.param(LOOP.replace("if i == 0", "if i % 3 == 0"), MENDED, id="a wrong period"),
        pytest.param(
            LOOP.replace("for i, group in enumerate(optimizer.param_groups):", "for i in range(len(optimizer.param_groups)):\n        group = optimizer.param_groups[i]"),
            MENDED.replace("for i, group in enumerate(optimizer.param_groups):", "for i in range(len(optimizer.param_groups)):\n        group = optimizer.param_groups[i]"),
            id="by number",
        ),
    ],
)  # fmt: skip
def test_forms_of_the_loop(loop: str, mended: str, request: pytest.FixtureRequest) -> None:
    """Each form is mended to the byte, and runs: 0.4 for the three decayed groups, 0 for the spared ones."""
    builder = BUILDER
    if "\r" in loop:
        builder = BUILDER.replace("\n", "\r\n")
    if "% 3" in loop:
        # Group 3 is spared, and now decays in old checkpoints too: only the position tells which groups are decayed.
        mended = mended.replace('group["weight_decay"] != 0', "i in (0, 2, 4)")
    new = apply_and_check(M0006, builder + loop, builder + mended)
    assert trained(run(new), 0.4) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


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
        '        # Each group says itself whether it is decayed.\n        group["weight_decay"] = wd_schedule[it] * group["wd_multiplier"]',
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


@pytest.mark.parametrize(
    "groups",
    [
        "get_params_groups(student.backbone) + get_params_groups(student.classhead) + get_params_groups(student.patchhead)",
        "[g for m in (student.backbone, student.classhead, student.patchhead) for g in get_params_groups(m)]",
        "sum([get_params_groups(m) for m in (student.backbone, student.classhead, student.patchhead)], [])",
        "list(__import__('itertools').chain(get_params_groups(student.backbone), get_params_groups(student.classhead), "
        "get_params_groups(student.patchhead)))",
    ],
)
def test_forms_of_the_groups(groups: str) -> None:
    """Sums, comprehensions and chains of lists are counted alike: three decayed groups."""
    builder = (
        BUILDER.split("def build_optimizer")[0]
        + f"def build_optimizer(student):\n    return torch.optim.AdamW({groups})\n"
    )
    names = run(apply_and_check(M0006, builder + LOOP, builder + MENDED))
    assert trained(names, 0.4) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


def test_groups_built_in_a_loop() -> None:
    """A list that a loop of known length extends, in a method of a class, is counted."""
    builder = BUILDER.split("def build_optimizer")[0] + (
        "def build_optimizer(student):\n    groups = []\n    for module in (student.backbone, student.classhead):\n"
        "        groups += get_params_groups(module)\n    groups.extend(get_params_groups(student.patchhead))\n"
        "    return torch.optim.AdamW(groups)\n"
    )
    apply_and_check(M0006, builder + LOOP, builder + MENDED)


def test_in_a_class() -> None:
    """The optimizer is an attribute that the constructor sets; the loop is in a nested function."""
    before = (
        BUILDER
        + """
class Trainer:
    def __init__(self, student):
        self.optimizer = build_optimizer(student)

    def step(self, wd):
        def apply():
            for k, g in enumerate(self.optimizer.param_groups):
                if k == 0:
                    g["weight_decay"] = wd
        apply()
        return self.optimizer
"""
    )
    after = before.replace(
        '                if k == 0:\n                    g["weight_decay"] = wd\n',
        '                g.setdefault("wd_multiplier", float(g["weight_decay"] != 0))\n'
        '                g["weight_decay"] = wd * g["wd_multiplier"]\n',
    )
    names = run(apply_and_check(M0006, before, after))
    assert decays(names["Trainer"](Student()).step(0.4)) == [0.4, 0.0, 0.4, 0.0, 0.4, 0.0]


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


def test_nothing_is_found_in_nothing() -> None:
    """Not found is unknown, without a site, and says what was looked for."""
    (finding,) = find(M0006, "x = 1\n")
    assert (finding.state, finding.site) == (State.UNKNOWN, None)
    assert "param_groups" in finding.evidence
