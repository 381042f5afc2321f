"""Whatever happens, a client sees each record that it asked for once, in the order of its partition, or is told so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.service.feed_reader import FeedReader, turns
from tests.service.feed_service import FeedService, alert, feed_service
from tests.service.memory_log import MemoryServiceLog
from weir.streams.service.feed.place import LETTERS, Place

TASKS = ("fraud", "churn")
FILLER = 3_000
"""Characters of a record beside the rest: so that a few of them are too many for a client."""
At = tuple[str, int, int]
"""Topic, partition, offset."""

STEPS = st.one_of(
    st.tuples(
        st.just("append"), st.sampled_from(["alerts", "model-updates", "predictions"]), st.integers(0, 2),
        st.lists(st.sampled_from(TASKS), min_size=1, max_size=4), st.integers(0, 2), st.booleans(),
    ),
    st.tuples(st.sampled_from(["hand out", "flush", "restart", "drain", "beat"])),
    st.tuples(st.sampled_from(["connect", "stall", "go on"]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["hang up", "bounce"]), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("forget"), st.sampled_from(["alerts", "model-updates"]), st.integers(0, 2), st.integers(0, 30)),
    st.tuples(st.just("turns"), st.integers(1, 12)),
)  # fmt: skip


@dataclass
class Client:
    """A browser: connects again with the last id that it saw, whatever was wrong."""

    query: str
    topics: frozenset[str]
    task: str | None = None
    """What the query asks for."""
    reader: FeedReader | None = None
    place: str | None = None
    seen: list[At] = field(default_factory=list)
    lost_before: dict[tuple[str, int], int] = field(default_factory=dict)
    """Records before these were lost, and it was told."""
    start: dict[tuple[str, int], int] | None = None

    def asks(self, at: At, task: str) -> bool:
        return at[0] in self.topics and self.task in (None, task)

    def collect(self, lost: int = 0) -> None:
        """Note what the connection brought; its last ``lost`` events never came, as it broke before them."""
        if (reader := self.reader) is not None:
            kept = reader.events[: len(reader.events) - lost]
            self.seen += [(e.data["topic"], e.data["partition"], e.data["offset"]) for e in kept if "topic" in e.data]
            broken = len(kept) < len(reader.events)
            self.place = (kept[-1].id if kept else reader.first_id) if broken else reader.last_id
            self.reader = None


class World:
    """A log, one process after another that serves it, and clients."""

    def __init__(self, ring_bytes: int) -> None:
        self.log = MemoryServiceLog()
        self.feed_settings = {"client_bytes": 16_384, "ring_bytes": 1 << 20}
        self.ring_bytes = ring_bytes
        self.tasks: dict[At, str] = {}
        self.clients = [
            Client("?type=alert&type=model-update", frozenset({"alerts", "model-updates"})),
            Client("?type=alert&task=fraud", frozenset({"alerts"}), "fraud"),
            Client("?type=prediction&type=alert&task=churn", frozenset({"predictions", "alerts"}), "churn"),
            Client("?type=alert&type=model-update", frozenset({"alerts", "model-updates"})),
        ]
        self.count = 0

    async def connect(self, feed: FeedService, client: Client) -> None:
        if client.reader is not None:
            if not client.reader.task.done():
                return
            client.collect()
        reader = await feed.connect(client.query, last_event_id=client.place)
        if reader.status == 410:
            # It is told, and begins anew from now.
            reader = await feed.connect(client.query)
            client.lost_before = offsets(reader.first_id)
        client.reader = reader if reader.status == 200 else None
        if client.start is None:
            client.start = offsets(reader.first_id)

    async def act(self, feed: FeedService, step: Any) -> None:
        match step:
            case ("append", topic, partition, tasks, gap, told):
                records = [alert(self.count + i, task, filler=FILLER) for i, task in enumerate(tasks)]
                self.count += len(tasks)
                batch = self.log.write(topic, records, partition, gap)
                self.tasks |= {(topic, partition, o): task for o, task in zip(batch.offsets, tasks, strict=True)}
                if told:
                    self.log.hand_out()
            case ("hand out",):
                self.log.hand_out()
            case ("flush",):
                await feed.flush()
            case ("beat",):
                for client in feed.fan_out.clients:
                    client.sent_at = 0.0
                feed.fan_out.beat(1.7e9)
            case ("bounce", n, lost):
                await self.bounce(feed, self.clients[n], lost)
            case ("hang up", n, lost):
                if (reader := self.clients[n].reader) is not None:
                    await reader.hang_up()
                    self.clients[n].collect(lost)
            case ("connect", n):
                await self.connect(feed, self.clients[n])
            case ("stall", n):
                if (reader := self.clients[n].reader) is not None:
                    reader.stall()
            case ("go on", n):
                if (reader := self.clients[n].reader) is not None:
                    reader.go_on()
            case ("forget", topic, partition, before):
                self.log.forget(topic, partition, before)
            case ("turns", n):
                await turns(most=n)

    async def run(self, steps: list[Any]) -> None:
        lives: list[list[Any]] = [[]]
        for step in steps:
            lives[-1].append(step)
            if step[0] in ("restart", "drain"):
                lives.append([])
        for life in lives:
            async with feed_service(self.log, **self.feed_settings) as feed:
                feed.fan_out.ring._max_bytes = self.ring_bytes
                for step in life:
                    await self.act(feed, step)
                if life is lives[-1]:
                    await self.settle(feed)
                    for lost in (4, 3, 2, 1):  # each breaks what the one before brought again
                        for client in self.clients:
                            await self.bounce(feed, client, lost)
                    await self.settle(feed)
                elif life[-1][0] == "restart":
                    for client in self.clients:
                        if client.reader is not None:
                            await client.reader.hang_up()
                # Else some do not read when they are told to go elsewhere, and do a little later.
                stopping = asyncio.ensure_future(feed.feed.stop())
                await turns(most=5)
                for client in self.clients:
                    if client.reader is not None:
                        client.reader.go_on()
                await stopping
                self.log.hand_out()
            for client in self.clients:
                client.collect()

    async def bounce(self, feed: FeedService, client: Client, lost: int) -> None:
        """The connection breaks before its last events come, and the client is back at once."""
        if client.reader is not None:
            await client.reader.hang_up()
            client.collect(lost)
        await self.connect(feed, client)

    async def settle(self, feed: FeedService) -> None:
        """Everybody reads on, to the end of the log."""
        self.log.hand_out()
        for _ in range(4):
            for client in self.clients:
                if client.reader is not None:
                    client.reader.go_on()
            await feed.flush()
            await turns(most=300)
            for client in self.clients:
                if client.reader is not None and client.reader.task.done():
                    await self.connect(feed, client)

    def judge(self) -> None:
        for client in self.clients:
            assert len(set(client.seen)) == len(client.seen), "a repeat"
            for shard in {at[:2] for at in client.seen}:
                offsets = [at[2] for at in client.seen if at[:2] == shard]
                assert offsets == sorted(offsets), "out of order"
            if client.start is None:
                continue
            start = client.start
            asked = {at for at, task in self.tasks.items() if client.asks(at, task) and at[2] >= start.get(at[:2], 0)}
            told = {at for at in asked if at[2] < client.lost_before.get(at[:2], 0)}
            assert set(client.seen) <= asked, "not asked for"
            assert asked - told <= set(client.seen), "a gap"


def offsets(place: str) -> dict[tuple[str, int], int]:
    at = Place.parse(place, "memory")
    return {(shard.topic, shard.partition): at[shard] for shard in at.shards(LETTERS)}


IN_A_GAP = [
    ("append", "predictions", 1, ["churn", "fraud", "churn"], 2, True),
    ("append", "alerts", 1, ["fraud", "fraud", "fraud"], 1, True),
    ("append", "predictions", 0, ["churn", "fraud", "churn", "churn"], 1, True),
    ("append", "predictions", 0, ["churn", "churn"], 2, False),
]
"""Places in gaps at the ends of large batches, as transactions leave them, looked like the end of the ring."""


@settings(max_examples=30)
@example(IN_A_GAP, 1 << 20)
@given(st.lists(STEPS, max_size=40), st.sampled_from([0, 3_000, 1 << 20]))
def test_exactly_once_or_told(steps: list[Any], ring_bytes: int) -> None:
    async def run() -> World:
        world = World(ring_bytes)
        await world.run([("connect", 0), ("connect", 1), *steps, *(("connect", n) for n in range(4))])
        return world

    asyncio.run(run()).judge()
