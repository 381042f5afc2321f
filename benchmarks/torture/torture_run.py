"""One run: topics and keys of its own, workers that are killed, traffic, and the verdict; all of it gone at the end."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.torture.deployment import Deployment
from benchmarks.torture.feeder import Feeder
from benchmarks.torture.good import GoodTraffic
from benchmarks.torture.hostile import HostileTraffic
from benchmarks.torture.settled import settle, started
from benchmarks.torture.supervisor import Supervisor
from benchmarks.torture.verdict import Verdict, judge
from weir.streams.config.settings import Settings
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import wanted_topics
from weir.streams.ops.fleet import WEIR
from weir.streams.redis.client import opened
from weir.streams.task_files import load_task

TASK_FILE: Final = Path(__file__).parent / "task.toml"


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    seconds: float = 60.0
    rate: float = 2_000.0
    """Good events a second."""
    share: float = 0.1
    """Of hostile records among all."""
    workers: int = 2
    kill_every_s: tuple[float, float] = (8.0, 16.0)
    """A worker is killed after a pause drawn between the two."""
    partitions: int = 4
    memory_mb: float = 1_500.0
    """A worker may hold so much at its peak."""
    seed: int = 1


@dataclass(frozen=True)
class Place:
    """Where a run takes place."""

    settings: Settings
    """Of the run itself: with its own prefixes."""
    environment: Mapping[str, str]
    """What its workers are told besides the settings file."""
    config: Path | None

    @classmethod
    def beside(cls, settings: Settings, config: Path | None, plan: Plan) -> Place:
        """A place of its own beside what ``settings`` name."""
        name = f"torture-{secrets.token_hex(3)}"
        topics = settings.topics.model_copy(
            update={"prefix": f"{name}.", "names": {}, "override": {}, "partitions": plan.partitions}
        )
        redis = settings.redis.model_copy(update={"prefix": name})
        environment = {
            "WEIR_TOPICS__PREFIX": topics.prefix,
            "WEIR_TOPICS__PARTITIONS": str(plan.partitions),
            "WEIR_REDIS__PREFIX": name,
            "WEIR_WORKER__GROUP": name,
            "WEIR_WORKER__WEB_PORT": "0",
            "WEIR_WORKER__SNAPSHOT_EVERY_S": "5",
            "WEIR_KAFKA__BOOTSTRAP": ",".join(settings.kafka.bootstrap),
            "WEIR_REDIS__URL": settings.redis.url.get_secret_value(),
        }
        return cls(settings.model_copy(update={"topics": topics, "redis": redis}), environment, config)

    def command(self, number: int) -> list[str]:
        """How to start a worker."""
        given = [] if self.config is None else ["--config", str(self.config)]
        name = f"{self.settings.redis.prefix}-{number}"
        return [*WEIR, "worker", str(TASK_FILE), "--instance-id", name, *given]


@contextmanager
def prepared(place: Place) -> Iterator[Deployment]:
    """The deployment with its topics; they, and its keys in Redis, are gone at the end."""
    settings = place.settings
    with admin_client(settings.kafka) as admin:
        specs = wanted_topics(settings.topics, cluster.count_brokers(admin))
        cluster.create_topics(admin, specs, False)
    try:
        task = load_task(TASK_FILE)
        yield Deployment(settings, {task.name: task})
    finally:
        with admin_client(settings.kafka) as admin:
            admin.delete_topics([spec.name for spec in specs])
        asyncio.run(_forget(settings))


async def _forget(settings: Settings) -> None:
    async with opened(settings.redis, patience_s=10.0) as link:
        cursor = b"0"
        while True:  # of one Redis, not of a cluster
            cursor, keys = await link.execute("SCAN", cursor, "MATCH", f"{link.prefix}:*", "COUNT", 1_000, route=b"")
            if keys:
                await link.execute("UNLINK", *keys)
            if cursor == b"0":
                return


def torture(place: Place, plan: Plan, tell: Callable[[str], None], logs: Path | None = None) -> Verdict:
    """Run it; ``tell`` is told what goes on. The workers' logs stay in ``logs`` where that is given."""
    good = GoodTraffic(plan.seed)
    hostile = HostileTraffic(plan.seed, good, plan.partitions)
    with tempfile.TemporaryDirectory(prefix="weir-torture-") as folder, prepared(place) as deployment:
        with Supervisor(place.command, plan.workers, logs or Path(folder), dict(place.environment)) as workers:
            feeder = Feeder(place.settings, good, hostile, rate=plan.rate, share=plan.share)
            with feeder:
                workers.needs(feeder.check)
                tell(f"{plan.workers} workers start; good events at {plan.rate:g}/s, {plan.share:.0%} hostile records")
                started(deployment, workers)
                tell(f"workers are killed every {plan.kill_every_s[0]:g} to {plan.kill_every_s[1]:g} s")
                _kill(workers, plan)
                feeder.stop()
            tell("traffic ends; waiting until everything is processed")
            took = settle(deployment, workers, 120.0 + plan.seconds)
            statuses = workers.stop()
            report = workers.report()
            ends = workers.tail(5)
        tell("comparing with a pass over the good records alone")
        verdict = asyncio.run(judge(deployment, good.labels, feeder.sent))
    kinds: dict[str, int] = {}
    for (kind, _), count in sorted(feeder.sent.items()):
        kinds[kind] = kinds.get(kind, 0) + count
    verdict.numbers |= {"sent": kinds, "settled_s": round(took, 1), **report}
    verdict.hold(not report["ended"], f"workers ended by themselves with {report['ended']}; their last lines:\n{ends}")
    clean = {0, 143, -signal.SIGTERM}  # one that was killed a moment ago may not have got so far as to stop in order
    verdict.hold(set(statuses) <= clean, f"workers stopped with {statuses}")
    peak = report["peak_rss_mb"]
    verdict.hold(peak <= plan.memory_mb, f"a worker held {peak} MB, allowed {plan.memory_mb:g}")
    return verdict


def _kill(workers: Supervisor, plan: Plan) -> None:
    """Kill a worker now and then, for as long as the plan says."""
    rng, until = random.Random(f"{plan.seed}/kill"), time.monotonic() + plan.seconds
    while (left := until - time.monotonic()) > 0.0:
        pause = rng.uniform(*plan.kill_every_s)
        time.sleep(min(pause, left))  # the pace of the trouble, not a wait for anything
        workers.check()
        if pause < left:
            workers.kill_random(rng)
