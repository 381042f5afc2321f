"""The embedded logs as the service's: tasks run in a thread where records are appended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import RecordsDropped
from weir.streams.records import Record, RecordBatch
from weir.streams.service.embedded.appends import Append, Step
from weir.streams.service.embedded.service_engine import KEPT, OUTPUTS, Engine
from weir.streams.service.parts import NoLongerKept
from weir.streams.service.ports import Decoded, Listener, Listeners, Outcome, Span
from weir.streams.worker.warmup import warm_up, warm_up_records

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class EmbeddedServiceLog:
    """See ``ServiceLog``: inputs, outputs and what people did are three logs, and one to the service.

    Parameters
    ----------
    make_engine : the engine, given what shows its steps and what is told a fault; both are called by its threads.
    """

    def __init__(self, make_engine: Callable[[Callable[[list[Step]], None], Callable[[str], None]], Engine]) -> None:
        self.engine = make_engine(self._from_thread, self._fault_from_thread)
        self.epoch = self.engine.directory.epoch
        self.on_fault: Callable[[str], None] = log.error
        """Called in the event loop with why the engine ended by itself; the process must end then."""
        self.opened = asyncio.Event()
        """Set once ``start`` is through."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners = Listeners()
        self._ends: dict[tuple[str, int], int] = {}
        """Offsets behind what was shown: what may not be durable yet is not to be read either."""

    async def start(self) -> None:
        """Open the logs, and compute again what came after the newest checkpoint."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._open)
        for log_ in (self.engine.inputs, self.engine.outputs, self.engine.kept):
            self._ends.update(log_.ends())
        self.opened.set()

    def _open(self) -> None:
        log.info("compiling what is needed: half a minute or more on the first start on a machine, later a second")
        # Else the first caller waits for what the first event compiles.
        warm_up_records()
        for pipeline in self.engine.host.pipelines.values():
            warm_up(pipeline.task, side=False)
        self.engine.start()

    async def stop(self) -> None:
        """Finish what was appended, write a checkpoint, and close."""
        await asyncio.to_thread(self.engine.stop)

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        """See ``ServiceLog``; ``Problem`` 500 after a fault of the tasks."""
        if not records:
            return []
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.engine.submit(Append(topic, records, decoded, answer))
        return await answer

    async def call(self, ask: Callable[[], _T]) -> _T:
        """What ``ask`` gives, between two steps: nothing changes what it looks at meanwhile."""
        return await asyncio.wrap_future(self.engine.ask(ask))

    def _from_thread(self, steps: list[Step]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._show, steps)

    def _fault_from_thread(self, why: str) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.on_fault, why)

    def _show(self, steps: list[Step]) -> None:
        """Answer the callers, and hand new batches to the listeners."""
        for step in steps:
            # Before the answers: who is answered may read at once what it has appended.
            for batch in step.batches:
                self._ends[batch.topic, batch.partition] = batch.next_offset
                self._listeners.tell(batch)
            for append, answer in step.answers:
                # Of a caller that went away the future is cancelled.
                if append.answer is None or append.answer.done():
                    continue
                if isinstance(answer, Exception):
                    append.answer.set_exception(answer)
                else:
                    append.answer.set_result(answer)

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """See ``ServiceLog``."""
        return self._listeners.add(topics, listener)

    def _log_of(self, topic: str) -> EmbeddedLog:
        if topic in KEPT:
            return self.engine.kept
        return self.engine.outputs if topic in OUTPUTS else self.engine.inputs

    async def spans(self, topic: str) -> Mapping[int, Span]:
        """See ``ServiceLog``."""
        log_ = self._log_of(topic)
        return {p: Span(log_.first_offset(topic, p), self._end(topic, p)) for p in log_.end_offsets(topic)}

    def _end(self, topic: str, partition: int) -> int:
        return self._ends.get((topic, partition), 0)

    async def offsets_at(self, topic: str, ts: float) -> Mapping[int, int]:
        """See ``ServiceLog``."""
        log_ = self._log_of(topic)
        found = {p: await asyncio.to_thread(log_.offset_at, topic, p, ts) for p in log_.end_offsets(topic)}
        return {p: min(offset, self._end(topic, p)) for p, offset in found.items()}

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Sequence[RecordBatch]:
        """See ``ServiceLog``."""
        end, read_from = self._end(topic, partition), self._log_of(topic).read_from
        try:
            batches = await asyncio.to_thread(read_from, topic, partition, offset, max_bytes)
        except RecordsDropped as error:
            raise NoLongerKept(topic, partition, offset, error.first) from error
        return [b for b in batches if b.next_offset <= end]
