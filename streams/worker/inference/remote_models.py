"""The asking side: a score lane's rows go out, answers that come within the deadline come back, the rest is zeros.

Late answers are dropped, but seen: they tell how far behind the inference workers are (`Circuit`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.full_columns import SEEN
from weir.online.stages.scoring import FeaturedBatch
from weir.online.task.full_spec import FullSpec, columns
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.errors import in_words
from weir.streams.kafka.produce.producer import Sent
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record
from weir.streams.worker.inference.inference_wire import blocks, decode_answer, encode_request
from weir.streams.worker.inference.result_reader import ResultsReader

if TYPE_CHECKING:
    from weir.streams.kafka.produce.producer import BatchProducer
    from weir.streams.worker.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rows:
    """What one task wants to know of one batch."""

    task: str
    spec: FullSpec
    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    x: FloatMatrix
    """``(n, D)``: the full model's columns."""

    def part(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop``."""
        ids, entities = self.event_id[start:stop], self.entity_id[start:stop]
        return Rows(self.task, self.spec, ids, entities, self.ts[start:stop], self.x[start:stop])


def rows_of(task: TaskSpec, featured: FeaturedBatch) -> Rows:
    """What a task with ``[full]`` asks of its rows."""
    assert task.full is not None
    batch = featured.batch
    return Rows(task.name, task.full, list(batch.event_id), featured.keys, batch.ts, featured.full_x)


LIMIT: Final = 3


class Circuit:
    """When to stop waiting for answers, of one task in one partition: time is an argument, so it knows no clock.

    After ``limit`` deadlines were missed in a row nobody waits any more, because every batch would cost one; requests
    still go out. The first answer that came in time says that it is worth waiting again: an answer to an old request,
    out of a backlog that is being worked off, does not.

    Parameters
    ----------
    deadline_s : how long an answer is worth waiting for.
    limit : missed deadlines in a row after which nobody waits.

    >>> circuit = Circuit(0.1, limit=2)
    >>> circuit.missed(), circuit.missed(), circuit.waits
    (False, True, False)
    >>> circuit.answered(5.0), circuit.waits, circuit.answered(0.02), circuit.waits
    (False, False, True, True)
    """

    def __init__(self, deadline_s: float, limit: int = LIMIT) -> None:
        self.deadline_s, self.limit = deadline_s, limit
        self._missed = 0

    @property
    def waits(self) -> bool:
        """Whether a batch waits for its answers."""
        return self._missed < self.limit

    def missed(self) -> bool:
        """A batch went on without an answer; whether nobody waits from now on, and did before."""
        self._missed += 1
        return self._missed == self.limit

    def answered(self, age_s: float) -> bool:
        """An answer came ``age_s`` after its request; whether it is worth waiting again, and was not before."""
        if age_s > self.deadline_s:  # out of a backlog: the next one would be late as well
            return False
        reopened = not self.waits
        self._missed = 0
        return reopened


REMEMBERED: Final = 4_000
"""Requests without an answer that are remembered, to know how old an answer is."""


@dataclass(slots=True)
class _Waiting:
    """A request that has no answer."""

    circuit: Circuit
    task: str
    sent_at: float
    into: FloatMatrix
    """The rows of the batch's matrix that the answer fills."""
    done: asyncio.Future[None]
    wanted: bool
    """Whether the batch still waits for it."""


class RemoteModels:
    """Asks inference workers, for all score lanes of one worker.

    Parameters
    ----------
    records : sends requests.
    topic : what ``inference-requests`` is called on these brokers.
    sender : unique among everybody who asks.
    metrics : where waiting is counted.
    clock : monotonic seconds.
    """

    def __init__(
        self, records: BatchProducer, topic: str, sender: str, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._records, self._topic, self._sender = records, topic, sender
        self._metrics, self._clock = metrics, clock
        self._numbers: Iterator[int] = itertools.count()
        self._waiting: dict[str, _Waiting] = {}
        self._circuits: dict[tuple[str, int], Circuit] = {}

    async def ask(
        self, partition: int, asks: Sequence[Rows], now: float
    ) -> tuple[list[FloatMatrix], asyncio.Future[list[Sent]]]:
        """The columns of every batch of rows, in order, and the acknowledgement of the requests.

        ``now`` is the time the requests are sent, epoch seconds. Returns when all answers have come or are not worth
        waiting for.
        """
        # Zeros are the answer where none comes; `full.known` is among the columns, so a model can tell.
        made = [np.zeros((len(rows.event_id), len(columns(rows.spec)))) for rows in asks]
        open_: list[tuple[Circuit, str, list[_Waiting]]] = []
        records: list[Record] = []
        for rows, into in zip(asks, made, strict=True):
            circuit = self._circuit(rows, partition)
            waiting = [self._request(rows, circuit, part, into[part], records, now) for part in blocks(*rows.x.shape)]
            open_.append((circuit, rows.task, waiting))
        self._forget()
        try:
            sent = await self._records.send_to(self._topic, partition, records)
            for circuit, task, waiting in open_:
                await self._wait(circuit, f"{task} in partition {partition}", task, waiting)
        finally:  # also when the lane is closed meanwhile
            for _, _, waiting in open_:
                for each in waiting:
                    each.wanted = False  # a late answer still tells the circuit how late it is
        for rows, values in zip(asks, made, strict=True):
            if unknown := len(values) - int(np.count_nonzero(values[:, _KNOWN])):
                self._metrics.inc("weir_degraded_total", unknown, task=rows.task)
        return made, sent

    def answered(self, raw: bytes) -> None:
        """An answer came, perhaps to somebody else's request."""
        try:
            answer = decode_answer(raw)
        except ValueError as error:
            log.warning("an answer cannot be used: %s", in_words(error))
            return
        # Also where nobody waits any more: its age tells the circuit whether waiting pays again.
        waiting = self._waiting.pop(answer.id, None)
        if waiting is None:  # answered before, forgotten, or asked by somebody else
            return
        age = self._clock() - waiting.sent_at
        self._metrics.observe("weir_full_answer_seconds", age, task=waiting.task)
        if waiting.circuit.answered(age):
            log.warning("task %s: answers of inference workers come in time again", waiting.task)
        if waiting.wanted and not waiting.done.done():
            values = answer.values
            if values.shape == waiting.into.shape:  # else the task files differ: the rows stay without an answer
                waiting.into[:] = values
            waiting.done.set_result(None)

    def waiting(self) -> Mapping[str, int]:
        """By task, in how many partitions batches wait for answers."""
        found = Counter({task: 0 for task, _ in self._circuits})
        found.update(task for (task, _), circuit in self._circuits.items() if circuit.waits)
        return found

    def _circuit(self, rows: Rows, partition: int) -> Circuit:
        key = (rows.task, partition)
        if key not in self._circuits:
            self._circuits[key] = Circuit(rows.spec.deadline)
        return self._circuits[key]

    def _request(
        self, rows: Rows, circuit: Circuit, part: slice, into: FloatMatrix, records: list[Record], now: float
    ) -> _Waiting:
        ident = f"{self._sender}-{next(self._numbers)}"
        value = encode_request(
            ident, rows.task, rows.event_id[part], rows.entity_id[part], rows.ts[part], np.asarray(rows.x[part])
        )
        records.append(Record(rows.task.encode(), value, now))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(circuit, rows.task, self._clock(), into, done, circuit.waits)
        self._waiting[ident] = waiting  # before it is sent: the answer could come first
        return waiting

    async def _wait(self, circuit: Circuit, where: str, task: str, waiting: list[_Waiting]) -> None:
        left = [each.done for each in waiting if each.wanted and not each.done.done()]
        if left:
            # From when it was sent: the deadline is of the event's answer, and other tasks may have been waited for
            # before.
            timeout = waiting[0].sent_at + circuit.deadline_s - self._clock()
            await asyncio.wait(left, timeout=max(timeout, 0.0))
        if any(each.wanted and not each.done.done() for each in waiting):
            self._metrics.inc("weir_full_missed_total", task=task)
            if circuit.missed():
                log.warning(
                    "task %s: %d batches in a row had no answer within %g s; deciding without the full model and "
                    "without waiting until one comes in time: see whether 'weir inference' runs",
                    where, circuit.limit, circuit.deadline_s,
                )  # fmt: skip

    def _forget(self) -> None:
        """Of requests that nobody answers, the oldest."""
        old = itertools.islice(self._waiting, max(len(self._waiting) - REMEMBERED, 0))
        for ident in list(old):
            # One that a batch still waits for stays, however many there are.
            if not self._waiting[ident].wanted:
                del self._waiting[ident]


_KNOWN = SEEN.index("full.known")


class RemoteClient(RemoteModels):
    """`RemoteModels` of one worker, with the reader of the answers."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        # A restarted worker must not take the answers to the requests of the one before it.
        sender = f"{ctx.settings.worker.name()}-{os.urandom(6).hex()}"
        requests, results = ctx.name(topics.INFERENCE_REQUESTS), ctx.name(topics.INFERENCE_RESULTS)
        super().__init__(ctx.records, requests, sender, ctx.metrics, time.monotonic)
        self._reader = ResultsReader(ctx.settings.kafka.client_options("results"), results, self.answered)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect; raises ``BrokerError`` when no broker answers."""
        await self._reader.start()
        self._running = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Disconnect."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._reader.stop()

    async def _run(self) -> None:
        try:
            await self._reader.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, no answer would come any more
            await self._ctx.crash(error)

    async def own(self, partitions: Iterable[int]) -> None:
        """These are the partitions whose answers come from now on."""
        await self._reader.own(partitions)
