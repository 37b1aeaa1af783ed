from __future__ import annotations

from pathlib import Path

import pytest

from parity.draft.definitions import Project
from parity.draft.networks import begun_groups, network_of
from parity.draft.recognise import recognise
from parity.draft.source import read_modules
from parity.draft.wiring import Found, call_lines, literals

HEAD = "class DINOHead:\n    def __init__(self, in_dim, out_dim, bottleneck_dim=256): ...\n"
NETWORK = """
class Model:
    def __init__(self, args):
        self.{backbone} = build(args)
        self.{first} = DINOHead(args.embed_dim, args.out_dim)
        self.{second} = DINOHead(args.embed_dim, args.patch_out_dim) if args.patch_out_dim else None
"""


def _found(folder: Path, text: str) -> Found:
    (folder / "fork.py").write_text(text)
    project = Project(read_modules(folder)[0], [])
    return Found(project, recognise(project)[0])


@pytest.mark.parametrize(
    ("backbone", "first", "second", "expected"),
    [
        ("backbone", "classhead", "patchhead", {"classhead": "dino_head", "patchhead": "ibot_head"}),
        ("backbone", "dino_head", "ibot_head", {}),
        (
            "vit_backbone",
            "cls_head",
            "token_head",
            {"cls_head": "dino_head", "token_head": "ibot_head", "vit_backbone": "backbone"},
        ),
    ],
)
def test_heads_have_official_names(
    tmp_path: Path, backbone: str, first: str, second: str, expected: dict[str, str]
) -> None:
    """By the attribute that holds them; what is called as official calls it needs no other name."""
    network = network_of(_found(tmp_path, HEAD + NETWORK.format(backbone=backbone, first=first, second=second)))
    assert network is not None
    assert network.definition.name == "Model"
    assert network.names == expected
    assert all(f"{attribute} is official's {name}" in network.told for attribute, name in expected.items())


@pytest.mark.parametrize(
    "text", ["", HEAD, HEAD + "class M:\n    def __init__(self):\n        self.head = DINOHead(1, 2)\n"]
)
def test_without_a_backbone_or_a_head_there_is_no_network(tmp_path: Path, text: str) -> None:
    """A head alone may be anything."""
    assert network_of(_found(tmp_path, text + "x = 1\n")) is None


def test_groups_begin_with_the_network_and_its_optimizer(tmp_path: Path) -> None:
    """The lines for a person to go on with; where an argument is not known, none."""
    text = HEAD + NETWORK.format(backbone="backbone", first="classhead", second="patchhead")
    optimizer = "def build_optimizer(model, args):\n    args.lr\n"
    lines = begun_groups(_found(tmp_path, text + optimizer))
    assert "    student = Model(args=arguments(config))" in lines
    assert "optimizer = build_optimizer(model=student, args=arguments(config))" in lines
    assert begun_groups(_found(tmp_path, text + optimizer.replace("args)", "args, mystery)"))) == ()
    assert begun_groups(_found(tmp_path, text)) == ()


def test_long_calls_are_spread_over_lines() -> None:
    """And short ones are not."""
    assert call_lines("return f", ["a=1", "b=2"]) == ["return f(a=1, b=2)"]
    assert call_lines("return f", ["a" * 60, "b" * 60]) == ["return f(", f"    {'a' * 60},", f"    {'b' * 60},", ")"]


def test_constants_of_the_forks_own_calls(tmp_path: Path) -> None:
    """By keyword or position, where all calls agree; anything computed decides nothing."""
    text = "class A:\n    def __init__(self, x, y, z, w=1): ...\nA(1, y=2, z=n)\n"
    found = _found(tmp_path, text)
    (definition,) = found.project.definitions()
    assert literals(found.project, definition) == {"x": "1", "y": "2"}
    found = _found(tmp_path, text + "A(3, y=2, z=5)\n")
    (definition,) = found.project.definitions()
    assert literals(found.project, definition) == {"y": "2"}
