from __future__ import annotations

from typing import Any

import pytest
from layered import Student
from miniature import applied, apply_and_check, find, only, project, run
from torch import nn

from migrations.engine.model import Level, State, overall
from migrations.engine.registry import migration

M0006, M0007 = migration("0006"), migration("0007")
IMPORT = "import torch\n"
BUILDER = '''

def get_params_groups(model):
    """Two groups."""
    regularized, not_regularized = [], []
    for name, param in model.named_parameters():
        if name.endswith(".bias") or len(param.shape) == 1:
            not_regularized.append(param)
        else:
            regularized.append(param)
    return [{"params": regularized}, {"params": not_regularized, "weight_decay": 0.0}]
'''
PORT = '''

def get_params_groups(model):
    """Groups by layer: the learning rate falls towards the input; biases, norms and gammas do not decay."""
    groups = port.optim.get_params_groups_with_decay(model, lr_decay_rate=0.9, patch_embed_lr_mult=0.2)
    return port.optim.fuse_params_groups(groups)
'''
TRAIN = """

def train(student, koleo_loss, lr, wd):
    optimizer = torch.optim.AdamW([*get_params_groups(student.backbone), *get_params_groups(student.head)])
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr
        group.setdefault("wd_multiplier", float(group["weight_decay"] != 0))
        group["weight_decay"] = wd * group["wd_multiplier"]
    return optimizer
"""
BEFORE = IMPORT + BUILDER + TRAIN
AFTER = IMPORT + "import port.optim\n" + PORT + TRAIN.replace('"lr"] = lr', '"lr"] = lr * group["lr_multiplier"]')
DOCUMENT = """

def get_params_groups_with_decay(model, lr_decay_rate=0.9, patch_embed_lr_mult=0.2):
    num_layers = len(model.blocks)
    params_groups = []
    for name, param in model.named_parameters():
        if "patch_embed" in name or "cls_token" in name or "pos_embed" in name:
            layer_id = 0
        elif "blocks." in name:
            layer_id = int(name.split("blocks.")[1].split(".")[0]) + 1
        else:
            layer_id = num_layers + 1
        lr_mult = lr_decay_rate ** (num_layers + 1 - layer_id)
        if "patch_embed" in name:
            lr_mult *= patch_embed_lr_mult
        wd_mult = 0.0 if name.endswith(".bias") or "norm" in name else 1.0
        params_groups.append({"params": param, "lr_multiplier": lr_mult, "wd_multiplier": wd_mult})
    return params_groups
"""


def rates(names: dict[str, Any], student: nn.Module) -> dict[str, float]:
    """The learning rate of each parameter after `train` at a rate of 1."""
    optimizer = names["train"](student, None, 1.0, 0.4)
    by_id = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: by_id[id(param)] for name, param in student.named_parameters()}


def test_the_builder_is_swapped_and_the_loop_multiplies() -> None:
    """Afterwards the rates are 0.9^(4 - layer) of three blocks, with 0.2 on the patch embedding and 1 on the head."""
    assert set(rates(run(project(BEFORE)), Student()).values()) == {1.0}
    after = rates(run(apply_and_check(M0007, BEFORE, AFTER, Level.UNSAFE)), Student())
    expected = {
        "backbone.mask_token": 0.6561,
        "backbone.patch_embed.weight": 0.13122,
        "backbone.blocks.0.fc.weight": 0.729,
        "backbone.blocks.1.gamma": 0.81,
        "backbone.blocks.2.fc.bias": 0.9,
        "backbone.norm.weight": 1.0,
        "head.0.weight": 1.0,
    }
    assert {name: after[name] for name in expected} == pytest.approx(expected)


