"""One alert: why, what happened around it, what people say of it, and what the model makes of that."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final

import msgspec
from fastapi import Query, Request, Response

from weir.online.codec.wire import MadeId
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.errors import WeirError
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import PageGroup, said
from weir.streams.service.console.timelines import alert_marks, label_marks, score_chart
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import SIMILAR, history_of, list_alerts, shown, similar_alerts
from weir.streams.service.store.alert_requests import Asked, By, NoteSaid, Sees
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.views.alert_scores import AlertScores
from weir.streams.service.views.entities import LOOKED_AT, records_of, scores_of

HOLDS: Final = (("an hour", "1h"), ("four hours", "4h"), ("a day", "1d"), ("three days", "3d"), ("a week", "7d"))
_ALERTS: Final = 100
"""Alerts of the entity that its timeline marks, the newest."""


class AlertPages(PageGroup):
    """The page of an alert, and the parts of it that come later or change."""

    def _routes(self) -> None:
        self._scores = AlertScores(self._service)
        read, work = [needs("alerts:read")], [needs("cases:write")]
        get, post = self.router.get, self.router.post
        # The id comes last everywhere: it may end in the name of any part.
        for part in (self.reasons, self.timeline, self.similar, self.again, self.effect, self.case):
            get(f"/alert/{part.__name__}/{{alert_id:path}}", dependencies=read)(part)
        for change in (self.note, self.presence):
            post(f"/alert/{change.__name__}/{{alert_id:path}}", dependencies=work)(change)
        get("/alerts/{alert_id:path}", dependencies=read)(self.page)

    async def page(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """The whole page; what takes longer to find comes after it."""
        facts = await self._facts(row.alert_id, by)
        raw = json.dumps({**facts["alert"], "history": facts["history"]}, indent=2, ensure_ascii=False)
        return self._pages.render(request, "alert.html", **facts, **self._usual(row), raw=raw, fragment=False)

    async def _facts(self, alert_id: str, by: str) -> dict[str, Any]:
        """The alert and its case; the history first, so that the row holds what that tells."""
        cases = self._service.store.cases
        history = _plain(await cases.ask(history_of, alert_id))
        row = await cases.row(alert_id, None)
        spec = self._task(row)
        choices = spec.alerts.verdict_reasons if spec is not None else ()
        return {"alert": _plain(shown(row, time.time())), "me": by, "choices": choices, "holds": HOLDS, **history}

    def _task(self, row: AlertRow) -> TaskSpec | None:
        return next((task for task in self._service.tasks if task.name == row.task), None)

    def _usual(self, row: AlertRow) -> dict[str, Any]:
        sample = self._typical.known(row.task)
        return {"typical": sample, "sample": sample.size if sample is not None else 0}

    async def case(
        self,
        request: Request,
        after: Annotated[list[MadeId] | None, Query(max_length=500)] = None,
        row: AlertRow = Asked,
        by: str = By,
    ) -> Response:
        """What people have done with it, ``after`` case events that the feed told, and what they can do."""
        if after:
            await self._service.store.cases.became(after)
        return self._pages.render(request, "_alert_case.html", **await self._facts(row.alert_id, by), fragment=True)

    # -- what comes after the page ------------------------------------------------------------------------------------

    async def reasons(self, request: Request, row: AlertRow = Asked) -> Response:
        """The reasons beside what is typical."""
        await self._typical.of(row.task)
        alert = _plain(shown(row, time.time()))
        return self._pages.render(request, "_alert_reasons.html", alert=alert, **self._usual(row))

    async def similar(self, request: Request, row: AlertRow = Asked) -> Response:
        """Alerts like it, and how they ended."""
        found = await self._service.store.cases.ask(similar_alerts, row)
        return self._pages.render(request, "_alert_similar.html", alert=row, similar=found, most=SIMILAR)

    async def timeline(self, request: Request, row: AlertRow = Asked, sees: frozenset[str] | None = Sees) -> Response:
        """The scores of its entity, with alerts and labels as marks."""
        log, now = self._service.log, time.time()
        scores = [one for one in await scores_of(log, row.entity_id) if one.task == row.task]
        scores.sort(key=lambda one: one.ts)
        of = AlertFilter(sees, task=row.task, entity=row.entity_id)
        alerts = (await self._service.store.cases.ask(list_alerts, of, "newest", None, _ALERTS, now)).rows
        labels = label_marks(await records_of(log, topics.LABELS, row.entity_id), row.task)
        chart = score_chart(scores, alert_marks(alerts, row.alert_id) + labels, row.threshold)
        return self._pages.render(
            request, "_timeline.html", part="timeline", scores=scores, chart=chart, threshold=row.threshold,
            looked_at=LOOKED_AT,
        )  # fmt: skip

    async def effect(self, request: Request, row: AlertRow = Asked) -> Response:
        """What the model has learned of the verdict: the score of then beside that of now."""
        verdicts = (await self._service.store.cases.ask(history_of, row.alert_id))["verdicts"]
        verdict = next((one for one in verdicts if one["undone_at"] is None), None)
        effect, trouble = None, ""
        # Between the verdict and its example there is no effect to show yet.
        if verdict is None or verdict["learned_at"] is not None:
            try:
                effect = await self._scores.now(row, remember=verdict is None)
            except WeirError as error:
                trouble = str(error)
        spec = self._task(row)
        share = spec.labels.negative_rate if spec is not None else 1.0
        return self._pages.render(
            request, "_alert_effect.html", verdict=verdict, effect=effect, trouble=trouble, share=share
        )

    async def again(self, request: Request, row: AlertRow = Asked) -> Response:
        """The score made again by the model that made it."""
        try:
            facts: dict[str, Any] = {"rebuilt": await self._scores.again(row), "trouble": ""}
        except WeirError as error:
            facts = {"rebuilt": None, "trouble": str(error)}
        return self._pages.render(request, "_alert_again.html", **facts)

    # -- changes, beside those of the list of alerts -----------------------------------------------------------------

    async def note(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Write a note."""
        await self._service.store.notes(await said(request, NoteSaid), None, row, by)
        # To the body: what was pressed may be gone by then.
        headers = {"HX-Trigger": json.dumps({"noted": {"target": "body"}})}
        return self._pages.render(
            request, "_alert_case.html", headers, **await self._facts(row.alert_id, by), fragment=True
        )

    async def presence(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Say that one has it open; who else has."""
        others = (await self._service.store.present(request, row, by))["others"]
        return self._pages.render(request, "_alert_presence.html", others=others)


def _plain(document: Any) -> Any:
    """A document with what is JSON already decoded."""
    return msgspec.json.decode(msgspec.json.encode(document))
