"""Names of the topics, in one place."""

from __future__ import annotations

from typing import Final

USER_EVENTS: Final = "user-events"
DEVICE_EVENTS: Final = "device-events"
LABELS: Final = "labels"
PREDICTIONS: Final = "predictions"
ALERTS: Final = "alerts"
EXAMPLES: Final = "examples"
RETRAIN_REQUESTS: Final = "retrain-requests"
DEAD_LETTERS: Final = "dead-letters"

INPUTS: Final = (LABELS, USER_EVENTS, DEVICE_EVENTS)
OUTPUTS: Final = (PREDICTIONS, ALERTS, EXAMPLES, RETRAIN_REQUESTS, DEAD_LETTERS)
