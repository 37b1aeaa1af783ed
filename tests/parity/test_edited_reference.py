"""An edited copy of official code: refused, and with permission run, found and named."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from parity.errors import ReferenceSourceError
from parity.results import CheckResult, RunResult
from parity.run import Options, run


class Edit(NamedTuple):
    """One altered line of official code and the check that must see it."""

    path: str
    before: str
    after: str
    check: str


EDITS = (
    Edit("data/masking.py", "if delta > 0:", "if delta > 1:", "masks.bitwise"),
    Edit("data/masking.py", "w < self.width and h", "w <= self.width and h", "masks.bitwise"),
    Edit("data/masking.py", "range(10)", "range(9)", "masks.bitwise"),
    Edit(
        "data/collate.py",
        "upperbound += int(N * prob_max)",
        "upperbound += int(N * prob_min)",
        "collate.batch[default]",
    ),
    Edit("data/collate.py", "int(B * mask_probability)", "round(B * mask_probability)", "masks.counts"),
    Edit("train/train.py", "0.5 * img_size", "0.4 * img_size", "collate.cap[default]"),
    Edit("loss/dino_clstoken_loss.py", "n_iterations=3", "n_iterations=4", "losses.sinkhorn"),
    Edit("loss/koleo_loss.py", "PairwiseDistance(2, eps=1e-8)", "PairwiseDistance(2, eps=1e-6)", "losses.koleo"),
    Edit("loss/ibot_patch_loss.py", "student_masks_flat.shape[0]", "len(masks_weight)", "losses.ibot"),
    Edit("loss/ibot_patch_loss.py", "center_momentum=0.9", "center_momentum=0.99", "losses.centering"),
    Edit("train/train.py", "start_warmup_value=0,", "start_warmup_value=1e-9,", "schedules.every_step[default]"),
    Edit("configs/ssl_default_config.yaml", "clip_grad: 3.0", "clip_grad: 1.0", "schedules.defaults"),
    Edit("utils/param_groups.py", '"wd_multiplier": 0.0', '"wd_multiplier": 1.0', "param_groups.small[default]"),
    Edit("utils/param_groups.py", '"mask_token" in name', '"mask_tokens" in name', "param_groups.small[default]"),
    Edit("train/train.py", "wd * wd_multiplier", "wd", "param_groups.small[default]"),
    Edit("models/vision_transformer.py", "eps=1e-6", "eps=1e-5", "modules.backbone[default]"),
    Edit("layers/dino_head.py", "1e-6 if x.dtype == torch.float16 else 1e-12", "1e-6", "modules.head[default]"),
    Edit("layers/dino_head.py", "std=0.02", "std=0.2", "modules.init[default]"),
    Edit(
        "layers/block.py",
        "residual_scale_factor = b / sample",
        "residual_scale_factor = 1 / sample",
        "modules.backbone[default]",
    ),
    Edit(
        "train/ssl_meta_arch.py",
        "_tokens[1], teacher_cls_tokens[0]",
        "_tokens[0], teacher_cls_tokens[1]",
        "gradients.step[default]",
    ),
    Edit("train/ssl_meta_arch.py", "ibot_loss_scale = 1.0", "ibot_loss_scale = 0.99", "gradients.step[default]"),
    Edit(
        "train/train.py",
        "v.clip_grad_norm_(cfg.optim.clip_grad)\n            opt",
        "pass\n            opt",
        "gradients.step[default]",
    ),
    Edit("loss/koleo_loss.py", ".fill_(-1)", ".fill_(0)", "losses.koleo"),
    Edit("models/vision_transformer.py", "npatch == N and w == h", "npatch == N", "modules.backbone[default]"),
    Edit("train/train.py", "betas=(cfg.optim.adamw_beta1,", "betas=(0.8,", "gradients.step[default]"),
    Edit("data/collate.py", "collated_local_crops.to(dtype)", "collated_local_crops", "collate.batch[default]"),
    Edit(
        "train/train.py",
        "mask_probability=cfg.ibot.mask_sample_probability",
        "mask_probability=0.5",
        "collate.batch[default-unmasked]",
    ),
    Edit("data/transforms.py", "keep_p = 1 - p", "keep_p = p", "augment.crops"),
    Edit("data/samplers.py", "seed + start + (iter_count << 24)", "seed + (iter_count << 24)", "augment.samplers"),
    Edit("train/train.py", "seed=start_iter,", "seed=start_iter + 1,", "augment.training_order"),
    Edit("utils/utils.py", "return self.final_value", "return self.schedule[-1]", "gradients.step[default-finished]"),
)
HARMLESS = Edit("data/masking.py", "        # Overlap", "        # overlap", "masks.bitwise")


def edited(root: Path, edit: Edit) -> int:
    """Alter every occurrence of the text in a copy of official code; return the first line that changed."""
    path = root / "dinov2" / edit.path
    before = path.read_text()
    after = before.replace(edit.before, edit.after)
    assert after != before, f"{edit.before!r} is not in {edit.path}"
    path.write_text(after)
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return next(number for number, (old, new) in enumerate(pairs, start=1) if old != new)


def compare(root: Path, check: str) -> RunResult:
    """Run the family of a check against an edited copy, with permission; its identity is checked unasked."""
    family = check.split(".")[0]
    options = Options(
        reference=str(root),
        allow_modified_reference=True,
        recipes=(check.partition("[")[2].rstrip("]") or "default",),
        only=(family,),
        quick=True,
        seeds=400,
    )
    return run(options)


def named(result: RunResult, check: str) -> CheckResult:
    """Return the check of the given id."""
    return next(c for c in result.checks if c.id == check)


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: f"{e.path}: {e.before.splitlines()[0].strip()}")
def test_an_altered_line_is_found_and_named(official_copy: Path, edit: Edit) -> None:
    """The check that runs the line diverges, the run exits 1, and the finding gives file and line."""
    line = edited(official_copy, edit)
    result = compare(official_copy, edit.check)
    check = named(result, edit.check)
    assert check.status == "diverged"
    assert result.exit_code == 1
    sentences = [f.sentence for f in check.findings if f.id == "reference"]
    assert any(f"dinov2/{edit.path}" in s and f"line {line}:" in s for s in sentences), sentences


def test_an_altered_line_is_refused_without_permission(official_copy: Path) -> None:
    """The error names the file, the line and the flag, and nothing is run."""
    line = edited(official_copy, EDITS[0])
    with pytest.raises(ReferenceSourceError, match=rf"masking\.py.*line {line}.*--allow-modified-reference"):
        run(Options(reference=str(official_copy), quick=True))


def test_an_edit_without_effect_still_denies_parity_with_official(official_copy: Path) -> None:
    """A changed comment diverges in `files` alone: exit 0 would claim equality with official code."""
    edited(official_copy, HARMLESS)
    result = compare(official_copy, HARMLESS.check)
    assert named(result, HARMLESS.check).status == "passed"
    files = named(result, "files.identity")
    assert files.status == "diverged"
    assert len(files.diverged) == 1
    assert any("none diverges" in f.sentence for f in files.findings)
    assert result.exit_code == 1


def test_a_file_that_no_check_runs_is_said_to_be_unseen(official_copy: Path) -> None:
    """An edit of the samplers is named, with the fact that nothing here would notice what it does."""
    edit = Edit("data/samplers.py", "import itertools", "import itertools as itertools", "masks.bitwise")
    edited(official_copy, edit)
    result = compare(official_copy, edit.check)
    files = named(result, "files.identity")
    assert any("no check of this run executes it" in f.sentence for f in files.findings)


def test_a_reference_that_ends_the_process_is_no_parity(official_copy: Path) -> None:
    """`sys.exit(0)` in an edited file is an error with its line, never a silent exit 0."""
    path = official_copy / "dinov2" / "loss" / "koleo_loss.py"
    path.write_text(path.read_text() + "\nimport sys\nsys.exit(0)\n")
    result = compare(official_copy, "losses.koleo")
    assert named(result, "losses.koleo").status == "error"
    assert "SystemExit" in named(result, "losses.koleo").reason
    assert result.exit_code == 1
