"""Sends good and hostile traffic at a rate, from a thread of its own, each record in the codec that it asks for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from benchmarks.torture.good import GoodTraffic, Shot
from benchmarks.torture.hostile import CODECS, HostileTraffic
from weir.streams.config.settings import Settings
from weir.streams.errors import in_words
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import link_security, transport_settings
from weir.streams.records import Record

_TICK_S: Final = 0.05
_LARGEST: Final = 1 << 27
"""Bytes of a record that the client takes: bombs are meant to leave it."""


class Feeder:
    """Sends until told to stop; a context manager.

    Parameters
    ----------
    settings : the brokers, and what Weir's topics are called there.
    good, hostile : what to send.
    rate : good events a second.
    share : of hostile records among all events.
    """

    def __init__(
        self, settings: Settings, good: GoodTraffic, hostile: HostileTraffic, *, rate: float, share: float
    ) -> None:
        self._settings, self._good, self._hostile = settings, good, hostile
        self._rate, self._share = rate, share
        self.sent: Counter[tuple[str, str]] = Counter()
        """Records by kind and by what has to become of them."""
        self._enough, self._failed = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run, name="feeder")

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def stop(self) -> None:
        """Send the labels that are left, and wait until all is acknowledged; raises what sending raised."""
        self.__exit__()
        self.check()

    def check(self) -> None:
        """Raise what ended the sending, if anything did; from any thread."""
        if self._failed:
            raise AssertionError(f"the feeder could not deliver: {in_words(self._failed[0])}") from self._failed[0]

    def _run(self) -> None:
        try:
            asyncio.run(self._feed())
        except BaseException as error:  # noqa: BLE001 - it is raised where the caller waits
            self._failed.append(error)

    async def _feed(self) -> None:
        producers = {codec: self._producer(codec) for codec in CODECS}
        try:
            await asyncio.gather(*(producer.start() for producer in producers.values()))
            await self._feed_to(producers)
        finally:
            await asyncio.gather(*(producer.stop() for producer in producers.values()))

    async def _feed_to(self, producers: dict[str | None, BatchProducer]) -> None:
        started, hostile, waiting = time.monotonic(), 0, deque[asyncio.Future[Any]]()
        while not self._enough.is_set():
            await asyncio.sleep(_TICK_S)  # the pace of a source, not a wait for anything
            now, owed = time.time(), int((time.monotonic() - started) * self._rate) - self._good.events
            shots = list(self._good.until(now, min(owed, 4_000)))
            due = int(self._good.events * self._share / (1.0 - self._share)) - hostile
            bad = list(self._hostile.until(now, due)) if due > 0 else []
            hostile += len(bad)
            waiting.extend(await self._send(producers, [*shots, *bad]))
            while waiting and (waiting[0].done() or len(waiting) > 1_000):
                await waiting.popleft()
        waiting.extend(await self._send(producers, self._good.due(np.inf)))
        await asyncio.gather(*waiting)

    def _producer(self, codec: str | None) -> BatchProducer:
        kind = codec or "none"
        fields = transport_settings(self._settings, "torture", compression_type=kind, max_record_bytes=_LARGEST)
        return BatchProducer(fields, link_security(self._settings.kafka))

    async def _send(
        self, producers: dict[str | None, BatchProducer], shots: Iterable[Shot]
    ) -> list[asyncio.Future[Any]]:
        now, groups = time.time(), defaultdict[tuple[str, int | None, str | None], list[Record]](list)
        for shot in shots:
            self.sent[shot.kind, shot.expect] += 1
            groups[shot.topic, shot.partition, shot.codec].append(Record(shot.key, shot.value, now))
        sending: list[asyncio.Future[Any]] = []
        for (topic, partition, codec), records in groups.items():
            name, producer = self._settings.topics.name(topic), producers[codec]
            if partition is None:
                sending.append(await producer.send(name, records))
            else:
                sending.append(await producer.send_to(name, partition, records))
        return sending