def test_weight_decay_stays_aligned() -> None:
    """What 0006 left reads the new groups' `wd_multiplier`: weights decay, biases, norms and gammas do not."""
    new = apply_and_check(M0007, BEFORE, AFTER, Level.UNSAFE)
    assert overall(M0006.find(new)) is State.ALIGNED
    student = Student()
    optimizer = run(new)["train"](student, None, 1.0, 0.4)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    spared = {name for name, param in student.named_parameters() if decays[id(param)] == 0}
    by_name = {n for n, _ in student.named_parameters() if n.endswith(".bias") or "norm" in n or "gamma" in n}
    assert spared == by_name
    assert set(decays.values()) == {0.0, 0.4}


def test_the_finding_names_recipes_and_checkpoints() -> None:
    """Evidence says which recipe decays and which does not; the person is told of checkpoints and the last layer."""
    finding = only(M0007, BEFORE)
    assert (finding.state, finding.level) == (State.DIVERGED, Level.UNSAFE)
    assert finding.evidence.startswith("4 groups learn at one rate")
    assert "vitl16_short, the default, multiplies by 0.9 per layer; vitl14 and vitg14 do not (1.0)" in finding.evidence
    assert "python -m migrations checkpoint" in finding.person
    assert "is_last_layer" in finding.person


def test_the_last_layer_is_still_mentioned_afterwards() -> None:
    """The mended loop is aligned in its rates by layer, and says what it does not do: freeze the last layer."""
    (loop,) = find(M0007, AFTER)
    assert loop.state is State.ALIGNED
    assert "is_last_layer" in loop.person
    read = AFTER.replace("= lr *", '= (0.0 if group["is_last_layer"] else lr) *')
    assert only(M0007, read).person == ""


def test_weight_decay_goes_first() -> None:
    """Where the loop still decides by position, 0007 waits for 0006; afterwards it is free."""
    position = '        if i == 0:\n            group["weight_decay"] = wd\n'
    start = TRAIN.index("        group.set")
    before = project(IMPORT + BUILDER + TRAIN[:start] + position + "    return optimizer\n")
    finding = only(M0007, before)
    assert (finding.state, finding.level, finding.blocked_by) == (State.DIVERGED, Level.BLOCKED, ("0006",))
    assert applied(M0007, applied(M0006, before)).files["trainer.py"].text == AFTER


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(BEFORE.replace("\n", "\r\n"), AFTER.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(BEFORE.replace("    ", "\t"), AFTER.replace("    ", "\t"), id="tabs"),
        pytest.param(
            BEFORE.replace('"lr"] = lr', '"lr"] = lr  # für alle').replace("(model)", "(m)").replace("model.", "m."),
            AFTER.replace('multiplier"]\n        g', 'multiplier"]  # für alle\n        g').replace("(model", "(m"),
            id="renamed, comments, not ASCII",
        ),
        pytest.param(
            BEFORE.replace('"lr"] = lr', '"lr"] = lr if wd else 0.0'),
            AFTER.replace("lr * group", "(lr if wd else 0.0) * group"),
            id="parentheses",
        ),
        pytest.param(
            '"""Training."""\n' + BEFORE.replace("torch.", "th.").replace("import torch", "import torch as th"),
            '"""Training."""\n' + AFTER.replace("torch.", "th.").replace("import torch", "import torch as th"),
            id="alias and docstring",
        ),
    ],
)  # fmt: skip
def test_forms(before: str, after: str) -> None:
    """Each form is mended to the byte, and the first block of three learns at 0.9^3."""
    new = apply_and_check(M0007, before, after, Level.UNSAFE)
    assert rates(run(new), Student())["backbone.blocks.0.fc.weight"] == pytest.approx(0.729)


def test_two_files() -> None:
    """The builder is swapped in its own file, which then imports `port.optim`."""
    texts = {
        "helpers.py": IMPORT + BUILDER,
        "train.py": "import torch\nfrom helpers import get_params_groups\n" + TRAIN,
    }
    loop = texts["train.py"].replace('"lr"] = lr', '"lr"] = lr * group["lr_multiplier"]')
    mended = {"helpers.py": IMPORT + "import port.optim\n" + PORT, "train.py": loop}
    apply_and_check(M0007, texts, mended, Level.UNSAFE)


