"""The console of a demo: the service's pages over the demo's own log and tasks, in a thread beside its loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, Full, Queue
from typing import Final, Self, TypeVar, cast

import uvloop

from weir.online.codec.wire import RetrainRequest
from weir.online.stages.admission import DECODERS
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.demo.demo_loop import Demo
from weir.streams.embedded.embedded_host import READ
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import UsageError
from weir.streams.service.embedded.appends import Append, MergedAppends, Step
from weir.streams.service.embedded.data_directory import DataDirectory
from weir.streams.service.embedded.embedded_service import EmbeddedServing
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.embedded.service_engine import Engine, answer_by
from weir.streams.service.parts import OverloadError, Problem
from weir.streams.service.run import Server, configured, listening
from weir.streams.service.service import Service

FOLDER: Final = "console"
"""Of the demo's directory: alerts, who may enter, and the log of the service."""
PORTS: Final = range(8080, 8100)
"""The first free one of these, where none is asked for."""
_HOST: Final = "127.0.0.1"
_LOOK_S: Final = 0.02
_YEARS: Final = 100 * 365 * 86_400.0
"""Alerts of the simulated past are old as soon as they open; they stay."""


class DemoConsole:
    """Serves while the context lasts; the demo's loop has to call ``demo.visitors`` meanwhile.

    Parameters
    ----------
    demo : what is looked at.
    port : where to listen; the first free one of ``PORTS`` when not given.

    Raises
    ------
    UsageError
        The port is taken.
    """

    def __init__(self, demo: Demo, port: int | None = None) -> None:
        self.directory, tasks = demo.directory / FOLDER, [p.task for p in demo.host.pipelines.values()]
        self._demo, self._held, self._bound = demo, DataDirectory(self.directory, tasks), bound_at(port)
        serve = {
            "directory": self.directory,
            "host": _HOST,
            "port": self._bound.getsockname()[1],
            "alerts_kept": _YEARS,
            # The tables may hold alerts of what was cut off the log.
            "rebuild": demo.cut,
        }
        models = {"registry": str(demo.directory / "models"), "provider": "cpu"}
        settings = Settings.model_validate({"serve": serve, "models": models})
        # Not one by inheritance: of the service's engine it has the interface, which a test compares, and no part.
        log = EmbeddedServiceLog(lambda show, _: cast(Engine, self._engine_that(show)))
        self._service = service = Service(settings, tasks, log, EmbeddedServing(log))
        self._server = Server(configured(service, settings.serve), service, self._opened)
        self._thread = threading.Thread(target=self._run, name="weir-console", daemon=True)
        self._error: BaseException | None = None

    def _engine_that(self, show: Callable[[list[Step]], None]) -> DemoEngine:
        self._engine = DemoEngine(self._demo, self._held, show)
        return self._engine

    def __enter__(self) -> Self:
        self._demo.visitors = self._engine
        self._thread.start()
        while not self._demo.link and self._thread.is_alive():
            self._engine.serve(_LOOK_S, threading.Event())  # a start may ask something of the demo
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        while self._thread.is_alive():  # what is answered last is appended, too
            self._engine.serve(_LOOK_S, threading.Event())
        self._demo.visitors = None
        self._demo.checkpoint()

    def _opened(self, link: str) -> None:
        self._demo.link = link

    def _run(self) -> None:
        try:
            # The socket belongs to this thread from here on, and is closed with its loop.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, self._bound:
                runner.run(self._serving())
        except BaseException as error:  # noqa: BLE001 - raised in the demo's thread
            self._error = error

    async def _serving(self) -> None:
        async with self._service:
            await self._server.serve_at(self._bound)


def bound_at(port: int | None) -> socket.socket:
    """A socket at the port, or at the first free one of ``PORTS``; raises ``UsageError`` where there is none."""
    for candidate in PORTS[:-1] if port is None else ():
        try:
            return listening(_HOST, candidate)
        except UsageError:
            continue
    return listening(_HOST, PORTS[-1] if port is None else port)


_T = TypeVar("_T")
_WAITING: Final = 1_000
"""Appends and questions that may wait; a visitor makes a few a second."""
_ASKED_S: Final = 0.1
"""Between two looks at whether the demo is to stop."""


