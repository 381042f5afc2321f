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
MODEL_UPDATES: Final = "model-updates"
DEAD_LETTERS: Final = "dead-letters"
DEAD_LETTERS_DONE: Final = "dead-letters-done"
"""Which dead letters were replayed or dropped (compacted; key = the letter's partition and offset)."""

INPUTS: Final = (LABELS, USER_EVENTS, DEVICE_EVENTS)
OUTPUTS: Final = (PREDICTIONS, ALERTS, EXAMPLES, RETRAIN_REQUESTS, DEAD_LETTERS)
ALL: Final = (*INPUTS, *OUTPUTS, MODEL_UPDATES, DEAD_LETTERS_DONE)