def test_multipliers_that_the_loop_ignores() -> None:
    """Section 7's groups with the loop as it was: only the loop is mended, and the builder is judged apart."""
    train = TRAIN.replace("get_params_groups(", "get_params_groups_with_decay(")
    findings = find(M0007, IMPORT + DOCUMENT + train)
    assert [one.state for one in findings] == [State.DIVERGED, State.ALIGNED]
    assert "carry an `lr_multiplier` that this loop does not read" in findings[0].evidence
    assert len(findings[0].edits) == 1
    assert findings[0].edits[0].text == 'lr * group["lr_multiplier"]'


def test_the_document_s_builder_leaves_things_out() -> None:
    """Two tokens, gammas and chunks are missed in a project that has them, and `port`'s builder takes its place."""
    model = "class ViT:\n    self_mask_token = register_tokens = gamma = block_chunks = 0\n    # koleo\n"
    text = (
        IMPORT
        + DOCUMENT
        + TRAIN.replace("get_params_groups(", "get_params_groups_with_decay(").replace(
            '"lr"] = lr', '"lr"] = lr * group["lr_multiplier"]'
        )
    )
    findings = find(M0007, {"trainer.py": text, "vit.py": model})
    assert [one.state for one in findings] == [State.ALIGNED, State.PARTIAL]
    assert findings[1].evidence == (
        "learning rates fall by layer, but `mask_token` is not among the embeddings of layer 0; "
        "`register_tokens` is not among the embeddings of layer 0; LayerScale's `gamma` decays; "
        "in chunked blocks the number after `blocks.` is the chunk's, not the layer's"
    )
    new = applied(M0007, project({"trainer.py": text, "vit.py": model}))
    names = run(new)
    student = Student()
    groups = names["get_params_groups_with_decay"](student.backbone)
    by_id = {id(group["params"]): group for group in groups}
    token = by_id[id(student.backbone.mask_token)]
    assert token["lr_multiplier"] == pytest.approx(0.6561)
    assert overall(M0007.find(new)) is State.ALIGNED


def test_no_factor_for_the_patch_embedding() -> None:
    """A builder without the further factor is told so."""
    text = DOCUMENT.replace('        if "patch_embed" in name:\n            lr_mult *= patch_embed_lr_mult\n', "")
    (finding,) = find(M0007, text + "# koleo\n")
    assert finding.state is State.PARTIAL
    assert "the patch embedding has no factor of its own (official: 0.2 in every recipe)" in finding.evidence


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("koleo_loss", "criterion"), id="DINO's or iBOT's"),
        pytest.param(("koleo_loss", "dinov2_teacher"), id="a name alone"),
        pytest.param(("torch.optim.AdamW", "elsewhere"), id="optimizer from elsewhere"),
        pytest.param(('        group["weight_decay"] = wd * group["wd_multiplier"]\n', ""), id="no schedule of decay"),
    ],
)
def test_a_uniform_rate_that_may_be_meant(change: tuple[str, str]) -> None:
    """Without evidence of DINOv2's pretraining a uniform rate is unknown, never wrong, and nothing is rewritten."""
    finding = only(M0007, BEFORE.replace(*change))
    assert (finding.state, finding.edits) == (State.UNKNOWN, ())
    assert finding.site is not None
    assert "vitl14" in finding.person


def test_a_builder_of_several_optimizers_is_left_to_a_person() -> None:
    """A function that another optimizer uses too is not swapped."""
    other = "\n\ndef probe(model):\n    return torch.optim.SGD(get_params_groups(model), lr=0.1)\n"
    finding = only(M0007, BEFORE + other)
    assert (finding.state, finding.level) == (State.DIVERGED, Level.MANUAL)
    assert "is called in 2 functions" in finding.person
