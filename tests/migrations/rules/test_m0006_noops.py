from __future__ import annotations

from pathlib import Path

import pytest
from miniature import find, folder, only, project

from migrations.engine.model import State
from migrations.engine.registry import migration

M0006 = migration("0006")
PAIR = """
import torch


def get_params_groups(model):
    regularized, not_regularized = [], []
    for name, param in model.named_parameters():
        (not_regularized if name.endswith(".bias") else regularized).append(param)
    return [{"params": regularized}, {"params": not_regularized, "weight_decay": 0.}]


"""
DINO_V1 = (
    PAIR
    + """
def main(student, wd_schedule, args):
    params_groups = get_params_groups(student)
    if args.optimizer == "adamw":
        optimizer = torch.optim.AdamW(params_groups)
    elif args.optimizer == "sgd":
        optimizer = torch.optim.SGD(params_groups, lr=0, momentum=0.9)
    for epoch in range(args.epochs):
        train_one_epoch(student, optimizer, wd_schedule, epoch)


def train_one_epoch(student, optimizer, wd_schedule, it):
    for i, param_group in enumerate(optimizer.param_groups):
        if i == 0:  # only the first group is regularized
            param_group["weight_decay"] = wd_schedule[it]
"""
)
OFFICIAL = """
def apply_optim_scheduler(optimizer, lr, wd, last_layer_lr):
    for param_group in optimizer.param_groups:
        wd_multiplier = param_group["wd_multiplier"]
        param_group["weight_decay"] = wd * wd_multiplier
"""
SIX = (
    PAIR
    + """
def train(a, b, c, wd):
    optimizer = torch.optim.AdamW([*get_params_groups(a), *get_params_groups(b), *get_params_groups(c)])
    for i, group in enumerate(optimizer.param_groups):
        LOOP
"""
)


ANY_NUMBER = (
    PAIR
    + """
def train(modules, wd):
    optimizer = torch.optim.AdamW([g for m in modules for g in get_params_groups(m)])
    for i, g in enumerate(optimizer.param_groups):
        if CONDITION:
            g["weight_decay"] = wd
"""
)
FIRST = """
    for i, g in enumerate(optimizer.param_groups):
        if i == 0:
            g["weight_decay"] = wd
"""


def six(body: str) -> str:
    """Six groups and a loop with this body."""
    return SIX.replace("LOOP", body.replace("\n", "\n        "))


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        pytest.param(DINO_V1, "1 of 1 decayed group gets the schedule", id="DINO v1's two groups"),
        pytest.param(OFFICIAL, "every group gets the schedule times its own `wd_multiplier`", id="official"),
        pytest.param(
            OFFICIAL.replace("wd * wd_multiplier", 'wd * param_group["wd_multiplier"]'),
            "every group gets the schedule times its own `wd_multiplier`",
            id="official without the local name",
        ),
        pytest.param(
            OFFICIAL.replace("wd_multiplier", "decay_factor"),
            "every group gets the schedule times its own `decay_factor`",
            id="another key",
        ),
        pytest.param(
            six('if i in (0, 2, 4):\n    group["weight_decay"] = wd'),
            "3 of 3 decayed groups get the schedule",
            id="all three by number",
        ),
        pytest.param(
            six('if i % 2 == 0:\n    group["weight_decay"] = wd'),
            "3 of 3 decayed groups get the schedule",
            id="groups proven to alternate",
        ),
        pytest.param(
            six('if i % 2:\n    continue\ngroup["weight_decay"] = wd'),
            "3 of 3 decayed groups get the schedule",
            id="continue",
        ),
        pytest.param(
            six('group["weight_decay"] = wd if i % 2 == 0 else 0.0'),
            "3 of 3 decayed groups get the schedule",
            id="conditional value",
        ),
        pytest.param(
            six('if group["weight_decay"] != 0:\n    group["weight_decay"] = wd'),
            "every group whose weight decay is not 0 gets the schedule (one that passes through 0 would stop it)",
            id="by value",
        ),
        pytest.param(
            six('if wd is not None and group["weight_decay"] > 0:\n    group["weight_decay"] = wd'),
            "every group whose weight decay is not 0 gets the schedule (one that passes through 0 would stop it)",
            id="BEiT's",
        ),
        pytest.param(
            ANY_NUMBER.replace("CONDITION", "i % 2 == 0"),
            "the schedule reaches every decayed group, however many",
            id="any number of pairs",
        ),
        pytest.param(
            'import torch\ndef train(model, wd):\n    opt = torch.optim.AdamW(model.parameters())\n'
            '    for group in opt.param_groups:\n        group["weight_decay"] = wd\n',
            "1 of 1 decayed group gets the schedule",
            id="one group of all parameters",
        ),
    ],
)  # fmt: skip
def test_aligned_code_is_left_alone(text: str, evidence: str) -> None:
    """Positive evidence of official's effect, in the words of the finding, and no edits."""
    finding = only(M0006, text)
    assert (finding.state, finding.evidence, finding.edits) == (State.ALIGNED, evidence, ())


