from __future__ import annotations

from pathlib import Path

import pytest

from port.config_sources import Setting, parse_override, read_yaml


@pytest.mark.parametrize(
    ("text", "key", "value", "raw"),
    [
        ("optim.epochs=3", "optim.epochs", 3, "3"),
        (" optim.base_lr = 5e-4", "optim.base_lr", 0.0005, " 5e-4"),
        (
            "train.dataset_path=ImageNet:split=TRAIN",
            "train.dataset_path",
            "ImageNet:split=TRAIN",
            "ImageNet:split=TRAIN",
        ),
        ("a=[1, 2]", "a", [1, 2], "[1, 2]"),
        ("a={b: 1}", "a", {"b": 1}, "{b: 1}"),
        ("a=", "a", None, ""),
        ("a=[1", "a", "[1", "[1"),
        ("a=${b}", "a", "${b}", "${b}"),
        ("a=1\nb: 2", "a", "1\nb: 2", "1\nb: 2"),
    ],
)
def test_an_override_is_split_at_the_first_equals_sign(text: str, key: str, value: object, raw: str) -> None:
    """The value is YAML where it can be, and the typed text is kept."""
    assert parse_override(text) == Setting(key, value, f"override {text!r}", raw)


@pytest.mark.parametrize("text", ["optim.epochs", "", "=3", " =3"])
def test_an_override_needs_key_and_equals_sign(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(ValueError, match=r"expected key=value such as optim\.epochs=10"):
        parse_override(text)


def test_a_file_s_settings_know_their_lines(tmp_path: Path) -> None:
    """Comments and nesting count; lists are values; empty sections are kept as nothing."""
    file = tmp_path / "run.yaml"
    file.write_text("# first\na:\n  b: 1\n\n  c:\n    d: [1, 2]\ne:\nf: {}\n")
    assert read_yaml(file) == [
        Setting("a.b", 1, f"{file}, line 3"),
        Setting("a.c.d", [1, 2], f"{file}, line 6"),
        Setting("e", None, f"{file}, line 7"),
        Setting("f", {}, f"{file}, line 8"),
    ]


def test_anchors_and_merge_keys_are_yaml_s(tmp_path: Path) -> None:
    """A section may be used twice; keys that come through `<<` have no line of their own."""
    file = tmp_path / "run.yaml"
    file.write_text("a: &head\n  b: 1\nc: *head\nd:\n  <<: *head\n  e: 2\n")
    settings = {setting.key: setting for setting in read_yaml(file)}
    assert {key: setting.value for key, setting in settings.items()} == {"a.b": 1, "c.b": 1, "d.b": 1, "d.e": 2}
    assert settings["d.b"].where == str(file)
    assert settings["d.e"].where == f"{file}, line 6"


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "{}\n", "\ufeff# a mark that Windows leaves\n"])
def test_a_file_may_be_empty(content: str, tmp_path: Path) -> None:
    """It sets nothing."""
    file = tmp_path / "run.yaml"
    file.write_text(content, encoding="utf-8")
    assert read_yaml(file) == []


def test_windows_line_ends_are_fine(tmp_path: Path) -> None:
    """They are no part of a value."""
    file = tmp_path / "run.yaml"
    file.write_bytes(b"a: text\r\nb: 2\r\n")
    assert [(setting.key, setting.value) for setting in read_yaml(file)] == [("a", "text"), ("b", 2)]
