"""The thread that talks to Kafka: Faust's, but draining whole partition batches as soon as they are there.

aiokafka keeps one fetched result per partition and asks a broker for more once all of its are drained. Faust drains
them record by record, when the app's loop asks; here the thread drains by itself, so that the next fetch is under way
while the app's loop computes. Each partition with room gives up to ``max_batch`` records at once, unpacked to `Record`
without the eleven-field object aiokafka would build for each.

A partition is drained only under the epoch that the consumer wants it in, and what is drained says under which: so
nothing from before a rewind is taken for what comes after it, and nothing is read before its place is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import ConsumerStoppedError, IllegalStateError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, ensure_aiokafka_TP, server_list
from faust.types import TP

from weir.streams.kafka.consume.drained import PartitionRead, drain
from weir.streams.kafka.consume.fetched import Unpacking
from weir.streams.kafka.consume.membership import leave_static_member, report_errors, resolve
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.kafka.reachable import calm_logs, check_readable, disconnect, pace_connecting

if TYPE_CHECKING:
    from weir.streams.kafka.consume.consumer import BatchConsumer


class FetchRequest(NamedTuple):
    """What the consumer wants of a partition."""

    epoch: int
    limit: int | None
    """Read on only from offsets before this one; ``None``: one batch, to begin with."""
    done: int = 0
    """Bytes of the epoch's records that are not in flight any more."""


class BatchConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread with another way of fetching, and with settings that recover fast."""

    consumer: BatchConsumer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._wake: asyncio.Event | None = None
        self._epochs: dict[TP, int] = {}
        self._used: list[tuple[TP, Any]] = []
        """Results that have nothing left, and hold back the next fetch until `_fetch_on`."""
        self._fetched_at = -math.inf
        self._began: dict[TP, int] = {}
        """The epoch in which something was last drained of each partition."""
        self._drained: dict[TP, int] = {}
        """Bytes of records drained of each partition in its epoch."""
        self._room_bytes = 0
        self.blocked = False
        """Whether something fetched waits for room, or for its partition to be wanted."""

    async def on_start(self) -> None:
        """Start the consumer in this thread's loop."""
        self._wake = asyncio.Event()
        await super().on_start()
        report_errors(self._ensure_consumer(), self.consumer.security, self.crash)
        settings = self.consumer.settings
        self._room_bytes = settings.max_in_flight * settings.max_batch_bytes
        Unpacking(settings.limits, settings.special_limits).watch(self._ensure_consumer()._fetcher)
        if settings.instance_id is not None and settings.leave_on_stop:
            coordinator = self._ensure_consumer()._coordinator
            coordinator._maybe_leave_group = functools.partial(leave_static_member, coordinator)

    async def on_thread_stop(self) -> None:
        """Take no more calls and disconnect, as Faust does, also where aiokafka stops half-way."""
        # Past Faust's own, which awaits aiokafka's stop as it is.
        await super(AIOKafkaConsumerThread, self).on_thread_stop()
        if self._consumer is not None:
            await disconnect(self._consumer)

    def _start_thread(self) -> None:
        try:
            super()._start_thread()
        finally:  # Faust says so after an `Exception` only, and waits for ever for a thread that was cancelled
            with contextlib.suppress(RuntimeError):  # the loop that waited has ended
                self.set_shutdown()

    def heard_at(self, tp: TP) -> float | None:
        """When a broker last answered a fetch of a partition, epoch seconds; ``None`` where none has."""
        with contextlib.suppress(IllegalStateError, AssertionError):  # aiokafka's, where it was revoked just now
            at = self._ensure_consumer().last_poll_timestamp(ensure_aiokafka_TP(tp))
            return None if at is None else at / 1000
        return None

    def told_end(self, tp: TP) -> int | None:
        """Where a partition ended for readers when a broker last answered a fetch; ``None`` before one has."""
        with contextlib.suppress(IllegalStateError, AssertionError):  # as above
            # Not the high watermark: what a transaction has not settled is not to be read yet.
            end: int | None = self._ensure_consumer().last_stable_offset(ensure_aiokafka_TP(tp))
            return end
        return None

    def wake(self) -> None:
        """Look again whether there is something to drain; may be called from any thread."""
        if self._wake is not None:
            self._in_thread(self._wake.set)

    def _stopped_set(self) -> None:
        self._in_thread(self._stopped.set)

    def _in_thread(self, do: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # after a crash the thread, and its loop, may have ended before us
            self.thread_loop.call_soon_threadsafe(do, *args)

    def place(self, tp: TP, offset: int | None, epoch: int, *, afresh: bool = False) -> None:
        """Read a partition under an epoch from now on, at ``offset`` or where the group committed; from any thread.

        ``afresh``: the partition was read before, and what was read is to come again.
        """
        self._in_thread(self._place, tp, offset, epoch, afresh)

    def _place(self, tp: TP, offset: int | None, epoch: int, afresh: bool) -> None:
        self._epochs[tp] = epoch
        self._drained[tp] = 0
        if offset is None and afresh:
            fetcher, known = self._ensure_consumer()._fetcher, ensure_aiokafka_TP(tp)
            assignment = fetcher._subscriptions.subscription.assignment
            state = assignment.state_value(known) if assignment is not None else None
            if state is not None:
                state.await_reset(None)  # aiokafka asks for the committed offset again
                # It was read under the epoch before, and would be drained under this one.
                fetcher._records.pop(known, None)
        elif offset is not None:
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
            # What a producer's transaction gave up has not happened.
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

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """What ``fun`` gives in the thread.

        Raises `ConsumerStoppedError` when the thread ends first: Faust would wait for its answer for ever.
        """
        answer = asyncio.ensure_future(super().call_thread(fun, *args, **kwargs))
        ended = asyncio.ensure_future(self._shutdown.wait())
        try:
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConsumerStoppedError
            return answer.result()
        finally:
            answer.cancel()
            ended.cancel()

    async def pump(self, seconds: float) -> None:
        """Drain to `BatchConsumer.arrived` for so long, while the flow is on; raises what the fetcher found wrong."""
        await self.call_thread(self._pump, seconds)

    async def _pump(self, seconds: float) -> None:
        consumer, wake = self._ensure_consumer(), self._wake
        fetcher, loop = consumer._fetcher, asyncio.get_running_loop()
        assert wake is not None
        deadline = loop.time() + seconds
        # As aiokafka's own reading does: else it counts us as a consumer that does not poll, and leaves the group.
        with fetcher._subscriptions.fetch_context():
            while self.consumer.flow_active and (left := deadline - loop.time()) > 0:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                # Before looking: whoever wakes us between the look and the wait is not to be missed.
                wake.clear()
                # Waiting for the new assignment here, as aiokafka does, would hold up the rebalance that makes it.
                held = fetcher._subscriptions.reassignment_in_progress
                drained, failed = ([], []) if held else self._drain_now(fetcher)
                if drained:
                    self.parent_loop.call_soon_threadsafe(self.consumer.arrived, drained)
                # All of them, and only now: what was drained comes first, and each that is left is asked for again,
                # which takes minutes where hundreds of partitions have no offset yet.
                for tp, epoch, error in failed:
                    if self._epochs.get(tp) == epoch:  # else it was placed while brokers were asked about another
                        await self._resolve(consumer, tp, error)
                if self._used:
                    await self._fetch_on(fetcher)
                elif not drained and not failed:
                    await self._news(fetcher, wake, left)

    async def _resolve(self, consumer: Any, tp: Any, failed: Any) -> None:
        try:
            await resolve(consumer, tp, failed, self.consumer.settings)
        except RecordsDeleted as error:  # of this partition alone
            place = TP(tp.topic, tp.partition)
            self._epochs.pop(place, None)  # nothing of it is read until it is placed again
            self.parent_loop.call_soon_threadsafe(self.consumer.failed, place, error)

    async def _fetch_on(self, fetcher: Any) -> None:
        """Let the next fetch go out; not too soon after the last, as many small batches cost more than they save."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._fetched_at + self.consumer.settings.fetch_interval_s - loop.time())
        self._fetched_at = loop.time()
        for tp, result in self._used:
            if fetcher._records.get(tp) is result:  # else it was assigned anew meanwhile
                self._fetched(fetcher, tp)
        self._used.clear()

    async def _news(self, fetcher: Any, wake: asyncio.Event, timeout_s: float) -> None:
        """Wait for a fetch or for room."""
        fetched, woken = fetcher._create_fetch_waiter(), asyncio.ensure_future(wake.wait())
        try:
            # Neither may be awaited alone: room comes without a fetch, and a fetch without room.
            await asyncio.wait({fetched, woken}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if fetched.done():
                fetched.result()  # raises what the fetcher found wrong, such as a missing authorisation
        finally:
            # aiokafka keeps each waiter until it is done: one would be left at every turn.
            fetched.cancel()
            woken.cancel()

    def _drain_now(self, fetcher: Any) -> tuple[list[PartitionRead], list[tuple[Any, int, Any]]]:
        """What there is, and the partitions that failed, each with its epoch and its error."""
        drained: list[PartitionRead] = []
        failed: list[tuple[Any, int, Any]] = []
        for tp, epoch in self._readable(fetcher):
            result = fetcher._records[tp]
            # aiokafka raises an error where a person polls; nobody does here.
            if type(result) is FetchError:
                self._fetched(fetcher, tp)
                failed.append((tp, epoch, result))
                continue
            assert type(result) is FetchResult
            settings = self.consumer.settings
            taken = drain(result, settings.max_batch, settings.max_batch_bytes, epoch)
            if not result.has_more():
                self._used.append((tp, result))
            if taken is not None:
                self._began[tp] = epoch
                self._drained[tp] = self._drained.get(tp, 0) + taken.size
                drained.append(taken)
        return drained, failed

    def _readable(self, fetcher: Any) -> list[tuple[Any, int]]:
        """Fetched partitions that are wanted under the epoch they are read in, and have room; and that epoch."""
        self.blocked = True  # before looking at `wanted`: see there
        wanted, epochs, out = self.consumer.wanted, self._epochs, list[tuple[Any, int]]()
        for tp, result in fetcher._records.items():
            want = wanted.get(tp)
            if want is not None and want.epoch == epochs.get(tp) and self._has_room(tp, result, want):
                out.append((tp, want.epoch))
        self.blocked = len(out) < len(fetcher._records)
        return out

    def _has_room(self, tp: Any, result: Any, want: FetchRequest) -> bool:
        if want.limit is None or type(result) is FetchError:
            # An error takes no room, and is told however much waits.
            return self._began.get(tp) != want.epoch or type(result) is FetchError
        if self._drained.get(tp, 0) - want.done >= self._room_bytes:
            return False
        state = result._assignment.state_value(tp)
        return state is None or state.position < want.limit

    @staticmethod
    def _fetched(fetcher: Any, tp: Any) -> None:
        """A partition's result is used up: ask the broker for the next one."""
        del fetcher._records[tp]
        # For this alone aiokafka's fetching waits while it holds a result of every partition.
        fetcher._notify(fetcher._wait_consume_future)
