"""Where simulated records go: lines on a stream, JSONL or Parquet files. It knows formats, not pace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from weir.streams.whole_files import whole, written

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
    """Takes records in order; a context at whose end they are all there."""

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


class FilesSink(Sink):
    """A file a topic in a directory; each is in its place at the end, and none where writing fails.

    Raises ``UsageError`` where a file cannot be written, as on a full disk.
    """

    def __init__(self, directory: Path, topics: Sequence[str], ending: str) -> None:
        super().__init__()
        self._paths = {topic: directory / f"{topic}.{ending}" for topic in topics}
        self._files = {topic: self.enter_context(whole(path)) for topic, path in self._paths.items()}


class JsonlSink(FilesSink):
    """``DIR/TOPIC.jsonl``: one value a line, in the order in which records become available."""

    def __init__(self, directory: Path, topics: Sequence[str]) -> None:
        super().__init__(directory, topics, "jsonl")

    def write(self, records: Sequence[TopicRecord]) -> None:
        """Append one line a record."""
        for topic, file in self._files.items():
            with written(self._paths[topic]):
                file.write(b"".join(value + b"\n" for name, _, value, _ in records if name == topic))


class ParquetSink(FilesSink):
    """``DIR/TOPIC.parquet``: one column a field, also of ``metrics`` and ``properties``, and ``available_at``.

    ``available_at`` is the event time at which the record could be read: for a label, when it became known.
    """

    def __init__(self, directory: Path, topics: Sequence[str]) -> None:
        super().__init__(directory, topics, "parquet")
        self._rows: dict[str, list[dict[str, Any]]] = {topic: [] for topic in topics}
        self._schemas = {topic: pa.schema({**_SCHEMAS[topic], "available_at": _NUMBER}) for topic in topics}
        self._writers = {topic: pq.ParquetWriter(file, self._schemas[topic]) for topic, file in self._files.items()}
        self.push(self._ended)

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

    def _ended(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is left and the files' ends; where they are not kept, let go of them."""
        for topic, writer in self._writers.items():
            if kind is not None:
                with suppress(OSError):  # the disk is as full as it was
                    writer.close()
                continue
            self._write_rows(topic)
            with written(self._paths[topic]):
                writer.close()

    def _write_rows(self, topic: str) -> None:
        if self._rows[topic]:
            table = pa.Table.from_pylist(self._rows[topic], schema=self._schemas[topic])
            self._rows[topic].clear()
            with written(self._paths[topic]):
                self._writers[topic].write_table(table)


def _with_topic(topic: str, value: bytes) -> bytes:
    """``value`` with a leading field ``topic``; what is no object is kept as it is.

    >>> _with_topic("labels", b'{"v":1}')
    b'{"topic":"labels","v":1}'
    """
    return b'{"topic":"' + topic.encode() + b'",' + value[1:] if value.startswith(b"{") else value
