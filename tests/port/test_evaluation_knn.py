from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from port.evaluation import knn, knn_accuracy, knn_probabilities

torch.set_num_threads(1)


def features(n: int, seed: int, width: int = 6) -> Tensor:
    """Return rows of length 1."""
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def labels(n: int, seed: int, n_classes: int = 4) -> Tensor:
    """Return labels, the last one among them."""
    drawn = torch.randint(n_classes, (n,), generator=torch.Generator().manual_seed(seed))
    drawn[0] = n_classes - 1
    return drawn


def direct(train: Tensor, classes: Tensor, test: Tensor, k: int, temperature: float) -> Tensor:
    """Return the votes image by image, neighbour by neighbour, in float64."""
    rows = []
    for feature in test.double():
        similarity = [float(feature.dot(other)) for other in train.double()]
        nearest = sorted(range(len(train)), key=similarity.__getitem__, reverse=True)[:k]
        weights = [math.exp(similarity[i] / temperature) for i in nearest]
        votes = [0.0] * (int(classes.max()) + 1)
        for i, weight in zip(nearest, weights, strict=True):
            votes[int(classes[i])] += weight / sum(weights)
        rows.append(votes)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 3, 10, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("numbers", [1, 500, 2**24])
def test_votes_are_those_of_single_neighbours(
    k: int, temperature: float, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights fall with the distance, and chunks of any size change nothing."""
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", numbers)
    train, classes, test = features(40, 0), labels(40, 1), features(17, 2)
    found = knn_probabilities(train, classes, test, k, temperature)
    torch.testing.assert_close(found, direct(train, classes, test, k, temperature).float(), rtol=1e-4, atol=1e-6)


def test_one_near_neighbour_outvotes_two_far_ones() -> None:
    """At 0.07 a product of 1 weighs e^(1/0.07) against twice e^0; at temperature 10 the two win."""
    train, classes = torch.eye(3), torch.tensor([0, 1, 1])
    test = torch.tensor([[1.0, 0.0, 0.0]])
    assert knn_accuracy(train, classes, test, torch.tensor([0]), 3, 0.07) == 1.0
    assert knn_accuracy(train, classes, test, torch.tensor([1]), 3, 10.0) == 1.0


def test_accuracy_is_a_share() -> None:
    """Four images, each like a training image: three have its label."""
    train, classes = torch.eye(4), torch.tensor([0, 1, 2, 3])
    assert knn_accuracy(train, classes, torch.eye(4), torch.tensor([0, 1, 2, 0]), k=1) == 0.75


def test_a_class_without_training_images_is_an_error_of_the_classifier() -> None:
    """Its images count, and none is right."""
    train, classes = torch.eye(2), torch.tensor([0, 1])
    assert knn_accuracy(train, classes, torch.eye(2), torch.tensor([0, 7]), k=1) == 0.5
    assert knn_probabilities(train, classes, torch.eye(2), k=1, n_classes=8).shape == (2, 8)


def test_more_neighbours_than_images_are_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """With a line in the log; the result is that of k = n."""
    train, classes, test = features(5, 0), labels(5, 1), features(3, 2)
    with caplog.at_level(logging.WARNING, logger="port"):
        found = knn_probabilities(train, classes, test, 200, 0.07)
    assert caplog.messages == ["knn.k is 200 but only 5 images vote; all of them do"]
    assert torch.equal(found, knn_probabilities(train, classes, test, 5, 0.07))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_features": torch.zeros(0, 6), "train_labels": torch.zeros(0)}, "0 training features and 0 labels"),
        ({"train_labels": torch.zeros(3)}, "5 training features and 3 labels"),
        ({"test_features": torch.ones(2, 7)}, r"\(5, 6\) and test features \(2, 7\).* from one network"),
        ({"test_labels": torch.zeros(1)}, "2 test features and 1 labels"),
        ({"test_features": torch.ones(0, 6), "test_labels": torch.zeros(0)}, "0 test features and 0 labels"),
        ({"n_classes": 3}, "labels reach from 0 to 3, expected 0 to 2"),
        ({"train_labels": torch.tensor([0, 1, -1, 2, 3])}, "labels reach from -1 to 3, expected 0 to 3"),
        ({"k": 0}, r"knn\.k is 0"),
        ({"temperature": 0.0}, r"knn\.temperature 0\.0"),
        ({"temperature": float("nan")}, r"knn\.temperature nan"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    """Each names the numbers that do not fit."""
    given: dict[str, object] = {
        "train_features": features(5, 0),
        "train_labels": torch.tensor([0, 1, 2, 3, 0]),
        "test_features": features(2, 1),
        "test_labels": torch.tensor([0, 1]),
    }
    with pytest.raises(ValueError, match=words):
        knn_accuracy(**{**given, **changes})  # type: ignore[arg-type] # one argument of each case is wrong by intent
