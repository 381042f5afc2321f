"""Reads the answers of the partitions whose lanes this worker owns, from their end on and outside of any group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from weir.streams.errors import BrokerError, in_words
from weir.streams.kafka.reachable import disconnect
from weir.streams.ops.repeated_trouble import RepeatedTrouble

log = logging.getLogger(__name__)

_POLL_MS: Final = 500


class ResultsReader:
    """Hands each answer to ``take``.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    topic : what ``inference-results`` is called on these brokers.
    take : told each record's value.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, take: Callable[[bytes], None]) -> None:
        self._options, self.topic, self._take = dict(options), topic, take
        self._consumer: Any = None
        self._owned: set[int] = set()
        self._lock = asyncio.Lock()
        self._some = asyncio.Event()

    async def start(self) -> None:
        """Connect; raises ``BrokerError`` when no broker answers."""
        self._consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,  # every asker reads the answers of its own partitions; no group shares them out
            enable_auto_commit=False,
            auto_offset_reset="latest",
            fetch_max_wait_ms=_POLL_MS,
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            await disconnect(self._consumer)
            self._consumer = None
            where = ", ".join(self._options["bootstrap_servers"])
            raise BrokerError(f"{where}: {self.topic} cannot be read: {in_words(error)}; see [kafka]") from error

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await disconnect(consumer)

    async def own(self, partitions: Iterable[int]) -> None:
        """Read these partitions from now on: those that are new from their end, the others where they are."""
        # Two rebalances close together: the later one has to have the last word.
        async with self._lock:
            wanted = set(partitions)
            if wanted == self._owned or self._consumer is None:
                return
            # Before `assign`, which forgets where each stood.
            kept = {p: await self._position(p) for p in wanted & self._owned}
            self._owned = set()  # until all is in place: whoever is cut short here is to begin anew the next time
            if not wanted:
                self._consumer.unsubscribe()
                self._some.clear()
                return
            self._consumer.assign([TopicPartition(self.topic, p) for p in wanted])
            for p, offset in kept.items():
                self._consumer.seek(TopicPartition(self.topic, p), offset)
            new = [TopicPartition(self.topic, p) for p in wanted - kept.keys()]
            if new:
                await self._consumer.seek_to_end(*new)
            for tp in new:
                await self._consumer.position(tp)  # requests go out only now: their answers come behind it
            self._owned = wanted
            self._some.set()

    async def run(self) -> None:
        """Read answers until cancelled; while the brokers are away it tries again."""
        failures = RepeatedTrouble(log, f"{self.topic} is not read", (KafkaError,))
        while True:
            await self._some.wait()
            try:
                found = await self._consumer.getmany(timeout_ms=_POLL_MS)
                failures.over()
            except KafkaError as error:
                failures.failed(error)
                await asyncio.sleep(_POLL_MS / 1000)
                continue
            for records in found.values():
                for record in records:
                    self._take(record.value or b"")

    async def _position(self, partition: int) -> int:
        return int(await self._consumer.position(TopicPartition(self.topic, partition)))
