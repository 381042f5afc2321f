"""Explains scores by exactly the version that made them, however old: what a label lane asks for its alerts' reasons.

The live model knows its newest few thousand versions. A lane that takes old steps again after a crash, or has fallen
behind, asks for older ones, in about the order in which they came. For it a second model follows the same log at the
lane's own pace, begun from a stored model, and goes when the lane has caught up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from weir.online.batch import FloatMatrix, IntVector
from weir.online.stages.quarantine import Quarantine
from weir.streams.errors import FollowerBehind, UsageError
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.model_replicas.topic_reader import OpensReader

if TYPE_CHECKING:
    from weir.streams.model_replicas.follower import Follower

log = logging.getLogger(__name__)


# Folds a model again: where its log takes examples back (`weir.online.stages.quarantine`), and as of any version.


Progress = Callable[[int, int], None]
"""Told how many records were read, and of how many."""
_TURN: Final = 512
"""Examples learned before others get the event loop."""


async def fold_again(
    fold: ExampleFold, quarantine: Quarantine, new_reader: OpensReader, snapshots: ModelSnapshots | None
) -> None:
    """Make ``fold`` what it would be without the examples that ``quarantine``, the next record, takes back.

    It scores as it is meanwhile. Begins from the newest stored model that learned none of them, else from the first
    example.

    Raises
    ------
    RecordsDeleted
        Kafka does not hold what has to be learned again.
    StateError
        The log is not the one that the model was made from.
    """
    again = fold.again(quarantine)
    if snapshots is not None:
        await snapshots.resume(again, usable=again.clean)
    start = again.model.version
    async with new_reader() as reader:
        # Up to the quarantine, not to the end: what follows it is for the fold that goes on.
        async for piece in reader.read(0, again.next_offset, quarantine.offset):
            for examples, at, other in again.read([record.value for record in piece.records], piece.offsets):
                for first in range(0, len(examples), _TURN):
                    part = slice(first, first + _TURN)
                    again.take(examples.slice(first, first + _TURN), at[part], remember=False)
                    await asyncio.sleep(0)
                if other is not None:
                    again.pass_by(other)
    # In one step, with nothing awaited: scores are of the model before, then of the one after.
    fold.become(again, quarantine)
    log.info(
        "task %s: %d examples are taken back by the quarantine at offset %d; folded again from version %d to %d",
        fold.task, sum(stop - first for first, stop in quarantine.ranges), quarantine.offset, start, fold.model.version,
    )  # fmt: skip


async def rebuild(
    new_reader: OpensReader,
    fold: ExampleFold,
    version: int | None,
    *,
    snapshots: ModelSnapshots | None = None,
    progress: Progress | None = None,
) -> int:
    """Bring ``fold`` to ``version`` exactly, or to the present end of the log.

    Parameters
    ----------
    new_reader : makes a reader of the examples.
    fold : a new one, or one that is not past ``version``.
    version : ``None`` for all that there is.
    snapshots : stored models to start from; without them everything is learned again.
    progress : told how many examples were learned, and of how many.

    Returns
    -------
    The version that it started from.

    Raises
    ------
    UsageError
        The log holds fewer examples of the task than ``version``.
    RecordsDeleted
        The log does not reach back to where it started from.
    """
    if snapshots is not None and fold.next_offset == 0:
        await snapshots.resume(fold, at_most=version)
    start = fold.model.version
    async with new_reader() as reader:
        _, end = await reader.bounds(0)
        if fold.model.version != version:
            async for offsets, records, *_ in reader.read(0, fold.next_offset, end):
                for batch, at, quarantine in fold.read([record.value for record in records], offsets):
                    # Not in the event loop: a service answers others meanwhile.
                    await asyncio.to_thread(fold.take, batch, at, remember=False, until=version)
                    # A model as of a version before the quarantine still has what that takes back: the score was made
                    # with it.
                    if quarantine is not None and fold.model.version != version:
                        await fold_again(fold, quarantine, new_reader, snapshots)
                if progress is not None and version is not None:
                    progress(fold.model.version - start, version - start)
                if fold.model.version == version:
                    break
                fold.passed(offsets[-1] + 1 if offsets else 0)
    if version is not None and fold.model.version < version:
        raise UsageError(
            f"task {fold.task}: {reader.topic} holds {fold.model.version} examples that this task file can learn, and "
            f"version {version} is asked for: give the task file that scored it, and the brokers where it was scored"
        )
    return start


_SLICE: Final = 512
SLACK: Final = 4096
"""Versions that are kept below the oldest asked for: scores of several workers are not in the order of versions."""


class ModelHistory:
    """Every version of one task's model, for one lane.

    Parameters
    ----------
    live : the follower, with the newest versions.
    task : whose model it is.
    new_fold : makes an empty fold of the task.
    new_reader : makes a reader of the ``examples`` topic.
    snapshots : stored models to begin from.
    """

    def __init__(
        self,
        live: Follower,
        task: str,
        new_fold: Callable[[], ExampleFold],
        new_reader: Callable[[], RangeReader],
        snapshots: ModelSnapshots | None,
    ) -> None:
        self._live, self._new_fold, self._new_reader, self._snapshots = live, new_fold, new_reader, snapshots
        self._past: ExampleFold | None = None
        self._reader: RangeReader | None = None
        # By name: an empty fold takes up to 18 ms to build (`auto`, 60 features), and few lanes ever look back.
        self._task = task

    async def cover(self, versions: IntVector, timeout_s: float) -> None:
        """Return when ``contributions`` can be asked for ``versions (k,)``, until others are covered.

        Raises
        ------
        FollowerBehind
            Not within ``timeout_s``.
        RecordsDeleted
            Kafka does not hold the examples that an old version is rebuilt from.
        """
        if len(versions) == 0:
            return
        oldest, newest = int(versions.min()), int(versions.max())
        # The newest first: what the live model has not learned yet nobody can rebuild.
        await self._live.wait_for(self._task, newest, timeout_s)
        if self._live_has(oldest):
            await self.close()
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._look_back(oldest, newest)
        except TimeoutError:
            reached = self._past.model.version if self._past is not None else 0
            raise FollowerBehind(
                f"task {self._task}: versions {oldest} to {newest} were not rebuilt within {timeout_s:g} s, only "
                f"{reached} examples were learned again; see whether the brokers answer"
            ) from None

    def contributions(self, x: FloatMatrix, versions: IntVector) -> FloatMatrix:
        """What each feature of ``x (k, F)`` added to the log-odds by the model of its version, ``(k, F)``."""
        if len(versions) and self._past is not None and self._past.model.oldest <= int(versions.min()):
            return self._past.model.contributions(x, versions)
        return self._live.model(self._task).contributions(x, versions)

    async def close(self) -> None:
        """Let go of the older versions."""
        reader, self._reader, self._past = self._reader, None, None
        if reader is not None:
            await reader.__aexit__(None, None, None)

    def _live_has(self, version: int) -> bool:
        """Whether the live model knows ``version``, and still does when it has learned a good deal more."""
        live = self._live.model(self._task)
        # With a quarter to spare: the step that asks is computed a moment later, and the live model learns meanwhile.
        return live.oldest <= version and version >= live.version - live.keep * 3 // 4

    async def _look_back(self, oldest: int, newest: int) -> None:
        past = self._past
        if past is None or self._reader is None or past.model.oldest > oldest:
            past = await self._begin(max(oldest - SLACK, 0))
        past.model.keep = newest - oldest + 2 * SLACK
        while past.model.version < newest:
            await self._learn(past)

    async def _begin(self, version: int) -> ExampleFold:
        """A model at ``version``, from which on it remembers."""
        # Before another is begun: each holds a connection and a model.
        await self.close()
        past = self._new_fold()
        if self._snapshots is not None:
            await self._snapshots.resume(past, at_most=version)
        reader = self._new_reader()
        await reader.__aenter__()
        self._reader, self._past = reader, past
        await reader.seek(0, past.next_offset)
        while past.model.version < version:
            await self._learn(past, forget_until=version)
        return past

    async def _learn(self, past: ExampleFold, forget_until: int | None = None) -> None:
        """Learn the next examples of the log."""
        if self._reader is None:
            return
        piece: Slice = await self._reader.fetch(_SLICE)
        for batch, at, quarantine in past.read([record.value for record in piece.records], piece.offsets):
            if forget_until is not None:
                past.take(batch, at, remember=False, until=forget_until)
            past.take(batch, at)  # what it has learned already is skipped by its offset
            if quarantine is not None:
                await fold_again(past, quarantine, self._new_reader, self._snapshots)
        await asyncio.sleep(0)
