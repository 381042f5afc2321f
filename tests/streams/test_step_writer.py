"""Steps go into the store together, and what waits for decisions does not wait for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.worker.lanes.step_writer import PendingWrite, StepWriter

pytestmark = pytest.mark.anyio
LANE: Lane = ("user-events", 0)


class Rig:
    """A writer that gathers for a while, on a store that notes what it was told."""

    def __init__(self, *, decisions: bool) -> None:
        self.told: list[str] = []
        ctx = SimpleNamespace(
            settings=SimpleNamespace(worker=SimpleNamespace(decisions=decisions)), lanes=64, store=self,
            metrics=SimpleNamespace(now=lambda: 0.0, flushed=lambda *_: None),
            consumer=SimpleNamespace(complete=lambda batch: self.told.append(f"completed {batch.name}")),
            completed=lambda _: None,
        )  # fmt: skip
        self.writer = StepWriter(LANE, cast(Any, ctx), self.rewind)
        self.writer._linger.took(1.0)  # as expensive as makes it gather for as long as it may

    async def rewind(self, moved: LaneMoved) -> None:
        raise moved

    def record(self, lane: Lane, offset: int, mark: bytes) -> None:
        """Of the store."""

    async def flush(self, lane: Lane, writes: list[Any], *_: object) -> None:
        self.told.append(f"wrote {len(writes)}")

    def step(self, name: str, acknowledged: asyncio.Future[Any]) -> PendingWrite:
        batch = SimpleNamespace(name=name, next_offset=1, tick=None)
        writes = SimpleNamespace(rows=1)
        return PendingWrite(cast(Any, batch), None, acknowledged, cast(Any, writes), b"", [], 0, self.after(name))

    def after(self, name: str) -> Callable[[], Awaitable[None]]:
        async def after() -> None:
            self.told.append(f"handed on {name}")

        return after


@pytest.mark.parametrize("decisions", [True, False])
async def test_steps_are_handed_on_in_their_order_once_and_written_as_one(decisions: bool) -> None:
    rig, loop = Rig(decisions=decisions), asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    running = asyncio.create_task(rig.writer.run())
    rig.writer.add(rig.step("1", first))
    rig.writer.add(rig.step("2", second))
    second.set_result(None)
    first.set_result(None)
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.told == (["handed on 1", "handed on 2"] if decisions else []), "before the pause is over"
    await rig.writer.drain(10.0, running)
    assert rig.told == ["handed on 1", "handed on 2", "wrote 2", "completed 1", "completed 2"]
    running.cancel()


async def test_a_step_that_is_not_acknowledged_is_not_handed_on_and_its_error_ends_the_lane() -> None:
    rig, loop = Rig(decisions=True), asyncio.get_running_loop()
    acknowledged = loop.create_future()
    running = asyncio.create_task(rig.writer.run())
    rig.writer.add(rig.step("1", acknowledged))
    acknowledged.set_exception(OSError("no broker"))
    with pytest.raises(OSError, match="no broker"):
        await running
    assert not rig.told


async def test_steps_that_are_forgotten_meanwhile_are_not_written() -> None:
    rig, loop = Rig(decisions=True), asyncio.get_running_loop()
    running = asyncio.create_task(rig.writer.run())
    rig.writer.add(rig.step("1", loop.create_future()))
    await asyncio.sleep(0)
    assert rig.writer.forget() == 1
    acknowledged = loop.create_future()
    acknowledged.set_result(None)
    rig.writer.add(rig.step("2", acknowledged))
    await rig.writer.drain(10.0, running)
    assert rig.told == ["handed on 2", "wrote 1", "completed 2"]
    running.cancel()
