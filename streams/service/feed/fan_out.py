"""Hands new records to all clients of the feed: one match for equal filters, one encoding, one wake-up for a batch."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from weir.streams.config.serve_settings import FeedSettings
from weir.streams.ops.metric_registry import Registry
from weir.streams.records import RecordBatch
from weir.streams.service.feed.feed_client import End, FeedClient, heartbeat
from weir.streams.service.feed.feed_item import FeedFilter
from weir.streams.service.feed.place import LETTERS, Place, Shard
from weir.streams.service.feed.ring import Replay, Ring
from weir.streams.service.parts import Problem, set_within
from weir.streams.service.ports import ServiceLog

_PAUSE_S: Final = (0.005, 0.1)
_WOKEN: Final = 64
"""Clients that are woken in a row; others of the event loop are served then."""
_REFUSED: Final = (401, 403)
_KNOWN_S: Final = 5.0
"""Seconds between two looks at whether clients are still known."""


class FanOut:
    """The clients of the feed, and the newest records.

    Parameters
    ----------
    log : where records come from.
    settings : ``[serve.feed]``.
    metrics : where clients are counted.
    """

    def __init__(self, log: ServiceLog, settings: FeedSettings, metrics: Registry) -> None:
        self._log, self._settings, self._metrics = log, settings, metrics
        self.ring = Ring(settings.ring_bytes)
        self.replay = Replay(log, self.ring)
        self.clients: set[FeedClient] = set()
        """Everyone who is connected; those that have caught up are in a group, too."""
        metrics.gauge("weir_feed_clients").follow(lambda: len(self.clients))
        self._groups: dict[FeedFilter, set[FeedClient]] = {}
        self._arrived: list[RecordBatch] = []
        self._news, self._flushed = asyncio.Event(), asyncio.Event()
        self._left = asyncio.Event()
        self._locating = asyncio.Lock()
        self._located = False
        self._pause = _PAUSE_S[0]

    def arrived(self, batch: RecordBatch) -> None:
        """Take a new batch of the log; it goes out with the next flush."""
        self._arrived.append(batch)
        self._news.set()

    async def locate(self) -> None:
        """Find the ends of partitions that have been silent since the start: a place names all of them."""
        async with self._locating:
            self.ring.end.epoch = self._log.epoch
            for topic in () if self._located else LETTERS:
                for partition, span in (await self._log.spans(topic)).items():
                    # A partition that has brought a batch meanwhile began with that, and stays as it is.
                    self.ring.begin(Shard(topic, partition), span.end)
            self._located = True

    def join(self, client: FeedClient, place: Place) -> bool:
        """Make a client that has caught up one of the live ones.

        False where it is ahead of this process: it has been at another one, which was faster. It waits for the next
        flush, and reads what that brought by itself.
        """
        if any(place[shard] > self.ring.end[shard] for shard in place.shards(client.wanted.topics)):
            return False
        # Also of topics that it does not ask for: its id names all of them, and none is behind when it comes back.
        client.taken = self.ring.end.text()
        self._groups.setdefault(client.wanted, set()).add(client)
        return True

    async def next_flush(self) -> None:
        """Wait until the ring has news, but no longer than a heartbeat."""
        await set_within(self._flushed, self._settings.heartbeat_s)

    def remove(self, client: FeedClient) -> None:
        """Forget a client."""
        self.clients.discard(client)
        self._left.set()
        self._metrics.inc("weir_feed_ended_total", why=client.why or "left")
        if group := self._groups.get(client.wanted):
            group.discard(client)
            if not group:
                del self._groups[client.wanted]

    def end_all(self, why: End, detail: str = "") -> None:
        """End the feed of everyone."""
        for client in self.clients:
            client.end(why, detail)

    async def drain(self, within_s: float) -> None:
        """End the feed of everyone, and wait until they have been told; those that do not read are left behind."""
        self.end_all("drain")
        try:
            async with asyncio.timeout(within_s):
                # Looked at and cleared without an await in between, so that no leaving is missed.
                while self.clients:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Flush for ever. The more work a flush is, the longer the pause before the next one: half the time is free."""
        while True:
            await self._news.wait()
            await asyncio.sleep(self._pause)
            began = time.thread_time()  # not the clock: other processes of a busy machine are no work of ours
            woken = self.flush()
            for start in range(0, len(woken), _WOKEN):
                for client in woken[start : start + _WOKEN]:
                    client.news.set()
                await asyncio.sleep(0)
            self._pause = min(max(time.thread_time() - began, _PAUSE_S[0]), _PAUSE_S[1])

    def flush(self) -> list[FeedClient]:
        """Put what has arrived into the ring and before the live clients; those that have news, to be woken.

        All of it happens at once: a client joins before or after it, never in between.
        """
        self._news.clear()
        arrived, self._arrived = self._arrived, []
        frames: dict[FeedFilter, list[bytes]] = {wanted: [] for wanted in self._groups}
        for batch in arrived:
            self._match(batch, frames)
        place = self.ring.end.text()
        woken = []
        for wanted, found in frames.items():
            if found:
                payload = b"".join(found)
                for client in self._groups[wanted]:
                    client.offer(payload, place)
                    woken.append(client)
        self._flushed.set()
        # Another one for the next flush: who waits holds the one before, and nobody has to clear it.
        self._flushed = asyncio.Event()
        return woken

    def _match(self, batch: RecordBatch, frames: dict[FeedFilter, list[bytes]]) -> None:
        fed = self.ring.add(batch)
        if not (asking := [wanted for wanted in frames if batch.topic in wanted.topics]):
            return
        before, after = self.ring.end.around(fed.shard)
        for item in fed.items:
            frame = None
            for wanted in asking:
                if wanted.matches(item):
                    frame = frame or item.frame(before, after)
                    frames[wanted].append(frame)

    async def tick(self) -> None:
        """For ever: tell clients without news that the feed lives, and where it is; end those whose time is over."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.heartbeat_s / 2))
            self.beat(time.time())

    async def watch(self) -> None:
        """For ever: end the feeds of those who are no longer known, as a revoked key is within seconds elsewhere."""
        while True:
            await asyncio.sleep(_KNOWN_S)
            # A copy: clients come and go while each is asked about.
            for number, client in enumerate(list(self.clients)):
                try:
                    await client.still_known()
                except Problem as problem:
                    if problem.status in _REFUSED:  # and not 429: others at its address may have been wrong
                        client.end("expired")
                if number % _WOKEN == 0:
                    await asyncio.sleep(0)

    def beat(self, now: float) -> None:
        """One of these rounds, at ``now`` (epoch seconds)."""
        place, quiet_since = self.ring.end.text(), time.monotonic() - self._settings.heartbeat_s
        for client in [client for group in self._groups.values() for client in group]:
            if client.sent_at <= quiet_since and client.idle:
                client.offer(heartbeat(place), place)
                client.news.set()
        for client in self.clients:
            if client.expires_at is not None and client.expires_at <= now:
                client.end("expired")