class DemoEngine:
    """What visitors append and ask, done by the demo's own loop between two blocks; to the service it is an ``Engine``.

    The service behind the console is the embedded one: its log, its views and its pages. Only the engine is this one,
    because the demo's promises are not those of the service's engine: equal seeds give equal streams, a training takes
    effect at a place in event time, and one log holds inputs and outputs, which a crash cuts back to the newest
    checkpoint. So what a person does is followed by a checkpoint at once, beside the loop: a visitor is to see within a
    second what the model learns. A kill -9 within that second takes it back, and the tables are then made anew from the
    log.

    Parameters
    ----------
    demo : whose loop calls ``serve``.
    directory : of the service's own files; the demo's log is elsewhere.
    show : told what was appended and answered; called in the demo's thread.
    """

    def __init__(self, demo: Demo, directory: DataDirectory, show: Callable[[list[Step]], None]) -> None:
        self.directory, self.host, self.outputs = directory, demo.host, demo.log
        self.inputs: EmbeddedLog = demo.log
        self.kept: EmbeddedLog = demo.log
        self._demo, self._show = demo, show
        self._waiting = Queue[Callable[[], None]](_WAITING)
        self._step = Step([])
        self._open = True
        self._keep = False
        """Whether something was appended that is in no checkpoint yet, and is to be."""

    def start(self) -> None:
        """The demo has resumed, and runs by itself."""

    def stop(self) -> None:
        """Show nothing any more: the service ends before the demo; blocks."""
        self.ask(self._close).result()

    def _close(self) -> None:
        self._open = False
        self.directory.close()

    def troubles(self) -> list[str]:
        """Nothing: where the tasks crash, so does the demo."""
        return []

    def submit(self, append: Append) -> None:
        """Queue records; raises ``Problem`` (409) for events, and ``OverloadError``."""
        if append.topic in DECODERS:
            raise Problem(
                409, "Simulated", "the demo makes its own events, and its time is not today; weir serve takes yours"
            )
        self._put(partial(self._append, append))

    def ask(self, what: Callable[[], _T]) -> Future[_T]:
        """What ``what`` gives between two blocks, in the demo's thread; raises ``OverloadError``."""
        answer: Future[_T] = Future()
        self._put(partial(answer_by, what, answer))
        return answer

    def _put(self, work: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(work)
        except Full:
            raise OverloadError(f"{_WAITING} requests wait for the demo; ask again in a while") from None

    # -- the demo's thread --------------------------------------------------------------------------------------------

    def serve(self, wait_s: float, stop: threading.Event) -> None:
        """Show what was appended, and do what is asked until so many seconds are over, or ``stop`` is set."""
        end = time.monotonic() + wait_s
        self._shown()
        while True:
            left = end - time.monotonic()
            try:
                work = self._waiting.get(timeout=min(left, _ASKED_S)) if left > 0 else self._waiting.get_nowait()
            except Empty:
                if left <= 0 or stop.is_set():
                    return
                continue
            work()
            # Not after each: what a burst appended goes out in one step.
            if self._waiting.empty():
                self._shown()

    def _shown(self) -> None:
        """Tell everyone what was appended since."""
        # One that could not begin, as another is being written, is tried at the next turn.
        self._keep = self._keep and not self._demo.keep()
        step, self._step = self._step, Step([])
        step.batches = list(self.outputs.take())
        if self._open and (step.batches or step.answers):
            self._show([step])

    def _append(self, append: Append) -> None:
        """Put records into the log where event time is now: a label of today would be months early."""
        stamped = append.topic in READ
        records = [r._replace(ts=self._demo.event_ts) for r in append.records] if stamped else append.records
        batches = self.outputs.append(append.topic, records)
        made = [(len(batch.records), self.host.process(batch) if stamped else None) for batch in batches]
        self._step.answers += MergedAppends(append.topic, [append]).answers(made)
        if append.topic == topics.RETRAIN_REQUESTS:
            for record in append.records:
                self._demo.request(RetrainRequest.model_validate_json(record.value))
        # The audit of a look at a page is not worth a checkpoint; it is in the next one.
        self._keep = self._keep or append.topic != topics.AUDIT
