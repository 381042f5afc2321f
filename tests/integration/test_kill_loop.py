"""Workers, Redis and brokers killed at random under load: nothing is lost, and nothing counts twice.

40 s in CI; ``WEIR_KILL_SECONDS=600`` for the long run, ``WEIR_KILL_SEED`` for another one, ``-s`` to see what happened.
What is compared with what: see chaos/checker.py.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from benchmarks.torture.settled import settle, started
from benchmarks.torture.supervisor import Supervisor
from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment
from tests.integration.chaos.feeder import Feeder, StreamPlan
from tests.integration.chaos.power_loss import lose_power
from tests.integration.chaos.troubles import Chaos, Trouble
from tests.integration.forked import start
from tests.integration.kafka_broker import Broker
from tests.integration.kafka_node import JavaCluster
from tests.integration.redis_server import RedisServer

# The harness' own clients (kafka-python) leave a socket to the garbage collector when a broker goes away under them.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SECONDS = float(os.environ.get("WEIR_KILL_SECONDS", "40"))
SEED = int(os.environ.get("WEIR_KILL_SEED", "1"))
SETTLE_S = 240.0 + SECONDS
"""For what piled up while workers were dead."""
WORKERS, RATE = int(os.environ.get("WEIR_KILL_WORKERS", "3")), 400.0


def survive(
    deployment: Deployment,
    folder: Path,
    store: RedisServer,
    seconds: float,
    troubles: Callable[[Supervisor], list[Trouble]],
) -> None:
    """Feed, make trouble for ``seconds``, settle, stop, compare with the truth."""
    plan = StreamPlan(seed=SEED)
    with Supervisor(lambda n: deployment.command("--instance-id", f"w{n}"), WORKERS, folder, start=start) as workers:
        with Feeder(deployment.direct, deployment.settings.topics.name, plan, RATE) as feeder:
            workers.needs(feeder.check)
            started(deployment, workers)
            with Chaos(troubles(workers), SEED) as chaos:
                chaos.run_for(seconds)
        took = settle(deployment, workers, SETTLE_S)
        statuses = workers.stop()
    notes = Checker(deployment, redis.Redis.from_url(store.url)).check()
    print(f"\n{seconds:g} s: {len(feeder.sent):,} records {dict(feeder.kinds())}, {workers.report()}, settled "
          f"{took:.1f} s after the last; {notes}")  # fmt: skip
    # One that was killed a moment ago may not have got so far as to stop by SIGTERM in order.
    assert set(statuses) <= {0, 143, -signal.SIGTERM}, f"a worker did not stop cleanly: {statuses}; {workers.logs}"


def test_workers_redis_and_the_broker_killed_under_load(
    restartable_kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    kafka, store = restartable_kafka, new_redis(aof=True)
    deployment = Deployment.create(tmp_path, kafka, store.url, prefix=f"kill-{os.urandom(3).hex()}")

    def bounce(_: random.Random) -> None:
        kafka.stop()
        kafka.start()

    survive(deployment, tmp_path, store, SECONDS, lambda workers: [
        Trouble("worker", workers.kill_random, every_s=(0.1, 5.0)),
        Trouble("redis", lambda rng: lose_power(store, rng), every_s=(14.0, 16.0)),
        Trouble("broker", bounce, at_s=SECONDS / 3),
    ])  # fmt: skip


def test_one_broker_of_three_killed_and_revived(
    kafka3: JavaCluster, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    store = new_redis(aof=True)
    deployment = Deployment.create(
        tmp_path, kafka3, store.url, prefix=f"three-{os.urandom(3).hex()}", replication=3, tasks=("horizon", "spend")
    )
    down = 2

    def kill(rng: random.Random) -> None:
        nonlocal down
        down = rng.choice((1, 2, 3))
        kafka3.kill(down)

    survive(deployment, tmp_path, store, 20.0, lambda workers: [
        Trouble("worker", workers.kill_random, every_s=(2.0, 6.0)),
        Trouble("kill", kill, at_s=4.0),
        Trouble("revive", lambda _: kafka3.revive(down), at_s=12.0),
    ])  # fmt: skip
