"""What official's training loop gives to its loader, keeps in a checkpoint, and counts."""

from __future__ import annotations

import ast
import inspect
import logging
import math
import re
from itertools import count
from types import SimpleNamespace
from unittest import mock

import torch

from parity.adapters.official_step import options_of_official_loader
from parity.quirks.evidence.tools import Observation, small_config
from parity.quirks.sources import attributes_read, calls, function, keyword, strings_read, tree
from parity.reference import Reference

__all__ = ["checkpoints", "half_inputs", "one_more_iteration", "time_per_iteration"]


def half_inputs(reference: Reference) -> Observation:
    """Let official training with every precision at fp32 build its collate function, and read the type in it."""
    config = small_config()
    for who in ("student", "teacher"):
        for part in config.compute_precision[who].values():
            part.mixed_precision.param_dtype = "fp32"
    dtype = options_of_official_loader(reference, config)["collate_fn"].keywords["dtype"]
    return Observation(dtype is torch.half, f"with param_dtype fp32 everywhere, crops are cast to {dtype}")


def checkpoints(reference: Reference) -> Observation:
    """Read what the checkpointer is given to save and how often, and which of the keys about it are read."""
    training = function(tree(reference, "train/train.py"), "do_train")
    (checkpointer,) = calls(training, "FSDPCheckpointer")
    kept = sorted(k.arg for k in checkpointer.keywords if k.arg and k.arg != "save_to_disk")
    (periodic,) = calls(training, "PeriodicCheckpointer")
    period, keep = keyword(periodic, "period"), keyword(periodic, "max_to_keep")
    saving = function(tree(reference, "fsdp/__init__.py"), "save")
    local = any("LOCAL_STATE_DICT" in ast.unparse(call) for call in calls(saving, "state_dict_type"))
    unread = [
        key
        for key in ("saveckp_freq", "cache_dataset")
        if not attributes_read(reference, key) and not strings_read(reference, key)
    ]
    confirmed = kept == ["optimizer"] and local and len(unread) == 2
    confirmed &= (period, keep) == ("3 * OFFICIAL_EPOCH_LENGTH", "3")
    seen = (
        f"saves the model{' per rank' if local else ''} and {', '.join(kept)} every {period}, keeps {keep}; "
        f"never read: {', '.join(unread) or 'none of the keys'}"
    )
    return Observation(confirmed, seen)


def time_per_iteration(reference: Reference) -> Observation:
    """Log iterations 8 and 9 of 10 by a clock that moves 10 s whenever it is read, and read the closing line."""
    helpers = reference.module("logging.helpers")
    logger, lines = logging.getLogger("dinov2"), _Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    clock = count(0, 10)
    try:
        with mock.patch.object(helpers, "time", SimpleNamespace(time=lambda: next(clock))):
            for _ in helpers.MetricLogger().log_every(iter(range(5)), 1, "Training", 10, 8):
                pass
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
    total = next(clock) - 10  # what the closing line read last; its first reading was 0
    said = re.search(r"([0-9.]+) s / it", lines.messages[-1])
    claimed = float(said[1]) if said else math.nan
    confirmed = math.isclose(claimed, total / 10)
    return Observation(confirmed, f"2 iterations in {total} s are said to take {claimed:g} s each")


class _Lines(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def one_more_iteration(reference: Reference) -> Observation:
    """Resume a log of 5 iterations at the fifth, and build schedules by the default length of an epoch."""
    yielded = len(list(reference.module("logging.helpers").MetricLogger().log_every(iter(range(9)), 1, "", 5, 5)))
    default = reference.module("configs").dinov2_default_config.train.OFFICIAL_EPOCH_LENGTH
    config = small_config(train__OFFICIAL_EPOCH_LENGTH=default, optim__epochs=13)
    length = len(reference.module("train.train").build_schedulers(config)[0].schedule)
    images = "dataset" in inspect.signature(reference.module("train.train").build_schedulers).parameters
    confirmed = yielded == 1 and length == 13 * 1250 and not images
    return Observation(confirmed, f"{yielded} iteration after the last of 5; 13 epochs are {length:,} iterations")
