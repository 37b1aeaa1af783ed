"""Accuracy of k-nearest-neighbour classification on frozen features.

Shapes: n images that vote, m images to classify, D features, C classes.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["knn_accuracy", "knn_probabilities"]

_CHUNK_NUMBERS = 2**24
"""Numbers in the largest tensor of a chunk, at most 8 bytes each: 128 MB."""
_logger = logging.getLogger("port")


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 10,
    temperature: float = 0.07,
    n_classes: int | None = None,
) -> float:
    """Return the share of test images whose class gets most of the votes, in [0, 1].

    Official's top-1 accuracy (`dinov2/eval/knn.py:363`), without its factor 100. See `knn_probabilities` for the
    arguments and errors.

    Args:
        train_features: (n, D), rows of length 1.
        train_labels: int64 (n,).
        test_features: (m, D), rows of length 1.
        test_labels: int64 (m,); a class that no training image has counts as an error.
        k: neighbours that vote.
        temperature: of the votes' weights.
        n_classes: C; None for the largest label plus 1.
    """
    if len(test_features) != len(test_labels) or not len(test_labels):
        raise ValueError(f"{len(test_features)} test features and {len(test_labels)} labels, expected as many, not 0")
    probabilities = knn_probabilities(train_features, train_labels, test_features, k, temperature, n_classes)
    n_right = int((probabilities.argmax(dim=1) == test_labels.to(probabilities.device)).sum())
    return n_right / len(test_labels)


@torch.no_grad()
def knn_probabilities(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    k: int = 10,
    temperature: float = 0.07,
    n_classes: int | None = None,
) -> Tensor:
    """Return the share of votes of each class (`dinov2/eval/knn.py:178`), on the device of `train_features`.

    A neighbour votes for its class with weight softmax(product / temperature) over the k neighbours; official takes
    the softmax over its largest k, which scales all classes of an image alike.

    Args:
        train_features: (n, D), rows of length 1.
        train_labels: int64 (n,).
        test_features: (m, D), rows of length 1; a few at a time are compared with all training rows.
        k: neighbours that vote, at least 1; more than n are n, with a line in the log.
        temperature: of the weights, > 0; official's is 0.07.
        n_classes: C; None for the largest label plus 1.

    Returns:
        float32 (m, C); rows sum to 1.

    Raises:
        ValueError: there is nothing to compare with, shapes do not match, a label is not a class, or k or the
            temperature is not positive.
    """
    n_classes = _checked_classes(train_features, train_labels, test_features, n_classes)
    if k < 1 or not temperature > 0:
        raise ValueError(f"knn.k is {k} and knn.temperature {temperature}, expected both above 0, such as 10 and 0.07")
    n_train = len(train_features)
    if k > n_train:
        _logger.warning("knn.k is %d but only %d images vote; all of them do", k, n_train)
        k = n_train
    labels = train_labels.to(train_features.device)
    chunk = max(_CHUNK_NUMBERS // max(n_train, k * n_classes), 1)
    probabilities = []
    for part in test_features.split(chunk):
        similarities, neighbours = (part.to(train_features.device) @ train_features.T).topk(k, dim=1)
        weights = torch.softmax(similarities.float() / temperature, dim=1)
        votes = one_hot(labels[neighbours], n_classes) * weights.unsqueeze(-1)
        probabilities.append(votes.sum(dim=1))
    return torch.cat(probabilities)


def _checked_classes(train_features: Tensor, train_labels: Tensor, test_features: Tensor, n_classes: int | None) -> int:
    """Return the number of classes; raise ValueError where features and labels do not fit together."""
    if not len(train_features) or len(train_features) != len(train_labels):
        raise ValueError(
            f"{len(train_features)} training features and {len(train_labels)} labels, expected as many, not 0"
        )
    if train_features.shape[1:] != test_features.shape[1:]:
        raise ValueError(
            f"training features are {tuple(train_features.shape)} and test features {tuple(test_features.shape)}, "
            "expected the same width; take both from one network"
        )
    smallest, largest = int(train_labels.min()), int(train_labels.max())
    if n_classes is None:
        n_classes = largest + 1
    if smallest < 0 or largest >= n_classes:
        raise ValueError(f"training labels reach from {smallest} to {largest}, expected 0 to {n_classes - 1}")
    return n_classes
