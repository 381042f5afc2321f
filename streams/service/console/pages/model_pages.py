"""Models, and what changes them: what serves, what the gate saw, drift, trainings."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from fastapi import Request, Response

from weir.streams.config import topics
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.console.rendering import PageGroup, done, said
from weir.streams.service.store.alert_queries import examples_learned, happenings_of
from weir.streams.service.views.model_routes import RetrainOrder, RollbackOrder, StageOrder

_CHANGES: Final = 50
"""Newest moves of models, and records that took examples back, that a page shows."""
Where = Literal["champion", "shadow", "archived"]


class ModelPages(PageGroup):
    """Models, drift and retraining."""

    def _routes(self) -> None:
        self._models = view = self._service.models
        router, read, write = self.router, "models:read", "models:write"
        router.get("/models")(self.models)
        # Before the versions, which would take the word for a number.
        self.shows("/models/{task}/rollback", "_ask_rollback.html", write, self.ask_rollback)
        self.shows("/models/{task}/{version}", "model.html", read, view.model)
        self.shows("/models/{task}/{version}/ask/{to}", "_ask_move.html", write, view.model)
        router.post("/models/{task}/rollback")(self.rollback)
        router.post("/models/{task}/{version}/stage")(self.move)
        self.shows("/drift", "drift.html", read, view.retraining)
        self.shows("/drift/change/{request_id:path}", "drift_change.html", read, view.change)
        self.shows("/retrain", "_ask_retrain.html", "retrain:write")
        router.post("/retrain")(self.retrain)

    async def models(
        self, request: Request, task: str | None = None, caller: Caller = needs("models:read")
    ) -> Response:
        """What serves each task, online and full, and the versions that could."""
        seen = [t for t in self._service.seen_by(caller) if task in (None, "", t.name)]
        versions = (await self._models.models(task or None, caller))["models"]
        jobs = (await self._models.retraining(task or None, caller))["jobs"]
        return self._pages.render(
            request, "models.html", task=task or "", shown=seen, versions=versions[::-1],
            jobs={(job["task"], job["version"]): job for job in jobs},
            moves=await self._told(caller, topics.MODEL_UPDATES),
            learned=await self._service.store.cases.ask(examples_learned),
            taken_back=await self._told(caller, topics.EXAMPLES),
        )  # fmt: skip

    async def _told(self, caller: Caller, topic: str) -> list[dict[str, Any]]:
        found = await self._service.store.cases.ask(happenings_of, caller.tasks, None, _CHANGES, topic)
        return [{"at": each["at"], **msgspec.json.decode(each["record"])} for each in found]

    async def move(self, request: Request, task: str, version: int, caller: Caller = needs("models:write")) -> Response:
        """Promote, shadow or archive a version."""
        order = await said(request, StageOrder)
        after = await self._models.move(task, version, order, caller)
        return done(f"{task} v{version} is {order.to} now. {_serves(after)}")

    async def ask_rollback(
        self, task: str, champion: int | None = None, caller: Caller = needs("models:write")
    ) -> dict[str, Any]:
        """The task, and the version that its person saw serve: the form says it, so that it is sent twice in vain."""
        return {**await self._models.task(task, caller), "champion": champion}

    async def rollback(self, request: Request, task: str, caller: Caller = needs("models:write")) -> Response:
        """Return to the champion before."""
        after = await self._models.rollback(task, await said(request, RollbackOrder), caller)
        return done(f"{task} is rolled back. {_serves(after)}")

    async def retrain(self, request: Request, caller: Caller = needs("retrain:write")) -> Response:
        """Ask for a new full model."""
        order = await said(request, RetrainOrder)
        asked = await self._models.retrain(order, caller)
        return done(f"Asked for a new model of {order.task} ({asked['request_id']}).")


def _serves(after: dict[str, Any]) -> str:
    champion = after["champion"]
    return (
        "No full model serves."
        if champion is None
        else f"Version {champion} serves; workers take it at its place in the log."
    )
