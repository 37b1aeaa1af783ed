from __future__ import annotations

import pytest
from advisory_cases import found, places

from migrations.advisory.a08_decayed import ADVISORY
from migrations.engine.project import Project

SCALE = """
    class Block(nn.Module):
        def __init__(self, dim):
            self.gamma = nn.Parameter(1e-5 * torch.ones(dim))
"""
GROUPS = """
    def groups(model, weight_decay):
        decayed, spared = [], []
        for name, param in model.named_parameters():
            (spared if {test} else decayed).append(param)
        return [{{"params": decayed, "weight_decay": weight_decay}}, {{"params": spared, "weight_decay": 0.0}}]
"""


def groups(test: str) -> str:
    """Return a builder of two groups that spares the parameters for which a test holds."""
    return GROUPS.format(test=test)


def test_names_without_gamma_are_reported_where_there_is_layer_scale() -> None:
    """Official spares biases, norms and gamma; a name test that knows only the first two lets gamma decay."""
    (finding,) = found(ADVISORY, SCALE + groups('name.endswith(".bias") or "norm" in name'))
    assert str(finding.site) == "fork.py:9"
    assert finding.evidence == "groups spares parameters by name (`.bias`, `norm`): LayerScale decay"
    assert "`gamma`" in finding.person


def test_without_layer_scale_the_same_names_are_enough() -> None:
    """A network that has no gamma loses nothing."""
    assert places(ADVISORY, groups('name.endswith(".bias") or "norm" in name')) == []


def test_biases_alone_let_norms_decay() -> None:
    """Whether there is LayerScale or not: what decays is named."""
    assert found(ADVISORY, groups('"bias" in name'))[0].evidence == (
        "groups spares parameters by name (`bias`): the weights of norms decay"
    )
    assert found(ADVISORY, SCALE + groups('"bias" in name'))[0].evidence.endswith(
        "the weights of norms and LayerScale decay"
    )


@pytest.mark.parametrize(
    "test",
    [
        'name.endswith(".bias") or "norm" in name or "gamma" in name',
        'name.endswith(".bias") or param.ndim <= 1',
        'name.endswith(".bias") or len(param.shape) == 1',
        'name.endswith(".bias") or param.dim() == 1',
        'name.endswith(".bias") or isinstance(owner(name), SPARED)',
        '"bias" in name or "norm" in name or "layer_scale" in name',
        '"bias" in name or "norm" in name or "ls1" in name or "ls2" in name',
    ],
    ids=["official", "ndim", "DINO v1", "dim", "kind of module", "layer_scale", "ls1"],
)
def test_tests_that_spare_layer_scale_are_silent(test: str) -> None:
    """By name, or by the number of dimensions, which is 1 for gamma too."""
    assert places(ADVISORY, SCALE + groups(test)) == []


def test_names_in_a_list_are_read() -> None:
    """The usual `any(word in name for word in NO_DECAY)`, the list in the function or in the module."""
    inside = """
        def groups(model):
            no_decay = ["bias", "LayerNorm.weight"]
            return [{"params": [p for n, p in model.named_parameters() if not any(nd in n for nd in no_decay)]}]
    """
    outside = """
        NO_DECAY = ("bias", "norm")

        def groups(model):
            return [p for n, p in model.named_parameters() if not any(word in n for word in NO_DECAY)]
    """
    text = {"model.py": SCALE, "a.py": inside, "b.py": outside}
    assert places(ADVISORY, text) == ["a.py:3", "b.py:2"]


def test_lists_that_callers_hand_over_are_silent() -> None:
    """What else a caller spares the function does not tell."""
    text = SCALE + groups('name.endswith(".bias") or "norm" in name or name in skip_list').replace(
        "weight_decay):", "weight_decay, skip_list=()):"
    )
    assert places(ADVISORY, text) == []


def test_functions_that_do_not_choose_decay_are_silent() -> None:
    """A bias in an attention's weights, or in a docstring about decay, spares nothing."""
    text = (
        SCALE
        + """
    def load(state):
        return {name: value for name, value in state.items() if not name.endswith("bias")}

    def schedule(optimizer):
        '''bias'''
        optimizer.param_groups[0]["weight_decay"] = state["bias"]
"""
    )
    assert places(ADVISORY, text) == []


def test_an_optimizer_over_all_of_the_student_is_reported() -> None:
    """`AdamW(student.parameters())` decays by 0.01 even where nothing is said."""
    text = (
        "from torch.optim import AdamW\n\n"
        + SCALE.replace("\n    ", "\n")
        + "optimizer = AdamW(student.parameters())\n"
    )
    (finding,) = found(ADVISORY, text)
    assert str(finding.site) == "fork.py:8"
    assert finding.evidence == (
        "AdamW holds `student.parameters()` in one group: biases, norms and LayerScale decay with the rest"
    )


@pytest.mark.parametrize(
    "made",
    [
        "torch.optim.AdamW(self.student.parameters(), lr=lr, weight_decay=args.wd)",
        "torch.optim.Adam(list(model.parameters()), weight_decay=0.04)",
        "LARS(model.parameters(), weight_decay=wd)",
        'torch.optim.AdamW([{"params": head.parameters()}, {"params": model.parameters(), "lr": 1e-3}])',
        'torch.optim.SGD([{"params": model.parameters(), "weight_decay": 1e-4}], lr=0.1)',
    ],
)
def test_one_group_is_found_however_it_is_written(made: str) -> None:
    """By position, in a list, in a group's dictionary; with a decay of the group or of all."""
    assert places(ADVISORY, f"import torch\noptimizer = {made}\n") == ["fork.py:3"]


@pytest.mark.parametrize(
    "made",
    [
        "torch.optim.AdamW(student.parameters(), weight_decay=0)",
        "torch.optim.AdamW(student.parameters(), weight_decay=0.0)",
        "torch.optim.SGD(student.parameters(), lr=0.1)",
        "torch.optim.Adam(student.parameters())",
        "torch.optim.AdamW(groups(student), weight_decay=0.04)",
        "torch.optim.AdamW(prototypes.parameters(), weight_decay=0.04)",
        'torch.optim.AdamW([{"params": student.parameters(), "weight_decay": 0.0}], weight_decay=0.04)',
        "ModelEma(model.parameters(), decay=0.999)",
    ],
)
def test_optimizers_that_decay_nothing_or_something_else_are_silent(made: str) -> None:
    """A decay of 0, groups of a builder, the parameters of something that is not the student."""
    assert places(ADVISORY, f"import torch\noptimizer = {made}\n") == []


def test_a_file_without_student_and_teacher_is_silent() -> None:
    """In the same project another training, of something else, is no difference."""
    text = "import torch\nopt = torch.optim.AdamW(model.parameters())\n"
    assert places(ADVISORY, text) == ["fork.py:3"]
    assert found(ADVISORY, Project.of_texts({"train.py": "# student, teacher\n", "other.py": text})) == []
