"""What a trainer reads of Kafka: ``retrain-requests`` as a member of the group, ``examples`` outside any.

Of the requests it commits what is in the journal; the examples are those of the tasks whose models are judged live,
each from where its document says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import RetrainRequest
from weir.streams.config import topics
from weir.streams.errors import BrokerError, in_words
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.reachable import calm_logs, disconnect
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.trainer.job.live_examples import decode_live
from weir.streams.trainer.task_supervisor import TaskSupervisor

log = logging.getLogger(__name__)


_WAIT_MS: Final = 500
_SESSION_MS: Final = 10_000
"""How long requests wait for another reader when a trainer died. No setting, for little depends on it: ``[trainer]``'s
``lease_s`` decides who does a job, and a session that ends too early only brings requests again, which are known by
their ids. It does not follow the lease, because brokers take no less than 6 s (``group.min.session.timeout.ms``)."""
_HEARTBEAT_MS: Final = _SESSION_MS // 5


class RequestReader:
    """One member of the group.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    topic : what ``retrain-requests`` is called on these brokers.
    group : the trainers'.
    pause : waits for so many seconds.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        group: str,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._pause = pause
        self.topic, self._where = topic, ", ".join(options["bootstrap_servers"])
        self._options, self._group = dict(options), group
        self._consumer: Any = None
        self._taking = False
        self._not_read = RepeatedTrouble(log, f"{topic} is not read", (KafkaError,))
        self._not_known = RepeatedTrouble(log, f"whether {topic} has more is not known", (KafkaError,))
        self.trouble = ""
        """Why the last read failed; empty when it did not."""

    async def start(self) -> None:
        """Join; raises ``BrokerError`` when no broker answers."""
        calm_logs()
        self._consumer = AIOKafkaConsumer(
            # Committed by hand, once the journal has what came: a commit that ran ahead would lose requests. A new
            # group begins with the oldest, as requests are known by their ids.
            self.topic, **self._options, group_id=self._group, enable_auto_commit=False, auto_offset_reset="earliest",
            session_timeout_ms=_SESSION_MS, heartbeat_interval_ms=_HEARTBEAT_MS,
        )  # fmt: skip
        try:
            await self._consumer.start()
        except KafkaError as error:
            await disconnect(self._consumer)
            raise BrokerError(f"{self._where}: {in_words(error)}; see [kafka] in the settings") from error

    async def stop(self) -> None:
        """Leave."""
        if self._consumer is not None:
            await disconnect(self._consumer)

    async def read(self, take: Callable[[RetrainRequest], Awaitable[None]]) -> int:
        """Give what came to ``take``, one after the other, then commit; returns how many records came."""
        try:
            found = await self._consumer.getmany(timeout_ms=_WAIT_MS)
            records = [record for part in found.values() for record in part]
            # The consumer's position is behind these already; without this `behind` would say that all is taken.
            self._taking = bool(records)
            for record in records:
                request = _parse(record)
                if request is not None:
                    await take(request)
            if records:
                await self._consumer.commit()
            self.trouble = ""
            self._not_read.over()
        except KafkaError as error:  # the group moved on, or brokers are away: what was not committed comes again
            self.trouble = f"{self._where}: {in_words(error)}"
            self._not_read.failed(error)
            # aiokafka may raise at once, and without end: its coordinator's task has failed, or a right is missing.
            await self._pause(_WAIT_MS / 1e3)
            return 0
        finally:
            self._taking = False
        return len(records)

    async def behind(self) -> bool:
        """Whether there are requests that are not in the journal yet, or it cannot be known now."""
        if self._taking:
            return True
        lanes = self._consumer.assignment()
        try:
            ends = await self._consumer.end_offsets(lanes) if lanes else {}
            more = not lanes or any([await self._consumer.position(lane) < ends[lane] for lane in lanes])
        except KafkaError as error:  # the group moved on, or brokers are away: as in `read`
            self._not_known.failed(error)
            return True
        self._not_known.over()
        return more


def _parse(record: Any) -> RetrainRequest | None:
    raw = record.value or b""
    if (fault := explain(RetrainRequest, raw)) is None:
        return RetrainRequest.model_validate_json(raw)
    log.warning("%s-%d@%d: not a request: %s", record.topic, record.partition, record.offset, fault)
    return None


_RECORDS: Final = 2_000


class ExamplesFollower:
    """Reads the one partition, outside any group.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    benches : the tasks; those that this trainer does not hold are passed over.
    topic : what ``examples`` is called on these brokers.
    """

    def __init__(
        self, options: Mapping[str, Any], benches: Sequence[TaskSupervisor], topic: str = topics.EXAMPLES
    ) -> None:
        self._reader, self._benches = RangeReader(options, topic, wait_ms=500), benches
        self.offset = 0
        """Of the next record to read."""

    async def start(self) -> None:
        """Connect, and stand at the end: what was labelled before is of no model that is judged from now on."""
        await self._reader.__aenter__()
        _, self.offset = await self._reader.bounds(0)
        for bench in self._benches:
            bench.trainer.offset = self.offset
        await self._reader.seek(0, self.offset)

    async def stop(self) -> None:
        """Disconnect."""
        await self._reader.__aexit__(None, None, None)

    async def step(self) -> int:
        """Take in what came; returns how many records."""
        await self._back()
        piece = await self._reader.fetch(_RECORDS)
        if not piece.records:
            return 0
        self.offset = await self._reader.position()
        for bench in self._benches:
            # In a thread: a decision draws hundreds of resamples, and the journal may hang.
            if bench.held:
                await asyncio.to_thread(self._give, bench, piece.offsets, [r.value for r in piece.records])
            else:
                bench.trainer.offset = self.offset
        return len(piece.records)

    def _give(self, bench: TaskSupervisor, offsets: Sequence[int], values: Sequence[bytes]) -> None:
        trainer = bench.trainer
        new = [value for offset, value in zip(offsets, values, strict=True) if offset >= trainer.offset]
        # Another task may have had the reader go back: what this one has taken in stays taken in.
        bench.give(decode_live(new, bench.name), max(self.offset, trainer.offset))

    async def _back(self) -> None:
        """Go back where a task was taken over whose document stands further back than we do."""
        wanted = min((bench.trainer.offset for bench in self._benches if bench.held), default=self.offset)
        if wanted < self.offset:
            first, _ = await self._reader.bounds(0)
            # Retention may have taken what the document asks for.
            self.offset = max(wanted, first)
            await self._reader.seek(0, self.offset)
