"""One alert: why, what happened around it, what people say of it, and what the model makes of that."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from weir.online.codec.wire import MadeId, Note
from weir.online.durations import Seconds
from weir.streams.config import topics
from weir.streams.errors import WeirError
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import Pages, said
from weir.streams.service.console.timelines import alert_marks, label_marks, score_chart
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import history_of, list_alerts, shown
from weir.streams.service.store.alert_requests import (
    Asked,
    AssignSaid,
    By,
    EscalateSaid,
    HoldSaid,
    NoteSaid,
    Said,
    Sees,
    VerdictSaid,
)
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.related_alerts import COUNTED, similar_alerts
from weir.streams.service.store.snooze_routes import SnoozeSaid
from weir.streams.service.views.alert_scores import AlertScores
from weir.streams.service.views.entities import LOOKED_AT, records_of, scores_of
from weir.streams.service.views.typical_values import TypicalValues

if TYPE_CHECKING:
    from weir.streams.service.service import Service

HOLDS: Final = (("an hour", "1h"), ("four hours", "4h"), ("a day", "1d"), ("three days", "3d"), ("a week", "7d"))
_ALERTS: Final = 100
"""Alerts of the entity that its timeline marks, the newest."""


class AlertPages:
    """The page of an alert, and the parts of it that come later or change.

    Parameters
    ----------
    service, pages : what is shown, and how.
    typical : what features usually are.
    """

    def __init__(self, service: Service, pages: Pages, typical: TypicalValues) -> None:
        self._service, self._pages, self._typical = service, pages, typical
        self._scores = AlertScores(service)
        self.router = APIRouter()
        read, judge, work = ([needs(scope)] for scope in ("alerts:read", "alerts:write", "cases:write"))
        get, post = self.router.get, self.router.post
        # The id comes last everywhere: it may end in the name of any part.
        for part in (self.reasons, self.timeline, self.similar, self.again, self.effect, self.case):
            get(f"/alert/{part.__name__}/{{alert_id:path}}", dependencies=read)(part)
        for change in (self.verdict, self.undo):
            post(f"/alert/{change.__name__}/{{alert_id:path}}", dependencies=judge)(change)
        for change in (self.assign, self.release, self.note, self.hold, self.escalate, self.snooze, self.presence):
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
        spec = next((task for task in self._service.tasks if task.name == row.task), None)
        choices = spec.alerts.verdict_reasons if spec is not None else ()
        return {"alert": _plain(shown(row, time.time())), "me": by, "choices": choices, "holds": HOLDS, **history}

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
        return self._pages.render(request, "_alert_similar.html", alert=row, similar=found, most=COUNTED)

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
        if verdict is None or verdict["learned_at"] is not None:
            try:
                effect = await self._scores.now(row, remember=verdict is None)
            except WeirError as error:
                trouble = str(error)
        return self._pages.render(request, "_alert_effect.html", verdict=verdict, effect=effect, trouble=trouble)

    async def again(self, request: Request, row: AlertRow = Asked) -> Response:
        """The score made again by the model that made it."""
        try:
            facts: dict[str, Any] = {"rebuilt": await self._scores.again(row), "trouble": ""}
        except WeirError as error:
            facts = {"rebuilt": None, "trouble": str(error)}
        return self._pages.render(request, "_alert_again.html", **facts)

    # -- changes ------------------------------------------------------------------------------------------------------

    async def verdict(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Say what it was."""
        told = await said(request, VerdictSaid)
        await self._service.store.verdict(told, None, row, by)
        return await self._changed(request, row, by, judged=told.verdict)

    async def undo(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Take the newest verdict back."""
        await self._service.store.undo(None, row, by)
        return await self._changed(request, row, by, toast="The verdict is taken back, and the model learns that.")

    async def assign(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Claim it, or hand it over."""
        told = await said(request, AssignSaid)
        await self._service.store.assign(told, None, row, by)
        whose = f"{told.assignee} has it now." if told.assignee else "It is yours for half an hour."
        return await self._changed(request, row, by, toast=whose)

    async def release(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Let others have it."""
        await self._service.store.assign(AssignSaid(release=True), None, row, by)
        return await self._changed(request, row, by, toast="Nobody has it now.")

    async def note(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Write a note."""
        await self._service.store.notes(await said(request, NoteSaid), None, row, by)
        return await self._changed(request, row, by, noted=True)

    async def hold(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Put it aside for a while."""
        told = await said(request, HoldSaid)
        await self._service.store.hold(told, None, row, by)
        words = "It is on hold: the queue shows it again then." if told.for_s else "It is in the queue again."
        return await self._changed(request, row, by, toast=words)

    async def escalate(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Have others look at it."""
        await self._service.store.escalate(await said(request, EscalateSaid), None, row, by)
        return await self._changed(request, row, by, noted=True, toast="It is escalated, for others to look at.")

    async def snooze(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Hide alerts of its entity, or with its strongest reason, for a while."""
        told = await said(request, _SnoozeSaid)
        of = row.entity_id if told.kind == "entity" else row.reason
        asked = SnoozeSaid(task=row.task, kind=told.kind, of=of, for_s=told.for_s, note=told.note)
        await self._service.store.snoozes.snooze(asked, request, request.scope["weir"].caller, by)
        which = "of this entity" if told.kind == "entity" else "for this reason"
        return await self._changed(request, row, by, toast=f"Alerts {which} are hidden from the queue until then.")

    async def presence(self, request: Request, row: AlertRow = Asked, by: str = By) -> Response:
        """Say that one has it open; who else has."""
        others = (await self._service.store.present(request, row, by))["others"]
        return self._pages.render(request, "_alert_presence.html", others=others)

    async def _changed(self, request: Request, row: AlertRow, by: str, **events: Any) -> Response:
        """The case after a change, and what the page's script is told."""
        # To the body: what was pressed may be gone by then.
        told = {name: {"value": value, "target": "body"} for name, value in events.items()}
        facts = await self._facts(row.alert_id, by)
        headers = {"HX-Trigger": json.dumps(told)}
        return self._pages.render(request, "_alert_case.html", headers, **facts, fragment=True)


class _SnoozeSaid(Said):
    """What of an alert is snoozed."""

    kind: Literal["entity", "reason"]
    for_s: Seconds = Field(gt=0, le=365 * 86_400.0)
    note: Note = ""


def _plain(document: Any) -> Any:
    """A document with what is JSON already decoded."""
    return msgspec.json.decode(msgspec.json.encode(document))
