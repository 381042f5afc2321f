"""Bad records, a bad store and a bad network: no loss, no skip, a clear log, and recovery by itself.

Workers must live through all of it: none may end, and none may need a restart. ``WEIR_TROUBLE_SECONDS`` is how long the
store and the brokers are away (5; the long run takes 30). What is compared with what: see chaos/checker.py.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis
from aiokafka import AIOKafkaProducer

from benchmarks.torture.settled import settle, started
from benchmarks.torture.supervisor import Supervisor
from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment
from tests.integration.chaos.feeder import START_TS, Feeder, StreamPlan
from tests.integration.forked import start
from tests.integration.kafka_broker import Broker, NoKafka, find_jars, unavailable
from tests.integration.kafka_node import JavaBroker
from tests.integration.proxy import Proxy
from tests.integration.redis_server import NamedRedis, RedisServer
from weir.streams.config import topics

pytestmark = pytest.mark.integration

AWAY_S = float(os.environ.get("WEIR_TROUBLE_SECONDS", "5"))
PLAN = StreamPlan(seed=11, users=120, label_delay=200)
RECOVERY_S = 120.0
RATE = 200.0


def last(seconds: float) -> None:
    """Let a trouble last."""
    threading.Event().wait(seconds)


def flows_again(deployment: Deployment, workers: Supervisor, why: str) -> float:
    """Wait until predictions come again in every partition; how long that took."""
    since = time.monotonic()
    before = deployment.ends(topics.PREDICTIONS)

    def grew() -> bool:
        now = deployment.ends(topics.PREDICTIONS)
        return all(now[at] > end for at, end in before.items())

    workers.until(grew, f"predictions flow again {why}", RECOVERY_S)
    return time.monotonic() - since


def finish(deployment: Deployment, workers: Supervisor, store_url: str) -> str:
    """Settle, stop and compare with the truth; what the workers said."""
    took = settle(deployment, workers, RECOVERY_S)
    report = workers.report()
    assert report["ended"] == [], f"workers ended by themselves: {report}; {workers.tail(60)}"
    assert set(workers.stop()) == {0}, f"a worker did not stop cleanly: {workers.tail()}"
    notes = Checker(deployment, redis.Redis.from_url(store_url)).check()
    print(f"\nsettled {took:.1f} s after the last record; {notes}")
    return "".join(slot.log.read_text(errors="replace") for slot in workers.slots if slot.log.exists())


def run_workers(deployment: Deployment, folder: Path, count: int = 2) -> Supervisor:
    return Supervisor(lambda n: deployment.command("--instance-id", f"w{n}"), count, folder, start=start)


# -- the store ---------------------------------------------------------------------------------------------------------


def test_a_store_that_is_slow_hung_cut_off_and_away(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    store = new_redis(aof=True)
    with Proxy(target=store.port) as proxy:
        deployment = Deployment.create(
            tmp_path, kafka, store.url, prefix=f"store-{os.urandom(3).hex()}",
            worker_redis_url=f"redis://{proxy.address}/0",
        )  # fmt: skip
        with run_workers(deployment, tmp_path) as workers:
            with Feeder(deployment.direct, deployment.settings.topics.name, PLAN, RATE) as feeder:
                workers.needs(feeder.check)
                started(deployment, workers)
                proxy.delay(there_ms=40, back_ms=40, jitter_ms=40)
                flows_again(deployment, workers, "through a slow network")
                proxy.heal()
                store.send("CLIENT PAUSE 2000 ALL")
                proxy.cut()
                times = {"paused and cut": flows_again(deployment, workers, "after a pause and a cut")}
                store.freeze()
                last(AWAY_S)
                store.thaw()
                times["hung"] = flows_again(deployment, workers, "after the store hung")
                proxy.hold()
                last(6.0)  # longer than redis.timeout_s
                proxy.heal()
                times["half-open"] = flows_again(deployment, workers, "after half-open connections")
                store.stop()
                last(AWAY_S / 3)
                store.start()
                times["restarted"] = flows_again(deployment, workers, "after a restart")
            said = finish(deployment, workers, store.url)
    print({name: round(s, 1) for name, s in times.items()})
    assert "is away" in said
    assert "is back" in said


# -- the brokers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[JavaBroker, Proxy]]:
    """A broker that clients reach through a proxy only."""
    try:
        libs = find_jars()
    except NoKafka as reason:
        unavailable(str(reason))
    proxy = Proxy(target=0)
    broker = JavaBroker(libs, tmp_path_factory.mktemp("proxied") / "broker", "384m", advertised=proxy.port, quick=True)
    proxy.target = broker.port
    with proxy:
        broker.start()
        try:
            yield broker, proxy
        finally:
            broker.stop()


def test_a_broker_that_is_slow_cut_off_and_away(
    proxied_kafka: tuple[JavaBroker, Proxy], new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    (kafka, proxy), store = proxied_kafka, new_redis(aof=True)
    deployment = Deployment.create(tmp_path, kafka, store.url, prefix=f"broker-{os.urandom(3).hex()}")
    with run_workers(deployment, tmp_path) as workers:
        with Feeder(kafka.direct, deployment.settings.topics.name, PLAN, RATE) as feeder:
            workers.needs(feeder.check)
            started(deployment, workers)
            proxy.delay(there_ms=30, back_ms=30, jitter_ms=30)
            flows_again(deployment, workers, "through a slow network")
            proxy.heal()
            proxy.cut()
            times = {"cut": flows_again(deployment, workers, "after a cut")}
            proxy.hold()
            last(4.0)
            proxy.heal()
            times["half-open"] = flows_again(deployment, workers, "after half-open connections")
            kafka.stop()
            last(AWAY_S)
            kafka.start()
            times["away"] = flows_again(deployment, workers, "after the broker was away")
        finish(deployment, workers, store.url)
    print({name: round(s, 1) for name, s in times.items()})


# -- records -----------------------------------------------------------------------------------------------------------


def _event(number: int, **more: object) -> bytes:
    event = {"v": 1, "event_id": f"p{number}", "type": "purchase", "user_id": "u1", "ts": START_TS, "amount": 1.0}
    return orjson.dumps({**event, **more})


POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"\x00\xff\xfe",
    b"null",
    b"[]",
    b"{" * 10_000,
    b'{"v":1,"event_id":"p"}',
    _event(1, amount=1e300),
    _event(2, amount="1"),
    _event(3, ts=4_000_000_000.0),
    _event(4, user_id="u" * 65),
    _event(5, user_id="\u0007"),
    _event(6)[:-1],
    _event(7) + _event(8),
    _event(9, properties={str(i): 1 for i in range(100)}),
)  # fmt: skip
OVERSIZED = (b"x" * 900_000, _event(10, amount="y" * 900_000), b'{"v":1,"event_id":"' + b"\xff" * 900_000)
"""Bad records whose dead letters, with everything in them, are larger than a record may be."""
LARGE_BUT_GOOD = _event(11, unknown="z" * 900_000)


def test_poison_and_oversized_records(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=f"poison-{os.urandom(3).hex()}", tasks=("fraud", "spend")
    )
    name = deployment.settings.topics.name

    async def poison() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka.direct, max_request_size=1 << 20) as producer:
            for topic in (topics.USER_EVENTS, topics.LABELS):  # partition 0 owns u1
                for value in (*POISON, *OVERSIZED):
                    await producer.send_and_wait(name(topic), value, key=b"u1", partition=0)
                await producer.send_and_wait(name(topic), b"no key")
            await producer.send_and_wait(name(topics.USER_EVENTS), LARGE_BUT_GOOD, key=b"u1", partition=0)

    with run_workers(deployment, tmp_path, 1) as workers:
        plan = StreamPlan(seed=12, users=60, label_delay=100, broken=0.02)
        with Feeder(kafka.direct, name, plan, 1_000.0, limit=1_500) as feeder:
            feeder.wait()
        asyncio.run(poison())
        with Feeder(kafka.direct, name, StreamPlan(seed=13, users=60, label_delay=100), 1_000.0, limit=1_500) as feeder:
            feeder.wait()
        started(deployment, workers)
        finish(deployment, workers, redis_server.url)
