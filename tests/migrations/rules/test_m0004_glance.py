from __future__ import annotations

import pytest

from migrations.engine.model import State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.rules.m0004_clustering_modes import MIGRATION
from migrations.rules.m0004_clustering_modes.chains import may_matter

CHAIN = """
if {test}:
    tokens = x[{turned}]
else:
    tokens = x[masks]
loss = patch_loss(tokens)
"""


@pytest.mark.parametrize("test", ['args.mode == "visible"', '"visible" == args.mode', 'args.mode == u"visible"'])
@pytest.mark.parametrize("turned", ["~masks", "~ masks", "torch.logical_not(masks)", "masks.logical_not()"])
def test_every_way_to_write_a_chain_is_worth_a_look(test: str, turned: str) -> None:
    """What the rule finds, the glance lets through."""
    text = CHAIN.format(test=test, turned=turned)
    assert may_matter(SourceFile("a.py", text))
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert finding.state is State.DIVERGED


@pytest.mark.parametrize(
    "text",
    [
        CHAIN.format(test='args.mode == "visible"', turned="masks"),
        CHAIN.format(test="args.mode == 3", turned="~masks"),
        CHAIN.format(test='args.mode == "visible"', turned="~masks").replace("loss", "x"),
        "labels = torch.ones_like(x)\nif kind == 'regression':\n    loss = mse(x)\n",
    ],
    ids=["nothing is turned", "a number", "no loss", "turned elsewhere"],
)
def test_files_without_a_chain_are_not_parsed(text: str) -> None:
    """Such files, of which libraries of models are full, cost no LibCST tree."""
    project = Project.of_texts({"a.py": text})
    assert [finding.state for finding in MIGRATION.find(project)] == [State.NOT_APPLICABLE]
    assert not project.files["a.py"].looked_into


def test_a_loss_of_prototypes_is_enough() -> None:
    """A call that takes masked tokens in its only mode is found without any branch."""
    text = "loss = prototype_loss(tokens[masks], masks)\n"
    assert may_matter(SourceFile("a.py", text))
    assert [f.state for f in MIGRATION.find(Project.of_texts({"a.py": text}))] == [State.ALIGNED]


def test_a_file_that_cannot_be_parsed_is_named() -> None:
    """The glance does not hide it: LibCST says which line."""
    project = Project.of_texts({"a.py": "loss = ~x\nmode = == 'a'\n"})
    MIGRATION.find(project)
    assert project.errors["a.py"].startswith("a.py:2")
