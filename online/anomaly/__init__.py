"""Unsupervised per-entity anomaly detection. State lives in rows that the caller keeps, loads and stores."""

from online.anomaly.detector import AnomalyRun, SeriesAnomalyDetector
from online.anomaly.layout import COMPONENTS
from online.anomaly.params import AnomalyParams

__all__ = [
    "COMPONENTS",
    "AnomalyParams",
    "AnomalyRun",
    "SeriesAnomalyDetector",
]
