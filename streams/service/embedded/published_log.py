"""The log of outputs of a service: what it holds was published, and stays, whatever a start computes again.

A start computes what came after the newest checkpoint again. Callers, the feed and the tables may have seen those
outputs. The same code makes the same bytes. Another version of Weir, of a library or of the processor may not: then
what was published is believed, what it lacks is appended, and the differences are told. So no offset moves, nothing is
lost, and nothing counts twice.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from weir.online.errors import UNREADABLE
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.errors import LogError
from weir.streams.records import Record

_NAMED_BY: Final[Mapping[str, Sequence[str]]] = {
    topics.PREDICTIONS: ("task", "event_id"),
    topics.ALERTS: ("alert_id", "status", "updated_at"),
    topics.EXAMPLES: ("task", "event_id", "correction"),
    topics.RETRAIN_REQUESTS: ("request_id",),
    topics.DEAD_LETTERS: ("topic", "partition", "offset"),
}
"""What makes a record the same one, whatever else it says. Of other topics it is key and time."""
_QUOTED: Final = 40
"""Characters before and behind where two records begin to differ."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How what was published of a topic differs from what was computed again."""

    topic: str
    changed: int
    """Records that say something else now; those that were published stay."""
    only_then: int
    """Records that were published and are not made now; they stay."""
    only_now: int
    """Records that are made now and were not published; they were appended."""
    first: str
    """The first of them, in words."""

    def __str__(self) -> str:
        counts = {
            "published otherwise": self.changed,
            "published only": self.only_then,
            "made only now, and appended": self.only_now,
        }
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"{self.topic}: {told}; the first: {self.first}"


@dataclass(slots=True)
class _Lane:
    """One topic, from the checkpoint on."""

    published: list[int] = field(default_factory=list)
    """Hashes of its records, in order."""
    met: int = 0
    """So many of them were made again, to the byte and in order."""
    apart: bool = False
    """Whether one was made otherwise: from there on records are compared by what they are of."""

    def meet(self, records: Sequence[Record]) -> Sequence[Record]:
        """Compare records that were made again; those from the first on that the log does not hold there."""
        for i, record in enumerate(records):
            if self.apart or self.met == len(self.published):
                return records[i:]
            if hash(record) != self.published[self.met]:
                self.apart = True
                return records[i:]
            self.met += 1
        return ()


class OutputLog(EmbeddedLog):
    """The log of outputs, which also hands out what was appended: nobody has to read that back from the disk.

    Only the appending thread takes.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._made: list[LoggedBatch] = []

    def append(self, topic: str, records: Sequence[Record]) -> list[LoggedBatch]:
        """See ``EmbeddedLog``."""
        made = super().append(topic, records)
        self._made += made
        return made

    def take(self) -> list[LoggedBatch]:
        """What was appended since the last call, in memory."""
        made, self._made = self._made, []
        return made


class PublishedLog(OutputLog):
    """See the module; topics have one partition."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._lanes_again: defaultdict[str, _Lane] | None = None
        """While a start computes again: what was published."""
        self._from = 0
        self._made_apart: list[tuple[str, Sequence[Record]]] = []
        self.only_then: list[Record] = []
        """Of alerts, what was published and is not made now, as the newest `settle` found it."""

    def truncate(self, seq: int) -> int:
        """Compute again from batch ``seq`` on: the log stays, and what is appended is compared with it until `settle`.

        Raises ``LogError`` where batches before ``seq`` are no longer kept.
        """
        if seq < self.first_seq:
            raise LogError(f"outputs from batch {seq} on are no longer kept; kept are those from {self.first_seq} on")
        self._lanes_again, self._from, self._made_apart = defaultdict(_Lane), seq, []
        for batch in self._published():
            self._lanes_again[batch.topic].published += map(hash, batch.records)
        return 0

    def cut(self, seq: int) -> None:
        """Drop batches from ``seq`` on: nobody has seen them."""
        super().truncate(seq)

    def append(self, topic: str, records: Sequence[Record]) -> list[LoggedBatch]:
        """See ``EmbeddedLog``; nothing is appended before `settle`."""
        if self._lanes_again is None:
            return super().append(topic, records)
        if rest := self._lanes_again[topic].meet(records):
            self._made_apart.append((topic, rest))
        return []

    def settle(self, newest: float) -> list[Difference]:
        """Append what was not published yet; the topics in which something else was published than made again.

        ``newest`` is the time of the newest input, epoch seconds. Outputs of later ones are cut: a power cut took their
        inputs before anybody was answered, so nobody has seen them.
        """
        lanes: Mapping[str, _Lane] = self._lanes_again or {}
        self._lanes_again = None
        if any(lane.met < len(lane.published) for lane in lanes.values()):
            self._cut_unseen(newest)
        left = self._left(lanes)
        compared = {topic: _Comparison(topic, records) for topic, records in left.items() if records}
        self.only_then = []
        for topic, records in self._made_apart:
            if new := compared[topic].only_now(records) if topic in compared else records:
                super().append(topic, new)
        self._made_apart = []
        if topics.ALERTS in compared:
            self.only_then = [record for _, record in compared[topics.ALERTS].then()]
        return [difference for each in compared.values() if (difference := each.difference()) is not None]

    def _published(self) -> Iterator[LoggedBatch]:
        return self.read(sorted({topic for topic, _ in self.ends()}), self._from)

    def _cut_unseen(self, newest: float) -> None:
        unseen = self.next_seq
        for batch in self._published():
            if min(record.ts for record in batch.records) <= newest:
                unseen = self.next_seq
            elif unseen == self.next_seq:
                unseen = batch.seq
        self.cut(unseen)

    def _left(self, lanes: Mapping[str, _Lane]) -> dict[str, list[tuple[int, Record]]]:
        """Records, with their offsets, that were published and not made again to the byte and in order."""
        met = {topic: lane.met for topic, lane in lanes.items()}
        left: dict[str, list[tuple[int, Record]]] = {topic: [] for topic in lanes}
        for batch in self._published() if any(lane.met < len(lane.published) for lane in lanes.values()) else ():
            for i, record in enumerate(batch.records):
                if met[batch.topic]:
                    met[batch.topic] -= 1
                else:
                    left[batch.topic].append((batch.offset_of(i), record))
        return left


