from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from flag_files import PARSER, run, shown, write

LAUNCHERS = {
    "continued lines": (
        "#!/bin/bash\n#SBATCH --nodes=1\npython main.py \\\n    --lr 0.2 \\\n    --token_mask_ratio 0.4 \\\n"
        "    --epochs 3\necho done\n",
        "#!/bin/bash\n#SBATCH --nodes=1\npython main.py \\\n    --lr 0.2 \\\n    --epochs 3\necho done\n",
    ),
    "last of continued lines": (
        "python main.py --lr 0.2 \\\n  --token_mask_ratio 0.4\necho done\n",
        "python main.py --lr 0.2\necho done\n",
    ),
    "one line": (
        "python main.py --lr 0.2 --token_mask_ratio 0.4 --epochs 3\n",
        "python main.py --lr 0.2 --epochs 3\n",
    ),
    "equals sign": (
        "python main.py --token_mask_ratio=0.4 --epochs=3 # --token_mask_ratio\n",
        "python main.py --epochs=3 # --token_mask_ratio\n",
    ),
    "dashes": ("python main.py --token-mask-ratio 0.4\n", "python main.py\n"),
    "value on the next line": (
        "python main.py --lr 0.2 --token_mask_ratio \\\n    0.4 --epochs 3\n",
        "python main.py --lr 0.2 --epochs 3\n",
    ),
    "variable": (
        "RATIO=0.4\npython main.py --token_mask_ratio $RATIO --lr ${LR:-0.2}\n",
        "RATIO=0.4\npython main.py --lr ${LR:-0.2}\n",
    ),
    "quoted variable": (
        'RATIO=0.4\npython main.py --token_mask_ratio "${RATIO}" --lr 0.2\n',
        "RATIO=0.4\npython main.py --lr 0.2\n",
    ),
    "string of arguments": (
        'ARGS="--token_mask_ratio 0.4 --lr 0.2"\npython main.py $ARGS\n',
        'ARGS="--lr 0.2"\npython main.py $ARGS\n',
    ),
    "end of a string": (
        "ARGS='--lr 0.2 --token_mask_ratio 0.4'\npython main.py $ARGS\n",
        "ARGS='--lr 0.2'\npython main.py $ARGS\n",
    ),
    "string over lines": (
        'ARGS="\n  --lr 0.2\n  --token_mask_ratio 0.4\n  --epochs 3\n"\npython main.py $ARGS\n',
        'ARGS="\n  --lr 0.2\n  --epochs 3\n"\npython main.py $ARGS\n',
    ),
    "array over lines": (
        'ARGS=(\n  --lr 0.2\n  --token_mask_ratio 0.4  # the share\n  --epochs 3\n)\npython main.py "${ARGS[@]}"\n',
        'ARGS=(\n  --lr 0.2\n  # the share\n  --epochs 3\n)\npython main.py "${ARGS[@]}"\n',
    ),
    "array of quoted words": (
        'ARGS=("--token_mask_ratio" "0.4" "--lr" "0.2")\nARGS+=("--token_mask_ratio=0.5")\n'
        'python main.py "${ARGS[@]}"\n',
        'ARGS=("--lr" "0.2")\nARGS+=()\npython main.py "${ARGS[@]}"\n',
    ),
    "tabs and umlauts": (
        "# Größe\npython main.py \\\n\t--token_mask_ratio 0.4 \\\n\t--epochs 3  # für später\n",
        "# Größe\npython main.py \\\n\t--epochs 3  # für später\n",
    ),
}


def calls(script: Path, folder: Path) -> list[str]:
    """Run a script with a `python` that prints its arguments, one a line."""
    fake = folder / "bin" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["/bin/bash", str(script)], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def without_flag(words: list[str]) -> list[str]:
    """Remove the flag and its value from arguments, as argparse would read them."""
    kept: list[str] = []
    skip = False
    for word in words:
        name = word.split("=")[0].replace("-", "_")
        if not skip and name != "__token_mask_ratio":
            kept.append(word)
        skip = name == "__token_mask_ratio" and "=" not in word
    return kept


@pytest.mark.parametrize("case", LAUNCHERS)
def test_a_launcher_loses_the_flag_and_nothing_else(case: str, tmp_path: Path) -> None:
    """The text after is as written by hand, running it gives the program every other argument, and nothing is left."""
    before, after = LAUNCHERS[case]
    main, script = write(tmp_path, main_py=PARSER, launch_sh=before)
    arguments = calls(script, tmp_path)
    assert arguments != without_flag(arguments)
    assert run(main, script, "--write", "--allow-dirty") == 0
    assert script.read_text() == after
    assert calls(script, tmp_path) == without_flag(arguments)
    assert run(main, script) == 0