@pytest.mark.parametrize(
    ("text", "cannot_know"),
    [
        pytest.param(
            DINO_V1.replace("epoch)\n\n", "epoch)\n    optimizer.add_param_group({'params': []})\n\n"),
            "groups are added to an optimizer later",
            id="add_param_group",
        ),
        pytest.param(
            PAIR + "from elsewhere import build\n\ndef train(s, wd):\n    optimizer = build(s)" + FIRST,
            "what `build` makes is not known",
            id="optimizer from another package",
        ),
        pytest.param(
            "def step(optimizers, wd):\n    for optimizer in optimizers:" + FIRST.replace("\n    ", "\n        "),
            "one of several optimizers",
            id="several optimizers",
        ),
        pytest.param(
            six('if i < args.n_decayed:\n    group["weight_decay"] = wd'),
            "whether `i < args.n_decayed` holds is not known",
            id="condition of the configuration",
        ),
        pytest.param(
            PAIR + "def train(a, b, use_b, wd):\n    groups = get_params_groups(a)\n    if use_b:\n"
            "        groups += get_params_groups(b)\n    optimizer = torch.optim.AdamW(groups)" + FIRST,
            "it depends on the configuration which groups there are",
            id="groups of the configuration",
        ),
        pytest.param(
            ANY_NUMBER.replace("CONDITION", "i == 0"),
            "how many groups reach this loop is not known",
            id="any number of pairs, the first alone",
        ),
        pytest.param(
            'def step(optimizer, wd):\n    optimizer.param_groups[0]["weight_decay"] = wd\n',
            "sets the weight decay of `optimizer.param_groups[0]` alone",
            id="no loop",
        ),
        pytest.param(
            'def step(optimizer, wd):\n    for g in optimizer.param_groups:\n        update = {}\n'
            '        if g["weight_decay"] != 0.0:\n            update["weight_decay"] = wd\n',
            "sets weight decay on `update` in a loop of another form",
            id="updates collected first",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_unknown(text: str, cannot_know: str) -> None:
    """Nothing is rewritten, and the finding says at its place what the source does not tell and what to decide."""
    finding = only(M0006, text)
    assert (finding.state, finding.edits) == (State.UNKNOWN, ())
    assert finding.site is not None
    assert cannot_know in finding.evidence
    assert "wd_multiplier" in finding.person


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('for g in optimizer.param_groups:\n    g["weight_decay"] = 0.05\n', id="a constant"),
        pytest.param('for g in optimizer.param_groups:\n    total += g["weight_decay"]\n', id="read only"),
        pytest.param('for i, g in enumerate(optimizer.param_groups):\n    g["lr"] = lr[it]\n', id="the learning rate"),
        pytest.param(
            'for i, g in enumerate(self.optim.param_groups):\n    g["weight_decay"] = weight_decays[i]\n',
            id="a wrapper puts back what it took",
        ),
        pytest.param('config["weight_decay"] = wd\nx = optimizer.param_groups\n', id="a configuration"),
    ],
)
def test_other_code_is_no_site(text: str) -> None:
    """Constants, reads, other keys and wrappers are not schedules."""
    (finding,) = find(M0006, text)
    assert (finding.state, finding.site) == (State.UNKNOWN, None)


def test_official_code_is_aligned(official_root: Path) -> None:
    """Official's loop is recognised by its multiplier; nothing else in official code is a site."""
    finding = only(M0006, folder(official_root))
    assert (finding.state, finding.edits) == (State.ALIGNED, ())
    assert finding.site is not None
    assert finding.site.path == "dinov2/train/train.py"


def test_port_is_aligned() -> None:
    """`port`'s loop is recognised by its multiplier."""
    finding = only(M0006, folder(Path(__file__).parents[3] / "port"))
    assert (finding.state, finding.edits) == (State.ALIGNED, ())


def test_one_of_two_heads_that_cannot_be_parsed_stops_nothing() -> None:
    """A file that is no Python is named in the project's errors, and the others are judged."""
    texts = project({"trainer.py": OFFICIAL, "broken.py": 'param_groups = (\n["weight_decay"] = 1\n'})
    assert only(M0006, texts).state is State.ALIGNED
    assert list(texts.errors) == ["broken.py"]
