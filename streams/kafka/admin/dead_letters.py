"""Dead letters on Kafka: read, grouped, sent back to where they came from, or let go.

A letter is done when the compacted topic ``dead-letters-done`` has a marker under its partition and offset. A replay
first waits until the brokers have the records and then writes the markers, so a crash between the two can send a
record twice but never lose one; the repeat has the same ``event_id`` and the workers drop it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.printed_records import key_of, parse
from weir.streams.kafka.admin.reader import Start, read_one, read_present

if TYPE_CHECKING:
    from weir.online.codec.wire import DeadLetter
    from weir.streams.config.settings import TopicSettings

Action = Literal["replayed", "dropped"]
REPLAYED_FROM: Final = "weir-replayed-from"
"""Header of a record that was sent again: the id of its dead letter."""
_CHUNK: Final = 500
_HEADER_BELOW: Final = 512 * 1024
_PLACE = re.compile(r"(?:(.+)-)?(\d+)-(\d+)")
_VALUE = re.compile(
    r"\b(got|says|at character|at position|byte|array of|after(?= \d)|it has(?= \d)|as(?= [\d'\"-])|which is(?= \d))"
    r" ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|an object with [^;]*|[^\s;,)]*[^\s;,:)])(\.\.\. \([\d,]+ characters\))?"
)
_NUMBER = re.compile(r"(?<![\w.,-])(?<!allowed )(?<!most )(?<!least )(?<!than )-?\d(?:[\w.,:+-]*\w)?")
"""Of the record itself, such as its size: limits, which follow those words, are the same for all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is, written ``TOPIC-PARTITION-OFFSET``."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read an id; without a topic it is a dead letter's.

        >>> Place.parse("user-events-3-1234"), str(Place.parse("0-17"))
        (Place(topic='user-events', partition=3, offset=1234), 'dead-letters-0-17')
        """
        match = _PLACE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{text!r} is no id; give PARTITION-OFFSET of a dead letter, or TOPIC-PARTITION-OFFSET")
        return cls(match[1] or topics.DEAD_LETTERS, int(match[2]), int(match[3]))


@dataclass(frozen=True, slots=True)
class Done:
    """What was done with a letter, and when (epoch seconds)."""

    action: str
    at: float


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter where it lies."""

    place: Place
    content: DeadLetter
    done: Done | None

    @property
    def origin(self) -> Place:
        """Where the refused record was read."""
        return Place(self.content.topic, self.content.partition, self.content.offset)

    @property
    def kind(self) -> str:
        """The reason without the value that was found."""
        return reason_kind(self.content.reason)


