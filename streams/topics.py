"""Weir's own names of the topics, in one place; what they are called on a cluster is `settings.topics.name(...)`."""

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
ENTITY_UPDATES: Final = "entity-updates"
"""Between workers (key = entity id): what an event or a label changes in a row that another partition owns."""

INFERENCE_REQUESTS: Final = "inference-requests"
"""From scoring workers to inference workers: blocks of rows, in the partition of their events' number."""
INFERENCE_RESULTS: Final = "inference-results"
"""Back, in the partition of the same number."""

INPUTS: Final = (LABELS, USER_EVENTS, DEVICE_EVENTS)
OUTPUTS: Final = (PREDICTIONS, ALERTS, EXAMPLES, RETRAIN_REQUESTS, DEAD_LETTERS)
INFERENCE: Final = (INFERENCE_REQUESTS, INFERENCE_RESULTS)
"""Where a task's full model is ``remote``."""
PRODUCED: Final = (*OUTPUTS, LABELS, ENTITY_UPDATES)
"""What workers write; labels only where silence is one."""
ALL: Final = (*INPUTS, *OUTPUTS, ENTITY_UPDATES, MODEL_UPDATES, DEAD_LETTERS_DONE, *INFERENCE)
