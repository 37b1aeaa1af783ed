from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from port.cli import ExitCode, load_run_config, parse_arguments, print_information
from port.cli_help import EXAMPLES
from port.config import default_config, load_config, load_recipe
from port.config_docs import describe_keys
from port.config_keys import ALIASES
from port.preflight import check_before_training

REPOSITORY = Path(__file__).parents[2]


def test_official_s_command_line_is_understood(tmp_path: Path) -> None:
    """Options and overrides as official takes them (dinov2/train/train.py:36)."""
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  epochs: 3\n")
    arguments = parse_arguments(
        [
            "--config-file",
            str(file),
            "--no-resume",
            "--output_dir",
            str(tmp_path / "out"),
            "optim.epochs=5",
            "train.seed=1",
        ]
    )
    assert arguments.config_file == file
    assert arguments.output_dir == tmp_path / "out"
    assert (arguments.no_resume, arguments.eval_only) == (True, False)
    assert arguments.overrides == ("optim.epochs=5", "train.seed=1")
    assert arguments.notices == ()
    cfg = load_run_config(arguments)
    assert (cfg.optim.epochs, cfg.train.seed, cfg.train.output_dir) == (5, 1, str(tmp_path / "out"))


def test_options_may_follow_overrides() -> None:
    """Official swallows an option that comes after the first key=value."""
    arguments = parse_arguments(["optim.epochs=5", "--eval-only", "train.seed=1", "--output-dir=out"])
    assert arguments.eval_only
    assert arguments.output_dir == Path.cwd() / "out"
    assert arguments.overrides == ("optim.epochs=5", "train.seed=1")


def test_the_output_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--output-dir wins over train.output_dir, which wins over official's default, the working directory."""
    monkeypatch.chdir(tmp_path)

    def folder(*argv: str) -> str:
        return str(load_run_config(parse_arguments(["--config-file", "vitl14", *argv])).train.output_dir)

    assert folder() == str(tmp_path)
    assert folder("train.output_dir=here") == str(tmp_path / "here")
    assert folder("train.output_dir=here", "--output-dir", "there") == str(tmp_path / "there")
    assert folder("--output-dir", "~/there") == str(Path.home() / "there")


def test_recipes_have_names() -> None:
    """--config-file takes official's recipes without a path."""
    arguments = parse_arguments(["--config-file", "vitg14", "--output-dir", "x"])
    cfg = load_run_config(arguments)
    cfg.train.output_dir = "."
    assert cfg == load_recipe("vitg14")


def test_no_argument_means_the_demonstration() -> None:
    """A small model on images that a package ships, k-NN included, and a line that says so."""
    arguments = parse_arguments([])
    assert arguments.config_file.name == "demo.yaml"
    assert len(arguments.notices) == 1
    assert "demonstration" in arguments.notices[0]
    cfg = load_run_config(arguments)
    assert cfg.train.dataset_path.startswith("skimage:")
    assert cfg.knn.test_dataset != cfg.knn.train_dataset
    assert cfg.train.output_dir.endswith("output/demo")
    assert cfg.student.arch == "vit_demo"


def test_own_images_need_no_configuration_file() -> None:
    """The demonstration's model, without its k-NN images, in a folder of its own; later settings win."""
    arguments = parse_arguments(["train.dataset_path=/data/my images"])
    assert "on your data" in arguments.notices[0]
    cfg = load_run_config(arguments)
    assert cfg.train.dataset_path == "/data/my images"
    assert (cfg.knn.train_dataset, cfg.knn.test_dataset) == ("", "")
    assert cfg.train.output_dir == str(Path.cwd() / "output" / "my-images")
    assert cfg.student.arch == "vit_demo"
    cfg = load_run_config(
        parse_arguments(["train.output_dir=/else", "train.dataset_path=/data", "knn.train_dataset=/a"])
    )
    assert (cfg.train.output_dir, cfg.knn.train_dataset) == ("/else", "/a")
    assert parse_arguments(["train.dataset_path=/"]).overrides[2] == "train.output_dir=output/run"


@pytest.mark.parametrize(
    ("argv", "overrides"),
    [
        (["--mask_ratio_min", "0.2"], ("mask_ratio_min=0.2",)),
        (["--mask-ratio-max=0.4", "optim.epochs=3"], ("mask_ratio_max=0.4", "optim.epochs=3")),
        (["--mask_sample_probability", "1"], ("mask_sample_probability=1",)),
        (["--mask_ratio_min", "-1"], ("mask_ratio_min=-1",)),
        (["--use_prototype_clustering"], ("use_prototype_clustering=true",)),
        (["--use_prototype_clustering", "False"], ("use_prototype_clustering=False",)),
        (["--use_prototype_clustering", "optim.epochs=3"], ("use_prototype_clustering=true", "optim.epochs=3")),
        (["--use-prototype-clustering", "--eval-only"], ("use_prototype_clustering=true",)),
    ],
)
def test_the_document_s_flags_are_settings(argv: list[str], overrides: tuple[str, ...]) -> None:
    """Flags with underscores or dashes, the value behind `=` or a space."""
    assert parse_arguments(["--config-file", "vitl14", *argv]).overrides == overrides