@dataclass(slots=True)
class Group:
    """Letters of one topic and one kind of reason."""

    topic: str
    kind: str
    count: int = 0
    newest: Letter | None = None

    def add(self, letter: Letter) -> None:
        """Count one more."""
        self.count += 1
        if self.newest is None or letter.content.failed_at >= self.newest.content.failed_at:
            self.newest = letter


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters a command means; open ones only, unless ``done`` is set."""

    places: frozenset[Place] = frozenset()
    topic: str | None = None
    reason: str | None = None
    done: bool = False
    kind: str | None = None
    """Of a group: the reason without the value that was found."""

    def accepts(self, letter: Letter) -> bool:
        """Whether the letter is one of them; an id may be the letter's or the refused record's."""
        if letter.done is not None and not self.done:
            return False
        if self.places and not {letter.place, letter.origin} & self.places:
            return False
        if self.topic is not None and letter.content.topic != self.topic:
            return False
        if self.kind is not None and letter.kind != self.kind:
            return False
        return self.reason is None or self.reason.lower() in letter.content.reason.lower()


def reason_kind(reason: str) -> str:
    """What many letters' reasons have in common.

    >>> reason_kind("amount: got '12,5'; give a number without quotes, as 12.5")
    'amount: got ...; give a number without quotes, as ...'
    >>> reason_kind("late: 4000 s behind the newest event, allowed 1h")
    'late: ... s behind the newest event, allowed 1h'
    >>> reason_kind("out of range: amount is 98.21, allowed 20; correct the sender, or raise [limits] amount")
    'out of range: amount is ..., allowed 20; correct the sender, or raise [limits] amount'
    >>> reason_kind("oversized: 2,000,123 bytes, allowed 1,048,576 after decompression")
    'oversized: ... bytes, allowed 1,048,576 after decompression'
    >>> reason_kind("unreadable: a batch of 512 bytes (gzip), offsets 7 to 9: its checksum is wrong, in two fetches")
    'unreadable: a batch of ... bytes (gzip), offsets ... to ...: its checksum is wrong, in two fetches'
    """
    # What is wrong, and what to do: numbers of the remedy are the same for all.
    wrong, then, remedy = _VALUE.sub(r"\1 ...", reason).partition("; ")
    return f"{_NUMBER.sub('...', wrong)}{then}{remedy}"


def read_done(consumer: Any, names: TopicSettings) -> dict[Place, Done]:
    """The letters that are done; raises ``UsageError`` when the topic of markers does not exist."""
    done: dict[Place, Done] = {}
    for record in read_present(consumer, names.name(topics.DEAD_LETTERS_DONE), Start(None)):
        marker, place = parse(record.value), _marked(record.key)
        if isinstance(marker, dict) and place is not None:
            at = marker.get("at")
            done[place] = Done(str(marker.get("action")), float(at) if isinstance(at, int | float) else 0.0)
    return done


def _marked(key: bytes | None) -> Place | None:
    """The letter that a marker is of; ``None`` for the key of something else that somebody wrote there."""
    try:
        return Place.parse((key or b"").decode())
    except (ValueError, UsageError):
        return None


def read_letters(consumer: Any, selection: Selection, names: TopicSettings) -> Iterator[Letter]:
    """The letters that ``selection`` means, oldest first within a partition, from the topics called ``names``."""
    done = read_done(consumer, names)
    for record in read_present(consumer, names.name(topics.DEAD_LETTERS), Start(None)):
        place = Place(topics.DEAD_LETTERS, record.partition, record.offset)
        letter = Letter(place, letter_of(record.value, place, record.timestamp / 1000), done.get(place))
        if selection.accepts(letter):
            yield letter


def letter_of(value: bytes | None, place: Place, ts: float) -> DeadLetter:
    """A dead letter of a record; something else that somebody wrote there becomes one that says so."""
    from pydantic import ValidationError

    from weir.online.codec.wire import DeadLetter

    try:
        return DeadLetter.model_validate_json(value or b"")
    except ValidationError:
        reason = "this record is not a dead letter: somebody else writes to the topic"
        at, raw = place.offset, value or b""
        return DeadLetter(topic=place.topic, partition=place.partition, offset=at, reason=reason, raw=raw, failed_at=ts)


def grouped(letters: Iterable[Letter]) -> list[Group]:
    """Letters by topic and kind of reason, the most frequent first."""
    groups: dict[tuple[str, str], Group] = {}
    for letter in letters:
        at = letter.content.topic, letter.kind
        groups.setdefault(at, Group(*at)).add(letter)
    return sorted(groups.values(), key=lambda g: (-g.count, g.topic, g.kind))


def send_back(
    producer: Any,
    letters: Sequence[Letter],
    known: Container[str],
    now: float,
    names: TopicSettings,
    restore: Callable[[Letter], Letter] = lambda letter: letter,
) -> Iterator[int]:
    """Send records to their topics again and mark their letters; yields how many were just done.

    Parameters
    ----------
    producer : waits for all replicas.
    letters : what to send, open ones; all are checked before the first is sent.
    known : the topics that exist.
    now : epoch seconds, for the markers.
    names : what Weir's topics are called on the cluster.
    restore : gives a letter with all of its record.
    """
    inputs = [names.name(own) for own in topics.INPUTS]
    for letter in letters:
        refuse_replay(letter, inputs)
        if letter.content.topic not in known:
            raise UsageError(
                f"{letter.place}: its topic {letter.content.topic} does not exist here; create it, or weir dlq drop "
                "the letter"
            )
    rest = iter(letters)
    # By and by: a crash repeats no more than one chunk, whose markers are missing.
    while chunk := list(islice(rest, _CHUNK)):
        _await([_send(producer, restore(letter), names) for letter in chunk])
        yield mark(producer, chunk, "replayed", now, names)


def refuse_replay(letter: Letter, inputs: Sequence[str]) -> None:
    """Raise ``UsageError`` where a letter's record cannot be sent again.

    Only what comes from outside, to one of ``inputs``, may be: whoever can write a letter could else write to every
    topic.
    """
    topic = letter.content.topic
    if topic not in inputs:
        raise UsageError(
            f"{letter.place}: it is of {topic}, and letters go back to {', '.join(inputs)} only: what Weir writes, it "
            "writes again itself; choose others with --topic, and drop this one with weir dlq drop"
        )
    if letter.content.reason.startswith("skipped:"):
        raise UsageError(
            f"{letter.place}: {letter.content.reason}; it holds no record: take them again by weir partitions seek, "
            "and drop this one with weir dlq drop"
        )
    if letter.content.last_offset is not None:
        raise UsageError(
            f"{letter.place}: it stands for offsets {letter.content.offset} to {letter.content.last_offset}, whose "
            "batch no worker can read; see weir dlq show, raise the limit that it names, take them again by weir "
            "partitions seek, and drop this one with weir dlq drop"
        )


def restored(consumer: Any, letter: Letter) -> Letter:
    """The letter with all of its record: what it was too small for is read where it was refused.

    Raises ``UsageError`` where the record is not there any more, or is another one.
    """
    held = letter.content
    if held.raw_bytes is None:
        return letter
    record = read_one(consumer, held.topic, held.partition, held.offset)
    value = b"" if record is None else record.value or b""
    if hashlib.sha256(value).hexdigest() != held.raw_sha256:
        raise UsageError(
            f"{letter.place}: it holds {len(held.raw)} of {held.raw_bytes} bytes, and {letter.origin} does not hold "
            "the record any more: send it again where it came from, and drop this one with weir dlq drop"
        )
    return replace(letter, content=held.model_copy(update={"raw": value, "key": record.key or held.key}))


def mark(producer: Any, letters: Sequence[Letter], action: Action, now: float, names: TopicSettings) -> int:
    """Write that letters are done; returns how many. The marker of a letter can be read once this returns."""
    sent = []
    for letter in letters:
        marker: Mapping[str, Any] = {"v": 1, "action": action, "at": now, "origin": str(letter.origin)}
        key = f"{letter.place.partition}-{letter.place.offset}".encode()
        sent.append(producer.send(names.name(topics.DEAD_LETTERS_DONE), value=orjson.dumps(marker), key=key))
    _await(sent)
    return len(sent)


def _send(producer: Any, letter: Letter, names: TopicSettings) -> Any:
    """The same bytes under the same key; where no key is known, to the partition they were in."""
    held = letter.content
    key = held.key or key_of(names.own(held.topic) or held.topic, parse(held.raw))
    # A record that just fitted its topic would not fit with the header.
    headers = [(REPLAYED_FROM, str(letter.place).encode())] if len(held.raw) < _HEADER_BELOW else None
    partition = held.partition if key is None and held.partition in producer.partitions_for(held.topic) else None
    return producer.send(held.topic, value=held.raw, key=key, partition=partition, headers=headers)


def _await(futures: Iterable[Any]) -> None:
    """Wait until the brokers have everything; raises the first failure."""
    for future in list(futures):
        future.get()
