"""When records arrive in a topic, by the ends of its partitions: no record is read, so watching costs little."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition


class Arrivals:
    """Watches from a thread of its own; a context manager. Times are monotonic seconds, exact to ``every_s``."""

    def __init__(self, address: str, topic: str, partitions: int, every_s: float = 0.02) -> None:
        self._address, self._topic, self._every_s = address, topic, every_s
        self.grown: dict[int, list[tuple[float, int]]] = {p: [] for p in range(partitions)}
        """By partition: when its end moved, and to where."""
        self._enough, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), name="arrivals")

    def __enter__(self) -> Arrivals:
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    async def _watch(self) -> None:
        consumer: Any = AIOKafkaConsumer(bootstrap_servers=self._address, client_id="arrivals")
        await consumer.start()
        lanes = [TopicPartition(self._topic, partition) for partition in self.grown]
        while not self._enough.is_set():
            ends = await consumer.end_offsets(lanes)
            now = time.monotonic()
            for lane, end in ends.items():
                moved = self.grown[lane.partition]
                if end > (moved[-1][1] if moved else 0):
                    moved.append((now, end))
            self._ready.set()
            await asyncio.sleep(self._every_s)  # the interval of looking, not a wait for anything
        await consumer.stop()

    @property
    def count(self) -> int:
        """Records so far."""
        return sum(moved[-1][1] for moved in self.grown.values() if moved)

    def span(self) -> tuple[float, float, int]:
        """When the first and the last came, and how many between."""
        first = min(moved[0] for moved in self.grown.values() if moved)
        last = max(moved[-1][0] for moved in self.grown.values() if moved)
        return first[0], last, self.count - first[1]

    def flows_since(self, when: float) -> bool:
        """Every partition got something after ``when``."""
        return all(moved and moved[-1][0] > when for moved in self.grown.values())

    def longest_gap(self, since: float) -> float:
        """The longest time from ``since`` on that any partition got nothing, up to its newest record."""
        worst = 0.0
        for moved in self.grown.values():
            before = max((t for t, _ in moved if t <= since), default=since)
            times = [before, *(t for t, _ in moved if t > since)]
            worst = max(worst, *(b - a for a, b in itertools.pairwise(times)), 0.0)
        return worst