def test_the_document_s_flags_reach_the_configuration() -> None:
    """All four, from flag to key."""
    argv = ["--mask_ratio_min", "0.2", "--mask_ratio_max=0.6", "--mask_sample_probability", "0.9"]
    cfg = load_run_config(parse_arguments([*argv, "--use_prototype_clustering"]))
    assert list(cfg.ibot.mask_ratio_min_max) == [0.2, 0.6]
    assert cfg.ibot.mask_sample_probability == 0.9
    assert cfg.prototype.loss_weight == 1.0
    assert len(ALIASES) == 4


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["optim.epochs", "3"], "argument 'optim.epochs' has no '=', expected key=value: write optim.epochs=3"),
        (["optim.epochs"], "write optim.epochs=VALUE"),
        (["optim.epochs", "train.seed=1"], "write optim.epochs=VALUE"),
        (["mine.yaml"], "a configuration file is given as --config-file mine.yaml"),
        (["--token_mask_ratio", "0.3"], "is gone: replaced by ibot.mask_ratio_min_max"),
        (["--token-mask-ratio=0.3"], "(migration 0003)"),
        (["--clustering_mode", "visible"], "(migration 0004)"),
        (["--mask_ratio_min"], "--mask_ratio_min lacks its value"),
        (["--mask_ratio_min", "optim.epochs=3"], "--mask_ratio_min lacks its value"),
        (["--mask_ratio_mn", "0.3"], "unknown option --mask_ratio_mn; did you mean '--mask_ratio_min'?"),
        (["--config", "a.yaml"], "unknown option --config; did you mean '--config-file'?"),
        (["--optim.epochs=3"], "keys have no dashes in front, write optim.epochs=3"),
        (["--ngpus", "8"], "torchrun --nproc-per-node=N"),
        (["--local-rank=0"], "start with torchrun, which sets LOCAL_RANK"),
        (["train.dataset_path=/d\udcff"], "'train.dataset_path=/d\\udcff' holds bytes that are not UTF-8"),
        (["--output-dir", "/d\udcff"], "rename the file or folder, or give a symbolic link to it"),
        (["--config-file"], "argument --config-file: expected one argument; see `python port/train.py --help`"),
    ],
)
def test_what_is_not_understood_is_an_error_with_a_hint(argv: list[str], expected: str) -> None:
    """ValueError, never argparse's own exit, and the message says what to write."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_arguments(argv)


def test_a_folder_is_recognised(tmp_path: Path) -> None:
    """A folder alone is most likely the images."""
    with pytest.raises(ValueError, match=re.escape(f"train.dataset_path={tmp_path}")):
        parse_arguments([str(tmp_path)])


def test_a_missing_configuration_file_names_the_recipes() -> None:
    """With the nearest one."""
    with pytest.raises(FileNotFoundError, match=r"'vitl61_short' does not exist, .*did you mean 'vitl16_short'\?"):
        parse_arguments(["--config-file", "vitl61_short"])


def test_official_s_unused_option_is_accepted_with_a_notice() -> None:
    """Q58: official takes --eval and ignores it."""
    arguments = parse_arguments(["--config-file", "vitl14", "--eval", "knn"])
    assert arguments.notices == ("--eval knn has no effect, as in official (Q58); --eval-only evaluates",)


def _information(*argv: str) -> str:
    file = io.StringIO()
    assert print_information(parse_arguments(argv), Console(file=file, width=200))
    return file.getvalue()


def test_print_config_prints_a_file_that_loads_again(tmp_path: Path) -> None:
    """The output is the merged configuration, whatever the terminal's width."""
    argv = ["--config-file", "vitl14", "--output-dir", str(tmp_path), "optim.epochs=7"]
    (tmp_path / "run.yaml").write_text(_information(*argv, "--print-config"))
    assert load_config(tmp_path / "run.yaml") == load_run_config(parse_arguments(argv))


def test_help_config_prints_a_section_or_all() -> None:
    """Without a section every key comes."""
    assert "optim.epochs" in _information("--help-config", "optim")
    assert "optim.epochs" not in _information("--help-config", "crops")
    printed = _information("--help-config")
    assert [doc.key for doc in describe_keys() if doc.key not in printed] == []
    with pytest.raises(ValueError, match="no section or key 'nothing'"):
        print_information(parse_arguments(["--help-config", "nothing"]))


def test_training_prints_no_information() -> None:
    """Without either option there is nothing to print."""
    assert not print_information(parse_arguments([]))


def test_help_is_worth_reading(capsys: pytest.CaptureFixture[str]) -> None:
    """Examples, exit codes, where results lie, and every section with its keys."""
    with pytest.raises(SystemExit) as caught:
        parse_arguments(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for topic in (
        "torchrun",
        "parallel=fsdp",
        "train.dataset_path=",
        "pretrained_weights",
        "--eval-only",
        "output/demo",
    ):
        assert topic in text
    for code in ExitCode:
        assert re.search(rf"^  {code.value}\s", text, re.MULTILINE)
    assert [section for section in default_config() if str(section) not in text] == []
    assert max(map(len, text.splitlines())) <= 120


def test_exit_codes_are_those_documented() -> None:
    """75 is EX_TEMPFAIL: run it again."""
    assert [(code.name, code.value) for code in ExitCode] == [
        ("DONE", 0),
        ("FAILED", 1),
        ("COULD_NOT", 2),
        ("STOPPED", 75),
    ]


def test_the_help_s_own_examples_are_understood() -> None:
    """Every command in --help parses, and what it configures can start on eight ranks, with a warning at most."""
    for command, _ in EXAMPLES:
        words = shlex.split(command.partition(" >")[0])
        cfg = load_run_config(parse_arguments(words[words.index("port/train.py") + 1 :]))
        assert len(check_before_training(cfg, 8)) <= 1


def test_help_needs_no_torch() -> None:
    """--help and --print-config answer at once: the command line imports no torch."""
    code = "import sys; from port.cli import parse_arguments; parse_arguments([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