def test_windows_line_ends_stay(tmp_path: Path) -> None:
    """CRLF files lose the line with its CRLF."""
    main, script = write(
        tmp_path,
        main_py=PARSER.replace("\n", "\r\n"),
        launch_sh="python main.py \\\r\n  --token_mask_ratio 0.4 \\\r\n  --lr 1\r\n",
    )
    assert run(main, script, "--write", "--allow-dirty") == 0
    assert script.read_bytes() == b"python main.py \\\r\n  --lr 1\r\n"
    assert b"\n" not in main.read_bytes().replace(b"\r\n", b"")
    assert b"token_mask_ratio" not in main.read_bytes()


PYTHON_LAUNCHERS = {
    "list": (
        'import sys\ncmd = [sys.executable, "main.py", "--token_mask_ratio", "0.4", "--lr", "0.2"]\n',
        'import sys\ncmd = [sys.executable, "main.py", "--lr", "0.2"]\n',
    ),
    "list over lines": (
        'cmd = [\n    "main.py",\n    "--token_mask_ratio", str(RATIO),\n    "--lr=0.2",  # rate\n]\n',
        'cmd = [\n    "main.py",\n    "--lr=0.2",  # rate\n]\n',
    ),
    "last of a list": ('cmd = ["--lr", "1", "--token_mask_ratio=0.4"]\n', 'cmd = ["--lr", "1"]\n'),
    "dictionary": (
        'flags = {"lr": 0.2, "token_mask_ratio": 0.4, "clustering_mode": "masked"}\n',
        'flags = {"lr": 0.2}\n',
    ),
    "namespace": (
        "import argparse\nargs = argparse.Namespace(\n    lr=0.2,\n    token_mask_ratio=0.4,\n)\n",
        "import argparse\nargs = argparse.Namespace(\n    lr=0.2,\n)\n",
    ),
    "attribute": ("def launch(args):\n    args.token_mask_ratio = 0.4\n    args.lr = 0.2\n", None),
    "setattr": ('def launch(args):\n    setattr(args, "token_mask_ratio", 0.4)\n', "def launch(args):\n    pass\n"),
    "subscript": ('config["clustering_mode"] = "masked"\nconfig["lr"] = 0.2\n', 'config["lr"] = 0.2\n'),
    "class": (
        "class Config:\n    token_mask_ratio: float = 0.3\n    lr: float = 0.2\n",
        "class Config:\n    lr: float = 0.2\n",
    ),
}
ATTRIBUTE_AFTER = "def launch(args):\n    args.lr = 0.2\n"


@pytest.mark.parametrize("case", PYTHON_LAUNCHERS)
def test_a_python_launcher_loses_the_flag_and_nothing_else(case: str, tmp_path: Path) -> None:
    """The text after is as written by hand, parses, and has nothing left to remove."""
    before, after = PYTHON_LAUNCHERS[case]
    main, script = write(tmp_path, main_py=PARSER, launch_py=before)
    assert run(main, script, "--write", "--allow-dirty") == 0
    assert script.read_text() == (after or ATTRIBUTE_AFTER)
    compile(script.read_text(), "launch.py", "exec")
    assert run(main, script) == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('import os\nos.system("python main.py --token_mask_ratio 0.4")\n', "part of a string"),
        ("args.token_mask_ratio = draw()\n", "computed here"),
        ("a = args.token_mask_ratio = 0.4\n", "one of several targets"),
        ("args.token_mask_ratio = 0.4; args.lr = 1\n", "part of a larger statement"),
    ],
)
def test_what_cannot_be_removed_keeps_the_flag(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where one place must be changed by hand, none is changed: a launcher would pass a flag that is not known."""
    main, script = write(tmp_path, main_py=PARSER.replace("clustering_mode", "mode"), launch_py=text)
    row = shown(capsys, main, script)["flags"]["token_mask_ratio"]
    assert row["proposal"] == "blocked"
    assert f"{script.as_posix()}:{text.count(chr(10), 0, text.index('token')) + 1}" in row["reason"]
    assert why in row["reason"]
    assert run(main, script, "--write", "--allow-dirty") == 1
    assert "token_mask_ratio" in main.read_text()
    assert script.read_text() == text


def test_rights_of_a_launcher_stay(tmp_path: Path) -> None:
    """An executable launcher is executable afterwards, and only it and the parser changed."""
    _, script = write(tmp_path, main_py=PARSER, launch_sh="python main.py --clustering_mode masked\n")
    script.chmod(0o750)
    assert run(tmp_path, "--write", "--allow-dirty") == 0
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    assert sorted(path.name for path in tmp_path.iterdir()) == ["launch.sh", "main.py"]


def test_the_new_parser_runs(tmp_path: Path) -> None:
    """The parser that is written has official's defaults for the new flags and refuses the old."""
    (main,) = write(tmp_path, main_py=PARSER + "print(vars(parser.parse_args()))\n")
    assert run(main, "--write", "--allow-dirty") == 0
    done = subprocess.run([sys.executable, str(main)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(
        {"lr": 0.1, "mask_ratio_min": 0.1, "mask_ratio_max": 0.5, "mask_sample_probability": 0.5, "epochs": 10}
    )
