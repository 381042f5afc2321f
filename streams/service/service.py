"""One process of the service: its parts, and the order in which they start and stop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from fastapi import APIRouter

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.ops.metric_registry import Registry
from weir.streams.service.access.access import Access
from weir.streams.service.access.admin_routes import AdminRoutes
from weir.streams.service.access.scopes import Caller
from weir.streams.service.console.console import Console
from weir.streams.service.feed.feed_routes import Feed
from weir.streams.service.intake.decisions import Decisions
from weir.streams.service.intake.door import Door
from weir.streams.service.notify.notifier import Notifier
from weir.streams.service.parts import Part
from weir.streams.service.ports import ServiceLog, Serving
from weir.streams.service.store.alert_store import Store
from weir.streams.service.views.dead_letter_routes import DeadLetters
from weir.streams.service.views.entities import Entities
from weir.streams.service.views.model_routes import Models
from weir.streams.service.views.sampling import Sampling


class Service:
    """The service: a log, the tasks on it, and the parts that programs and people talk to.

    Parameters
    ----------
    settings : all of them; ``[serve]`` is this process's.
    tasks : the tasks that run, here or in the fleet.
    log, serving : the system behind the service.
    """

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec], log: ServiceLog, serving: Serving) -> None:
        self.settings, self.tasks, self.log, self.serving = settings, tasks, log, serving
        self.metrics = Registry()
        # Before the store: it makes the database's file, which nobody else on this machine may read.
        self.access = Access(self)
        self.door = Door(self)
        self.decisions = Decisions(self)
        self.feed, self.store, self.sampling = Feed(self), Store(self), Sampling(self)
        self.notifier = Notifier(self)
        self.parts: list[Part] = [self.door, self.decisions, self.feed, self.store, self.sampling, self.notifier]
        self.admin, self.models, self.letters = AdminRoutes(self), Models(self), DeadLetters(self)
        views = (
            self.door, self.decisions, self.feed, self.store, self.notifier.routes, self.access, self.admin,
            self.models, Entities(self), self.letters,
        )  # fmt: skip
        self.routers: list[APIRouter] = [view.router for view in views]
        self.often: list[APIRouter] = [self.door.router, self.decisions.router]
        """Those of them whose handlers are called hundreds of times a second."""
        self.console: Console | None = Console(self)
        """Pages for people; none where only programs are served."""
        self._parts, self._running = AsyncExitStack(), AsyncExitStack()
        self.fault = ""
        """Why the process has to end, where it has."""

    def seen_by(self, caller: Caller) -> list[TaskSpec]:
        """The tasks that a caller may see."""
        return [task for task in self.tasks if caller.sees(task.name)]

    def fail(self, why: str) -> None:
        """Ask for the end of the process: nothing that it answers could be believed any more."""
        # The first one: what fails after it mostly fails because of it.
        self.fault = self.fault or why

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            # The log opens last and closes last: a part that stops may still have something to append.
            last = await starting.enter_async_context(AsyncExitStack())
            parts = await starting.enter_async_context(AsyncExitStack())
            for part in self.parts:
                await part.start()
                parts.push_async_callback(part.stop)
            await self.log.start()
            last.push_async_callback(self.log.stop)
            await self.access.start()
            last.push_async_callback(self.access.stop)  # what is answered while the parts stop is in the audit, too
            # Nobody has connected yet: the server listens once all of this is done.
            await self.decisions.recent.fill(self.log)
            self.store.follow()
            await self.notifier.follow()
            self._parts, self._running = parts, starting.pop_all()
        return self

    async def drain(self) -> None:
        """Stop the parts, so that long answers such as feeds end; the log stays open for what is being answered."""
        await self._parts.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()
