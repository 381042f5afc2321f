"""Faust's consumer with batches as messages and completed offsets as commits.

What differs from Faust's own: a message is a `FetchedBatch`; Faust's acknowledgements are ignored and
`CompletedOffsets` says what a commit covers; a partition is fetched only while it has fewer than ``max_in_flight``
full batches; a rebalance waits for batches in work for ``drain_s`` at most and commits what is complete.
Where an assigned partition starts can be told (``app.start_offsets``), and reading can go on elsewhere at any time
(`rewind`), or stop for one partition while the others go on (`halt`, `resume`).
Everything here runs in the app's event loop, except reading ``wanted``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP, ConsumerMessage

from weir.streams.errors import UsageError
from weir.streams.kafka.consume.drained import PartitionRead, take_together
from weir.streams.kafka.consume.fetch_thread import BatchConsumerThread, FetchRequest
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import CompletedOffsets, Partition
from weir.streams.kafka.transport_settings import LinkSecurity, TransportSettings

if TYPE_CHECKING:
    from weir.streams.kafka.consume.app import BatchApp

log = logging.getLogger(__name__)

AHEAD: Final = 24
"""Full batches that wait or are in work in all, so that many partitions do not fill the memory."""
AHEAD_RECORDS: Final = 512
"""Records of each partition that may wait or be in work, however many partitions there are."""
HEARD_S: Final = 10.0
"""A broker that has not answered for so long may have more than it told."""


class BatchConsumer(Consumer):
    """A consumer group member that hands over one message for each fetched partition batch."""

    _thread: BatchConsumerThread

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        self.settings: TransportSettings = transport.app.transport_settings
        self.security: LinkSecurity = transport.app.security
        self.offsets = CompletedOffsets()
        self.wanted: Mapping[TP, FetchRequest] = {}
        """Partitions to fetch from: assigned and not paused. Always replaced whole, so that the thread may read it;
        then the thread is woken if it is ``blocked``, which it says before it looks here."""
        self._halted: set[TP] = set()
        """Assigned partitions of which nothing is read or delivered."""
        self._arrived: dict[TP, deque[PartitionRead]] = {}
        """What was read and not delivered yet."""
        self._assigned_at = math.inf
        self._news = asyncio.Event()
        self._progress = asyncio.Event()
        self._hooks: BatchApp = transport.app
        super().__init__(transport, *args, **kwargs)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- delivery ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher service runs this: let the thread read, and deliver what arrives, until either stops."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if self.flow_active:
                    # Not for ever: whether to stop is asked between two pumps. `stop_flow` ends one early.
                    await self._deliver_during(self._thread.pump(5.0))
                else:
                    await self.wait(self.can_resume_flow)  # type: ignore[arg-type] # mode's Event is asyncio's
        # On the way down the thread may end before this does.
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _deliver_during(self, pump: Coroutine[Any, Any, None]) -> None:
        reading = asyncio.ensure_future(pump)
        # An end is news too: nobody would bring any more, and the loop below would wait for some.
        reading.add_done_callback(lambda _: self._news.set())
        try:
            while not reading.done():
                await self._news.wait()
                self._news.clear()
                # A list of its own, as delivering takes out of it. The flow may end while one of them waits to be
                # handed over.
                for tp in [tp for tp in self._arrived if tp not in self._halted and not self.offsets.waiting(tp)]:
                    if self.flow_active:
                        await self._deliver(tp)
            reading.result()
        finally:
            reading.cancel()

    def arrived(self, drained: Iterable[PartitionRead]) -> None:
        """Keep what the thread has read until it is delivered; the thread calls this in the app's loop, in order."""
        for part in drained:
            self._arrived.setdefault(TP(part.topic, part.partition), deque()).append(part)
        self._news.set()

    async def _deliver(self, tp: TP) -> None:
        """One batch of what has arrived of a partition.

        While a batch waits to be taken nothing more is delivered: on a busy machine batches grow, rather than queues.
        """
        parts, epoch = self._arrived.pop(tp), self.offsets.epoch(tp)
        while parts and parts[0].epoch != epoch:  # read before a rewind or a rebalance: its place is read again
            parts.popleft()
        if not parts:
            return
        drained = take_together(parts, self.settings.max_batch, self.settings.max_batch_bytes)
        if parts:
            self._arrived[tp] = parts
        ticket = self.offsets.begin(tp, drained.base_offset, drained.next_offset, drained.size)
        batch = FetchedBatch(*drained[:5], ticket, drained.offsets, drained.appended, drained.refused)
        # The commit has to get past them, and what follows them is due at once.
        if not batch.count:  # transaction markers only
            self.complete(batch)
            self._news.set()
            return
        # Before handing over, which may wait: the next fetch goes out meanwhile.
        self._refresh_wanted()
        handing = self.callback(self._to_message(tp, batch))
        if self.app.flow_control.is_active():  # then it waits for nothing
            await handing
        else:
            # A rebalance suspends the flow first, and would wait for a stream that takes nothing.
            await self.wait_first(handing, self.suspend_flow.wait())

    def _to_message(self, tp: TP, record: FetchedBatch) -> ConsumerMessage:
        # The stream drops a message of another generation without a word.
        value: Any = record
        ts = record.records[-1].ts if record.records else 0.0
        return ConsumerMessage(
            *tp, record.base_offset, ts, 0, None, None, value, None, 0, 0, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    # -- completion ----------------------------------------------------------------------------------------------

    def take(self, batch: FetchedBatch) -> bool:
        """An agent takes the batch; ``False`` when its partition was revoked, rewound or held meanwhile: skip it."""
        # What arrived behind this batch was kept back until it was taken; see `_deliver`.
        if self._arrived:
            self._news.set()
        return batch.ticket.partition not in self._halted and self.offsets.take(batch.ticket)

    def complete(self, batch: FetchedBatch) -> bool:
        """The batch's outputs are acknowledged and its state is stored: a commit may pass it.

        ``False`` when its partition was revoked or rewound meanwhile, so that the batch, or another, comes again.
        """
        counted = self.offsets.complete(batch.ticket)
        if counted:
            self._progress.set()
            self._refresh_wanted()
        return counted

    def rewind(self, tp: TP, offset: int | None) -> bool:
        """Go on reading an assigned partition at ``offset``, forwards or backwards; other partitions do not notice.

        ``None``: at the oldest of its batches in flight.

        At once: its batches in flight count no more (`take` and `complete` return ``False``), nothing read before
        is delivered any more, and everything before ``offset`` counts as complete, so that the next commit says
        ``offset`` even where it goes back. ``False`` when the partition is not assigned any more.
        """
        if offset is None and (offset := self.offsets.oldest(tp)) is None:
            return False
        if offset < 0:
            raise UsageError(f"{tp}: cannot go on at offset {offset}; offsets begin at 0")
        if not self.offsets.rewind(tp, offset):
            return False
        self._place(tp, offset)
        self._progress.set()
        self._refresh_wanted()
        return True

    def hold(self, tp: TP) -> None:
        """Read and deliver nothing of an assigned partition until `resume`; what was taken of it may be completed."""
        self._halted.add(tp)
        self._refresh_wanted()

    def halt(self, tp: TP) -> int | None:
        """`hold`, and what is in flight of the partition counts no more: commits stay before it.

        Returns the offset where the oldest of it begins, or the next one; ``None`` where nothing was read yet.
        """
        at = self.offsets.oldest(tp)
        self._halted.add(tp)
        if at is not None:
            self.offsets.rewind(tp, at)
        # Nothing began: a new epoch all the same, so that what is on its way from the thread is of another one.
        elif self.offsets.epoch(tp) is not None:
            self.offsets.assign([tp])
        self._progress.set()
        self._refresh_wanted()
        return at

    def resume(self, tp: TP, offset: int | None) -> bool:
        """Read a halted partition again from ``offset``; ``None``: as if it were assigned now.

        ``False`` when the partition is not assigned any more.
        """
        self._halted.discard(tp)
        if offset is not None:
            return self.rewind(tp, offset)
        if (epoch := self.offsets.epoch(tp)) is None:
            return False
        self._thread.place(tp, None, epoch, afresh=True)
        self._refresh_wanted()
        return True

    def failed(self, tp: TP, error: Exception) -> None:
        """One partition cannot be read, the others can; the thread calls this in the app's loop."""
        hook = self._hooks.on_failed
        if hook is None:
            self._failing = asyncio.ensure_future(self.app.crash(error))
        elif self.offsets.epoch(tp) is not None:
            hook(tp, error)

    def _place(self, tp: TP, offset: int | None) -> None:
        epoch = self.offsets.epoch(tp)
        if epoch is not None:
            self._thread.place(tp, offset, epoch)

    def at_end(self, tp: TP) -> bool:
        """Whether all that an assigned partition has is complete, as its broker told a moment ago."""
        heard = self._thread.heard_at(tp)
        return heard is not None and time.time() - heard < HEARD_S and self.lag().get(tp) == 0

    def told_end(self, tp: TP) -> int | None:
        """Where an assigned partition ended for readers when its broker last answered; ``None`` before it has."""
        return self._thread.told_end(tp)

    def completed_through(self, tp: TP) -> int | None:
        """Everything of an assigned partition before this offset is complete; ``None`` before anything is."""
        return self.offsets.completed_through(tp)

    def pending(self, *, taken_only: bool = False) -> list[str]:
        """What has to make progress, by name; any thread may ask.

        Batches that were read and are not complete, whether somebody took them or not, and partitions that are to be
        read and of which no broker has answered a fetch for `HEARD_S`. Partitions that are held are left out.
        """
        offsets = self.offsets
        batches = [t for t in (offsets.working() if taken_only else offsets.unfinished()) if t[0] not in self._halted]
        found = [f"{topic}-{number}@{base}" for (topic, number), base, *_ in batches]
        if taken_only or not self.flow_active:
            return found
        busy = {ticket.partition for ticket in batches}
        silent = [tp for tp in self.wanted if tp not in busy and tp not in self._arrived and self._silent(tp)]
        return found + [f"a fetch of {tp.topic}-{tp.partition}" for tp in silent]

    def _silent(self, tp: TP) -> bool:
        heard = max(self._thread.heard_at(tp) or 0.0, self._assigned_at)
        return time.time() - heard > HEARD_S

    def lag(self) -> dict[TP, int]:
        """Records of each assigned partition that are not complete; left out where nothing completed or began."""
        return {
            tp: max(0, end - through)
            for tp in self.assignment()
            if (through := self.offsets.completed_through(tp)) is not None and (end := self.highwater(tp)) is not None
        }

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002 - Faust's signature
        """Commit what is complete; Faust calls this on its interval, on a rebalance and when it stops."""
        offsets: dict[Partition, int] = {
            partition: offset
            for partition, offset in self.offsets.committable().items()
            if topics is None or partition in topics or partition[0] in topics
        }
        # Only these are noted as committed: batches may be completed while the commit is under way.
        if not offsets or not await self._commit({TP(*partition): offset for partition, offset in offsets.items()}):
            return False
        self.offsets.committed(offsets)
        return True

    def ack(self, message: Any) -> bool:
        """Faust acknowledges when an agent takes the next message, also after an error: that says nothing here."""
        message.acked = True
        return True

    async def wait_empty(self) -> None:
        """Before partitions go: wait for batches in work, within bounds, and commit what is complete."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.drain_s
        while (working := self.offsets.working()) and not self.should_stop:
            self._progress.clear()
            try:
                async with asyncio.timeout(deadline - loop.time()):
                    await self._progress.wait()
            except TimeoutError:
                log.warning("%d batches in work are left to be repeated, such as %s", len(working), working[0])
                break
        # `commit` would only wait for one that is under way, which may have begun before the last completion.
        await self.maybe_wait_for_commit_to_finish()
        try:
            await self.commit()
        except self.consumer_stopped_errors:
            log.warning("the consumer ended before the last commit: the batches behind it are repeated")

    # -- assignment and flow -------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow, drain, commit, let ``app.on_revoked`` know, forget."""
        await super().on_partitions_revoked(revoked)
        await self._let_go(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start afresh: reading goes on where ``app.start_offsets`` says, else from the committed offsets."""
        # First: a batch of before the rebalance that is completed from now on counts no more.
        self.offsets.assign(assigned)
        starts = {} if self.should_stop else await self._hooks.starts_of(assigned)
        # Before Faust's part, at whose end the flow goes on: what it delivers has to have the epoch of its place.
        for tp, offset in (starts or {}).items():
            self.offsets.rewind(tp, offset)
        await super().on_partitions_assigned(assigned, generation_id)
        if starts is not None:
            for tp in assigned:
                self._place(tp, starts.get(tp))
        self._assigned_at = time.time()
        self._refresh_wanted()

    async def _let_go(self, gone: set[TP]) -> None:
        """Forget partitions, and let the app know, once each time that they go."""
        held = {tp for tp in gone if self.offsets.epoch(tp) is not None}
        self._halted -= held
        # Before the hook: what lanes still complete while they close is read again by whoever comes next.
        self.offsets.revoke(held)
        self._refresh_wanted()
        await self._hooks.tell_revoked(held)

    async def perform_seek(self) -> None:
        """Faust would move to the committed offsets here, behind ``start_offsets``; aiokafka does that by itself."""

    async def on_stop(self) -> None:
        """Drain, commit, let ``app.on_revoked`` know."""
        await super().on_stop()
        await self.let_go()

    async def let_go(self) -> None:
        """Forget all partitions, and let the app know, if that was not done yet."""
        await self._let_go({TP(*partition) for partition in self.offsets.assigned()})

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Stop fetching from partitions."""
        super().pause_partitions(tps)
        self._refresh_wanted()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch from partitions again."""
        super().resume_partitions(tps)
        self._refresh_wanted()

    def stop_flow(self) -> None:
        """Deliver nothing more, and end a fetch that waits."""
        super().stop_flow()
        self._thread.wake()

    def on_buffer_full(self, tp: TP) -> None:
        """Faust's own backpressure counts messages; ours counts batches in flight."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See `on_buffer_full`."""

    async def verify_all_partitions_active(self) -> None:
        """Faust's livelock messages look at its acknowledgements, which are not in use."""

    def _refresh_wanted(self) -> None:
        # Room is counted in records: many small batches in flight are what keeps latency low.
        active, offsets = self._get_active_partitions(), self.offsets
        full = self.settings.max_batch
        share = AHEAD * full // max(len(active), 1)
        room = min(self.settings.max_in_flight * full, max(share, min(full, AHEAD_RECORDS)))
        self.wanted = {
            tp: FetchRequest(epoch, offsets.limit(tp, room), offsets.done(tp))
            for tp in active
            if tp not in self._halted and (epoch := offsets.epoch(tp)) is not None
        }
        if self._thread.blocked:
            self._thread.wake()
