"""Asks where partitions of a topic begin and end, again and again, over one connection that stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from weir.streams.errors import BrokerError
from weir.streams.kafka.consume.range_reader import RangeReader


class LogBounds:
    """Where the partitions of one topic begin and end; connects when first asked, and anew after an error.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    topic : the topic.
    """

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._options, self._topic = dict(options), topic
        self._reader: RangeReader | None = None
        self._turn = asyncio.Lock()

    async def of(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the one behind the last that may be read now.

        Raises
        ------
        BrokerError
            No broker answered; the next call connects anew.
        UsageError
            There is no such topic.
        """
        async with self._turn:
            if self._reader is None:
                self._reader = await RangeReader(self._options, self._topic).__aenter__()
            try:
                return await self._reader.bounds(partition)
            except BrokerError:
                await self.close()
                raise

    async def close(self) -> None:
        """Let go of the connection."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__(None, None, None)
