from __future__ import annotations

from pathlib import Path

import pytest
from flag_files import PARSER, run, shown, write

READER = "def train(args):\n    masks = draw(args.token_mask_ratio)\n    return masks, args.clustering_mode\n"


def test_a_flag_stays_while_anything_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each remaining read is counted with its place; the migration that ends it is named; nothing is written."""
    main, trainer, launch = write(
        tmp_path, main_py=PARSER, trainer_py=READER, launch_sh="python main.py --token_mask_ratio 0.4\n"
    )
    document = shown(capsys, tmp_path)
    ratio, mode = document["flags"]["token_mask_ratio"], document["flags"]["clustering_mode"]
    assert (ratio["proposal"], mode["proposal"]) == ("stays", "stays")
    assert f"1 read remains ({trainer.as_posix()}:2): 0003 first" in ratio["reason"]
    assert "0004 first" in mode["reason"]
    assert [place["line"] for place in ratio["define"]] == [5]
    assert [(place["path"], place["line"], place["value"]) for place in ratio["set"]] == [(launch.as_posix(), 1, "0.4")]
    before = {path: path.read_bytes() for path in (main, trainer, launch)}
    assert run(tmp_path, "--write", "--allow-dirty") == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "read",
    [
        "x = args.clustering_mode\n",
        'x = getattr(args, "clustering_mode", None)\n',
        'x = vars(args)["clustering_mode"]\n',
        'x = config.get("clustering_mode")\n',
        'if "clustering_mode" in config:\n    pass\n',
        'NAMES = ["clustering_mode", "lr"]\n',
        "def train(clustering_mode):\n    return clustering_mode\n\n\ntrain(**vars(args))\n",
        "self.clustering_mode = args.clustering_mode\n",
    ],
)
def test_every_way_to_read_counts(read: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attributes, getattr, subscripts, strings and parameters filled from the arguments all keep a flag."""
    write(tmp_path, main_py=PARSER, other_py=read)
    row = shown(capsys, tmp_path)["flags"]["clustering_mode"]
    assert row["proposal"] == "stays"
    assert len(row["read"]) >= 1


