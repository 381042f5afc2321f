"""Notifications over HTTP: what was told and what became of it, and rules that people make."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import Query, Request
from sqlalchemy import Connection, delete, select

from weir.streams.config import topics
from weir.streams.config.notify_settings import NotifyRule, NotifySettings
from weir.streams.service.access.scopes import Caller, needs, tell_audit
from weir.streams.service.notify import outbox
from weir.streams.service.notify.outbox import Entry
from weir.streams.service.parts import Problem, View
from weir.streams.service.store.tables import notify_rules, upsert

if TYPE_CHECKING:
    from weir.streams.service.service import Service
_MOST: Final = 50
"""Rules, so that what follows from one record stays bounded."""
Status = Literal["waiting", "sent", "failed", "left_out"]


def rules_of(c: Connection, settings: NotifySettings) -> list[tuple[NotifyRule, dict[str, Any]]]:
    """All rules, and who made each; of a rule of the settings people only say whether it is paused."""
    made = {row["name"]: row for row in c.execute(select(notify_rules)).mappings()}
    found: list[tuple[NotifyRule, dict[str, Any]]] = []
    for rule in settings.rules:
        # A rule of the settings takes the place of one that people gave the same name before.
        row = made.pop(rule.name, None)
        paused = rule.paused if row is None else NotifyRule.model_validate_json(row["rule"]).paused
        found.append((rule.model_copy(update={"paused": paused}), {"made_by": "settings"}))
    for row in made.values():
        rule = NotifyRule.model_validate_json(row["rule"])
        gone = settings.unknown(rule.targets)  # from the settings, since somebody made the rule
        targets = tuple(name for name in rule.targets if name not in gone)
        found.append((rule.model_copy(update={"targets": targets}), {"made_by": row["by"], "made_at": row["at"]}))
    return found


class NotifyRoutes(View):
    """Their routes."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "notifications")
        self._settings = service.settings.serve.notify
        self.router.get("/notifications")(self.find)
        self.router.post("/notifications/{notification_id}/retry", status_code=202)(self.retry)
        self.router.get("/notify/rules")(self.rules)
        self.router.post("/notify/rules")(self.make)
        self.router.delete("/notify/rules/{name}", dependencies=[needs("notify:write")])(self.remove)

    async def find(
        self,
        status: Status | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        caller: Caller = needs("alerts:read"),
    ) -> dict[str, Any]:
        """The newest messages about alerts, and what became of each: it waits, was sent, failed or was left out."""
        return {"notifications": await self._service.store.cases.ask(outbox.newest, caller.tasks, status, limit)}

    async def retry(self, notification_id: str, caller: Caller = needs("notify:write")) -> dict[str, Any]:
        """Send a message again that could not be sent."""
        ask = self._service.store.cases.ask
        if not await ask(outbox.newest, caller.tasks, "failed", 1, notification_id):
            fix = "GET /v1/notifications?status=failed lists them"
            raise Problem(404, "Not found", f"no message {notification_id} has failed; {fix}", value=notification_id)
        entry = Entry(kind="retry", at=time.time(), ids=(notification_id,))
        await self._service.log.append(topics.NOTIFICATIONS, [entry.record()])
        return {"id": notification_id, "status": "waiting"}

    async def rules(self, caller: Caller = needs("alerts:read")) -> dict[str, Any]:
        """The rules, those of the settings and those that people made; and the targets, without their addresses."""
        found = await self._service.store.cases.ask(rules_of, self._settings)
        seen = [
            rule.model_dump(mode="json") | made
            for rule, made in found
            if not rule.tasks or any(map(caller.sees, rule.tasks))
        ]
        return {"rules": seen, "targets": self.targets()}

    def targets(self) -> list[dict[str, str]]:
        """Where messages can go, without addresses."""
        return [{"name": target.name, "kind": target.kind} for target in self._settings.targets]

    async def rule(self, name: str) -> NotifyRule:
        """A rule by its name; raises ``Problem`` (404)."""
        found = await self._service.store.cases.ask(rules_of, self._settings)
        if rule := next((rule for rule, _ in found if rule.name == name), None):
            return rule
        raise Problem(404, "Not found", f"no rule {name}; GET /v1/notify/rules lists them", value=name)

    async def make(self, rule: NotifyRule, request: Request, caller: Caller = needs("notify:write")) -> dict[str, Any]:
        """Make a rule, or change one; of a rule of the settings only ``paused`` may differ."""
        if unknown := self._settings.unknown(rule.targets):
            raise Problem(422, "Not valid", f"targets: no target {', '.join(unknown)}; [serve.notify] names them")
        held = next((each for each in self._settings.rules if each.name == rule.name), rule)
        if held.model_copy(update={"paused": rule.paused}) != rule:
            raise Problem(409, "Conflict", f"rule {rule.name} is of the settings: change it there, or pause it here")
        others = [each.name for each, _ in await self._service.store.cases.ask(rules_of, self._settings)]
        if len({rule.name, *others}) > _MOST:
            raise Problem(409, "Too many", f"there are {_MOST} rules already; remove one", limit=_MOST)
        row = {"name": rule.name, "rule": rule.model_dump_json(), "by": caller.name, "at": time.time()}
        await self._service.store.cases.ask(upsert, notify_rules, [row])
        tell_audit(request, object=f"notify-rule:{rule.name}")
        return rule.model_dump(mode="json")

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove a rule that people made; one of the settings is then as it is there."""
        gone = delete(notify_rules).where(notify_rules.c.name == name)
        if not await self._service.store.cases.ask(lambda c: c.execute(gone).rowcount):
            raise Problem(404, "Not found", f"nobody made a rule {name}; GET /v1/notify/rules lists them", value=name)
        return {"removed": name}
