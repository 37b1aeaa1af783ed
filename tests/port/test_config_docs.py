from __future__ import annotations

import io
import string
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

from port import config_run, config_schema
from port.config import BUILT_IN, default_config, find_config_file, load_config
from port.config_docs import describe_keys, describe_sections, print_keys, render_config, summarize_keys


def _printed(section: str, width: int = 120) -> str:
    file = io.StringIO()
    print_keys(section, Console(file=file, width=width))
    return file.getvalue()


def test_every_key_is_described() -> None:
    """Each key that OmegaConf knows has one entry with a text, and no entry is left over."""
    cfg = default_config()
    docs = describe_keys()
    assert len({doc.key for doc in docs}) == len(docs)
    assert [doc.key for doc in docs if not doc.text] == []
    assert [doc.key for doc in docs if OmegaConf.select(cfg, doc.key) != doc.default] == []
    sizes = [len(fields(schema)) for module in (config_schema, config_run) for schema in _schemas(module)]
    # Sections that are used more than once, and RunConfig's fields in Config, make keys outnumber fields.
    assert len(docs) > sum(sizes) / 2


def _schemas(module: object) -> list[type]:
    return [value for value in vars(module).values() if isinstance(value, type) and is_dataclass(value)]


def test_texts_are_the_comments_beside_the_keys() -> None:
    """Read from the source of both schema modules; the type is in words, and inherited classes are followed."""
    docs = {doc.key: doc for doc in describe_keys()}
    assert docs["student.patch_size"].text == "pixels"
    assert docs["optim.warmup_epochs"].text == "epochs in which the learning rate rises from 0"
    assert docs["checkpoint.keep"].text == "newest checkpoints that stay"
    assert docs["accumulation_steps"].text == "micro-batches of train.batch_size_per_gpu images per optimizer step"
    assert docs["compute_precision.student.dino_head.mixed_precision.reduce_dtype"].default == "fp32"
    words = {
        key: docs[key].type for key in ("compile", "optim.epochs", "optim.base_lr", "device", "crops.local_crops_scale")
    }
    assert list(words.values()) == ["true or false", "whole number", "number", "text", "list of numbers"]


def test_every_section_is_described_by_its_docstring() -> None:
    """Subsections too."""
    sections = describe_sections()
    assert sections["teacher"] == "The moving average and its targets."
    assert sections["compute_precision.teacher.backbone"] == "How one module is sharded and in which types it computes."
    assert [name for name, text in sections.items() if not text] == []


def test_the_summary_has_every_key_once() -> None:
    """Top-level keys come first, each section with its keys."""
    summary = list(summarize_keys())
    assert summary[0][0] == "(top level)"
    assert "accumulation_steps" in summary[0][2]
    assert sum(len(keys) for _, _, keys in summary) == len(describe_keys())


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_rendered_configuration_loads_again(name: str, tmp_path: Path) -> None:
    """--print-config gives a file for --config-file, equal key by key."""
    cfg = load_config(find_config_file(name), ["optim.min_lr=1e-30", "prototype.base_lr=12345678.9"])
    file = tmp_path / "run.yaml"
    file.write_text(render_config(cfg), encoding="utf-8")
    assert load_config(file) == cfg


@settings(max_examples=25, deadline=None)
@given(
    text=st.text(string.printable + "é…\U0001f600", max_size=30).filter(lambda text: "$" not in text and text != "???")
)
def test_any_text_survives_rendering(text: str) -> None:
    """Colons, quotes, hashes, line ends, words that YAML takes for numbers."""
    cfg = default_config()
    cfg.train.output_dir = text
    rendered = render_config(cfg)
    assert OmegaConf.create(rendered).train.output_dir == text
    assert len(rendered.splitlines()) <= len(describe_keys()) * 2 + len(describe_sections()) * 2


@pytest.mark.parametrize("text", ["5e-4", "1e3", "no", "null", "007", "~", "1_000", "0x1f", ".inf", "2024-01-01", ""])
def test_text_that_looks_like_something_else_stays_text(text: str, tmp_path: Path) -> None:
    """Such words are quoted."""
    cfg = load_config(None, [f"train.output_dir={text}"])
    (tmp_path / "run.yaml").write_text(render_config(cfg))
    assert load_config(tmp_path / "run.yaml").train.output_dir == text


def test_interpolations_are_rendered_as_they_are(tmp_path: Path) -> None:
    """Loaded again, they follow their target."""
    cfg = load_config(None, ["optim.min_lr=${optim.base_lr}"])
    (tmp_path / "run.yaml").write_text(render_config(cfg))
    assert load_config(tmp_path / "run.yaml", ["optim.base_lr=0.5"]).optim.min_lr == 0.5


def test_rendered_lines_carry_meaning_and_changed_defaults() -> None:
    """The comment stands beside its key, or above where the line would be too long."""
    lines = render_config(load_config(None, ["optim.epochs=7", f"train.dataset_path={'x' * 100}"])).splitlines()
    (epochs,) = [line for line in lines if line.startswith("  epochs: ")]
    assert epochs.startswith("  epochs: 7")
    assert "  # length of the run, in epochs" in epochs
    assert epochs.endswith("; default 100")
    (path,) = [place for place, line in enumerate(lines) if line.startswith("  dataset_path: xxx")]
    assert lines[path - 1].startswith("  # folder of images")
    assert [line for line in lines if len(line) > 125] == []
    assert [line for line in lines if line.startswith("  clip_grad")] == [
        "  clip_grad: 3.0                          # largest gradient norm of each submodule; 0 turns clipping off"
    ]


def test_keys_are_printed_as_a_table() -> None:
    """A section, a subsection, one key, or everything; brackets in texts are no markup."""
    optim = _printed("optim")
    assert "AdamW and its schedules." in optim
    assert "optim.layerwise_decay" in optim
    assert "teacher.momentum_teacher" not in optim
    assert "optim.clip_grad" not in _printed("optim.epochs")
    assert "[0.1, 0.5]" in _printed("ibot.mask_ratio_min_max")
    assert {"device", "optim.epochs"} <= set(_printed("", width=300).split())
    # In 80 columns the longest keys are folded, none is cut.
    assert "…" not in _printed("compute_precision", width=80)


def test_an_unknown_section_names_the_nearest() -> None:
    """The message lists the sections."""
    with pytest.raises(ValueError, match=r"no section or key 'optimm', expected one of data, .*did you mean 'optim'\?"):
        print_keys("optimm")
