"""The newest decisions in memory, so that an event that is sent again gets its first answer."""

from __future__ import annotations

import logging
from collections import deque
from itertools import repeat
from typing import Final

from weir.online.codec.decision_blocks import Decision, DecisionBlock, decode_decisions
from weir.streams.config import topics
from weir.streams.service.ports import ServiceLog, records_between

log = logging.getLogger(__name__)

_ROW_BYTES: Final = 400
"""Of Python objects that a row takes beside its share of the block: its key, and its two texts."""


def key_of(task: str, entity: str, event: str) -> str:
    """The key of a decision. A text, not a tuple: the garbage collector would have to look at a million of those."""
    return f"{task}\0{entity}\0{event}"


class RecentDecisions:
    """Remembers as many blocks as fit; the oldest go first.

    Parameters
    ----------
    most_bytes : of all together, about.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._blocks: deque[tuple[DecisionBlock, int]] = deque()
        self._bytes = 0
        self._block_of: dict[str, DecisionBlock] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._block_of

    def __len__(self) -> int:
        return len(self._block_of)

    def __getitem__(self, key: str) -> Decision:
        """The decision of a key that is here."""
        batch, (_, entity, event) = self._block_of[key].batch, key.split("\0")
        row = batch.event_id.index(event)
        while batch.entity_id[row] != entity:  # ids of events are an entity's own
            row = batch.event_id.index(event, row + 1)
        return next(batch.slice(row, row + 1).rows())

    def add(self, value: bytes, *, older: bool = False) -> list[str]:
        """Take in one record, which is ``older`` than all others or newer; the keys of its rows."""
        try:
            block = decode_decisions(value)
        except ValueError as error:  # nobody's caller is to suffer for it
            log.warning("a record of %s is passed over: %s", topics.DECISIONS, error)
            return []
        keys = keys_of(block)
        size = len(value) + _ROW_BYTES * len(keys)
        self._bytes += size
        if older:
            self._blocks.appendleft((block, size))
            # An answer that came meanwhile is newer than what is read backwards.
            self._block_of.update(dict.fromkeys([key for key in keys if key not in self._block_of], block))
        else:
            self._blocks.append((block, size))
            self._block_of.update(dict.fromkeys(keys, block))
        while self._bytes > self._most_bytes:
            self._forget_oldest()
        return keys

    def _forget_oldest(self) -> None:
        block, size = self._blocks.popleft()
        self._bytes -= size
        for key in keys_of(block):
            # A newer block may have the key by now.
            if self._block_of.get(key) is block:
                del self._block_of[key]

    async def fill(self, service_log: ServiceLog) -> None:
        """Take in the newest records of the log, from its end backwards until memory is full."""
        spans = await service_log.spans(topics.DECISIONS)
        for count, (partition, span) in enumerate(spans.items(), 1):
            # A share for each partition: else the first could fill memory, and nothing of the others would be known.
            most = self._most_bytes * count // len(spans)
            # A record may hold one row or thousands: only reading tells how many of them fit.
            end, step = span.end, 64
            while end > span.first and self._bytes < most:
                start = max(span.first, end - step)
                between = records_between(service_log, topics.DECISIONS, partition, start, end)
                for record in reversed([record async for _, record in between]):
                    if self._bytes < most:
                        self.add(record.value, older=True)
                end, step = start, 2 * step


def keys_of(block: DecisionBlock) -> list[str]:
    """The keys of a block's rows."""
    return list(map("\0".join, zip(repeat(block.task), block.batch.entity_id, block.batch.event_id, strict=False)))
