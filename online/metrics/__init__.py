"""Prequential evaluation of binary scores whose labels arrive late."""

from __future__ import annotations

from online.metrics.base import Metrics, Reliability, ScoredRows
from online.metrics.binned import CumulativeMetrics, FadingMetrics
from online.metrics.rolling import RollingMetrics
from online.metrics.series import MetricPoint, MetricSeries

__all__ = [
    "CumulativeMetrics",
    "FadingMetrics",
    "MetricPoint",
    "MetricSeries",
    "Metrics",
    "Reliability",
    "RollingMetrics",
    "ScoredRows",
]
