"""When the workers have nothing left to do: every lane's position, as Redis has it, is the end of its log.

A check of the truth before that would see work under way; a fixed wait would be too short or too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec

from benchmarks.torture.deployment import Deployment
from benchmarks.torture.supervisor import Supervisor
from weir.online.errors import StateError
from weir.streams.config import topics
from weir.streams.redis.client import RedisClient, opened
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.partitions.partition_record import decode_record
from weir.streams.redis.stored_rows import lane_prefix

Place = tuple[str, int]
LANES = (topics.USER_EVENTS, topics.ENTITY_UPDATES, topics.LABELS, topics.PREDICTIONS)


def behind(deployment: Deployment) -> dict[Place, tuple[int | None, int]]:
    """Position and end of every lane's topic that is not processed to its end; empty when all is done.

    Label lanes count as behind also while outputs of a step they took are not acknowledged.
    """
    return asyncio.run(_behind(deployment))


async def _behind(deployment: Deployment) -> dict[Place, tuple[int | None, int]]:
    ends = await deployment.ends_now(*LANES)
    positions = await _positions(deployment, ends)
    late = {at: (positions.get(at), end) for at, end in ends.items() if end and (positions.get(at) or 0) < end}
    if not late:
        grown = await deployment.ends_now(*LANES)
        late = {at: (ends[at], end) for at, end in grown.items() if end > ends[at]}
    return late


async def _positions(deployment: Deployment, ends: Mapping[Place, int]) -> dict[Place, int]:
    settings, found = deployment.settings, dict[Place, int]()
    async with opened(settings.redis, patience_s=5.0) as link:
        for topic, partition in ends:
            if topic in (topics.USER_EVENTS, topics.ENTITY_UPDATES):
                key = f"{lane_prefix(settings.redis.prefix, (topic, partition))}lane"
                if (value := await link.execute("GET", key)) is not None:
                    found[topic, partition] = decode_record(value).next_offset
            elif topic == topics.LABELS:
                found |= await _label_positions(link, partition)
    return found


async def _label_positions(link: RedisClient, partition: int) -> dict[Place, int]:
    try:
        stored = await StepLog(link, f"label-{partition}").load()
    except StateError:  # its owner put a new snapshot in the place of the one that we were to read: look again
        return {}
    if stored.done < stored.next_step - 1:
        return {}
    positions: dict[str, int] = {}
    if stored.snapshot is not None:
        positions = dict(msgspec.msgpack.decode(stored.snapshot)["positions"])
    for step in stored.steps:
        positions[step.topic] = step.stop
    return {(topic, partition): offset for topic, offset in positions.items()}


def started(deployment: Deployment, workers: Supervisor, timeout_s: float = 180.0) -> None:
    """Wait until the first predictions are there; fails where workers end before that."""

    def scored() -> bool:
        if len(ended := workers.report()["ended"]) > 2:
            raise AssertionError(f"workers end before they score anything, with {ended}\n{workers.tail(3)}")
        return sum(asyncio.run(deployment.ends_now(topics.PREDICTIONS)).values()) > 0

    workers.until(scored, "first predictions", timeout_s)


def settle(deployment: Deployment, workers: Supervisor, timeout_s: float) -> float:
    """Wait until nothing is left to do; how long that took."""
    since = time.monotonic()
    late: dict[Place, tuple[int | None, int]] = {}

    def done() -> bool:
        late.clear()
        late.update(behind(deployment))
        return not late

    try:
        workers.until(done, "everything is processed", timeout_s)
    except AssertionError as error:
        raise AssertionError(f"behind (position, end): {late}\n{error}") from None
    return time.monotonic() - since
