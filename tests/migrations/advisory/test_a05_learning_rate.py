from __future__ import annotations

import pytest
from advisory_cases import found, places

from migrations.advisory.a05_learning_rate import ADVISORY
from migrations.engine.project import Project

HELPER = "def scaled_rate(args, n):\n    return args.lr * args.batch_size * n / 256\n"


def test_dino_v1_s_argument_is_reported_as_it_is_written() -> None:
    """The rate is the first argument of a schedule; the expression is quoted on one line."""
    text = """
        lr_schedule = cosine_scheduler(
            args.lr * (args.batch_size_per_gpu *
                       get_world_size()) / 256.,  # linear scaling rule
            args.min_lr,
        )
    """
    (finding,) = found(ADVISORY, text)
    assert str(finding.site) == "fork.py:3"
    assert finding.evidence == (
        "the learning rate grows linearly with the batch: "
        "`args.lr * (args.batch_size_per_gpu * get_world_size()) / 256.`"
    )


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate = base * (batch_size / 256)\n",
        "args.lr = args.blr * eff_batch_size / 256\n",
        "optimizer = AdamW(groups, lr=base * total_batch / 256.0)\n",
        "cfg.optim.lr *= cfg.train.batch_size_per_gpu * world / 256\n",
    ],
)
def test_other_places_of_the_rule_are_reported(text: str) -> None:
    """Assigned, changed in place, given as a keyword."""
    assert places(ADVISORY, text) == ["fork.py:2"]


def test_a_named_reference_batch_is_followed() -> None:
    """`REFERENCE = 256` is the same rule."""
    assert places(ADVISORY, "REFERENCE = 256\nlr = base_lr * batch_size / REFERENCE\n") == ["fork.py:3"]


def test_a_helper_that_the_training_calls_is_reported() -> None:
    """The helper's own file speaks of no teacher; the file that calls it does."""
    training = "from helpers import scaled_rate\nlr = scaled_rate(args, 8)\nstudent = teacher\n"
    project = Project.of_texts({"helpers.py": HELPER, "train.py": training})
    assert places(ADVISORY, project) == ["helpers.py:2"]


def test_official_s_root_is_silent() -> None:
    """By `math.sqrt`, by a power, and with another reference."""
    text = """
        cfg.optim.lr *= math.sqrt(cfg.train.batch_size_per_gpu * get_global_size() / 1024.0)
        lr = base_lr * math.sqrt(batch_size / 256)
        lr = base_lr * (batch_size / 256) ** 0.5
    """
    assert places(ADVISORY, text) == []


def test_a_choice_between_both_rules_is_silent() -> None:
    """DINOv3's configuration names the rule; which one is taken is not in the source."""
    text = """
        def scale(cfg, batch_size):
            if cfg.rule == "linear":
                return cfg.lr * batch_size / 256
            return cfg.lr * math.sqrt(batch_size / 1024)
    """
    assert places(ADVISORY, text) == []


def test_the_rates_of_evaluations_are_silent() -> None:
    """Official's linear evaluation scales by batch / 256 itself, and a helper that only it calls is its own."""
    assert places(ADVISORY, {"eval/linear.py": HELPER, "train.py": "student = teacher\n"}) == []
    alone = Project.of_texts({"helpers.py": HELPER, "train.py": "student = teacher\n"})
    assert places(ADVISORY, alone) == []


def test_other_quotients_by_256_are_silent() -> None:
    """Sizes of images, numbers of colours, and batches that are no rate."""
    text = """
        resize = int(crop * 256 / 224)
        pixels = image / 256
        steps = n_images * batch_size / 256
        color = batch_of_images / 256
    """
    assert places(ADVISORY, text) == []
