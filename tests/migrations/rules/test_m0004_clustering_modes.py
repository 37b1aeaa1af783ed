from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forward_cases import code, findings, one, rewritten, states

from migrations.engine.model import Level, State
from migrations.engine.project import Project
from migrations.rules.m0004_clustering_modes import MIGRATION

PARSER = code(
    """
    import argparse

    def parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--clustering_mode", type=str, default="masked",
                            choices=["visible", "masked", "separate"])
        return parser
    """
)
WITHOUT_FLAG = code(
    """
    import argparse

    def parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=3)
        return parser
    """
)
LOOP = code(
    """
    import torch

    def clustering(args, patch_prototype_loss, tokens, masks):
        # which tokens?
        if args.clustering_mode == "visible":
            visible = ~masks
            loss = patch_prototype_loss(tokens, visible)

        elif args.clustering_mode == "masked":
            # these
            loss = patch_prototype_loss(tokens, masks)  # as iBOT

        elif args.clustering_mode == "separate":
            loss = patch_prototype_loss(tokens, torch.ones_like(masks))
        return loss
    """
)
MASKED_LOOP = code(
    """
    import torch

    def clustering(args, patch_prototype_loss, tokens, masks):
        # which tokens?
        # these
        loss = patch_prototype_loss(tokens, masks)  # as iBOT
        return loss
    """
)


def mean_over(tokens: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
    """A loss that tells which tokens it was given."""
    return tokens[selected].mean()


def run(text: str, **arguments: Any) -> float:
    """Run `clustering` of a text on the tokens 1, 2, 3, 4, of which the first two are masked: 1.5 if masked alone."""
    names: dict[str, Any] = {}
    exec(compile(text, "fork.py", "exec"), names)  # noqa: S102 - the text is this file's
    tokens, masks = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, True, False, False])
    return float(names["clustering"](patch_prototype_loss=mean_over, tokens=tokens, masks=masks, **arguments))


def test_the_masked_arm_and_no_flag_remain_where_masked_is_the_default() -> None:
    """Safe: arms and flag go, the comments above and in the arm stay."""
    after = rewritten(MIGRATION, {"main.py": PARSER, "loop.py": LOOP}, Level.SAFE)
    assert after == {"main.py": WITHOUT_FLAG, "loop.py": MASKED_LOOP}


def test_the_rewritten_arm_runs_and_takes_masked_tokens() -> None:
    """Tokens 1 and 2 are masked: their mean is 1.5."""
    after = rewritten(MIGRATION, {"main.py": PARSER, "loop.py": LOOP}, Level.SAFE)
    assert run(after["loop.py"], args=None) == 1.5


def test_evidence_counts_the_modes_and_names_the_masked_one() -> None:
    """The owner reads how many sets of tokens there are, and which stays."""
    found = findings(MIGRATION, {"main.py": PARSER, "loop.py": LOOP})
    assert [(f.state, str(f.site)) for f in found] == [(State.DIVERGED, "loop.py:5")]
    assert found[0].evidence == (
        "args.clustering_mode chooses among 3 sets of tokens for a loss ('visible', 'masked', 'separate'); "
        "'masked' is the one of masked tokens and what is configured everywhere"
    )


@pytest.mark.parametrize(
    ("other", "path"),
    [
        ("args.clustering_mode = 'visible'\n", "tune.py"),
        ("parser.set_defaults(clustering_mode='visible')\n", "tune.py"),
        ("python main.py --clustering_mode visible\n", "run.sh"),
        ("train:\n  clustering_mode: separate  # slow\n", "run.yaml"),
        ("python main.py --clustering-mode $MODE\n", "run.sh"),
        ("command = ['main.py', '--clustering_mode=visible']\n", "submit.py"),
    ],
)
def test_a_place_that_sets_another_mode_makes_it_unsafe(other: str, path: str) -> None:
    """The arm stays alone only on demand, the flag stays, and the place is named."""
    files = {"main.py": PARSER, "loop.py": LOOP, path: other}
    after = rewritten(MIGRATION, files, Level.UNSAFE)
    assert after == {"main.py": PARSER, "loop.py": MASKED_LOOP, path: other}
    line = 2 if path.endswith("yaml") else 1
    assert f"{path}:{line} sets it to" in findings(MIGRATION, files)[0].evidence


def test_a_launcher_that_repeats_the_default_keeps_the_flag() -> None:
    """The arms are dead all the same; without the flag, the launcher would be refused."""
    files = {"main.py": PARSER, "loop.py": LOOP, "run.sh": "srun python main.py \\\n  --clustering_mode masked\n"}
    after = rewritten(MIGRATION, files, Level.SAFE)
    assert (after["main.py"], after["loop.py"]) == (PARSER, MASKED_LOOP)
    assert "run.sh:2 still set it" in findings(MIGRATION, files)[0].person


