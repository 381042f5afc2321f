"""The score behind an alert: found in the log, given again by the model of now, and made again bit for bit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.service.ports import ServiceLogReader
from weir.streams.service.store.alert_queries import scored_at
from weir.streams.service.store.case_rules import AlertRow

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.model_replicas.explanation import Explanation
    from weir.streams.model_replicas.logged_scores import LoggedScore
    from weir.streams.service.service import Service

_LAG_S: Final = 3_600.0
"""So long before the alert at most its score was written: workers that make alerts may be behind."""
_REMEMBERED: Final = 256


class RebuiltScore(NamedTuple):
    """A score that was made again."""

    logged: LoggedScore
    explained: Explanation
    start: int
    """The version of the stored model that it began from; 0 for the first example."""


class ScoreNow(NamedTuple):
    """What the online model says now of the event that the alert is about."""

    before: float
    """What it said before: when somebody last looked before the verdict, else when the event came."""
    before_version: int | str
    score: float
    version: int


class AlertScores:
    """See the module."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._found: OrderedDict[tuple[str, float], LoggedScore] = OrderedDict()
        self._before: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._rebuilding = asyncio.Lock()
        """One at a time: each takes a processor for as long as it lasts."""

    async def logged(self, row: AlertRow) -> LoggedScore:
        """The prediction that the alert has its score and its reasons from.

        Raises ``UsageError`` where the log does not hold it any more.
        """
        from weir.streams.model_replicas.logged_scores import Search, find_scores  # this brings Redis' client

        # With the score: an alert whose score rises has it, and its reasons, from another prediction then.
        key = (row.alert_id, row.score)
        if key not in self._found:
            at = await self._service.store.cases.ask(scored_at, row.alert_id, row.score)
            since = None if at is None else at - _LAG_S
            what = Search(row.task, entity_id=row.entity_id, score=row.score, since=since, until=at, repeats_s=0.0)
            async with ServiceLogReader(self._service.log, topics.PREDICTIONS) as reader:
                found = await find_scores(reader, what)
            if not found:
                raise UsageError("the log does not hold the prediction any more: retention deleted it")
            self._found[key] = found[0]
            if len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return self._found[key]

    async def now(self, row: AlertRow, remember: bool = False) -> ScoreNow:
        """The score of before beside that of now; raises ``UsageError`` where either cannot be had.

        Since an event came the model has learned others. What a verdict changed is seen beside what the model said just
        before it: ``remember`` that, while there is none. Another process, or this one after a restart, does not know
        it, and takes the score of then.
        """
        logged = await self.logged(row)
        self._task(row)
        score, version = await self._service.serving.score(row.task, logged.features)
        if remember:
            self._before[row.alert_id] = (score, version)
            if len(self._before) > _REMEMBERED:
                self._before.popitem(last=False)
        return ScoreNow(*self._before.get(row.alert_id, (logged.score, logged.model_version)), score, version)

    async def again(self, row: AlertRow) -> RebuiltScore:
        """The score made again by exactly the model that made it, as ``weir explain-score`` does.

        Raises ``UsageError`` where the log, or the task as it is now, does not allow it.
        """
        from weir.streams.model_replicas.fold import ExampleFold
        from weir.streams.model_replicas.logged_scores import explain_logged, version_of
        from weir.streams.model_replicas.refold import rebuild

        logged = await self.logged(row)
        fold, log = ExampleFold.of(self._task(row)), self._service.log
        version = version_of(logged, fold)
        async with self._rebuilding:
            stored = await self._service.serving.stored_models()
            start = await rebuild(lambda: ServiceLogReader(log, topics.EXAMPLES), fold, version, snapshots=stored)
        return RebuiltScore(logged, explain_logged(logged, fold), start)

    def _task(self, row: AlertRow) -> TaskSpec:
        found = next((task for task in self._service.tasks if task.name == row.task), None)
        if found is None:
            raise UsageError(f"task {row.task} does not run here any more")
        return found
