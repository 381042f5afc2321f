"""Drift detection on named streams: features, scores and the label rate."""

from __future__ import annotations

from online.drift.detection import Detection
from online.drift.monitor import DriftMonitor
from online.drift.policy import Detector, DriftPolicy, StreamKind

__all__ = ["Detection", "Detector", "DriftMonitor", "DriftPolicy", "StreamKind"]
