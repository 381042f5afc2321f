"""From an ``[[entities.anomalies]]`` table's ``params`` to a detector."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from weir.online.anomaly.detector import SeriesAnomalyDetector
from weir.online.anomaly.params import AnomalyParams
from weir.online.errors import TaskError
from weir.online.mistakes import mistakes, sentence


def build_detector(params: Mapping[str, Any]) -> SeriesAnomalyDetector:
    """Build the detector; raises ``TaskError`` naming a parameter that is unknown or out of its range.

    >>> build_detector({"threshold": 5.0}).params.threshold
    5.0
    """
    document = dict(params)
    try:
        return SeriesAnomalyDetector(AnomalyParams.model_validate(document))
    except ValidationError as exc:
        wrong = "; ".join(sentence(each, document) for each in mistakes(AnomalyParams, exc, document))
        raise TaskError(f"anomaly params: {wrong}") from exc


def schema_of(detector: SeriesAnomalyDetector) -> int:
    """A digest of what gives the detector's rows their meaning."""
    text = f"{detector.state_width} {detector.params.model_dump_json()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
