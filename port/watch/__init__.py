"""Watching a run: metrics, progress, the doctor, statistics, pictures, and what to do when a number is not finite."""

from __future__ import annotations

from port.watch.doctor import Finding, check_initial_losses, masked_share, why_no_check
from port.watch.hardware import hardware_line
from port.watch.incident import NonFiniteError, nonfinite_error, save_incident
from port.watch.jsonlines import METRICS_FILE, read_metrics
from port.watch.metrics import MetricWriter
from port.watch.nonfinite import Culprit, first_nonfinite
from port.watch.plots import plot_knn_curves, plot_losses
from port.watch.progress import TrainingProgress
from port.watch.statistics import GradientStatistics, LogitStatistics, gradient_norms

__all__ = [
    "METRICS_FILE",
    "Culprit",
    "Finding",
    "GradientStatistics",
    "LogitStatistics",
    "MetricWriter",
    "NonFiniteError",
    "TrainingProgress",
    "check_initial_losses",
    "first_nonfinite",
    "gradient_norms",
    "hardware_line",
    "masked_share",
    "nonfinite_error",
    "plot_knn_curves",
    "plot_losses",
    "read_metrics",
    "save_incident",
    "why_no_check",
]
