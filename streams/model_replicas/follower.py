"""Follows the ``examples`` log for all tasks of a worker, so that its models are those of every other worker.

It reads the one partition in order, without a consumer group, and learns in the event loop between batches of scoring:
a score never sees half a learned batch. Every so many examples the models are stored, for the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from weir.online.batch import ExampleBatch, IntVector
from weir.online.codec.by_task import DecodedLog
from weir.online.codec.example_log import TaskExamples, decode_example_log
from weir.online.stages.quarantine import between, find_quarantines
from weir.streams.config import topics
from weir.streams.errors import FollowerBehind, StateError, UsageError
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.model_snapshots import ModelKeeper, ModelSnapshots
from weir.streams.model_replicas.past_models import ModelHistory
from weir.streams.model_replicas.refold import Progress, fold_again
from weir.streams.model_replicas.timeline import ModelTimeline

log = logging.getLogger(__name__)

_CATCH_UP_RECORDS: Final = 4096
_LEAST_TURN: Final = 8
_HISTORY_BYTES: Final = 16 << 20
_SILENT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class FollowPolicy:
    """How fast to learn and how often to store."""

    turn_records: int = 256
    """At most so many records are learned before others get the event loop."""
    turn_s: float = 0.005
    """Fewer, where learning them takes longer than this."""
    snapshot_every: int = 4096
    """A model is stored at each version that is a multiple of it, so that workers compare theirs."""
    snapshot_interval_s: float = 300.0
    """And when it was stored so long ago, if anything was learned since."""


class Follower:
    """Keeps the models of a worker's tasks.

    The order of calls: ``catch_up`` (before anything is scored), ``run`` in the background, ``stop``.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    folds : one for each task.
    snapshots : where models are stored; without it every start reads the whole log.
    topic : what the ``examples`` topic is called on these brokers.
    policy : how fast, how often.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        folds: Iterable[ExampleFold],
        *,
        snapshots: ModelSnapshots | None = None,
        topic: str = topics.EXAMPLES,
        policy: FollowPolicy | None = None,
    ) -> None:
        self._options = dict(options)
        self._folds = {fold.task: fold for fold in folds}
        self._features = {task: fold.features for task, fold in self._folds.items()}
        self._policy = policy or FollowPolicy()
        self._snapshots = snapshots
        self._keeper = ModelKeeper(snapshots, self._policy.snapshot_interval_s)
        self._reader = RangeReader(options, topic, wait_ms=500)
        self.learned = 0
        """Examples, since the start."""
        self.rejected = 0
        """Records that no replica can use, since the start."""
        self.offset = 0
        """Of the next record to read."""
        self._end = 0
        self._turn = self._policy.turn_records
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []
        self._connected = self._stopping = self._silent = False
        self._ended = asyncio.Event()
        # Set where it never ran, so that a stop does not wait for it.
        self._ended.set()
        self._heard: tuple[int | None, float] = (None, 0.0)

    def model(self, task: str) -> ModelTimeline:
        """The live model of a task."""
        return self._folds[task].model

    def history(self, task: str) -> ModelHistory:
        """The older versions of a task's model, for one lane; the lane closes it."""
        fold = self._folds[task]
        new_fold = partial(fold.twin, budget_bytes=_HISTORY_BYTES)
        return ModelHistory(self, task, new_fold, self._new_reader, self._snapshots)

    def _new_reader(self) -> RangeReader:
        return RangeReader(self._options, self._reader.topic, wait_ms=500)

    def version(self, task: str) -> int:
        """How many examples a task's model has learned."""
        return self._folds[task].model.version

    def lag(self) -> int:
        """Records that are in the log and not learned yet, as of the brokers' last answer."""
        return max(self._end - self.offset, 0)

    async def catch_up(self, progress: Progress | None = None) -> None:
        """Start from the stored models, and read to the end of the log as it is now.

        Raises
        ------
        RecordsDeleted
            Kafka does not hold all examples behind the stored models (behind the beginning, where there are none).
        StateError
            A stored model is ahead of the log: the topic was made anew.
        """
        await self._start()
        first, end = self.offset, self._end
        while self.offset < end:
            await self._take_turn(_CATCH_UP_RECORDS, end)
            if progress is not None:
                progress(min(self.offset, end) - first, end - first)
            # The web endpoints answer meanwhile.
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Follow the log until ``stop``; an error ends it, and is the worker's to act on."""
        self._ended.clear()
        why = "the worker stops"
        try:
            while not self._stopping:
                await self._take_turn(self._turn)
                self._keeper.check()
                await asyncio.sleep(0)
        except Exception as error:  # raised again: whoever waits for a version is told the same
            why = str(error)
            raise
        finally:
            self._ended.set()
            # Told at once: a lane would wait for its whole patience, for examples that nobody learns any more.
            for task, version, waiter in self._waiting:
                if not waiter.done():
                    waiter.set_exception(
                        FollowerBehind(f"task {task}: version {version} will not be reached here: {why}")
                    )

    async def stop(self) -> None:
        """End ``run``, store what was learned since the models were stored, and disconnect."""
        self._stopping = True
        # The turn under way is learned to its end: what is stored is a version, not a part of one.
        await self._ended.wait()
        if self._connected:
            self._connected = False
            newest = [(fold, fold.state()) for fold in self._folds.values() if self._keeper.lacks(fold)]
            try:
                await self._keeper.stop(newest)
            finally:
                await self._reader.__aexit__(None, None, None)

    async def wait_for(self, task: str, version: int, timeout_s: float) -> None:
        """Return when a task's model has learned ``version`` examples; ``FollowerBehind`` after ``timeout_s``."""
        if self.version(task) >= version:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (task, version, waiter)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise FollowerBehind(
                f"task {task}: version {version} was not reached within {timeout_s:g} s; this worker has learned "
                f"{self.version(task)} examples and stands at offset {self.offset} of {self._end} of "
                f"{self._reader.topic}"
            ) from None
        finally:
            self._waiting.remove(entry)

    async def _start(self) -> None:
        for fold in self._folds.values():
            version = await self._snapshots.resume(fold, drop=True) if self._snapshots is not None else None
            if version is not None:
                self._keeper.stored(fold, version)
                log.info("task %s: stored model of version %d", fold.task, version)
        await self._reader.__aenter__()
        self._connected = True
        if len(lanes := self._reader.partitions()) != 1:
            raise UsageError(
                f"topic {self._reader.topic} has {len(lanes)} partitions; models need one order, so make 1"
            )
        first, self._end = await self._reader.bounds(0)
        for fold in self._folds.values():
            self._check_place(fold, first)
        # From the one that is furthest back; the others pass over what they have.
        self.offset = min(fold.next_offset for fold in self._folds.values())
        await self._reader.seek(0, self.offset)

    def _check_place(self, fold: ExampleFold, first: int) -> None:
        name, have = self._reader.topic, f"the model of version {fold.model.version}"
        if fold.next_offset > self._end:
            raise StateError(
                f"task {fold.task}: {have} has read {name} up to {fold.next_offset}, and the log ends at {self._end}: "
                "it was made anew or lost its end. Restore the topic, or remove the stored models"
            )
        if fold.next_offset < first:
            raise RecordsDeleted(
                f"task {fold.task}: {have} needs {name} from offset {fold.next_offset} on, and Kafka holds it from "
                f"{first} on. Examples are to be kept for ever (weir topics check); restore them or a stored model"
            )

    async def _take_turn(self, most: int, end: int | None = None) -> None:
        """Read and learn some records; ``end`` is where catching up ends."""
        piece = await self._reader.fetch(most)
        position = await self._reader.position()
        if piece.offsets:
            loop = asyncio.get_running_loop()
            started = loop.time()
            await self._learn(piece, end)
            # Only beside scoring; before it nobody waits for the event loop.
            if end is None:
                self._pace(loop.time() - started)
        for fold in self._folds.values():
            # Also where nothing of a task came: a stored model that stands far back would be read up from there.
            fold.passed(position)
        self.offset, self._end = position, max(self._end, position, self._reader.known_end() or 0)
        for task, version, waiter in self._waiting:
            if self.version(task) >= version and not waiter.done():
                waiter.set_result(None)
        for fold in self._folds.values():
            if end is None and self._keeper.due(fold):
                self._keeper.put(fold, fold.state())
        self._listen()

    async def _learn(self, piece: Slice, end: int | None) -> None:
        offsets = np.asarray(piece.offsets, dtype=np.int64)
        values = [record.value for record in piece.records]
        found, quarantines = decode_example_log(values, self._features), find_quarantines(values, piece.offsets)
        for task, examples in found.tasks.items():
            fold = self._folds[task]
            # While catching up nobody asks for the versions that are passed, nor are they all worth storing.
            remember = end is None or end - piece.offsets[-1] <= fold.model.keep
            own = [q for q in quarantines if q.task == task and q.offset >= fold.next_offset]
            for batch, at, quarantine in between(examples.batch, offsets[examples.index], own):
                self._take(fold, batch, at, remember, live=end is None)
                if quarantine is not None:
                    await fold_again(fold, quarantine, self._new_reader, self._snapshots)
                    self._keeper.put(fold, fold.state())
        self._tell_rejects(found, {q.offset for q in quarantines}, piece)

    def _take(self, fold: ExampleFold, batch: ExampleBatch, at: IntVector, remember: bool, *, live: bool) -> None:
        before = fold.model.version
        every = self._policy.snapshot_every if live or self._keeper.due(fold) else None
        marks = fold.take(batch, at, remember=remember, mark_every=every)
        self.learned += fold.model.version - before
        for state in marks:
            self._keeper.put(fold, state)

    def _tell_rejects(self, found: DecodedLog[TaskExamples], expected: set[int], piece: Slice) -> None:
        rejects = [reject for reject in found.rejects if piece.offsets[reject.index] not in expected]
        if rejects:
            self.rejected += len(rejects)
            reject = rejects[0]
            log.warning(
                "%s: %d records cannot be learned, here and on every replica; the first, at offset %d: %s",
                self._reader.topic,
                len(rejects),
                piece.offsets[reject.index],
                reject.reason,
            )

    def _pace(self, took_s: float) -> None:
        """Choose how many records the next turn takes."""
        # A clock may show no time at all for a small turn.
        wanted = int(self._turn * self._policy.turn_s / max(took_s, 1e-6))
        # By halves and doubles at most: one slow turn (a pause of the machine) says little of the next.
        self._turn = min(max(wanted, self._turn // 2, _LEAST_TURN), 2 * self._turn, self._policy.turn_records)

    def _listen(self) -> None:
        """Say once when the brokers fall silent, and once when they are back."""
        now, answered = asyncio.get_running_loop().time(), self._reader.answered()
        # Compared, not subtracted: it is of the wall clock, which may be set.
        if answered != self._heard[0] or not self._heard[1]:
            if self._silent:
                log.info("%s: the brokers answer again", self._reader.topic)
            self._heard, self._silent = (answered, now), False
        elif not self._silent and now - self._heard[1] > _SILENT_S:
            self._silent = True
            log.warning("%s: the brokers are silent since %.0f s; still trying", self._reader.topic, _SILENT_S)
