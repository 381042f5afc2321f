"""The asking side: a score lane's rows go out, answers that come within the deadline come back, the rest is zeros.

Late answers are dropped, but seen: they tell how far behind the inference workers are
(`weir.streams.worker.inference.circuit`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from weir.online.batch import FloatMatrix
from weir.online.task.full_spec import columns
from weir.streams.errors import in_words
from weir.streams.kafka.produce.producer import Sent
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record
from weir.streams.worker.inference.circuit import Circuit
from weir.streams.worker.inference.inference_wire import blocks, decode_answer, encode_request
from weir.streams.worker.inference.remote_port import Rows

if TYPE_CHECKING:
    from weir.streams.kafka.produce.producer import BatchProducer

log = logging.getLogger(__name__)

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
        return made, sent

    def answered(self, raw: bytes) -> None:
        """An answer came, perhaps to somebody else's request."""
        try:
            answer = decode_answer(raw)
        except ValueError as error:
            log.warning("an answer cannot be used: %s", in_words(error))
            return
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

    def circuits(self) -> dict[tuple[str, int], bool]:
        """Of each task and partition, whether batches wait for answers."""
        return {key: circuit.waits for key, circuit in self._circuits.items()}

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
            if not self._waiting[ident].wanted:
                del self._waiting[ident]
