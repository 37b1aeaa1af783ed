"""The README promises nothing that is not there: its commands parse, its paths and ids exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from parity.catalogue import explain
from parity.options import build_parser
from parity.stack import capabilities_of, stack_name
from parity.subjects import open_subject
from port.cli import load_run_config, parse_arguments
from port.preflight import check_before_training

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = sorted(set(re.findall(r"python -m parity ((?:run|list|explain|doctor|adapter|certify)[^`\n]*)", README)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, tmp_path: Path) -> None:
    """Every `python -m parity` line is accepted by the command line; what follows two spaces is its comment."""
    (tmp_path / "adapter.py").touch()
    words = command.split("   ")[0].strip().replace("PATH", str(tmp_path))
    words = words.replace("adapter.py", str(tmp_path / "adapter.py"))
    assert build_parser().parse_args(shlex.split(words))


@pytest.mark.parametrize("command", sorted(set(re.findall(r"port/train\.py([^`\n]*)", README))))
def test_training_commands_parse(command: str, tmp_path: Path) -> None:
    """Every line of `port/train.py` is accepted, and its settings make a configuration."""
    words = command.split("   ")[0].replace("train.dataset_path=…", "").replace("…", "").strip()
    for place in ("FOLDER", "DIR", "FILE"):
        words = words.replace(place, str(tmp_path))
    assert load_run_config(parse_arguments(shlex.split(words))).train.output_dir


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)*=[\w.]+)[ `]", README))))
def test_settings_exist(setting: str) -> None:
    """Every `key=value` that the README names is a key with a value of its type."""
    cfg = load_run_config(parse_arguments([setting]))
    check_before_training(cfg, world_size=1, n_images=10_000, device_type="cuda")


@pytest.mark.parametrize("session", sorted(set(re.findall(r"nox -s (\w+)", README))))
def test_sessions_exist(session: str) -> None:
    """Every session that the README names is a function of the noxfile."""
    assert f"\ndef {session}(session: nox.Session)" in (ROOT / "noxfile.py").read_text("utf-8")


def test_the_commands_of_export_and_train_are_there() -> None:
    """Paths that the README runs exist."""
    for path in set(re.findall(r"python ((?:port|bench)/\w+\.py)", README)):
        assert (ROOT / path).is_file()


def test_there_are_commands_to_check() -> None:
    """The pattern above finds the README's commands at all."""
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([\w./]+)\)", README))))
def test_linked_files_exist(target: str) -> None:
    """Relative links lead somewhere."""
    assert (ROOT / target).exists()


@pytest.mark.parametrize("identity", [f"000{n}" for n in range(1, 8)])
def test_every_difference_is_told_in_full(identity: str) -> None:
    """The README's table has a row per difference, and `explain` the whole story."""
    assert f"| {identity} |" in README
    assert len(explain(identity).body) > 500


def test_the_adapter_example_is_a_subject(tmp_path: Path) -> None:
    """The example, beside a package of the name that it imports, loads and offers the capabilities that it shows."""
    (tmp_path / "my_fork").mkdir()
    for module in ("__init__", "losses", "masking"):
        (tmp_path / "my_fork" / f"{module}.py").touch()
    (example,) = re.findall(r"```python\n(# adapter\.py\n.*?)```", README, re.DOTALL)
    (tmp_path / "adapter.py").write_text(example)
    with open_subject(str(tmp_path / "adapter.py")) as stack:
        assert capabilities_of(stack) == ("make_mask", "ibot_loss", "koleo_loss")
        assert stack_name(stack) == "my fork"


def test_nothing_outside_the_project_is_named() -> None:
    """No tracked text names a path of the machine that it was written on."""
    forbidden = re.compile("/" + r"(?:work|tmp/w)/|\.\./" + "shared")
    folders = ("port", "parity", "migrations", "tests", ".github", ".ci")
    paths = [*ROOT.glob("*.*"), *(path for name in folders for path in (ROOT / name).rglob("*"))]
    texts = [p for p in paths if p.is_file() and p.suffix in ("", ".py", ".md", ".toml", ".yml", ".yaml", ".json")]
    assert len(texts) > 100
    for path in texts:
        assert not forbidden.search(path.read_text("utf-8")), path
