from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from migrations.cli import main

FORK = Path(__file__).parent.parent / "fork"
SAVE = """
import argparse, sys
import torch
import main
from training.helpers import build_optimizer
from models.multihead import TMEDinoModel
from utils import SingleProcess

torch.manual_seed(0)
args = argparse.ArgumentParser(parents=[main.get_args_parser()]).parse_args([])
student = SingleProcess(TMEDinoModel(args, drop_path_rate=0.0))
teacher = SingleProcess(TMEDinoModel(args, drop_path_rate=0.0))
optimizer = build_optimizer(student, args)
for i, parameter in enumerate(student.parameters()):
    parameter.grad = torch.full_like(parameter, 0.01 * (i + 1))
optimizer.step()
torch.save(
    {
        "student": student.state_dict(),
        "teacher": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
        "args": args,
    },
    sys.argv[1],
)
torch.save([name for name, _ in student.named_parameters()], sys.argv[2])
"""


def test_the_documents_fork(tmp_path: Path) -> None:
    """Of a checkpoint that the fork's own classes saved, each parameter's moment is a tenth of its own gradient."""
    saved, names, new = tmp_path / "fork.pth", tmp_path / "names.pth", tmp_path / "new.pth"
    subprocess.run([sys.executable, "-c", SAVE, str(saved), str(names)], cwd=FORK, check=True)
    assert main(["checkpoint", str(saved), "--out", str(new)]) == 1
    assert main(["checkpoint", str(saved), "--out", str(new), "--write"]) == 0
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(new, weights_only=True)
    record = content["parity_migration"]["optimizers"]["optimizer"]
    new_names = [name for group in record["new_names"] for name in group]
    old_names = torch.load(names)
    assert len(new_names) == len(old_names)
    for i, old in enumerate(old_names):
        name = old.removeprefix("module.").replace("classhead", "dino_head").replace("patchhead", "ibot_head")
        moment = content["optimizer"]["state"][new_names.index(name)]["exp_avg"]
        torch.testing.assert_close(moment, torch.full_like(moment, 0.001 * (i + 1)))
    assert not hasattr(content["args"], "token_mask_ratio")