class _Comparison:
    """Records of a topic that were published, looked up by what they are of."""

    def __init__(self, topic: str, published: Sequence[tuple[int, Record]]) -> None:
        self._topic, self._changed, self._only_now, self._first = topic, 0, 0, ""
        self._left: defaultdict[Any, deque[tuple[int, Record]]] = defaultdict(deque)
        for offset, record in published:
            self._left[_name(topic, record)].append((offset, record))

    def only_now(self, records: Sequence[Record]) -> list[Record]:
        """Of records that are made now those that were not published."""
        new = []
        for record in records:
            if not (same := self._left.get(_name(self._topic, record))):
                new.append(record)
                self._tell(f"{_words(self._topic, record)}, made now")
                continue
            offset, published = same.popleft()
            if published != record:
                self._changed += 1
                self._tell(
                    f"{_words(self._topic, published)} at offset {offset}{_apart(published.value, record.value)}"
                )
        self._only_now += len(new)
        return new

    def then(self) -> list[tuple[int, Record]]:
        """What was published and is not made now, with offsets and in their order, when all was looked up."""
        return sorted((one for same in self._left.values() for one in same), key=lambda one: one[0])

    def difference(self) -> Difference | None:
        """What was found, when all was looked up."""
        if then := self.then():
            self._tell(f"{_words(self._topic, then[0][1])} at offset {then[0][0]}, not made now")
        if not (self._changed or then or self._only_now):
            return None
        return Difference(self._topic, self._changed, len(then), self._only_now, self._first)

    def _tell(self, words: str) -> None:
        self._first = self._first or words


def _name(topic: str, record: Record) -> object:
    """What a record is of."""
    if (fields := _NAMED_BY.get(topic)) is None:
        return record.key, record.ts
    # Copies of what came from outside may be anything: such a one is the same in both computations, to the byte.
    try:
        said = msgspec.json.decode(record.value)
    except UNREADABLE:
        return record.value
    return tuple(str(said.get(name)) for name in fields) if isinstance(said, dict) else record.value


def _words(topic: str, record: Record) -> str:
    name = _name(topic, record)
    fields = name if isinstance(name, tuple) and topic in _NAMED_BY else (record.key.decode(errors="replace"),)
    return " ".join(map(str, fields))


def _apart(then: bytes, now: bytes) -> str:
    """Where two records begin to differ, where they are text."""
    try:
        texts = then.decode(), now.decode()
    except UnicodeDecodeError:
        return ""
    shorter = min(map(len, texts))
    at = next((i for i in range(shorter) if texts[0][i] != texts[1][i]), shorter)
    start, end = max(at - _QUOTED, 0), at + _QUOTED
    return f": published ...{texts[0][start:end]}..., now ...{texts[1][start:end]}..."
