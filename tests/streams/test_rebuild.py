"""What `weir features rebuild` makes of a log that holds more than good records. No broker and no store are needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from tests.streams.lane_context import Context
from weir.streams.config.settings import Settings
from weir.streams.errors import TooManyRejects
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.records import Record, RefusedRecord
from weir.streams.redis.partitions.partition_record import CLEARING, LaneRecord, encode_record
from weir.streams.redis.stored_rebuild import StoredRebuild
from weir.streams.worker import rebuild as rebuild_module
from weir.streams.worker.lanes.lane_outputs import DeadLetters
from weir.streams.worker.rebuild import _among, _Rebuilder
from weir.streams.worker.scoring.misplaced import Strays

LANE = ("user-events", 0)


def record(name: bytes, ts: float) -> Record:
    return Record(b"", name, ts)


def refused(offset: int) -> RefusedRecord:
    return RefusedRecord(offset, "oversized: 9 bytes, allowed 8", record(b"x", 0.0))


class Reader:
    """A partition of three fetches; nothing of the second can be used."""

    async def bounds(self, partition: int) -> tuple[int, int]:
        return 0, 3

    async def read(self, partition: int, start: int, stop: int) -> AsyncIterator[Slice]:
        yield Slice([0], [record(b"a", 10.0)])
        yield Slice((), (), [refused(1)])
        yield Slice([2], [record(b"c", 30.0)])


class Store:
    """A Redis that has nothing but what a rebuild notes, and ``record``, of the lane."""

    prefix = "w"

    def __init__(self, record: bytes | None = None) -> None:
        self.record = record
        self.noted: dict[str, bytes] = {}

    async def execute(self, command: str, *of: Any, **__: object) -> Any:
        if command == "HSET":
            self.noted[of[1]] = of[2].encode()
        if command == "HGETALL":
            return [word for field, value in self.noted.items() for word in (field.encode(), value)]
        if command == "UNLINK":
            self.noted.clear()
        if command == "HGET":
            return self.noted.get(of[1])
        return {"SCAN": (b"0", []), "UNLINK": 0, "GET": self.record}.get(command)


def kept(store: Store) -> StoredRebuild:
    return StoredRebuild(cast(Any, store))


class Lane:
    """Keeps what it is to run."""

    name = "user-events-0"

    def __init__(self) -> None:
        self.run: list[list[bytes]] = []

    async def open(self) -> None:
        """Nothing is stored."""

    async def close(self) -> None:
        """Nothing is held."""

    async def run_alone(self, batch: FetchedBatch) -> None:
        self.run.append([r.value for r in batch.records] + [r.reason.encode()[:9] for r in batch.refused])


async def checked(lane: tuple[str, int]) -> None:
    """The topic is the one that it was."""


async def test_a_fetch_of_which_nothing_can_be_used_ends_no_rebuild() -> None:
    lane = Lane()
    settings = Settings()
    ctx = SimpleNamespace(
        topic_partition=lambda key: TP(*key), topics=SimpleNamespace(check=checked), settings=settings
    )
    host = SimpleNamespace(row_lane=lambda _: lane)
    worker = SimpleNamespace(ctx=ctx, host=host, link=Store(), settings=settings)
    rebuilder = _Rebuilder(cast(Any, worker), {TP(*LANE): 3}, lambda *_: None, kept(worker.link))
    with Strays() as strays:
        strays.add(0, 1, record(b"stray", 20.0))
        await rebuilder._rows(LANE, cast(Any, Reader()), strays.of(0), {})
    assert lane.run == [[b"a"], [b"oversized"], [b"stray", b"c"]]


@pytest.mark.parametrize("most", [2, 4096])
def test_strays_come_at_their_times_among_the_records_of_one_fetch(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """One fetch of a quiet partition may be of days: strays before all of it would make what is in it late."""
    monkeypatch.setattr(rebuild_module, "MOST_RECORDS", most)
    own = [record(b"own", ts) for ts in (10.0, 20.0, 40.0, 50.0)]
    batch = FetchedBatch(*LANE, 7, 20, own, Ticket(TP(*LANE), 7, 20, 0), [7, 9, 11, 19], refused=[refused(8)])
    with Strays() as strays:
        for ts in (5.0, 15.0, 17.0, 30.0, 60.0):
            strays.add(0, 1, record(b"stray", ts))
        left = strays.of(0)
        pieces = list(_among(left, batch))
        assert [r.ts for r in left.until(100.0)] == [60.0], "what came after it is for the next"
    assert [r.ts for piece in pieces for r in piece.records] == [5.0, 10.0, 15.0, 17.0, 20.0, 30.0, 40.0, 50.0]
    assert [piece.next_offset for piece in pieces] == ([9, 11, 20] if most == 2 else [20])
    assert [len(piece.refused) for piece in pieces] == [0] * (len(pieces) - 1) + [1]
    assert all(len(piece.offsets or ()) == len(piece.records) for piece in pieces)


async def test_a_rebuild_after_one_that_was_killed_fills_as_much_though_the_brokers_forgot_the_group() -> None:
    """The lane's record alone said how far the workers were, and it was cleared first."""
    ctx = SimpleNamespace(topic_partition=lambda key: TP(*key), topics=SimpleNamespace(check=checked))
    store = Store(encode_record(LaneRecord(next_offset=3)))
    ends = []
    for record in (store.record, None, CLEARING):
        store.record = record
        worker = SimpleNamespace(ctx=ctx, host=None, link=store, settings=Settings())
        rebuilder = _Rebuilder(cast(Any, worker), {}, lambda *_: None, kept(store))
        ends.append(await rebuilder._bounds(cast(Any, Reader()), LANE))
    assert ends == [(0, 3)] * 3
    await kept(store).done()
    assert store.noted == {}, "the next one asks anew"


async def test_a_rebuild_gets_over_what_was_mostly_bad() -> None:
    """The worker paused there, and passed it at its next try: its letters were sent then."""
    ctx = Context()
    bad, size = [refused(i) for i in range(20_000)], 20_000
    ctx.silent = cast(Any, object())
    letters = DeadLetters(cast(Any, ctx))
    for _ in range(2):
        assert await letters.send("user-events", 0, size, bad) == []


async def test_a_worker_does_not() -> None:
    letters = DeadLetters(cast(Any, Context()))
    await letters.send("user-events", 0, 20_000, [])
    with pytest.raises(TooManyRejects):
        await letters.send("user-events", 0, 20_000, [refused(i) for i in range(20_000)])


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_strays_of_many_partitions_are_not_as_many_open_files() -> None:
    partitions = 24
    before, most = _open_files(), 0
    with Strays() as strays:
        for source in range(partitions):
            for owner in range(partitions):
                strays.add(owner, source, record(b"%d" % source, float(source % 5)))
            most = max(most, _open_files())
        for owner in range(partitions):
            taken = strays.of(owner)
            most = max(most, _open_files())
            found = taken.until(float("inf"))
            assert sorted(int(r.value) for r in found) == list(range(partitions))
            assert [r.ts for r in found] == sorted(r.ts for r in found)
    assert most - before <= 2 * partitions
