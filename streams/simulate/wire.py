"""Columns to wire format v1. It knows JSON texts and ids, not how events were drawn.

A million dictionaries cost more than the simulation itself, so each kind of record is one printf template,
filled from the columns a batch at a time. Names and choices are plain ASCII and need no escaping.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weir.streams.config.topics import DEVICE_EVENTS, LABELS, USER_EVENTS
from weir.streams.simulate.activity import LOGIN, PURCHASE, VIEW, UserEvents
from weir.streams.simulate.machines import METRICS, MODELS, STATUSES, DeviceEvents, Machines
from weir.streams.simulate.population import CATEGORIES, CHANNELS, COUNTRIES, Floats, Ints, Merchants, Names, Users

_HEAD: Final = '{"v":1,"event_id":"u%04d-%07d","type":"'
_MIDDLE: Final = '","user_id":"%s","ts":%.3f,'
_TAIL: Final = '"device_id":"%s","session_id":"s%012x","channel":"%s","country":"%s"'
_USER_TEMPLATES: Final = {
    LOGIN: _HEAD + "login" + _MIDDLE + _TAIL + "}",
    VIEW: _HEAD + "view" + _MIDDLE + '"merchant_id":"%s",' + _TAIL + ',"properties":{"dwell_s":%.1f}}',
    PURCHASE: _HEAD + "purchase" + _MIDDLE + '"amount":%.2f,"merchant_id":"%s",' + _TAIL
    + ',"properties":{"items":%d,"category":"%s"}}',
}  # fmt: skip
_DEVICE_TEMPLATE: Final = (
    '{"v":1,"event_id":"m%04d-%07d","device_id":"%s","ts":%.3f,"metrics":{'
    + ",".join(f'"{name}":%s' for name in METRICS)
    + '},"status":"%s","properties":{"site":"site-%d","model":"%s"}}'
)
_LABEL_TEMPLATE: Final = '{"v":1,"label_id":"%s","task":"%s","entity_id":"%s",%s"ts":%.3f,"value":%d,"source":"%s"}'


@dataclass(frozen=True, slots=True)
class Records:
    """Encoded records of one topic; every array has one entry per record."""

    topic: str
    available: Floats
    """Event time at which the record can be read, epoch seconds."""
    key: Names
    value: Names

    def __len__(self) -> int:
        return len(self.available)

    def take(self, rows: Any) -> Records:
        """The records at ``rows`` (indices, a mask or a slice)."""
        return Records(self.topic, self.available[rows], self.key[rows], self.value[rows])


def concatenate(parts: Sequence[Records]) -> Records:
    """Records of one topic, part after part."""
    return Records(
        parts[0].topic,
        np.concatenate([part.available for part in parts]),
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.value for part in parts]),
    )


def no_records(topic: str) -> Records:
    """An empty set of records."""
    return Records(topic, np.zeros(0), np.zeros(0, object), np.zeros(0, object))


def user_event_id(day: int, number: int) -> str:
    """Id of the ``number``-th user event of a day."""
    return f"u{day:04d}-{number:07d}"


class UserEventEncoder:
    """Encodes user events with the names of one population."""

    def __init__(self, users: Users, merchants: Merchants, devices: Names) -> None:
        self._users = users.name
        self._keys = _encoded(users.name)
        self._merchants = merchants.name
        self._devices = devices
        self._category = np.array(CATEGORIES, dtype=object)[merchants.category]

    def encode(self, events: UserEvents, day: int) -> Records:
        """Encode the events of day ``day``; each is available when it happens."""
        value = np.empty(len(events), dtype=object)
        session = _mixed(day, events.session)
        for kind, template in _USER_TEMPLATES.items():
            rows = np.flatnonzero(events.kind == kind)
            value[rows] = _format(template, self._columns(events, day, kind, rows, session))
        return Records(USER_EVENTS, events.ts, self._keys[events.user], value)

    def _columns(self, events: UserEvents, day: int, kind: int, rows: Ints, session: Ints) -> list[list[Any]]:
        merchant = self._merchants[events.merchant[rows]].tolist()
        head = [[day] * len(rows), rows.tolist(), self._users[events.user[rows]].tolist(), events.ts[rows].tolist()]
        tail = [
            self._devices[events.device[rows]].tolist(),
            session[rows].tolist(),
            np.array(CHANNELS, dtype=object)[events.channel[rows]].tolist(),
            np.array(COUNTRIES, dtype=object)[events.country[rows]].tolist(),
        ]
        detail = events.detail[rows].tolist()
        if kind == LOGIN:
            return head + tail
        if kind == VIEW:
            return [*head, merchant, *tail, detail]
        category = self._category[events.merchant[rows]].tolist()
        return [*head, events.amount[rows].tolist(), merchant, *tail, detail, category]


class DeviceEventEncoder:
    """Encodes readings with the names of the machines."""

    def __init__(self, machines: Machines) -> None:
        self._names = machines.name
        self._keys = _encoded(machines.name)
        self._site = machines.site
        self._model = np.array(MODELS, dtype=object)[machines.model]

    def encode(self, events: DeviceEvents, day: int) -> Records:
        """Encode the readings of day ``day``; each is available when it happens."""
        n = len(events)
        numbers = events.metrics.astype(object)
        numbers[np.isnan(events.metrics)] = "null"
        columns = [
            [day] * n,
            list(range(n)),
            self._names[events.machine].tolist(),
            events.ts.tolist(),
            *numbers.T.tolist(),
            np.array(STATUSES, dtype=object)[events.status].tolist(),
            self._site[events.machine].tolist(),
            self._model[events.machine].tolist(),
        ]
        value = np.empty(n, dtype=object)
        value[:] = _format(_DEVICE_TEMPLATE, columns)
        return Records(DEVICE_EVENTS, events.ts, self._keys[events.machine], value)


def encode_labels(
    available: Floats,
    label_id: list[str],
    task: str,
    entity: list[str],
    event: list[str] | None,
    ts: Floats,
    value: int,
    source: str,
) -> Records:
    """Encode labels of one task; ``event`` names the events they speak of, ``None`` for whole entities."""
    n = len(label_id)
    about = [""] * n if event is None else [f'"event_id":"{name}",' for name in event]
    columns = [label_id, [task] * n, entity, about, ts.tolist(), [value] * n, [source] * n]
    values = np.empty(n, dtype=object)
    values[:] = _format(_LABEL_TEMPLATE, columns)
    return Records(LABELS, available, _encoded(np.array(entity, dtype=object)), values)


def _format(template: str, columns: Sequence[Iterable[Any]]) -> list[bytes]:
    """One line of JSON per row of ``columns``."""
    # Joined to be encoded at once; no name holds a line break.
    text = "\n".join(map(template.__mod__, zip(*columns, strict=True)))
    return text.encode().split(b"\n") if text else []


def _encoded(names: Names) -> Names:
    out = np.empty(len(names), dtype=object)
    out[:] = [name.encode() for name in names]
    return out


def _mixed(day: int, number: Ints) -> Ints:
    """Distinct numbers below 2**48 for each (day < 2**12, number < 2**36) that do not show their order."""
    codes = number.astype(np.uint64) + np.uint64(day << 36)
    mixed = (codes * np.uint64(0x9E3779B97F4A7C15)) & np.uint64((1 << 48) - 1)
    return mixed.astype(np.int64)
