"""What a call runs, what a name held before, and how many dimensions a tensor has."""

from __future__ import annotations

import libcst as cst
import pytest

from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.calls import Calls, bound_arguments, returned
from migrations.flow.dimensions import dimensions
from migrations.flow.nodes import callee
from migrations.flow.origins import origins


def _calls(**texts: str) -> tuple[Calls, list[SourceFile]]:
    project = Project.of_texts({f"{name}.py": text for name, text in texts.items()})
    files = list(project.files.values())
    return Calls(project, files), files


def _call(file: SourceFile, name: str) -> cst.Call:
    return next(call for call in file.nodes(cst.Call) if callee(call) == name)


def test_a_name_in_its_own_value_is_an_earlier_one() -> None:
    """In `x = f(x)`, the `x` that is read is the parameter, not what is being assigned."""
    _, (file,) = _calls(a="def g(x):\n    x = f(x)\n    return x\n")
    inner = _call(file, "f").args[0].value
    assert isinstance(inner, cst.Name)
    assert [binding.kind for binding in resolve(file, inner)] == ["parameter"]


def test_an_object_of_a_class_runs_its_forward() -> None:
    """`self.loss = Loss()` makes `self.loss(x)` a call of that class's `forward`, in other files too."""
    calls, (loss, train) = _calls(
        a="class Loss:\n    def forward(self, x, *, y):\n        return x\n",
        b="class T:\n    def __init__(self):\n        self.loss = Loss().cuda()\n\n    def step(self, z):\n"
        "        return self.loss(z, y=2)\n",
    )
    call = _call(train, "loss")
    meant = calls.target(train, call)
    assert meant is not None
    assert (meant.name, meant.owner, meant.file) == ("forward", "Loss", loss)
    assert isinstance(meant.node, cst.FunctionDef)
    assert {name: train.code(arg) for name, arg in bound_arguments(meant.node, call).items()} == {"x": "z", "y": "2"}
    assert [call for _, call in calls.callers(meant)] == [call]


def test_an_object_that_may_be_of_two_classes_is_not_followed() -> None:
    """Two classes under one name leave a call without an answer."""
    calls, (file,) = _calls(
        a="class A:\n    def forward(self, x):\n        return x\n\n\nclass B:\n"
        "    def forward(self, x):\n        return x\n\n\n"
        "def f(z, flag):\n    net = A()\n    if flag:\n        net = B()\n    return net(z)\n"
    )
    assert calls.target(file, _call(file, "net")) is None


def test_returns_of_inner_functions_are_not_the_outers() -> None:
    """A function returns what stands in its own body."""
    _, (file,) = _calls(a="def f(x):\n    def g():\n        return 1\n\n    return x\n")
    assert [file.code(node) for node in returned(file.nodes(cst.FunctionDef)[0])] == ["x"]


@pytest.mark.parametrize(
    ("expression", "number"),
    [
        ("torch.ones(b, n)", 2),
        ("torch.rand((b, h, w)) < 0.5", 3),
        ("torch.bernoulli(torch.full((b, n), 0.3)).bool()", 2),
        ("torch.zeros(b, h, w).flatten(1)", 2),
        ("made(b, n).to(device)", 2),
        ("features", 3),
        ("torch.rand(1)", None),
        ("unknown", None),
    ],
)
def test_dimensions_are_read_off_the_text(expression: str, number: int | None) -> None:
    """Sides that are written out, an unpacked shape and a followed call tell; nothing else does."""
    calls, (file,) = _calls(
        a="import torch\n\n\ndef made(b, n):\n    return torch.rand(b, n)\n\n\n"
        f"def f(b, n, h, w, device, features, unknown):\n    B, N, D = features.shape\n    result = {expression}\n"
    )
    value = next(a.value for a in file.nodes(cst.Assign) if file.code(a.targets[0].target) == "result")
    assert dimensions(calls, file, value) == number


def test_origins_go_through_calls_keywords_and_changes_in_place() -> None:
    """A mask is traced to the draw in another file, and to the permutation that fills it."""
    calls, (_, user) = _calls(
        a="import torch\n\n\ndef make(b, n):\n    mask = torch.zeros(b, n)\n"
        "    mask.scatter_(1, torch.rand(b, n).argsort(1), 1)\n"
        "    return {'masks': mask}\n",
        b="def step(batch, b, n):\n    batch = make(b, n)\n    return net(m=batch['masks'])\n",
    )
    given = _call(user, "net").args[0].value
    found = {callee(node) for _, node in origins(calls, user, given) if isinstance(node, cst.Call)}
    assert {"zeros", "scatter_", "rand", "argsort"} <= found
