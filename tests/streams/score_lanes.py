"""Score lanes over a Redis that has nothing and brokers that take everything, for tests and benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from faust.types import TP

from weir.online.batch import IntVector
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.kafka.produce.producer import Sent
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE
from weir.streams.redis.partitions.partition_store import Lane, LaneStore
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.worker.lanes.step_writer import PendingWrite
from weir.streams.worker.scoring.batch_scoring import Scoring
from weir.streams.worker.scoring.event_partition import ScoreLane
from weir.streams.worker.scoring.misplaced import Placement

NOW = 1.8e9


class EmptyRedis:
    """Has no row, and of each lane the record that is put into ``stored``."""

    cluster = False

    def __init__(self) -> None:
        self.stored: dict[int, bytes] = {}

    def _record(self, key: bytes) -> bytes | None:
        found = [record for lane, record in self.stored.items() if b"user-events-%d}" % lane in key]
        return found[0] if found else None

    async def execute(self, command: str, key: str, *__: object) -> Any:
        record = self._record(key.encode())
        return {"GET": record, "LRANGE": [], "GETRANGE": (record or b"")[POSITION_AND_NONCE]}[command]

    async def packed(self, payload: bytes, replies: int) -> list[Any]:
        assert replies == 2
        keys = int(payload[1 : payload.index(b"\r")]) - 1
        return [[None] * keys, (self._record(payload) or b"")[POSITION_AND_NONCE]]

    async def run_packed(self, *_: object) -> int:
        return 0


class Outbox:
    """Keeps what is sent, by topic and partition; ``held`` partitions take nothing until their event is set."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], list[Record]] = {}
        self.held: dict[int, asyncio.Event] = {}
        self.partitions = 0
        """Of every topic."""

    async def send_to(self, topic: str, partition: int, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        if partition in self.held:
            await self.held[partition].wait()
        self.sent.setdefault((topic, partition), []).extend(records)
        done = asyncio.get_running_loop().create_future()
        done.set_result([])
        return done

    def limit(self, topic: str) -> int:
        return 1 << 20

    async def send_parts(
        self, topic: str, columns: Columns, parts: Sequence[tuple[int, IntVector]]
    ) -> list[asyncio.Future[list[Sent]]]:
        return [await self.send_to(topic, at, [columns.record(row) for row in rows.tolist()]) for at, rows in parts]

    async def send(self, topic: str, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        return await self.send_to(topic, -1, records)

    async def partition_count(self, topic: str) -> int:
        return self.partitions


class Consumer:
    """Says what is complete, and where lanes went back to."""

    def __init__(self) -> None:
        self.complete_: list[int] = []
        self.rewound: list[tuple[int, int | None]] = []
        """Partition and offset (``None``: the oldest in flight); batches fetched before are not taken any more."""
        self.progress = asyncio.Event()

    def epoch(self, partition: int) -> int:
        return sum(p == partition for p, _ in self.rewound)

    def take(self, batch: FetchedBatch) -> bool:
        return batch.ticket.epoch == self.epoch(batch.partition)

    def rewind(self, tp: TP, offset: int | None) -> bool:
        self.rewound.append((tp.partition, offset))
        return True

    def complete(self, batch: FetchedBatch) -> bool:
        self.complete_.append(batch.partition)
        self.progress.set()
        return True

    async def until(self, partitions: list[int]) -> None:
        """Wait until the batches of these are complete."""
        while sorted(self.complete_) != partitions:
            self.progress.clear()
            await asyncio.wait_for(self.progress.wait(), 10)


@dataclass
class Context:
    """As much of a worker's context as scoring needs."""

    link: EmptyRedis = field(default_factory=EmptyRedis)
    records: Outbox = field(default_factory=Outbox)
    settings: Settings = field(default_factory=Settings)
    metrics: Metrics = field(default_factory=Metrics)
    consumer: Consumer = field(default_factory=Consumer)
    remote: Any = None
    failed: dict[int, Exception] = field(default_factory=dict)
    """By partition: why it pauses."""
    crashed: list[Exception] = field(default_factory=list)
    """Why the process ends."""
    lanes = 0
    partitions = 0  # nobody is asked whose a record is
    id_bytes = 1 << 20
    silent = None

    def __post_init__(self) -> None:
        self.placement = Placement(cast(Any, self))
        self.store = LaneStore(cast(Any, self.link))
        self.opening = asyncio.Semaphore()

    def new_key(self) -> bytes:
        return bytes(16)

    def completed(self, batch: FetchedBatch) -> None:
        """It is counted elsewhere."""

    def fail(self, lane: Lane, error: Exception) -> None:
        self.failed[lane[1]] = error
        self.consumer.progress.set()

    async def crash(self, error: Exception) -> None:
        self.crashed.append(error)

    def now(self) -> float:
        return NOW

    def name(self, topic: str) -> str:
        return topic

    def topic_partition(self, lane: Lane) -> TP:
        return TP(*lane)


class Lanes:
    """The score lanes of one worker, of the first partitions of ``user-events``."""

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        lanes: int,
        remote: Any = None,
        stage: type[ScoringStage] = ScoringStage,
        link: Any = None,
    ) -> None:
        self.ctx = ctx = Context(link=link or EmptyRedis(), remote=remote)
        for task in tasks:
            for table in ScoringStage(task, ctx.store, side=True).engine.tables:
                if table.side:
                    ctx.store.tables.declare_side(table.name, topics.ENTITY_UPDATES, lanes)
        self.next = [0] * lanes
        self.scoring = Scoring(cast(Any, ctx), lambda rows: [stage(task, rows, side=True) for task in tasks])
        self.lanes = [
            ScoreLane(
                (topics.USER_EVENTS, p), cast(Any, ctx), lambda: [ScoringStage(t, ctx.store, side=True) for t in tasks],
                self.scoring,
            )
            for p in range(lanes)
        ]  # fmt: skip

    async def open(self) -> Lanes:
        for lane in self.lanes:
            await lane.open()
        return self

    def batch(self, lane: int, records: list[Record]) -> FetchedBatch:
        start, stop = self.next[lane], self.next[lane] + len(records)
        self.next[lane] = stop
        ticket = Ticket(TP(topics.USER_EVENTS, lane), start, stop, self.ctx.consumer.epoch(lane))
        return FetchedBatch(topics.USER_EVENTS, lane, start, stop, records, ticket)

    async def compute(self, batches: Sequence[FetchedBatch]) -> list[PendingWrite | LaneMoved]:
        return await self.scoring.compute([(self.lanes[b.partition], b) for b in batches])
