"""Partitions that cannot go on: each is paused with its reason and tried again later, while the others are served.

What is paused is a lane: nothing of its partitions is fetched, what it had computed is written, the rest that was in
flight is given up and comes again, and its offsets stay where they are. A fault that passes by itself (a burst of
garbage, a store that was repaired) ends at the next try; one that stays is met again, after a pause twice as long. Only
what a person paused waits for a person.
It does not know what a lane does, nor how it is opened: its host does.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from faust.types import TP

from weir.streams.errors import (
    BrokerError,
    PartitionError,
    ReplicaDiverged,
    StateError,
    TooManyRejects,
    UsageError,
    in_words,
)
from weir.streams.kafka.kafka_errors import DeliveryError, RebalanceHookError, RecordsDeleted
from weir.streams.redis.partition_orders import Order
from weir.streams.redis.partitions.label_journal import StepsTaken
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.store_errors import StoreUnavailable
from weir.streams.redis.stored_rows import place_of

if TYPE_CHECKING:
    from weir.streams.worker.context import Context
    from weir.streams.worker.lane_table import LaneTable

log = logging.getLogger(__name__)

Kind = Literal["rejects", "deleted", "state", "fault", "hand"]
KINDS: Final[tuple[Kind, ...]] = ("rejects", "deleted", "state", "fault", "hand")
OF_THE_PROCESS: Final = (
    StoreUnavailable, DeliveryError, BrokerError, RebalanceHookError, ReplicaDiverged, UsageError, MemoryError,
)  # fmt: skip
"""Errors that a lane meets and that are not its own: a link is gone, a setting is wrong, the memory is full."""
QUICK_TRIES: Final = 3
"""So often a fault is tried again at once, as a restart would: it may have been a moment's."""
QUICK_S: Final = 1.0
LONGEST_S: Final = 3600.0
TELL_S: Final = 60.0
"""A paused partition is in the log once in so long."""


@dataclass(slots=True)
class Pause:
    """One lane that stands still."""

    kind: Kind
    reason: str
    since: float
    """Epoch seconds."""
    tries: int = 1
    """How often it was met, one try after the other."""
    wait_s: float | None = None
    """From the last try to the next; ``None``: until a person says so."""
    retry_at: float = math.inf
    """By the monotonic clock."""
    told_at: float = 0.0
    offsets: dict[TP, int] = field(default_factory=dict)
    """Where it stands, of partitions of which anything was read."""

    @property
    def offset(self) -> int | None:
        """Where it stands in the first of its partitions; unknown where it could not be opened."""
        return next(iter(self.offsets.values()), None)

    def describe(self) -> dict[str, Any]:
        """As JSON can hold it."""
        left = None if self.wait_s is None else round(max(self.retry_at - time.monotonic(), 0.0), 1)
        return {
            "kind": self.kind, "reason": self.reason, "since": self.since, "offset": self.offset,
            "tries": self.tries, "retry_in_s": left,
        }  # fmt: skip


def kind_of(error: Exception) -> Kind:
    """The word for an error of one partition.

    >>> kind_of(StateError("its journal is not whole")), kind_of(ZeroDivisionError())
    ('state', 'fault')
    """
    if isinstance(error, TooManyRejects):
        return "rejects"
    if isinstance(error, RecordsDeleted):
        return "deleted"
    return "state" if isinstance(error, StateError | PartitionError) else "fault"


def retry_after_s(kind: Kind, tries: int, first_s: float) -> float | None:
    """How long a lane waits that met the same ``tries`` times in a row; ``None``: for a person.

    >>> [retry_after_s("rejects", n, 60) for n in (1, 2, 3, 9)]
    [60.0, 120.0, 240.0, 3600.0]
    >>> [retry_after_s("fault", n, 60) for n in (1, 3, 4, 5)]
    [1.0, 1.0, 60.0, 120.0]
    """
    if kind == "hand":
        return None
    if kind == "fault" and tries <= QUICK_TRIES:
        return QUICK_S
    before = tries - 1 - (QUICK_TRIES if kind == "fault" else 0)
    return min(float(first_s) * 2.0 ** min(before, 20), max(LONGEST_S, first_s))


