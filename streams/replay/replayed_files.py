"""What ``weir replay`` sends: records of files, in the order in which they became available.

Two kinds of files: lines of wire format as ``weir simulate`` writes them, whose bytes are sent as they are, broken
ones too; and tables that a task's [source] maps to events. It knows files and times, not brokers.
"""

from __future__ import annotations

import heapq
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from weir.online.codec.wire import TS_MAX, TS_MIN, VERSION, parse_time
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.config import topics
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.printed_records import key_of, parse
from weir.streams.whole_files import read_whole

STDIN: Final = Path("-")
_NAMED = re.compile(rb'\A\{"topic":"([A-Za-z0-9._-]{1,249})",')
_ROWS: Final = 2_048
_NUMBERED: Final = (
    "rows are numbered, as [source] names no event_id: row-0 of another file would be a repeat, so send all files at "
    "once, or name a column of ids"
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to send."""

    topic: str
    key: bytes | None
    value: bytes
    ts: float | None
    """Event time at which it became available, never less than that of the record before it in its file."""
    units: int
    """How much of the source it was, for a progress bar."""


class LinesSource:
    """Wire records from files of lines, merged by time; ``-`` is standard input.

    A line's topic is that of its leading field ``topic`` (taken out again), else ``topic``, else the file's name.
    With ``topic``, lines that name another one are skipped.
    """

    def __init__(self, paths: Sequence[Path], topic: str | None) -> None:
        for path in paths:
            if path.is_dir():
                raise UsageError(f"{path}: a directory; name the files in it, or give --task for tables")
            if path != STDIN and not path.is_file():
                raise UsageError(f"no such file: {path}")
        self._files = [(path, topic or _topic_of(path)) for path in paths]
        self._only = topic
        self.total = None if STDIN in paths else sum(path.stat().st_size for path in paths)
        """All units there are; ``None`` where nobody knows."""
        self.skipped = 0
        """Lines that were left out so far."""

    def __iter__(self) -> Iterator[Outgoing]:
        """Every line that has a topic."""
        streams = [self._lines(path, topic) for path, topic in self._files]
        # A stream without times yet counts as the oldest, so that its broken first lines go out first.
        return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda o: o.ts or 0.0)

    def _lines(self, path: Path, default: str | None) -> Iterator[Outgoing]:
        latest: float | None = None
        stdin: BinaryIO = sys.stdin.buffer
        with nullcontext(stdin) if path == STDIN else read_whole(path) as file:
            for line in file:
                value = line.rstrip(b"\r\n")
                named = _NAMED.match(value)
                topic = named[1].decode() if named else default
                if not value or topic is None or (self._only is not None and topic != self._only):
                    self.skipped += bool(value)
                    continue
                if named:
                    # Cut out of the bytes, not decoded and encoded: what is broken is to arrive broken.
                    value = b"{" + value[named.end() :]
                document = parse(value)
                ts = time_of(document)
                # Never back, as merging wants, and as a line without a time belongs where it stands.
                latest = ts if latest is None else max(latest, ts or latest)
                yield Outgoing(topic, key_of(topic, document), value, latest, len(line))


class TableSource:
    """Events that a task's [source] maps, and their labels once their delay has passed."""

    def __init__(self, task: TaskSpec, paths: Sequence[Path], topic: str | None, with_labels: bool) -> None:
        if task.source is None:
            raise UsageError(
                f"task {task.name}: no [source] table; it maps file columns to wire fields, see docs/TASKS.md"
            )
        if STDIN in paths:
            raise UsageError("-: with --task give files; rows of a table are sorted by time first")
        self._task, self._delay_s = task, task.source.label_delay
        self._source = FileSource(task, TaskPipeline(task, MemoryFeatureStore()).columns, paths)
        self._topic = topic or task.stream
        self._with_labels = with_labels and task.source.label is not None
        self.total: int | None = len(self._source)
        self.skipped = 0
        self.warning = "" if task.source.event_id else _NUMBERED
        """What somebody should know who sends these rows."""

    def __iter__(self) -> Iterator[Outgoing]:
        """Every row, and each label before the first row that is younger than its due time."""
        due, number = list[tuple[float, int, Outgoing]](), 0
        latest: float | None = None
        for rows, labels, known in self._source.wire_rows(_ROWS):
            for row, label, known_at in zip(rows, labels, known, strict=True):
                ts = time_of(row)
                latest = ts if latest is None else max(latest, ts or latest)
                while due and latest is not None and due[0][0] <= latest:
                    yield heapq.heappop(due)[2]
                yield Outgoing(self._topic, key_of(self._task.stream, row), _encoded(row), latest, 1)
                if self._with_labels and label is not None and latest is not None and "event_id" in row:
                    at = latest + self._delay_s if known_at is None else known_at
                    # The number decides between labels of one time: records do not compare, and their order is to stay.
                    heapq.heappush(due, (at, number := number + 1, self._label(row, label, at)))
        yield from (record for _, _, record in sorted(due, key=itemgetter(0, 1)))

    def _label(self, row: dict[str, Any], value: bool, at: float) -> Outgoing:
        entity = str(row.get(self._task.key) or "*")
        record = {
            "v": VERSION, "label_id": f"{row['event_id']}/label", "task": self._task.name, "entity_id": entity,
            "event_id": row["event_id"], "ts": row["ts"], "value": int(value), "source": "replay",
        }  # fmt: skip
        return Outgoing(topics.LABELS, entity.encode(), orjson.dumps(record), at, 0)


OutgoingSource = LinesSource | TableSource
"""Records in the order of their time, each once."""


def time_of(document: Any) -> float | None:
    """A record's event time in epoch seconds; ``None`` where it has none that can be used.

    >>> time_of({"ts": "2024-03-01T12:00:00Z"}), time_of({"ts": 1e300}), time_of([])
    (1709294400.0, None, None)
    """
    try:
        ts = parse_time(document.get("ts")) if isinstance(document, dict) else None
    except ValueError:
        return None
    return float(ts) if isinstance(ts, int | float) and TS_MIN <= ts <= TS_MAX else None


def _encoded(row: dict[str, Any]) -> bytes:
    """JSON of a row; what JSON has no number for becomes null, and the worker says what is wrong with it."""
    return orjson.dumps(row, default=str, option=orjson.OPT_SERIALIZE_NUMPY)


def _topic_of(path: Path) -> str | None:
    """The topic that a file's name says, as ``weir simulate`` names its files."""
    stem = path.name.split(".")[0]
    return stem if stem in topics.ALL else None
