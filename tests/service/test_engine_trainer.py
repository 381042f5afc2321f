"""Full models of the embedded service: asked for through the log, trained beside it, swapped at a place in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.service.engine_runs import all_rows, killed, rows
from tests.streams.full_events import serving
from tests.streams.test_trainer_embedded import TASK
from weir.models.registry.registry import Registry
from weir.models.types import Progress
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import RetrainRequest
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.records import Record
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.embedded.embedded_trainer import EmbeddedTrainer
from weir.streams.simulate import SimulationConfig, simulate
from weir.streams.trainer.job.job_runner import InlineRunner, Runner
from weir.streams.trainer.job.job_steps import BuildWork, JobSteps

pytestmark = pytest.mark.anyio
CONFIG = SimulationConfig(
    seed=4, events=6_000, days=30, users=60, devices=0, label_delay_days=0.5, review_share=0.8, fraud_share=0.15,
    drift_at=None, block_s=12 * 3600.0,
)  # fmt: skip
BLOCKS = [
    [(topic, [Record(*r) for r in records]) for topic, records in block.topics.items() if records]
    for block in simulate(CONFIG)
]
HALF = len(BLOCKS) // 2


class Opened:
    """A service's log and its trainer."""

    def __init__(self, log: EmbeddedServiceLog, trainer: EmbeddedTrainer) -> None:
        self.log, self.trainer = log, trainer
        self.changed = asyncio.Event()
        log.subscribe([topics.MODEL_UPDATES], lambda _: self.changed.set())

    async def send(self, blocks: list[Any]) -> None:
        for block in blocks:
            for topic, records in block:
                await self.log.append(topic, records)

    async def ask(self, request_id: str) -> None:
        last = BLOCKS[HALF - 1][-1][1][-1].ts
        request = RetrainRequest(request_id=request_id, task="fraud", cause="manual", requested_at=last)
        await self.log.append(topics.RETRAIN_REQUESTS, [Record(b"fraud", encode_model(request), last)])

    async def updates(self) -> list[tuple[str, str]]:
        told = [msgspec.json.decode(record.value) for _, record in await rows(self.log, topics.MODEL_UPDATES)]
        return [(update["action"], update["version"]) for update in told]

    async def until(self, update: tuple[str, str]) -> None:
        async with asyncio.timeout(60):
            while update not in await self.updates():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def opened(directory: Path, runner: Runner | None = None) -> AsyncIterator[Opened]:
    task = TaskSpec.from_toml(TASK)
    settings = Settings.model_validate(
        {"serve": {"directory": str(directory)}, "trainer": {"heartbeat_s": 0.2, "lease_s": 30}}
    )
    service = embedded_service(settings, [task])
    assert isinstance(service.log, EmbeddedServiceLog)
    assert isinstance(service.parts.pop(), EmbeddedTrainer)
    service.log.engine._clock = lambda: 0.0  # else streams of the past are idle as soon as the test waits
    trainer = EmbeddedTrainer(service.settings, [task], service.log, service.metrics, runner or InlineRunner())
    await trainer.start()
    await service.log.start()
    try:
        yield Opened(service.log, trainer)
    finally:
        await trainer.stop()
        await service.log.stop()


class StuckRunner(InlineRunner):
    """Reaches the training, and is at it until it is told to stop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reached, self._loop = asyncio.Event(), loop

    def run(self, work: JobSteps, folder: Path, stop: Callable[[], bool], progress: Progress) -> Any:
        if isinstance(work, BuildWork):
            self._loop.call_soon_threadsafe(self.reached.set)
            while not stop():
                pass
        return super().run(work, folder, stop, progress)


async def test_a_request_leads_to_a_champion_also_over_a_kill_and_a_replay(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    stuck = StuckRunner(asyncio.get_running_loop())
    async with opened(directory, stuck) as service:
        await service.send(BLOCKS[:HALF])
        await service.ask("r1")
        async with asyncio.timeout(60):
            await stuck.reached.wait()
        left = await killed(service.log, tmp_path / "left")
    async with opened(left) as service:  # goes on by itself
        await service.until(("shadow", "1"))
        await service.send(BLOCKS[HALF:])
        await service.until(("promote", "1"))
        await service.ask("r1")  # known
        assert serving(await service.log.call(lambda: service.log.engine.host.full)) == (1, 0)
        before = await all_rows(service.log)
        again = await killed(service.log, tmp_path / "again")
        state = service.trainer.benches["fraud"].state
        assert (state.jobs, state.ended[-1].stage) == (1, "promoted")
    registry = Registry(str(left / "models"))
    assert registry.champion("fraud") == 1
    assert any(b'"full.shadow_version":1.0' in record.value for _, record in before[topics.PREDICTIONS])
    async with opened(again) as service:
        assert await all_rows(service.log) == before, "the swap has its place in the log"
        assert serving(await service.log.call(lambda: service.log.engine.host.full)) == (1, 0)
        assert await service.updates() == [("shadow", "1"), ("promote", "1")]
