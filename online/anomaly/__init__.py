"""Unsupervised per-entity anomaly detection: the port, the live detector and its explanations."""

from online.anomaly.base import AnomalyDetector
from online.anomaly.detector import AnomalyRun, SeriesAnomalyDetector
from online.anomaly.explain import AnomalyReason, explain
from online.anomaly.layout import COMPONENTS
from online.anomaly.params import AnomalyParams

__all__ = [
    "COMPONENTS",
    "AnomalyDetector",
    "AnomalyParams",
    "AnomalyReason",
    "AnomalyRun",
    "SeriesAnomalyDetector",
    "explain",
]