class Pauses:
    """The lanes of one worker that are paused.

    Parameters
    ----------
    ctx : what the lanes share.
    clock : monotonic seconds.
    """

    def __init__(self, ctx: Context, clock: Callable[[], float] = time.monotonic) -> None:
        self._ctx, self._clock = ctx, clock
        self.host: LaneTable
        """Whose lanes they are."""
        self.held: Callable[[Sequence[str]], Awaitable[Mapping[str, Order]]] | None = None
        """Asked which partitions people have paused."""
        self.paused: dict[Lane, Pause] = {}
        self._before: dict[Lane, tuple[Pause, float]] = {}
        """The last pause of each lane that went on, and when it did."""
        self._work: dict[Lane, asyncio.Task[None]] = {}
        """Closing or opening, under way."""

    @staticmethod
    def takes(error: Exception) -> bool:
        """Whether the error is of one partition alone."""
        return not isinstance(error, OF_THE_PROCESS)

    # -- pausing -------------------------------------------------------------------------------------------------

    def fault(self, lane: Lane, error: Exception) -> None:
        """A lane cannot go on because of ``error``: from now on its partitions stand still."""
        if lane in self.paused:
            return
        words = in_words(error)
        # Two clocks: `since` is told to people, and the next try must not jump with the wall clock.
        pause, now, first_s = Pause(kind_of(error), words, time.time()), self._clock(), self._retry_s()
        if lane in self._before:
            last, went_on = self._before[lane]
            if last.tries and now - went_on < max(last.wait_s or 0.0, first_s):  # it was met again
                pause.tries, pause.since = last.tries + 1, last.since
        # A lane that another worker has is not taken back, but given up in the rebalance that is to come.
        pause.wait_s = None if isinstance(error, StepsTaken) else retry_after_s(pause.kind, pause.tries, first_s)
        pause.retry_at = math.inf if pause.wait_s is None else now + pause.wait_s
        self._stand_still(lane, pause)
        again = "" if pause.wait_s is None else f", tried again in {pause.wait_s:g} s"
        # The trace of what nobody expected, once: at each try it would fill the log with the same.
        trace = error if pause.kind == "fault" and pause.tries == 1 else None
        log.error("%s-%d pauses%s; the others go on: %s", *lane, again, words, exc_info=trace)

    async def open_or_pause(self, lanes: Sequence[Lane]) -> dict[TP, int]:
        """Open lanes that were assigned, but for those that people paused; the offsets to go on from, if any.

        One that cannot be opened is paused.
        """
        places = {place_of(lane): lane for lane in lanes}
        held = await self.held(list(places)) if self.held is not None else {}
        for place, order in held.items():
            self.by_hand(places[place], str(order), order.at)
        found = await asyncio.gather(*(self._open(lane) for place, lane in places.items() if place not in held))
        return {tp: offset for starts in found for tp, offset in starts.items()}

    async def _open(self, lane: Lane) -> Mapping[TP, int]:
        try:
            return await self.host.reopen(lane)
        except Exception as error:
            if not self.takes(error):
                raise
            self.fault(lane, error)
            return {}

    def by_hand(self, lane: Lane, reason: str, since: float) -> None:
        """A person wants a lane to stand still until a person says else."""
        pause, held = Pause("hand", reason, since), self.paused.get(lane)
        if held is None:
            self._stand_still(lane, pause)
        else:
            # Its offsets stay: the lane is closed, and only they say where it stands.
            pause.offsets, self.paused[lane] = held.offsets, pause
        log.warning("%s-%d pauses: %s", *lane, reason)

    def _stand_still(self, lane: Lane, pause: Pause) -> None:
        self.paused[lane], pause.told_at = pause, self._clock()
        for tp in self.host.partitions_of(lane):
            # At once, before the lane closes: what is fetched from now on would wait for a lane that takes nothing.
            self._ctx.consumer.hold(tp)
        self._count()
        self._spawn(lane, partial(self._shut, lane))

    async def _shut(self, lane: Lane) -> None:
        """Close a lane, which completes what it computed before it failed; the rest is given up."""
        await self.host.shut(lane)
        for tp in self.host.partitions_of(lane):
            # Behind the closing, which may complete batches: what is left in flight then comes again.
            at = self._ctx.consumer.halt(tp)
            if at is not None and lane in self.paused:
                self.paused[lane].offsets[tp] = at

    def _retry_s(self) -> float:
        return self._ctx.settings.worker.pause_retry_s

    # -- going on ------------------------------------------------------------------------------------------------

    def resume(self, lane: Lane) -> None:
        """Try a lane again now, as if it had never failed."""
        pause = self.paused.get(lane)
        if pause is not None:
            # No tries: the same error met again is the first of its kind once more, and tried soon.
            pause.tries, pause.retry_at = 0, math.inf
            self._spawn(lane, partial(self._reopen, lane))

    async def _reopen(self, lane: Lane) -> None:
        pause = self.paused.get(lane)
        if pause is None:
            return
        # Before it is opened: an error of the lane from here on is a new pause, with the count of `_before`.
        del self.paused[lane]
        self._before[lane] = (pause, self._clock())
        try:
            starts = await self.host.reopen(lane)
        except Exception as error:
            if not self.takes(error):
                raise
            self.fault(lane, error)
            # It was not opened, so it stands where it stood.
            self.paused[lane].offsets |= pause.offsets
            return
        for tp in self.host.partitions_of(lane):
            # The store's offset first: it is of the rows. Where it has none, where the partition was halted.
            self._ctx.consumer.resume(tp, starts.get(tp, pause.offsets.get(tp)))
        # Last: its first batch may come only when the consumer stands where the lane does.
        self.host.begin(lane)
        self._count()
        log.warning("%s-%d goes on%s", *lane, "".join(f", {tp.topic} at {at}" for tp, at in starts.items()))

    async def forget(self, lanes: set[Lane]) -> None:
        """The partitions of these lanes go: whoever gets them finds out by itself what is wrong with them."""
        work = [self._work.pop(lane) for lane in lanes & self._work.keys()]
        for task in work:
            task.cancel()
        # Waited for: one that still opens a lane would put it into the table behind our back.
        await asyncio.gather(*work, return_exceptions=True)
        for lane in lanes:
            self.paused.pop(lane, None)
            self._before.pop(lane, None)

    async def settled(self, lane: Lane) -> None:
        """Wait until a lane is closed, or open, as it was last told to be."""
        while (task := self._work.get(lane)) is not None and not task.done():
            await asyncio.wait({task})

    def _spawn(self, lane: Lane, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` behind what is under way of the lane: who asks may be a task of the lane itself."""
        before = self._work.get(lane)

        async def run() -> None:
            # Awaited by `wait`, as its error is not ours.
            if before is not None and not before.done():
                await asyncio.wait({before})
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the lane would stand still unseen
                await self._ctx.crash(error)

        self._work[lane] = asyncio.ensure_future(run())

    # -- now and then --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Try again what is due, and say what stands still; called once a second."""
        now = self._clock()
        for lane, pause in list(self.paused.items()):
            if now >= pause.retry_at:
                # The try is under way: the next look is not to begin another.
                pause.retry_at = math.inf
                self._spawn(lane, partial(self._reopen, lane))
            elif now - pause.told_at >= TELL_S:
                pause.told_at = now
                minutes = (time.time() - pause.since) / 60.0
                where = "" if pause.offset is None else f" at offset {pause.offset}"
                log.warning("%s-%d is paused%s since %.0f minutes: %s", *lane, where, minutes, pause.reason)
        self._count()

    def _count(self) -> None:
        for kind in KINDS:
            count = sum(pause.kind == kind for pause in self.paused.values())
            self._ctx.metrics.set("weir_partitions_paused", count, reason=kind)

    def describe(self) -> dict[str, object]:
        """What stands still and why, by name of the lane."""
        return {f"{topic}-{partition}": self.paused[topic, partition].describe() for topic, partition in self.paused}
