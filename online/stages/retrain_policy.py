"""Decides when a task asks for a new full model: on drift or after enough labels, and not before its cooldown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from weir.online.drift.detection import Detection
from weir.online.task.spec import RetrainPolicy

Cause = Literal["drift", "volume"]


@dataclass(frozen=True, slots=True)
class RetrainAsked:
    """One request; its id is the same when the stream is replayed."""

    request_id: str
    cause: Cause
    ts: float
    """Event time."""
    detail: str


class _State(msgspec.Struct, array_like=True):
    asked_at: float | None
    labels: int
    total: int


class RetrainTrigger:
    """Policy plus state.

    Parameters
    ----------
    task : its name, part of every ``request_id``.
    policy : when to ask.
    lane : part of every ``request_id`` too, where there are several lanes.

    >>> trigger = RetrainTrigger("fraud", RetrainPolicy(after_labels=100, cooldown="1d"))
    >>> [r.cause for r in trigger.update(10.0, labels=99, detections=())]
    []
    >>> [r.detail for r in trigger.update(20.0, labels=1, detections=())]
    ['100 labels since the last request']
    """

    def __init__(self, task: str, policy: RetrainPolicy, lane: str = "") -> None:
        self.task, self.policy = task, policy
        self._stem = f"{task}-{lane}" if lane else task
        self._asked_at = -math.inf
        self._labels = 0
        self._total = 0

    def update(self, now: float, labels: int, detections: Sequence[Detection]) -> list[RetrainAsked]:
        """Take in what happened up to event time ``now``; returns at most one request."""
        self._labels += labels
        # After labels were counted: those of a cooldown count for the request that follows it.
        if now < self._asked_at + self.policy.cooldown:
            return []
        if self.policy.on_drift and detections:
            return [self._ask("drift", now, detections[0].words)]
        if self.policy.after_labels is not None and self._labels >= self.policy.after_labels:
            return [self._ask("volume", now, f"{self._labels} labels since the last request")]
        return []

    def _ask(self, cause: Cause, now: float, detail: str) -> RetrainAsked:
        self._total += 1
        self._asked_at, self._labels = now, 0
        return RetrainAsked(f"{self._stem}-{self._total}-{now:.0f}", cause, now, detail)

    def snapshot(self) -> bytes:
        """The whole state."""
        asked_at = None if math.isinf(self._asked_at) else self._asked_at
        return msgspec.msgpack.encode(_State(asked_at, self._labels, self._total))

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        held = msgspec.msgpack.decode(state, type=_State)
        self._asked_at = -math.inf if held.asked_at is None else held.asked_at
        self._labels, self._total = held.labels, held.total
