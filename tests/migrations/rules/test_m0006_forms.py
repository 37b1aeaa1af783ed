from __future__ import annotations

import pytest
from miniature import apply_and_check, run
from six_groups import BUILDER, LOOP, MENDED, Student, decays, trained

from migrations.engine.registry import migration

M0006 = migration("0006")
HEAD = "for i, group in enumerate(optimizer.param_groups):"
BY_NUMBER = "for i in range(len(optimizer.param_groups)):\n        group = optimizer.param_groups[i]"


@pytest.mark.parametrize(
    ("loop", "mended"),
    [
        pytest.param(LOOP.replace("\n", "\r\n"), MENDED.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(LOOP.replace("    ", "\t"), MENDED.replace("    ", "\t"), id="tabs"),
        pytest.param(
            LOOP.replace("i == 0:", "i == 0:  # nur das Rückgrat").replace("[it]\n    r", "[it]  # ü\n    r"),
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
            LOOP.replace(HEAD, BY_NUMBER),
            MENDED.replace(HEAD, BY_NUMBER),
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


@pytest.mark.parametrize(
    "groups",
    [
        "get_params_groups(student.backbone) + get_params_groups(student.classhead) "
        "+ get_params_groups(student.patchhead)",
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