def test_a_flag_that_something_else_reads_stays() -> None:
    """Its reader is named."""
    files = {"main.py": PARSER, "loop.py": LOOP, "log.py": "def name(args):\n    return args.clustering_mode\n"}
    after = rewritten(MIGRATION, files, Level.SAFE)
    assert after["main.py"] == PARSER
    assert "log.py:2 still read it" in findings(MIGRATION, files)[0].person


@pytest.mark.parametrize("default", ['default="visible"', "default=MODE", "required=True"])
def test_another_default_makes_it_unsafe(default: str) -> None:
    """A default that is another mode, or cannot be read, proves nothing."""
    parser = PARSER.replace('default="masked"', default)
    rewritten(MIGRATION, {"main.py": parser, "loop.py": LOOP}, Level.UNSAFE)


def test_names_literals_and_order_do_not_matter() -> None:
    """A method, other words, reversed comparisons, an inverse by function, an `else` that stops."""
    before = code(
        """
        class Objective:
            def term(self, x, hidden):
                if "off" == self.cfg.which:
                    value = self.proto_loss(x, hidden.logical_not())
                elif "on" == self.cfg.which:
                    value = self.proto_loss(x, mask=hidden)
                else:
                    raise ValueError(self.cfg.which)
                return value
        """
    )
    after = rewritten(MIGRATION, before, Level.UNSAFE)["fork.py"]
    assert after == code(
        """
        class Objective:
            def term(self, x, hidden):
                value = self.proto_loss(x, mask=hidden)
                return value
        """
    )


def test_arms_may_only_choose_the_mask() -> None:
    """The loss may come after the chain; the arm that names the mask itself is the masked one."""
    before = code(
        """
        def term(args, m, criterion):
            if args.which == 'a':
                chosen = ~m
            elif args.which == 'b':
                chosen = m
            return criterion(chosen)
        """
    )
    parser = "p.add_argument('--which', default='b')\n"
    after = rewritten(MIGRATION, {"fork.py": before, "main.py": parser}, Level.SAFE)
    assert after["fork.py"] == "def term(args, m, criterion):\n    chosen = m\n    return criterion(chosen)\n"


def test_line_ends_tabs_and_other_alphabets_are_kept() -> None:
    """CRLF, tabs and comments beyond ASCII: only the chain's own lines change."""
    before = LOOP.replace("    ", "\t").replace("# these", "# größe → 量").replace("\n", "\r\n")
    expected = MASKED_LOOP.replace("    ", "\t").replace("# these", "# größe → 量").replace("\n", "\r\n")
    assert rewritten(MIGRATION, {"main.py": PARSER, "loop.py": before}, Level.SAFE)["loop.py"] == expected


def test_arms_on_one_line() -> None:
    """`if x: y` keeps `y`."""
    before = (
        "def f(args, m, loss):\n"
        "    if args.which == 'a': r = loss(~m)\n"
        "    elif args.which == 'b': r = loss(m)\n"
        "    return r\n"
    )
    parser = "p.add_argument('--which', default='b')\n"
    after = rewritten(MIGRATION, {"fork.py": before, "main.py": parser}, Level.SAFE)
    assert after["fork.py"] == "def f(args, m, loss):\n    r = loss(m)\n    return r\n"


def test_a_default_of_a_dataclass_counts() -> None:
    """A configuration class gives a default; its field is not removed."""
    config = "class Config:\n    clustering_mode: str = 'masked'\n"
    after = rewritten(MIGRATION, {"config.py": config, "loop.py": LOOP}, Level.SAFE)
    assert after == {"config.py": config, "loop.py": MASKED_LOOP}


def test_two_chains_on_one_flag_keep_it() -> None:
    """One of them may be suppressed: the flag goes only with its last reader."""
    files = {"main.py": PARSER, "a.py": LOOP, "b.py": LOOP}
    after = rewritten(MIGRATION, files, Level.SAFE)
    assert after == {"main.py": PARSER, "a.py": MASKED_LOOP, "b.py": MASKED_LOOP}


def test_the_masked_arm_may_be_the_last_resort() -> None:
    """`else` runs where the default is none of the other literals."""
    before = (
        "def f(args, m, loss):\n    if args.which == 'a':\n        return loss(~m)\n    else:\n        return loss(m)\n"
    )
    files = {"fork.py": before, "main.py": "p.add_argument('--which', default='b')\n"}
    assert rewritten(MIGRATION, files, Level.SAFE)["fork.py"] == "def f(args, m, loss):\n    return loss(m)\n"
    files["main.py"] = "p.add_argument('--which', default='a')\n"
    rewritten(MIGRATION, files, Level.UNSAFE)


