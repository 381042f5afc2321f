"""A place in the feed: the next offset of each partition of its topics. The ids of events are places as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple, Self

from weir.streams.config import topics
from weir.streams.service.parts import Problem

LETTERS: Final = {
    topics.PREDICTIONS: "p",
    topics.ALERTS: "a",
    topics.RETRAIN_REQUESTS: "r",
    topics.MODEL_UPDATES: "m",
    topics.DEAD_LETTERS: "d",
    topics.CASE_EVENTS: "c",
}
"""The topics of the feed. Letters keep ids short: each event has one, and each client gets it."""
_TOPICS: Final = {letter: topic for topic, letter in LETTERS.items()}
# Eighteen digits are within Kafka's 64 bits, whatever a caller makes up.
_FORM: Final = re.compile(r"[0-9a-f]{8}(?:\.[a-z]?\d{1,18})*")
_LONGEST: Final = 100_000


class Shard(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Place:
    """The next offset of each partition. A partition that it does not name is new since then: it begins at 0.

    Parameters
    ----------
    epoch : of the log; only the log with the same one has the records that the offsets speak of.

    Examples
    --------
    >>> place = Place("log-1")
    >>> place[Shard("alerts", 1)] = 7
    >>> place.text()
    '309a4dae.a0.7'
    >>> Place.parse("309a4dae.a0.7", "log-1")[Shard("alerts", 1)]
    7
    """

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self._offsets: dict[str, list[int]] = {topic: [] for topic in LETTERS}

    def __getitem__(self, shard: Shard) -> int:
        offsets = self._offsets[shard.topic]
        return offsets[shard.partition] if shard.partition < len(offsets) else 0

    def __setitem__(self, shard: Shard, offset: int) -> None:
        offsets = self._offsets[shard.topic]
        offsets.extend([0] * (shard.partition + 1 - len(offsets)))
        offsets[shard.partition] = offset

    def shards(self, wanted: Iterable[str]) -> Iterator[Shard]:
        """The partitions of these topics."""
        return (Shard(topic, partition) for topic in wanted for partition in range(len(self._offsets[topic])))

    def copy(self) -> Self:
        """Another one with the same offsets."""
        other = type(self)(self.epoch)
        other._offsets = {topic: list(offsets) for topic, offsets in self._offsets.items()}
        return other

    def text(self) -> str:
        """As the ``id`` of an event: ``EPOCH.LETTER OFFSET.OFFSET...``, partitions in their order."""
        return _render(self.epoch, self._offsets)

    def around(self, shard: Shard) -> tuple[bytes, bytes]:
        """What stands before and after the offset of ``shard`` in the text.

        The ids of a batch's records differ in that offset alone, so each of them is two strings joined.
        """
        marked = {topic: [str(o) for o in offsets] for topic, offsets in self._offsets.items()}
        marked[shard.topic][shard.partition] = "*"
        before, _, after = _render(self.epoch, marked).partition("*")
        return before.encode(), after.encode()

    @classmethod
    def parse(cls, text: str, epoch: str) -> Self:
        """The place that an id names.

        Raises
        ------
        Problem
            It is no id (422), or one of another log (410).
        """
        if len(text) > _LONGEST or not _FORM.fullmatch(text):
            fix = "give the id of an event of this feed as it was sent"
            raise Problem(422, "No place of the feed", f"{text[:80]!r} is no id of an event; {fix}", value=text[:80])
        tag, *numbers = text.split(".")
        if tag != _tag(epoch):
            words = "the id is of another log than the one that is served now, whose records have other offsets"
            fix = "read what you need from links, then follow the feed without an id"
            links = {"alerts": "/v1/alerts", "feed": "/v1/feed"}
            raise Problem(410, "Another log", words, value=text[:80], fix=fix, links=links)
        place, topic = cls(epoch), ""
        for number in numbers:
            if number[0].isalpha():
                topic, number = _TOPICS.get(number[0], ""), number[1:]
            if topic:  # a later version may have topics that this one does not send
                place._offsets[topic].append(int(number))
        return place


def _render(epoch: str, offsets: dict[str, list[int]] | dict[str, list[str]]) -> str:
    parts = [f"{LETTERS[topic]}{'.'.join(map(str, each))}" for topic, each in offsets.items() if each]
    return ".".join([_tag(epoch), *parts])


def _tag(epoch: str) -> str:
    return blake2b(epoch.encode(), digest_size=4).hexdigest()
