"""What frozen features are worth: k-nearest-neighbour accuracy, raw pixels to compare with, and pictures of patches."""

from __future__ import annotations

from port.evaluation.features import LabelledFeatures, extract_features, raw_pixel_features
from port.evaluation.knn import knn_accuracy, knn_probabilities
from port.evaluation.pca import eval_views, patch_components, pca_image, save_columns, shown

__all__ = [
    "LabelledFeatures",
    "eval_views",
    "extract_features",
    "knn_accuracy",
    "knn_probabilities",
    "patch_components",
    "pca_image",
    "raw_pixel_features",
    "save_columns",
    "shown",
]