@pytest.mark.parametrize(
    "mention",
    [
        "# args.clustering_mode decides\nx = 1\n",
        '"""--clustering_mode is described here."""\n',
        "clustering_mode_names = 3\nx = args.clustering_mode_names\n",
        "def f(clustering_mode):\n    return clustering_mode\n",
    ],
)
def test_what_reads_no_flag_keeps_none(mention: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Comments, docstrings, longer names and local names are no reads."""
    write(tmp_path, main_py=PARSER, other_py=mention)
    assert shown(capsys, tmp_path)["flags"]["clustering_mode"]["proposal"] == "goes"


def test_token_mask_ratio_is_never_converted_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That there is no equivalent, why, and what to choose is said; its value appears in no new default."""
    (main,) = write(tmp_path, main_py=PARSER.replace("default=0.3", "default=0.37"))
    assert run(tmp_path) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "token_mask_ratio goes: nothing in the files given reads it; has no official equivalent" in said
    assert "Its value is not carried over; choose mask_ratio_min, mask_ratio_max and mask_sample_probability" in said
    assert run(tmp_path, "--write", "--allow-dirty") == 0
    assert "0.37" not in main.read_text()
    assert '"--mask_ratio_min", type=float, default=0.1' in main.read_text()


def test_new_flags_that_are_read_are_defined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rewritten trainer reads the new ratio flags; the parser gets those it lacks, behind its last definition."""
    parser = PARSER.replace("token_mask_ratio", "mask_ratio_max").replace("clustering_mode", "mode")
    main, trainer = write(
        tmp_path,
        main_py=parser,
        trainer_py="def f(args):\n    return args.mask_ratio_min, args.mask_ratio_max\n",
    )
    flags = shown(capsys, main, trainer)["flags"]
    assert flags["mask_ratio_min"]["proposal"] == "new"
    assert flags["mask_ratio_max"]["proposal"] is None
    assert "mask_sample_probability" not in flags
    assert run(main, trainer, "--write", "--allow-dirty") == 0
    lines = main.read_text().splitlines()
    assert lines[-1].startswith('parser.add_argument("--mask_ratio_min", type=float, default=0.1')
    assert main.read_text().startswith(parser)


def test_conflicts_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A launcher's value that is not the default is named with both places; an equal number is none."""
    launch = "LR=0.5\npython main.py --lr $LR --epochs 10.0 --clustering_mode visible --token_mask_ratio $UNKNOWN\n"
    write(tmp_path, main_py=PARSER, launch_sh=launch)
    run(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "conflict: lr is 0.5 (LR, line 1) at" in said
    assert "conflict: clustering_mode is visible at" in said
    assert said.count("conflict:") == 2


YAML = """\
# the run
lr: 0.1      # rate
ibot:
    # coins
    token_mask_ratio: 0.4    # gone
    weight: 1.0
list: [1, 2]  # kept
"""


def test_comments_in_yaml_stay(tmp_path: Path) -> None:
    """A nested key goes with its line; every other byte stays, comments included."""
    _, config = write(tmp_path, main_py=PARSER, config_yaml=YAML)
    assert run(tmp_path, "--write", "--allow-dirty") == 0
    assert config.read_text() == YAML.replace("    token_mask_ratio: 0.4    # gone\n", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("args: {token_mask_ratio: 0.4, lr: 1}\n", "other keys are on its line"),
        ("ibot:\n  token_mask_ratio: 0.4\nlr: 1\n", "the only key of its mapping"),
        ("token_mask_ratio:\n  values: [0.1, 0.3]\nlr: 1\n", "its value is a mapping"),
        ("token_mask_ratio: &r 0.4\nother: *r\n", "anchor"),
        ("command: python main.py --token_mask_ratio 0.4\n", "part of a string"),
    ],
)
def test_yaml_that_cannot_lose_a_line_is_left(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where removing the line would change other values, the flag is blocked and says why."""
    _, config = write(tmp_path, main_py=PARSER, config_yaml=text)
    row = shown(capsys, tmp_path)["flags"]["token_mask_ratio"]
    assert row["proposal"] == "blocked"
    assert why in row["reason"]
    assert config.read_text() == text


def test_two_keys_that_are_a_whole_mapping_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both flags are all that a mapping holds: without them it would be null, so nothing is written."""
    text = "ibot:\n  token_mask_ratio: 0.4\n  clustering_mode: masked\nlr: 1\n"
    _, config = write(tmp_path, main_py=PARSER, config_yaml=text)
    assert run(tmp_path, "--write", "--allow-dirty") == 2
    assert "its other values would change" in capsys.readouterr().err
    assert config.read_text() == text


def test_files_that_cannot_be_parsed_block_only_what_they_mention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken file is named with its line; a flag that it mentions stays, another goes."""
    write(tmp_path, main_py=PARSER, broken_py="x = 1\ny = = args.clustering_mode\n", bad_yaml="a: [1\nb: }\n")
    document = shown(capsys, tmp_path)
    assert document["flags"]["clustering_mode"]["proposal"] == "blocked"
    assert document["flags"]["token_mask_ratio"]["proposal"] == "goes"
    assert any("broken.py:2" in error for error in document["errors"])
    assert any("bad.yaml:" in error for error in document["errors"])


def test_launchers_alone_prove_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the program that may read it, a flag is not removed from a launcher."""
    (launch,) = write(tmp_path, launch_sh="python main.py --clustering_mode masked\n")
    assert shown(capsys, launch)["flags"]["clustering_mode"]["proposal"] == "blocked"
    assert run(launch, "--write", "--allow-dirty") == 1
    assert "clustering_mode" in launch.read_text()


def test_nothing_to_do_is_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A parser without any of the flags: exit code 0."""
    write(tmp_path, main_py='import argparse\nargparse.ArgumentParser().add_argument("--lr", default=1)\n')
    assert run(tmp_path) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_paths_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing path and an empty folder are named, exit code 2."""
    assert run(tmp_path / "no.py") == 2
    assert "does not exist" in capsys.readouterr().err
    assert run(tmp_path) == 2
    assert "no Python, shell or YAML file" in capsys.readouterr().err


def test_links_in_a_circle_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link to the folder around it is not entered, and a file given twice is counted once."""
    (main,) = write(tmp_path, main_py=PARSER)
    (tmp_path / "loop").symlink_to(tmp_path)
    row = shown(capsys, tmp_path, main)["flags"]["clustering_mode"]
    assert len(row["define"]) == 1


def test_the_documents_fork(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the fork of the document's layout: one read of token_mask_ratio, three of clustering_mode, three conflicts."""
    monkeypatch.chdir(Path(__file__).parent.parent / "fork")
    flags = shown(capsys, "main.py", "training", "losses", "launch.sh")["flags"]
    assert [place["path"] for place in flags["token_mask_ratio"]["read"]] == ["training/trainer.py"]
    assert len(flags["clustering_mode"]["read"]) == 3
    assert [place["value"] for place in flags["token_mask_ratio"]["set"]] == ["0.3 (TOKEN_MASK_RATIO, line 8)"]
    assert {name for name, row in flags.items() if row["conflicts"]} == {"epochs", "batch_size", "weight_decay_end"}


def test_names_that_mean_something_else_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of old names, and a configuration's own key of a new name, are no flags: nothing to do."""
    write(
        tmp_path,
        main_py='import argparse\np = argparse.ArgumentParser()\np.add_argument("--lr", default=1)\n',
        keys_py='GONE = {"token_mask_ratio": "see the guide", "clustering_mode": "see the guide"}\n',
        train_py="def f(cfg, args):\n    return cfg.ibot.mask_sample_probability, args.lr\n",
    )
    assert run(tmp_path, "--write", "--allow-dirty") == 0
    assert (tmp_path / "keys.py").read_text().count("see the guide") == 2
    assert "mask_sample_probability" not in (tmp_path / "main.py").read_text()


def test_a_launcher_of_a_flag_that_the_parser_lost(tmp_path: Path) -> None:
    """Where a parser no longer defines a flag, launchers that pass it would fail: it goes there too."""
    _, launch = write(
        tmp_path,
        main_py='import argparse\np = argparse.ArgumentParser()\np.add_argument("--lr", default=1)\n',
        launch_sh="python main.py --clustering_mode masked --lr 1\n",
    )
    assert run(tmp_path, "--write", "--allow-dirty") == 0
    assert launch.read_text() == "python main.py --lr 1\n"


def test_a_configuration_in_yaml_alone(tmp_path: Path) -> None:
    """A fork without flags: the key of a file whose other keys are read goes; that of an unrelated file stays."""
    _, config, other = write(
        tmp_path,
        train_py="def f(cfg):\n    return cfg.ibot.loss_weight\n",
        config_yaml="ibot:\n  loss_weight: 1.0\n  clustering_mode: masked  # gone\n",
        other_yaml="service:\n  clustering_mode: masked\n  port_number: 1\n",
    )
    assert run(tmp_path / "train.py", config, "--write", "--allow-dirty") == 0
    assert config.read_text() == "ibot:\n  loss_weight: 1.0\n"
    assert run(tmp_path / "train.py", other, "--write", "--allow-dirty") == 0
    assert "clustering_mode" in other.read_text()


@pytest.mark.parametrize("which", ["port", "official"])
def test_official_code_and_port_have_nothing_to_do(which: str, official_root: Path) -> None:
    """Neither official code nor port has any of the flags, whatever keys of these names they have."""
    folder = official_root / "dinov2" if which == "official" else Path(__file__).parents[3] / "port"
    assert run(folder) == 0
