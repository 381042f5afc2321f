"""The thread that talks to Kafka: Faust's, but draining whole partition batches and woken as soon as there is room.

aiokafka keeps one fetched result per partition and asks the broker for more once it is drained. Faust drains all of
them record by record; here each partition with room gives up to ``max_batch`` records at once, unpacked to `Record`
without the eleven-field object aiokafka would build for each.

A partition is drained only under the epoch that the consumer wants it in, and what is drained says under which: so
nothing from before a rewind is taken for what comes after it, and nothing is read before its place is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
)
from faust.transport.drivers.aiokafka import (
    AIOKafkaConsumerThread,
    ensure_aiokafka_TP,
    server_list,
)
from faust.types import TP

from streams.log import Record
from streams.transport.leave import leave_static_member
from streams.transport.membership import report_errors
from streams.transport.outage import calm_logs, pace_connecting
from streams.transport.reachable import check_readable
from streams.transport.resets import resolve

if TYPE_CHECKING:
    from streams.transport.consumer import BatchConsumer


class Drained(NamedTuple):
    """What one partition gave: records, where reading goes on (also behind markers that are no records), the epoch."""

    topic: str
    partition: int
    base_offset: int
    next_offset: int
    records: Sequence[Record]
    offsets: Sequence[int] | None
    epoch: int


def _raw(_tp: Any, record: Any) -> Any:
    return record


def _drain(result: Any, max_records: int, epoch: int) -> Drained | None:
    """Take up to ``max_records`` of a `FetchResult`; ``None`` when it has nothing and reading did not move."""
    tp, state = result._topic_partition, result._assignment.state_value(result._topic_partition)
    if state is None or result._partition_records is None:
        return None
    before = state.position
    # Shadow the method that builds aiokafka's record object; CRC checks and transactions stay as they are.
    result._partition_records._consumer_record = _raw
    raw = result.getall(max_records)
    after = state.position
    if not raw:
        moved = before is not None and after > before
        return Drained(tp.topic, tp.partition, before, after, (), None, epoch) if moved else None
    make = Record._make  # half the time of Record(...)
    records = [make((r.key or b"", r.value or b"", r.timestamp / 1000)) for r in raw]
    base, last = raw[0].offset, raw[-1].offset
    offsets = None if last - base == len(raw) - 1 else tuple(r.offset for r in raw)
    return Drained(tp.topic, tp.partition, base, max(after, last + 1), records, offsets, epoch)


class BatchConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread with another way of fetching, and with settings that recover fast."""

    consumer: BatchConsumer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._wake: asyncio.Event | None = None
        self._epochs: dict[TP, int] = {}

    async def on_start(self) -> None:
        """Start the consumer in this thread's loop."""
        self._wake = asyncio.Event()
        await super().on_start()
        report_errors(self._ensure_consumer(), self.consumer.security, self.crash)
        settings = self.consumer.settings
        if settings.instance_id is not None and settings.leave_on_stop:
            coordinator = self._ensure_consumer()._coordinator
            coordinator._maybe_leave_group = functools.partial(leave_static_member, coordinator)

    def wake(self) -> None:
        """Look again whether there is something to drain; may be called from any thread."""
        if self._wake is not None:
            self._in_thread(self._wake.set)

    def _stopped_set(self) -> None:
        self._in_thread(self._stopped.set)

    def _in_thread(self, do: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # after a crash the thread, and its loop, may have ended before us
            self.thread_loop.call_soon_threadsafe(do, *args)

    def place(self, tp: TP, offset: int | None, epoch: int) -> None:
        """Read a partition under an epoch from now on, at ``offset`` or where the group committed; from any thread."""
        self._in_thread(self._place, tp, offset, epoch)

    def _place(self, tp: TP, offset: int | None, epoch: int) -> None:
        self._epochs[tp] = epoch
        if offset is not None:
            # aiokafka drops what it has fetched or is about to fetch from another position. A partition that it does
            # not have (any more) is about to be revoked here too.
            with contextlib.suppress(IllegalStateError):
                self._ensure_consumer()._fetcher.seek_to(ensure_aiokafka_TP(tp), offset)
        if self._wake is not None:
            self._wake.set()

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        s, conf = self.consumer.settings, self.app.conf
        # Range puts partition n of each topic at the same worker: a label meets the prediction with its key.
        self._assignor = RangePartitionAssignor
        consumer = AIOKafkaConsumer(
            client_id=f"{s.client_id}-consumer",
            group_id=s.group,
            group_instance_id=s.instance_id,
            bootstrap_servers=server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            # aiokafka would treat "no offset yet" and "records are gone" alike, and skip in silence: see _resolve.
            auto_offset_reset="none",
            max_partition_fetch_bytes=s.max_partition_fetch_bytes,
            fetch_max_wait_ms=s.fetch_wait_ms,
            request_timeout_ms=int(s.request_timeout_s * 1000),
            session_timeout_ms=int(s.session_timeout_s * 1000),
            rebalance_timeout_ms=int(s.rebalance_timeout_s * 1000),
            heartbeat_interval_ms=int(s.heartbeat_s * 1000),
            # A slow stage must not leave the group: a watchdog on completed batches judges that, not the fetcher.
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            isolation_level="read_committed",
            **self.consumer.security.options,
        )
        pace_connecting(consumer._client)
        calm_logs()
        return consumer

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group for topics, all of which can be read."""
        client = self._ensure_consumer()._client
        await self.call_thread(check_readable, client, topics, self.consumer.security)
        await super().subscribe(topics)

    async def drain(self, timeout_s: float, revocations: int) -> list[Drained]:
        """A batch of each partition that has records and room; waits for the first of them.

        Drains nothing once the consumer has seen more than ``revocations``.
        """
        drained: list[Drained] = await self.call_thread(self._drain_when_ready, timeout_s, revocations)
        return drained

    async def _drain_when_ready(self, timeout_s: float, revocations: int) -> list[Drained]:
        consumer, wake = self._ensure_consumer(), self._wake
        fetcher, loop = consumer._fetcher, asyncio.get_running_loop()
        assert wake is not None
        deadline = loop.time() + timeout_s
        with fetcher._subscriptions.fetch_context():
            # What is drained for an earlier assignment is dropped, so it must not move the position of this one.
            while self.consumer.flow_active and self.consumer.revocations == revocations:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                # Waiting for the new assignment here, as aiokafka does, would hold up the rebalance that makes it.
                held = fetcher._subscriptions.reassignment_in_progress
                drained, failed = ([], None) if held else self._drain_now(fetcher)
                # The next fetch meets the same error again; what was drained must not be lost to it.
                if failed is not None and not drained:
                    await resolve(consumer, *failed, self.consumer.settings)
                if drained or loop.time() >= deadline:
                    return drained
                wake.clear()
                await self._news(fetcher, wake, deadline - loop.time())
        return []

    async def _news(self, fetcher: Any, wake: asyncio.Event, timeout_s: float) -> None:
        """Wait for a fetch or for room."""
        fetched, woken = fetcher._create_fetch_waiter(), asyncio.ensure_future(wake.wait())
        try:
            await asyncio.wait({fetched, woken}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if fetched.done():
                fetched.result()  # raises what the fetcher found wrong, such as a missing authorisation
        finally:
            fetched.cancel()
            woken.cancel()

    def _drain_now(self, fetcher: Any) -> tuple[list[Drained], tuple[Any, Any] | None]:
        """What there is, and a partition that failed with its error."""
        wanted, epochs = self.consumer.wanted, self._epochs
        drained: list[Drained] = []
        failed: tuple[Any, Any] | None = None
        for tp in [tp for tp in fetcher._records if tp in wanted and wanted[tp] == epochs.get(tp)]:
            result = fetcher._records[tp]
            if type(result) is FetchError:
                self._fetched(fetcher, tp)
                failed = tp, result
                continue
            assert type(result) is FetchResult
            try:
                taken = _drain(result, self.consumer.settings.max_batch, epochs[tp])
            except KafkaError:
                if not drained:
                    raise
                continue
            if not result.has_more():
                self._fetched(fetcher, tp)
            if taken is not None:
                drained.append(taken)
        return drained, failed

    @staticmethod
    def _fetched(fetcher: Any, tp: Any) -> None:
        """A partition's result is used up: ask the broker for the next one."""
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
