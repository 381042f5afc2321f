"""What a lane left in Redis is read in pages, and of one moment."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from weir.streams.errors import StateError
from weir.streams.redis.partitions import partition_record
from weir.streams.redis.partitions.partition_record import (
    PAGE_BYTES,
    POSITION_AND_NONCE,
    LaneRecord,
    encode_record,
    read_lane,
)


class OneLane:
    """A Redis with one lane, whose owner writes ``writes`` times while it is read."""

    def __init__(self, entries: list[bytes], writes: int = 0) -> None:
        self.journal, self.writes = entries, writes
        self.record = encode_record(LaneRecord(next_offset=len(entries), journal=len(entries)))
        self.pages: list[int] = []
        """Bytes of each answer."""

    async def execute(self, command: str, key: str, *args: int) -> Any:
        if command == "GET":
            assert key == "w:{e-0}:lane"
            return self.record
        if command == "GETRANGE":
            return self.record[POSITION_AND_NONCE]
        assert (command, key) == ("LRANGE", "w:{e-0}:journal")
        found = self.journal[args[0] : args[1] + 1]
        self.pages.append(sum(map(len, found)))
        if self.writes and args[0]:
            self.writes -= 1
            self.journal = [*self.journal[1:], b"new%d" % self.writes]
            self.record = encode_record(LaneRecord(next_offset=self.writes, journal=len(self.journal)))
        return found


def read(redis: OneLane) -> tuple[bytes | None, list[bytes]]:
    return asyncio.run(read_lane(cast(Any, redis), "w:{e-0}:"))


@pytest.mark.parametrize("size", [1, 20, 50_000, 3_000_000])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 500])
def test_a_journal_is_read_whole_in_pages_of_bounded_size(count: int, size: int) -> None:
    redis = OneLane([b"%04d" % i + bytes(size) for i in range(min(count, 60_000_000 // size))])
    assert read(redis) == (redis.record, redis.journal)
    assert max(redis.pages[1:], default=0) <= max(PAGE_BYTES, size + 4)


def test_a_journal_that_changes_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_record, "_PAUSE_S", 0.0)
    redis = OneLane([b"%d" % i for i in range(40)], writes=3)
    value, journal = read(redis)
    assert (value, journal) == (redis.record, redis.journal)
    assert journal[-3:] == [b"new2", b"new1", b"new0"]
    with pytest.raises(StateError, match="changes while it is read"):
        read(OneLane([b"x"] * 40, writes=10_000))
