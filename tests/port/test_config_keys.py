from __future__ import annotations

import pytest

from port.config_keys import ALIASES, REMOVED_KEYS, Alias, find_alias, flat_keys, nearest, type_in_words, unknown_key

KNOWN = ("optim", "optim.epochs", "optim.base_lr", "prototype", "prototype.base_lr", "MODEL", "MODEL.WEIGHTS")


def test_keys_are_flattened_with_dots() -> None:
    """A section comes before its keys; lists are values."""
    assert list(flat_keys({"a": {"b": 1, "c": {"d": [2]}}, "e": 3})) == [
        ("a", {"b": 1, "c": {"d": [2]}}),
        ("a.b", 1),
        ("a.c", {"d": [2]}),
        ("a.c.d", [2]),
        ("e", 3),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true or false"),
        (1, "whole number"),
        (1.0, "number"),
        ("", "text"),
        ([0.1, 0.5], "list of numbers"),
        ([], "list"),
    ],
)
def test_types_are_said_in_words(value: object, words: str) -> None:
    """True is not a whole number."""
    assert type_in_words(value) == words


def test_the_nearest_word_is_named_only_where_one_is_near() -> None:
    """Whatever the capitals."""
    assert nearest("CDUA", ("cpu", "cuda")) == "; did you mean 'cuda'?"
    assert nearest("xyz", ("cpu", "cuda")) == ""
    assert nearest("xyz", ()) == ""


@pytest.mark.parametrize("key", ["mask_ratio_max", "ibot.mask_ratio_max"])
def test_an_alias_is_found_at_the_top_and_in_its_section(key: str) -> None:
    """It sets the second element of the list."""
    assert find_alias(key) == Alias("ibot.mask_ratio_min_max", index=1)


@pytest.mark.parametrize("key", ["dino.mask_ratio_max", "a.ibot.mask_ratio_max", "ibot.loss_weight", "loss_weight", ""])
def test_other_keys_are_no_aliases(key: str) -> None:
    """A foreign section is an error elsewhere."""
    assert find_alias(key) is None


def test_no_alias_is_removed() -> None:
    """The document keeps four flags and drops two."""
    assert set(ALIASES).isdisjoint(REMOVED_KEYS)
    assert set(REMOVED_KEYS) == {"token_mask_ratio", "clustering_mode"}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.epoch", "'optim.epochs'"),
        ("epochs", "'optim.epochs'"),
        ("weights", "'MODEL.WEIGHTS'"),
        # The nearer section comes first.
        ("prototypes.base_lr", "'prototype.base_lr' or 'optim.base_lr'"),
        ("optimizer.base_lr", "'optim.base_lr' or 'prototype.base_lr'"),
    ],
)
def test_an_unknown_key_names_what_may_be_meant(key: str, meant: str) -> None:
    """Keys of the same name, wherever they are, else the most alike."""
    assert unknown_key(key, KNOWN) == (
        f"unknown configuration key {key!r}; did you mean {meant}? --help-config lists all"
    )


def test_a_removed_key_names_the_migration() -> None:
    """In any section."""
    message = unknown_key("train.clustering_mode", KNOWN)
    assert message.startswith("configuration key 'train.clustering_mode' is gone: prototypes are clustered on masked")
    assert message.endswith("(migration 0004)")
