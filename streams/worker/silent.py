"""What lanes send to, and consume from, where what they make is in Kafka already: in a rebuild."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from weir.online.batch import IntVector
from weir.streams.kafka.produce.producer import Sent
from weir.streams.kafka.produce.record_batches import Columns


class Silent:
    """Stands in for producer and consumer: everything is sent, taken and complete at once, and goes nowhere."""

    def limit(self, *_: Any, **__: Any) -> int:
        """Nothing is sent, so nothing need fit."""
        return 1 << 30

    async def send(self, *_: Any, **__: Any) -> asyncio.Future[list[Sent]]:
        """Acknowledged."""
        return _done([])

    async def send_parts(
        self, topic: str, columns: Columns, parts: Sequence[tuple[int, IntVector]]
    ) -> list[asyncio.Future[list[Sent]]]:
        """Acknowledged."""
        del topic, columns
        return [_done([]) for _ in parts]

    async def partition_count(self, *_: Any, **__: Any) -> int:
        """Nothing is passed on."""
        return 0

    def _always(self, *_: Any, **__: Any) -> bool:
        """Nobody takes a batch away, and nobody is told of it."""
        return True

    def _never(self, *_: Any, **__: Any) -> bool:
        """Time does not pass, and there is nobody to fall behind."""
        return False

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Nothing is fetched."""

    send_to = send
    take = complete = _always
    at_end = rewind = resume = _never
    hold = halt = _nothing


def _done(result: list[Sent]) -> asyncio.Future[list[Sent]]:
    future: asyncio.Future[list[Sent]] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
