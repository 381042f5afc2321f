"""What trainings see of a history: cut at a time, split by time, and as sequences of each entity's events."""

from __future__ import annotations

from models.dataset.batches import Batch, batches
from models.dataset.cut import cut, take, training_set
from models.dataset.sequences import NextEvent, Sequences, next_events, sequences
from models.dataset.split import Rows, columns_of, train_rows, validation_rows

__all__ = [
    "Batch",
    "NextEvent",
    "Rows",
    "Sequences",
    "batches",
    "columns_of",
    "cut",
    "next_events",
    "sequences",
    "take",
    "train_rows",
    "training_set",
    "validation_rows",
]
