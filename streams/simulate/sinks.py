"""Where simulated records go: lines on a stream, JSONL or Parquet files. It knows formats, not pace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

TopicRecord = tuple[str, bytes, bytes, float]
"""Topic, key, value, and the event time at which the record can be read."""

_ROW_GROUP: Final = 50_000
_NESTED: Final = ("metrics", "properties")
_TEXT: Final = pa.string()
_NUMBER: Final = pa.float64()
_SCHEMAS: Final = {
    "user-events": {
        "v": pa.int64(), "event_id": _TEXT, "type": _TEXT, "user_id": _TEXT, "ts": _NUMBER, "amount": _NUMBER,
        "merchant_id": _TEXT, "device_id": _TEXT, "session_id": _TEXT, "channel": _TEXT,
        "country": _TEXT, "items": _NUMBER, "category": _TEXT, "dwell_s": _NUMBER,
    },
    "device-events": {
        "v": pa.int64(), "event_id": _TEXT, "device_id": _TEXT, "ts": _NUMBER, "temperature": _NUMBER,
        "vibration": _NUMBER, "load": _NUMBER, "pressure": _NUMBER, "status": _TEXT, "site": _TEXT,
        "model": _TEXT,
    },
    "labels": {
        "v": pa.int64(), "label_id": _TEXT, "task": _TEXT, "entity_id": _TEXT, "event_id": _TEXT, "ts": _NUMBER,
        "value": pa.int64(), "source": _TEXT,
    },
}  # fmt: skip


class Sink(ExitStack):
    """Takes records in order; a context that leaves complete files however it ends."""

    def write(self, records: Sequence[TopicRecord]) -> None:
        """Take ``records``."""
        raise NotImplementedError

    def flush(self) -> None:
        """Hand on what can be handed on now."""


class LinesSink(Sink):
    """One value a line on a stream; with ``name_topics`` each gets a leading field ``topic``."""

    def __init__(self, stream: BinaryIO, name_topics: bool) -> None:
        super().__init__()
        self.stream = stream
        self.name_topics = name_topics
        self.push(self._ended)

    def write(self, records: Sequence[TopicRecord]) -> None:
        """Write one line a record."""
        if self.name_topics:
            lines = [_with_topic(topic, value) for topic, _, value, _ in records]
        else:
            lines = [value for _, _, value, _ in records]
        self.stream.write(b"".join(line + b"\n" for line in lines))

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def _ended(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush, unless the reader has gone."""
        if kind is None:
            self.flush()


class JsonlSink(Sink):
    """``DIR/TOPIC.jsonl``: one value a line, in the order in which records become available."""

    def __init__(self, directory: Path, topics: Sequence[str]) -> None:
        super().__init__()
        self._files = {topic: self.enter_context((directory / f"{topic}.jsonl").open("wb")) for topic in topics}

    def write(self, records: Sequence[TopicRecord]) -> None:
        """Append one line a record."""
        for topic, file in self._files.items():
            file.write(b"".join(value + b"\n" for name, _, value, _ in records if name == topic))

    def flush(self) -> None:
        """Flush all files."""
        for file in self._files.values():
            file.flush()


class ParquetSink(Sink):
    """``DIR/TOPIC.parquet``: one column a field, also of ``metrics`` and ``properties``, and ``available_at``.

    ``available_at`` is the event time at which the record could be read: for a label, when it became known.
    """

    def __init__(self, directory: Path, topics: Sequence[str]) -> None:
        super().__init__()
        self._rows: dict[str, list[dict[str, Any]]] = {topic: [] for topic in topics}
        self._schemas = {topic: pa.schema({**_SCHEMAS[topic], "available_at": _NUMBER}) for topic in topics}
        self._writers = {
            topic: pq.ParquetWriter(directory / f"{topic}.parquet", self._schemas[topic]) for topic in topics
        }
        # Also where the stream breaks off: without its end nobody can read a Parquet file.
        self.callback(self._complete)

    def write(self, records: Sequence[TopicRecord]) -> None:
        """Collect rows; write a row group when enough of them are there."""
        for topic, _, value, available in records:
            row = orjson.loads(value)
            for name in _NESTED:
                row.update(row.pop(name, {}))
            row["available_at"] = available
            self._rows[topic].append(row)
        for topic, rows in self._rows.items():
            if len(rows) >= _ROW_GROUP:
                self._write_rows(topic)

    def _complete(self) -> None:
        """Write what is left and the files' ends."""
        for topic, writer in self._writers.items():
            self._write_rows(topic)
            writer.close()

    def _write_rows(self, topic: str) -> None:
        if self._rows[topic]:
            self._writers[topic].write_table(pa.Table.from_pylist(self._rows[topic], schema=self._schemas[topic]))
            self._rows[topic].clear()


def _with_topic(topic: str, value: bytes) -> bytes:
    """``value`` with a leading field ``topic``; what is no object is kept as it is.

    >>> _with_topic("labels", b'{"v":1}')
    b'{"topic":"labels","v":1}'
    """
    return b'{"topic":"' + topic.encode() + b'",' + value[1:] if value.startswith(b"{") else value
