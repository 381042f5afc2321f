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
CASE_EVENTS: Final = "case-events"
"""What people did with alerts: verdicts, claims, notes (key = alert id)."""
AUDIT: Final = "audit"
"""Who changed what, and who looked at whom, in `weir serve` (key = the process that wrote it): a chain of digests."""
NOTIFICATIONS: Final = "notifications"
"""Whom `weir serve` has to tell of which alert, and what it sent (key = the place that was decided, or a message)."""
ENTITY_UPDATES: Final = "entity-updates"
"""Between workers (key = entity id): what an event or a label changes in a row that another partition owns."""
DECISIONS: Final = "decisions"
"""What was decided on each prediction: blocks of rows of one task, in the partition of their predictions."""

INFERENCE_REQUESTS: Final = "inference-requests"
"""From scoring workers to inference workers: blocks of rows, in the partition of their events' number."""
INFERENCE_RESULTS: Final = "inference-results"
"""Back, in the partition of the same number."""

TICKS: Final = "ticks"
"""Embedded only, so not among ``ALL``: event time to move to where no event comes (`weir.streams.embedded.ticks`)."""

MIB: Final = 1_048_576
DEFAULT_RECORD_BYTES: Final = MIB + 12
"""Kafka's own default of ``max.message.bytes``: one MiB and a batch header."""

INPUTS: Final = (LABELS, USER_EVENTS, DEVICE_EVENTS)
OUTPUTS: Final = (PREDICTIONS, ALERTS, EXAMPLES, RETRAIN_REQUESTS, DEAD_LETTERS)
INFERENCE: Final = (INFERENCE_REQUESTS, INFERENCE_RESULTS)
"""Where a task's full model is ``remote``."""
PRODUCED: Final = (*OUTPUTS, LABELS, ENTITY_UPDATES, DECISIONS)
"""What workers write; labels only where silence is one, decisions where somebody reads them."""
ALL: Final = (
    *INPUTS, *OUTPUTS, DECISIONS, ENTITY_UPDATES, MODEL_UPDATES, DEAD_LETTERS_DONE, CASE_EVENTS, AUDIT, NOTIFICATIONS,
    *INFERENCE,
)  # fmt: skip


def largest_record(own: str, max_record_bytes: int = DEFAULT_RECORD_BYTES) -> int:
    """The largest record, in bytes, that a topic has to take where workers write at most ``max_record_bytes``.

    A dead letter carries its record in base64, a third longer: the largest record must fit, or the worker is stuck.

    >>> largest_record("alerts"), largest_record("dead-letters"), largest_record("dead-letters", 4 << 20)
    (1048588, 2097152, 5600597)
    """
    if own == DEAD_LETTERS:
        # 8 KiB for what stands beside the record.
        return max(2 * MIB, max_record_bytes * 4 // 3 + 8192)
    return max_record_bytes if own in PRODUCED else DEFAULT_RECORD_BYTES
