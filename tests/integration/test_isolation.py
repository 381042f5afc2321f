"""What is wrong with one partition holds up that partition: it says so, and goes on when the cause is gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, KeyValue, simulated, unique
from tests.integration.test_worker import samples
from tests.integration.worker_process import Watcher, Worker, run_weir
from weir.streams.config import topics
from weir.streams.kafka.partitioners import partitions_of
from weir.streams.redis.stored_rows import lane_prefix

pytestmark = pytest.mark.integration

PARTITIONS = 4
BAD = 1
GARBAGE = 20_000
"""Bad records: twice those after which a partition pauses."""


def split(records: Sequence[KeyValue]) -> tuple[list[KeyValue], list[KeyValue]]:
    """Records of the partition that goes bad, and the others."""
    own = partitions_of([key for key, _ in records], PARTITIONS) == BAD
    return (
        [r for r, bad in zip(records, own, strict=True) if bad],
        [r for r, bad in zip(records, own, strict=True) if not bad],
    )


def ready(worker: Worker) -> tuple[int, dict[str, Any]]:
    status, body = worker.get("/ready")
    return status, orjson.loads(body)


def scored(deployment: Deployment) -> dict[int, int]:
    return {p: end for (_, p), end in deployment.ends(topics.PREDICTIONS).items()}


def test_garbage_in_one_partition_pauses_it_and_it_goes_on_behind_the_garbage(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    """So much ``{broken`` ended every worker that met it, in turn."""
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("garbage"), partitions=PARTITIONS, tasks=("spend",),
        worker={"web_port": "auto", "pause_retry_s": 3.0},
    )  # fmt: skip
    of_bad, good = split(simulated(DAY)[topics.USER_EVENTS])
    half, key = len(good) // 2, of_bad[0][0]
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        worker.until(worker.ready, "it is ready")
        watcher.send(topics.USER_EVENTS, good[:half])
        watcher.send(topics.USER_EVENTS, [(key, b"{broken")] * GARBAGE)
        worker.until(lambda: f"user-events-{BAD}" in ready(worker)[1]["paused"], "it pauses")
        status, told = ready(worker)
        assert (status, told["reasons"]) == (200, [])
        assert "records were rejected, the limit is 50%" in told["paused"][f"user-events-{BAD}"]["reason"]
        assert samples(worker.get("/metrics")[1])["weir_partitions_paused{reason=rejects}"] == 1
        assert run_weir(deployment, "partitions", "resume", f"user-events-{BAD}").status == 0
        watcher.send(topics.USER_EVENTS, [*good[half:], *of_bad])
        worker.until(
            lambda: all(p == BAD for (topic, p) in watcher.behind() if topic == topics.USER_EVENTS),
            "the others are served",
        )
        watcher.settle(worker, "it is tried again until the garbage is behind it")
        assert not ready(worker)[1]["paused"]
        assert scored(deployment)[BAD]
        letters = deployment.ends(topics.DEAD_LETTERS)
        assert sum(letters.values()) == GARBAGE
        assert worker.end() == 0
        assert f"user-events-{BAD} pauses" in worker.log
        assert f"user-events-{BAD} goes on" in worker.log
    Checker(deployment, redis.Redis.from_url(redis_server.url)).check()


def test_a_partition_whose_state_is_damaged_pauses_and_goes_on_when_it_is_mended(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("damaged"), partitions=PARTITIONS, tasks=("spend",),
        worker={"web_port": "auto", "pause_retry_s": 1.0},
    )  # fmt: skip
    events = simulated(DAY)[topics.USER_EVENTS]
    store = redis.Redis.from_url(redis_server.url)
    journal = f"{lane_prefix(deployment.settings.redis.prefix, (topics.USER_EVENTS, BAD))}journal"
    with Watcher(deployment) as watcher:
        with Worker(deployment, tmp_path / "first.log") as worker:
            watcher.send(topics.USER_EVENTS, events[: len(events) // 2])
            watcher.settle(worker)
            assert worker.end() == 0
        store.rename(journal, f"{journal}-away")
        with Worker(deployment, tmp_path / "second.log") as worker:
            worker.until(worker.ready, "it is ready for the others")
            reasons: list[str] = []

            def paused() -> bool:  # now and then it is being tried again
                told = ready(worker)[1]["paused"].get(f"user-events-{BAD}")
                reasons.extend([told["reason"]] if told is not None else [])
                return told is not None

            worker.until(paused, "the one is paused")
            assert "the journal in Redis has 0 entries" in reasons[-1]
            watcher.send(topics.USER_EVENTS, events[len(events) // 2 :])
            worker.until(lambda: {*watcher.behind()} == {(topics.USER_EVENTS, BAD)}, "the others are served")
            store.rename(f"{journal}-away", journal)
            watcher.settle(worker, "it is tried again")
            assert not ready(worker)[1]["paused"]
            assert worker.end() == 0
    Checker(deployment, store).check()


def test_a_person_pauses_skips_takes_again_and_resumes_a_partition(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("hand"), partitions=PARTITIONS, tasks=("spend",),
        worker={"web_port": "auto"},
    )  # fmt: skip
    place = f"user-events-{BAD}"
    of_bad, others = split(simulated(DAY)[topics.USER_EVENTS])
    first, skipped, last = (of_bad[len(of_bad) * k // 3 : len(of_bad) * (k + 1) // 3] for k in range(3))

    def weir(*arguments: str) -> str:
        done = run_weir(deployment, "partitions", *arguments)
        assert done.status == 0, (arguments, done.out, done.err)
        return done.err

    def row() -> Any:
        listed = run_weir(deployment, "partitions", "list", "--json")
        (found,) = [each for each in listed.document if (each["topic"], each["partition"]) == (topics.USER_EVENTS, BAD)]
        return found

    with Watcher(deployment) as watcher:
        with Worker(deployment, tmp_path / "first.log") as worker:
            watcher.send(topics.USER_EVENTS, first)
            watcher.settle(worker)
            assert "paused, until somebody resumes it" in weir("pause", place, "--why", "a broken producer")
            watcher.send(topics.USER_EVENTS, [*others, *skipped])
            worker.until(lambda: [*watcher.behind()] == [(topics.USER_EVENTS, BAD)], "the others are served")
            assert worker.end() == 0
        nobody = run_weir(deployment, "partitions", "resume", place, "--wait", "0.1")
        assert nobody.status == 1, nobody.err
        assert "the order waits in the store" in nobody.err
        weir_pause = run_weir(deployment, "partitions", "pause", place, "--why", "again", "--wait", "0")  # in its place
        assert weir_pause.status == 1
        with Worker(deployment, tmp_path / "second.log") as worker:
            worker.until(worker.ready, "it is ready")
            told = ready(worker)[1]["paused"][place]
            assert (told["kind"], told["retry_in_s"]) == ("hand", None)
            worker.until(lambda: row()["state"] == "paused" and "again" in row()["reason"], "it is told")
            assert row()["owner"]
            assert "still paused by hand" in weir("seek", place, "latest")
            assert row()["state"] == "paused"
            assert "it goes on" in weir("resume", place)
            watcher.send(topics.USER_EVENTS, last)
            watcher.settle(worker)
            assert scored(deployment)[BAD] == len(first) + len(last)
            (letter,) = [
                orjson.loads(s.record.value) for log in deployment.read(topics.DEAD_LETTERS).values() for s in log
            ]
            assert letter["reason"].startswith(
                f"skipped: by hand, offsets {len(first)} to {len(first) + len(skipped) - 1}"
            )
            assert "back from" in weir("seek", place, "earliest")
            watcher.settle(worker, "what was skipped is scored, what was not is known as a repeat")
            late = int(
                samples(worker.get("/metrics")[1]).get("weir_dead_letters_total{reason=late,topic=user-events}", 0)
            )
            assert scored(deployment)[BAD] == len(of_bad) - late
            assert "its event time was" in weir("watermark", place, str(DAY.end_ts - 86_400.0))
            worker.until(lambda: row()["watermark"] == DAY.end_ts - 86_400.0, "it is told")
            assert "labels skipped" not in weir("seek", f"labels-{BAD}", "latest")
            refused = run_weir(deployment, "partitions", "watermark", f"labels-{BAD}", "1h")
            assert (refused.status, "keeps no event time" in refused.err) == (1, True)
            assert run_weir(deployment, "partitions", "seek", place, "999999").status == 2
            assert run_weir(deployment, "partitions", "pause", "orders-1").status == 2
            assert worker.end() == 0
