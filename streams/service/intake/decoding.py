"""Decodes what callers send, once, and sorts it: what is refused, and what goes into which topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from weir.online.codec.decode import DecodedEvents, DecodedLabels
from weir.online.errors import UNREADABLE
from weir.online.mistakes import did_you_mean
from weir.online.stages.admission import DECODERS, decode_labels_in_time
from weir.online.task.column_plan import columns_of, union
from weir.online.task.spec import STREAM_KEYS, TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.records import Record, oversized
from weir.streams.service.ports import Decoded, Outcome


@dataclass(frozen=True, slots=True)
class Group:
    """The valid records of a body that go into one topic."""

    topic: str
    records: list[Record]
    decoded: Decoded
    """Of exactly these records."""
    places: list[int]
    """Where each of them was in the body."""

    def take(self, rows: list[int]) -> Group:
        """Only these records, by ascending position."""
        if len(rows) == len(self.records):
            return self
        kept, index = np.array(rows, np.int64), np.arange(len(rows))
        if isinstance(self.decoded, DecodedLabels):
            decoded: Decoded = replace(self.decoded.take(kept), index=index)
        else:
            decoded = DecodedEvents(self.decoded.batch.take(kept), [], index)
        return Group(self.topic, [self.records[r] for r in rows], decoded, [self.places[r] for r in rows])


class _Fields(msgspec.Struct, gc=False):
    """What tells the streams apart."""

    # Of any type: that a wrong one is wrong, the decoder of the stream says in its words.
    user_id: Any = None
    metrics: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_fields_decoder: Final = msgspec.json.Decoder(_Fields)


class InputDecoder:
    """Judges records as the tasks' hosts do.

    Parameters
    ----------
    settings : limits, and what the streams accept.
    tasks : whose columns are decoded.
    """

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec]) -> None:
        self._limits, self._policy = settings.limits, settings.worker.intake
        self._tasks = sorted(task.name for task in tasks)
        # The very columns that a host asks for: it takes what is decoded here in place of its own.
        self._columns = {s: union([columns_of(task) for task in tasks if task.stream == s]) for s in DECODERS}

    def events(
        self, values: Sequence[bytes], stream: str | None, now: float, outcomes: dict[int, Outcome]
    ) -> list[Group]:
        """The valid events by stream; ``outcomes`` takes the others, by their place among ``values``.

        Parameters
        ----------
        values : records, ``b""`` where there is an outcome already.
        stream : of all of them; without, each record's fields tell.
        now : when they arrived, epoch seconds.
        """
        groups = []
        for topic, places in self._by_stream(values, stream).items():
            raw = self._sized(values, places, outcomes)
            decoded = DECODERS[topic](raw, self._columns[topic], limits=self._limits)
            _refuse(decoded, places, outcomes)
            if len(decoded.batch):
                groups.append(_group(topic, values, places, decoded, _senders(topic, decoded, raw), now))
        return groups

    def labels(
        self, values: Sequence[bytes], now: float, outcomes: dict[int, Outcome], allowed: frozenset[str] | None = None
    ) -> list[Group]:
        """The valid labels of tasks that run and are ``allowed``; as ``events``."""
        # A task that the caller may not use is told as one that does not run, and is no suggestion either.
        tasks = [task for task in self._tasks if allowed is None or task in allowed]
        places = list(range(len(values)))
        decoded = decode_labels_in_time(self._sized(values, places, outcomes), now, self._policy, self._limits)
        _refuse(decoded, places, outcomes)
        unknown = [row for row, task in enumerate(decoded.tasks) if task not in tasks]
        for row in unknown:
            reason = f"task: no {decoded.tasks[row]!r} runs here; {did_you_mean(decoded.tasks[row], tasks)}"
            outcomes[int(decoded.index[row])] = Outcome("refused", reason)
        if unknown:
            decoded = decoded.take(np.delete(np.arange(len(decoded.batch)), unknown))
        if not len(decoded.batch):
            return []
        return [_group(topics.LABELS, values, places, decoded, decoded.batch.entity_id, now)]

    def _by_stream(self, values: Sequence[bytes], stream: str | None) -> dict[str, list[int]]:
        if stream is not None:
            return {stream: list(range(len(values)))}
        # Only a device event must have metrics, and most bodies hold events of users alone.
        if b'"metrics"' not in b"\n".join(values):
            return {topics.USER_EVENTS: list(range(len(values)))}
        found: dict[str, list[int]] = {}
        for place, value in enumerate(values):
            found.setdefault(_stream_of(value), []).append(place)
        return found

    def _sized(self, values: Sequence[bytes], places: list[int], outcomes: dict[int, Outcome]) -> list[bytes]:
        """The records to decode; nothing of one that is too large, which is refused for that."""
        most, raw = self._limits.record_bytes, [values[place] for place in places]
        for i, value in enumerate(raw) if max(map(len, raw)) > most else ():
            if len(value) > most:
                outcomes[places[i]] = Outcome("refused", oversized(len(value), most))
                raw[i] = b""
        return raw


def _stream_of(value: bytes) -> str:
    try:
        fields = _fields_decoder.decode(value)
    except UNREADABLE:
        return topics.USER_EVENTS  # refused there as well as anywhere
    device = fields.user_id is None and fields.metrics is not msgspec.UNSET
    return topics.DEVICE_EVENTS if device else topics.USER_EVENTS


def _senders(topic: str, decoded: DecodedEvents, raw: list[bytes]) -> Sequence[str]:
    """Whose events they are: what the partition is chosen by."""
    column = decoded.batch.entities.get(STREAM_KEYS[topic])
    if column is not None:
        return [sender or "" for sender in column]
    # No task has this entity, so that it was not among the columns.
    documents = (msgspec.json.decode(raw[i]) for i in decoded.index.tolist())
    return [document[STREAM_KEYS[topic]].strip() for document in documents]


def _refuse(decoded: Decoded, places: list[int], outcomes: dict[int, Outcome]) -> None:
    for reject in decoded.rejects:
        # What was refused before the decoder saw it, as too large or no CloudEvent, keeps that reason: here it was b"".
        outcomes.setdefault(places[reject.index], Outcome("refused", reject.reason))


def _group(
    topic: str, values: Sequence[bytes], places: list[int], decoded: Decoded, keys: Sequence[str], now: float
) -> Group:
    kept = [places[i] for i in decoded.index.tolist()]
    records = [Record(key.encode(), values[place], now) for key, place in zip(keys, kept, strict=True)]
    fitted = replace(decoded, rejects=[], index=np.arange(len(kept)))
    return Group(topic, records, fitted, kept)
