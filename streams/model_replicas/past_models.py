"""Explains scores by exactly the version that made them, however old: what a label lane asks for its alerts' reasons.

The live model knows its newest few thousand versions. A lane that takes old steps again after a crash, or has fallen
behind, asks for older ones, in about the order in which they came. For it a second model follows the same log at the
lane's own pace, begun from a stored model, and goes when the lane has caught up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from weir.online.batch import FloatMatrix, IntVector
from weir.streams.errors import FollowerBehind
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.model_snapshots import ModelSnapshots

if TYPE_CHECKING:
    from weir.streams.model_replicas.follower import Follower
from weir.streams.model_replicas.refold import fold_again

log = logging.getLogger(__name__)


_SLICE: Final = 512
SLACK: Final = 4096
"""Versions that are kept below the oldest asked for: scores of several workers are not in the order of versions."""
_ROUNDS: Final = 5
"""A live model would have to forget a quarter of what it keeps in each of them."""


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

    def covers(self, versions: IntVector) -> bool:
        """Whether ``contributions`` can be asked for ``versions (k,)`` now; the live model forgets as it learns."""
        if len(versions) == 0:
            return True
        live, newest = self._live.model(self._task), int(versions.max())
        return self._past_has(versions) or (live.oldest <= int(versions.min()) and newest <= live.version)

    def _past_has(self, versions: IntVector) -> bool:
        past = None if self._past is None else self._past.model
        return past is not None and past.oldest <= int(versions.min()) and int(versions.max()) <= past.version

    def contributions(self, x: FloatMatrix, versions: IntVector) -> FloatMatrix:
        """What each feature of ``x (k, F)`` added to the log-odds by the model of its version, ``(k, F)``."""
        if len(versions) and self._past is not None and self._past_has(versions):
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


async def cover_all(asked: Sequence[tuple[ModelHistory, IntVector]], timeout_s: float) -> None:
    """Return when each history can be asked for its versions, before anything else is waited for.

    While one is waited for, the live models of the others learn, and forget: then those are covered again. Raises as
    `ModelHistory.cover` does, with ``timeout_s`` for each.
    """
    for _ in range(_ROUNDS):
        missing = [each for each in asked if not each[0].covers(each[1])]
        if not missing:
            return
        for history, versions in missing:
            await history.cover(versions, timeout_s)
