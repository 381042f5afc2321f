"""A step of a label lane on its way in."""

from __future__ import annotations

from dataclasses import dataclass, field

from online.batch import LabelBatch, Scored
from streams.stores.steps import Step
from streams.transport import FetchedBatch


@dataclass(slots=True)
class Work:
    """One step to take, decoded."""

    step: Step
    scored: dict[str, Scored] = field(default_factory=dict)
    """By task."""
    labels: dict[str, LabelBatch] = field(default_factory=dict)
    """By task."""
    batch: FetchedBatch | None = None
    """What the consumer is told when the step is published; a step handed over or read again has none."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """``(index, reason)`` of records of ``batch`` that go to the dead letters."""
