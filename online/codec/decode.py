"""From raw records to columns, with every record that does not fit split out beside its reason.

``weir.online.codec.accept`` judges the records; here the valid ones become the columns that a task asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from weir.online.batch import EventBatch, IntVector, LabelBatch
from weir.online.codec.accept import Reject, accept_records, accept_rows
from weir.online.codec.columns import ColumnRequest, bare, event_columns
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.wire import DeviceEvent, Label, UserEvent, WireModel
from weir.online.frozen import dataclass


@dataclass(frozen=True, slots=True)
class DecodedEvents:
    """The valid events of an input as columns, and the rest one by one; every record is in exactly one of them."""

    batch: EventBatch
    rejects: list[Reject]
    """In input order."""
    index: IntVector
    """``(n,) int64``, the position in the input of each event of ``batch``."""

    def part(self, start: int, stop: int) -> DecodedEvents:
        """What the records from ``start`` to ``stop`` of the input gave, as if they had been decoded alone."""
        a, b = np.searchsorted(self.index, (start, stop)).tolist()
        rejects = [replace(r, index=r.index - start) for r in self.rejects if start <= r.index < stop]
        return DecodedEvents(self.batch.slice(a, b), rejects, self.index[a:b] - start)

    def without(self, records: Sequence[int]) -> DecodedEvents:
        """Without the events of these records of the input, by ascending position."""
        if not len(records):
            return self
        rows = np.flatnonzero(~np.isin(self.index, records))
        return DecodedEvents(self.batch.take(rows), self.rejects, self.index[rows])


@dataclass(frozen=True, slots=True)
class DecodedLabels:
    """The valid labels of an input, of one or more tasks."""

    batch: LabelBatch
    rejects: list[Reject]
    index: IntVector
    tasks: list[str]
    """The task of each label of ``batch``."""

    def without(self, refused: Mapping[int, str], raw: Sequence[bytes]) -> DecodedLabels:
        """What is left of the input ``raw`` when these rows of ``batch`` are refused, each with its reason."""
        places = self.index.tolist()
        rejects = [*self.rejects, *(Reject(places[row], raw[places[row]], why) for row, why in refused.items())]
        rows = np.array([row for row in range(len(places)) if row not in refused], dtype=np.int64)
        return replace(self.take(rows), rejects=sorted(rejects, key=lambda r: r.index))

    def take(self, rows: IntVector) -> DecodedLabels:
        """Only these rows of ``batch``."""
        tasks = [self.tasks[row] for row in rows.tolist()]
        return DecodedLabels(self.batch.take(rows), self.rejects, self.index[rows], tasks)

    def by_task(self) -> dict[str, LabelBatch]:
        """The labels of each task, in their order; tasks in order of first appearance."""
        rows: dict[str, list[int]] = {}
        for row, task in enumerate(self.tasks):
            rows.setdefault(task, []).append(row)
        if len(rows) == 1:
            return dict.fromkeys(rows, self.batch)
        return {task: self.batch.take(np.array(at, np.int64)) for task, at in rows.items()}


def _decode_events(
    model: type[WireModel], raw: Sequence[bytes | None], columns: ColumnRequest, *, limits: InputLimits = DEFAULT_LIMITS
) -> DecodedEvents:
    """Decode the records of a stream into the columns asked for.

    >>> good = b'{"v":1,"event_id":"e1","type":"purchase","user_id":"u1","ts":1700000000,"amount":9.5}'
    >>> decoded = decode_user_events([good, good.replace(b"9.5", b"2e12")], ColumnRequest(numbers=("amount",)))
    >>> decoded.batch.numbers["amount"].tolist(), decoded.rejects[0].reason
    ([9.5], 'out of range: amount is 2e+12, allowed 1e+12; correct the sender, or raise [limits] amount')
    """
    accepted = accept_records(model, raw, limits)
    batch = event_columns(model, accepted.structs, accepted.ts, columns)
    return DecodedEvents(batch, accepted.rejects, accepted.index)


decode_user_events: Callable[..., DecodedEvents] = partial(_decode_events, UserEvent)
decode_device_events: Callable[..., DecodedEvents] = partial(_decode_events, DeviceEvent)


def decode_labels(raw: Sequence[bytes | None], *, limits: InputLimits = DEFAULT_LIMITS) -> DecodedLabels:
    """Decode ``labels`` records; an absent weight is 1."""
    accepted = accept_records(Label, raw, limits)
    labels = accepted.structs
    entity_id = bare([label.entity_id for label in labels])
    event_id = [label.event_id and (label.event_id.strip() or label.event_id) for label in labels]
    said = zip(labels, entity_id, event_id, accepted.ts.tolist(), strict=True)
    batch = LabelBatch(
        label_id=[label.label_id or _made_id(label, *about) for label, *about in said],
        entity_id=entity_id,
        event_id=event_id,
        ts=accepted.ts,
        value=np.array([label.value for label in labels], np.bool_),
        weight=np.array([1.0 if label.weight is None else label.weight for label in labels], np.float64),
    )
    return DecodedLabels(batch, accepted.rejects, accepted.index, [label.task for label in labels])


def _made_id(label: Any, entity_id: str, event_id: str | None, ts: float) -> str:
    """The id of a label that brings none: what it says, and of what."""
    # Of ids and times as they are read, not as they were written: 12:00Z and 13:00+01:00 are one time.
    return f"{label.task}:{entity_id}:{event_id or ts}={label.value}"


def events_from_rows(
    rows: Sequence[dict[str, Any]], columns: ColumnRequest, *, model: type[WireModel] = UserEvent
) -> DecodedEvents:
    """Take events from rows of a file, with the verdicts that the same records would get as JSON.

    A row holds Python values under wire names (no NumPy scalars: use ``tolist``); ``v`` may be absent and ``ts`` an
    aware ``datetime``. NaN is not a value: the caller leaves out what is missing, else the row is rejected.

    >>> row = {"event_id": "e1", "type": "view", "user_id": "u1", "ts": 1.7e9, "properties": {"page": "home"}}
    >>> events_from_rows([row], ColumnRequest(texts=("page",))).batch.texts
    {'page': ['home']}
    """
    accepted = accept_rows(model, rows)
    batch = event_columns(model, accepted.structs, accepted.ts, columns)
    return DecodedEvents(batch, accepted.rejects, accepted.index)
