"""Commands that read a topic to its end give up on brokers that have gone, and wait for those that are slow."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from weir.streams.errors import BrokerError
from weir.streams.kafka.admin import reader
from weir.streams.kafka.admin.reader import Start, read_one, read_present

END = 6


class Slow:
    """A consumer of one partition that gives a record at every so many polls, each of which takes ten seconds."""

    def __init__(self, clock: list[float], every: int) -> None:
        self._clock, self._every, self._polls, self._at = clock, every, 0, 0

    def poll(self, **_: object) -> dict[Any, list[Any]]:
        self._clock[0] += 10.0
        self._polls += 1
        if self._polls % self._every:
            return {}
        self._at += 1
        return {("t", 0): [SimpleNamespace(offset=self._at - 1)]}

    def topics(self) -> set[str]:
        return {"t"}

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def beginning_offsets(self, lanes: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(lanes, 0)

    def end_offsets(self, lanes: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(lanes, END)

    def position(self, _: object) -> int:
        return self._at

    def seek(self, _: object, offset: int) -> None:
        self._at = offset

    def assign(self, *_: object) -> None:
        """Take what is there."""

    pause = resume = assign


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Slow]:
    clock = [0.0]
    monkeypatch.setattr(reader, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(reader, "kafka_module", lambda: SimpleNamespace(TopicPartition=lambda *place: place))
    return lambda every: Slow(clock, every)


def test_slow_brokers_are_waited_for(slow: Callable[[int], Slow]) -> None:
    assert [record.offset for record in read_present(slow(6), "t", Start(None))] == list(range(END))
    assert read_one(slow(6), "t", 0, 3).offset == 3


def test_brokers_that_have_gone_are_told(slow: Callable[[int], Slow]) -> None:
    with pytest.raises(BrokerError, match="t: nothing came for 60 s, and its end was not reached; see whether"):
        list(read_present(slow(9), "t", Start(None)))
    with pytest.raises(BrokerError, match="nothing came for 60 s"):
        read_one(slow(9), "t", 0, 3)