def test_no_masked_arm_is_a_person_s_decision() -> None:
    """Two modes, neither of masked tokens: diverged, and nothing is rewritten."""
    before = LOOP.replace("patch_prototype_loss(tokens, masks)", "patch_prototype_loss(tokens, ~masks)")
    finding = findings(MIGRATION, {"main.py": PARSER, "loop.py": before})[0]
    assert (finding.state, finding.level) == (State.DIVERGED, Level.MANUAL)


def test_a_text_of_several_lines_is_left_alone() -> None:
    """Another indentation would change it."""
    before = LOOP.replace("# these", 'note = """a\n            b"""')
    finding = findings(MIGRATION, {"main.py": PARSER, "loop.py": before})[0]
    assert finding.level is Level.MANUAL


def test_branches_that_return_are_modes_too() -> None:
    """A function that selects tokens by `if`s below each other, as this project's model of such a fork has it."""
    root = Path(__file__).parents[3] / "migrations" / "legacy"
    found = findings(MIGRATION, {path.name: path.read_text() for path in root.glob("*.py")})
    diverged = [finding for finding in found if finding.state is State.DIVERGED]
    assert [(f.level, f.site and f.site.path) for f in diverged] == [(Level.MANUAL, "losses.py")]
    assert diverged[0].evidence.startswith(
        "mode chooses among 3 sets of tokens for a loss ('visible', 'masked', 'separate')"
    )


def test_a_call_with_an_inverse_needs_no_chain() -> None:
    """A loss that is always given visible tokens is diverged too."""
    finding = one(
        MIGRATION, "def f(patch_prototype_loss, x, m):\n    v = ~m\n    return patch_prototype_loss(x, v_mask)\n"
    )
    assert finding.state is State.ALIGNED  # `v_mask` is not `v`
    finding = one(MIGRATION, "def f(patch_prototype_loss, x, mask):\n    return patch_prototype_loss(x, ~mask)\n")
    assert (finding.state, finding.level) == (State.DIVERGED, Level.MANUAL)


NO_OPS = {
    "no prototype loss": "def loss(x):\n    return x.mean()\n",
    "a chain that inverts nothing": code(
        """
        def f(args, m, loss):
            if args.kind == "a":
                return loss(m, 1)
            elif args.kind == "b":
                return loss(m, 2)
        """
    ),
    "a chain that serves no loss": code(
        """
        def f(args, m, x):
            if args.kind == "keep":
                x = x[m]
            elif args.kind == "drop":
                x = x[~m]
            return x
        """
    ),
    "arms that do more than choose tokens": code(
        """
        def f(args, m, loss, x):
            if args.kind == "a":
                x = loss(~m)
            elif args.kind == "b":
                x = loss(m)
            elif args.kind == "c":
                x = train_something_else(x)
            return x
        """
    ),
    "numbers, not texts": code(
        """
        def f(args, m, loss):
            if args.kind == 1:
                return loss(~m)
            elif args.kind == 2:
                return loss(m)
        """
    ),
    "an inverted integer": "def f(x, loss):\n    return loss(~x) if x else 0\n",
}


@pytest.mark.parametrize("name", NO_OPS)
def test_other_code_has_nothing_to_migrate(name: str) -> None:
    """Nothing of a prototype loss: not applicable, and no edits."""
    finding = one(MIGRATION, NO_OPS[name])
    assert (finding.state, finding.site, finding.edits) == (State.NOT_APPLICABLE, None, ())


def test_official_code_has_no_prototype_loss(official_root: Path) -> None:
    """Not applicable, whatever is called prototypes in its heads."""
    texts = {str(path.relative_to(official_root)): path.read_text() for path in official_root.rglob("*.py")}
    assert states(MIGRATION, texts) == {State.NOT_APPLICABLE}


def test_port_takes_masked_tokens_alone() -> None:
    """This project's own prototype loss is aligned."""
    root = Path(__file__).parents[3] / "port"
    texts = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}
    assert states(MIGRATION, texts) == {State.ALIGNED}


def test_the_miniature_fork_is_found_and_mended() -> None:
    """Three modes in the trainer, `masked` by default: safe."""
    root = Path(__file__).parents[1] / "fork"
    texts = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.suffix in (".py", ".sh")}
    after = rewritten(MIGRATION, texts, Level.SAFE)
    changed = {path for path, text in texts.items() if after[path] != text}
    assert changed == {"main.py", "training/trainer.py"}
    assert "clustering_mode" not in after["main.py"] + after["training/trainer.py"]


def test_a_file_that_does_not_parse_stops_nothing() -> None:
    """It is reported by the project, and the others are looked at."""
    project = Project.of_texts({"main.py": PARSER, "loop.py": LOOP, "bad.py": "def f(:\n    ~m == loss\n"})
    assert [finding.state for finding in MIGRATION.find(project)] == [State.DIVERGED]
    assert "bad.py" in project.errors
