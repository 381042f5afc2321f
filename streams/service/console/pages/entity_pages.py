"""One entity: its features beside what is typical, its scores, its alerts, its events, and the metrics of a device."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

import msgspec
from fastapi import Request, Response

from weir.online.errors import UNREADABLE
from weir.streams.config import topics
from weir.streams.service.access.scopes import Caller, needs, tell_audit
from weir.streams.service.console.rendering import PageGroup
from weir.streams.service.console.timelines import PAST, SPREADS, alert_marks, metric_chart, readings_of, score_chart
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import list_alerts
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.views.entities import LOOKED_AT, records_of, scores_of

_ALERTS: Final = 50
_EVENTS: Final = 50
_READINGS: Final = 400
_METRICS: Final = 24


class RawEvent(NamedTuple):
    """An event as it was sent."""

    topic: str
    ts: float | None
    """``None`` where it was written in words."""
    head: str
    text: str


class EntityPages(PageGroup):
    """The page of an entity, and the parts of it that come later."""

    def _routes(self) -> None:
        for part in (self.features, self.scores, self.events, self.device):
            self.router.get(f"/entity/{part.__name__}/{{entity:path}}")(part)
        self.router.get("/entities/{entity:path}")(self.page)

    async def page(self, request: Request, entity: str, caller: Caller = needs("entities:read")) -> Response:
        """The whole page: its alerts at once, and the rest after it."""
        tell_audit(request, subject=entity)
        alerts = await self._alerts(caller, entity)
        device = topics.DEVICE_EVENTS in self._streams(caller)
        return self._pages.render(request, "entity.html", entity=entity, alerts=alerts, most=_ALERTS, device=device)

    def _streams(self, caller: Caller) -> list[str]:
        """Topics of the events that the caller's tasks are about; others are not theirs to see."""
        return list(dict.fromkeys(task.stream for task in self._service.seen_by(caller)))

    async def _alerts(self, caller: Caller, entity: str) -> list[AlertRow]:
        # PostgreSQL refuses a text with this character, which no entity has.
        of = AlertFilter(caller.tasks, entity=entity.replace("\0", ""))
        cases = self._service.store.cases
        return (await cases.ask(list_alerts, of, "newest", None, _ALERTS, time.time())).rows

    async def features(self, request: Request, entity: str, caller: Caller = needs("entities:read")) -> Response:
        """What the tasks remember of it, table by table."""
        found = []
        for task in self._service.seen_by(caller):
            rows = await self._service.serving.rows(task.name, entity)
            found += [(row, (await self._typical.of(task.name))) for row in rows]
        return self._pages.render(request, "_entity_features.html", tables=found)

    async def scores(self, request: Request, entity: str, caller: Caller = needs("entities:read")) -> Response:
        """Its newest scores by all tasks, with alerts as marks."""
        found = [one for one in await scores_of(self._service.log, entity) if caller.sees(one.task)]
        found.sort(key=lambda one: one.ts)
        marks = alert_marks(await self._alerts(caller, entity), task=True)
        return self._pages.render(
            request, "_timeline.html", part="scores", scores=found, chart=score_chart(found, marks), threshold=None,
            looked_at=LOOKED_AT,
        )  # fmt: skip

    async def events(self, request: Request, entity: str, caller: Caller = needs("entities:read")) -> Response:
        """Its newest events, as they were sent."""
        found = [
            _raw(topic, value)
            for topic in self._streams(caller)
            for value in (await records_of(self._service.log, topic, entity))[-_EVENTS:]
        ]
        return self._pages.render(request, "_entity_events.html", events=found[::-1], looked_at=LOOKED_AT)

    async def device(self, request: Request, entity: str, caller: Caller = needs("entities:read")) -> Response:
        """Each metric of a device over time, in the band that is expected of it."""
        marks = alert_marks(await self._alerts(caller, entity))
        topic = topics.DEVICE_EVENTS
        records = await records_of(self._service.log, topic, entity) if topic in self._streams(caller) else []
        metrics = readings_of(records, _READINGS)
        shown = [(metric, metric_chart(metric, marks)) for metric in metrics[:_METRICS]]
        left = metrics[_METRICS:]
        return self._pages.render(request, "device.html", metrics=shown, left=left, past=PAST, spreads=SPREADS)


def _raw(topic: str, value: bytes) -> RawEvent:
    text = value.decode("utf-8", "replace")
    try:
        document = msgspec.json.decode(value)
        text = msgspec.json.format(text, indent=2)
    except UNREADABLE:
        # Beside Kafka others write to the topic as well, and may write anything.
        return RawEvent(topic, None, "no JSON", text)
    known = document if isinstance(document, dict) else {}
    ts = known.get("ts")
    head = ", ".join(str(known[name]) for name in ("event_id", "type", "status") if name in known)
    return RawEvent(topic, ts if isinstance(ts, float | int) else None, head, text)
