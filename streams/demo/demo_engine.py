"""What visitors of the demo's console append and ask, done by the demo's own loop between two blocks.

The service behind the console is the embedded one: its log, its views and its pages. Only the engine below is this one,
because the demo's promises are not those of the service's engine: equal seeds give equal streams, a training takes
effect at a place in event time, and one log holds inputs and outputs, which a crash cuts back to the newest checkpoint.
So what a person does is followed by a checkpoint at once, beside the loop: a visitor is to see within a second what the
model learns. A kill -9 within that second takes it back, and the tables are then made anew from the log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Final, TypeVar

from weir.online.codec.wire import RetrainRequest
from weir.online.stages.admission import DECODERS
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import READ
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.service.embedded.appends import Append, MergedAppends, Step
from weir.streams.service.embedded.data_directory import DataDirectory
from weir.streams.service.embedded.service_engine import answer_by
from weir.streams.service.problems import OverloadError, Problem

if TYPE_CHECKING:
    from weir.streams.demo.demo_loop import Demo

_T = TypeVar("_T")
_WAITING: Final = 1_000
"""Appends and questions that may wait; a visitor makes a few a second."""
_LOOK_S: Final = 0.1
"""Between two looks at whether the demo is to stop."""


class DemoEngine:
    """See the module; to the service it is an ``Engine``.

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
                work = self._waiting.get(timeout=min(left, _LOOK_S)) if left > 0 else self._waiting.get_nowait()
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
