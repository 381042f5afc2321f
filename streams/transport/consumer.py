"""Faust's consumer with batches as messages and completed offsets as commits.

What differs from Faust's own: a message is a `FetchedBatch`; Faust's acknowledgements are ignored and
`CompletedOffsets` says what a commit covers; a partition is fetched only while it has fewer than ``max_in_flight``
batches; a rebalance waits for batches in work for ``drain_timeout_s`` at most and commits what is complete.
Everything here runs in the app's event loop, except reading ``wanted``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP, ConsumerMessage

from streams.transport.batch import FetchedBatch
from streams.transport.completed import CompletedOffsets, Partition
from streams.transport.fetch import BatchConsumerThread, Drained
from streams.transport.settings import TransportSettings

log = logging.getLogger(__name__)


class BatchConsumer(Consumer):
    """A consumer group member that hands over one message for each fetched partition batch."""

    _thread: BatchConsumerThread

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        self.settings: TransportSettings = transport.app.transport_settings
        self.offsets = CompletedOffsets()
        self.wanted: frozenset[TP] = frozenset()
        """Partitions to fetch from: assigned, not paused, with room. Replaced whole, so the thread may read it."""
        self.revocations = 0
        self._progress = asyncio.Event()
        super().__init__(transport, *args, **kwargs)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- delivery ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher service runs this: fetch and deliver until either stops."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)  # type: ignore[arg-type] # mode's Event is asyncio's
                    continue
                revocations = self.revocations
                for drained in await self._thread.drain(1.0, revocations):
                    # After a revocation reading starts again at the committed offset: these records come again.
                    if self.revocations == revocations and self.flow_active:
                        await self._deliver(drained)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _deliver(self, drained: Drained) -> None:
        tp = TP(drained.topic, drained.partition)
        ticket = self.offsets.begin(tp, drained.base_offset, drained.next_offset)
        batch = FetchedBatch(*drained[:5], ticket, drained.offsets)
        if not batch.records:  # transaction markers only
            self.complete(batch)
            return
        self._refresh_wanted()
        await self.wait_first(self.callback(self._to_message(tp, batch)), self.suspend_flow.wait())

    def _to_message(self, tp: TP, record: FetchedBatch) -> ConsumerMessage:
        # The stream drops a message of another generation without a word.
        value: Any = record
        return ConsumerMessage(
            *tp, record.base_offset, record.records[-1].ts, 0, None, None, value, None, 0, 0, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    # -- completion ----------------------------------------------------------------------------------------------

    def take(self, batch: FetchedBatch) -> bool:
        """An agent takes the batch; ``False`` when its partition was revoked meanwhile: skip it."""
        return self.offsets.take(batch.ticket)

    def complete(self, batch: FetchedBatch) -> bool:
        """The batch's outputs are acknowledged and its state is stored: a commit may pass it.

        ``False`` when its partition was revoked meanwhile, so that another worker repeats the batch.
        """
        counted = self.offsets.complete(batch.ticket)
        if counted:
            self._progress.set()
            self._refresh_wanted()
        return counted

    def lag(self) -> dict[TP, int]:
        """Records of each assigned partition that are not complete; partitions where nothing completed are left out."""
        return {
            tp: max(0, end - through)
            for tp in self.assignment()
            if (through := self.offsets.completed_through(tp)) is not None and (end := self.highwater(tp)) is not None
        }

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Commit what is complete; Faust calls this on its interval, on a rebalance and when it stops."""
        offsets: dict[Partition, int] = {
            partition: offset
            for partition, offset in self.offsets.committable().items()
            if topics is None or partition in topics or partition[0] in topics
        }
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
        deadline = loop.time() + self.settings.drain_timeout_s
        while (working := self.offsets.working()) and not self.should_stop:
            self._progress.clear()
            try:
                await asyncio.wait_for(self._progress.wait(), deadline - loop.time())
            except TimeoutError:
                log.warning("%d batches in work are left to be repeated, such as %s", len(working), working[0])
                break
        # `commit` would only wait for one that is under way, which may have begun before the last completion.
        await self.maybe_wait_for_commit_to_finish()
        await self.commit()

    # -- assignment and flow -------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow, drain, commit, forget."""
        self.revocations += 1
        await super().on_partitions_revoked(revoked)
        self.offsets.revoke(revoked)
        self._refresh_wanted()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start afresh: reading goes on from the committed offsets."""
        self.revocations += 1
        self.offsets.assign(assigned)
        await super().on_partitions_assigned(assigned, generation_id)
        self._refresh_wanted()

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
        room, in_flight = self.settings.max_in_flight, self.offsets.in_flight
        wanted = frozenset(tp for tp in self._get_active_partitions() if in_flight(tp) < room)
        grown = not wanted <= self.wanted
        self.wanted = wanted
        if grown:
            self._thread.wake()
