"""``weir features rebuild`` where it may not begin, or cannot go on: it says why.

What is stored is as it was, or the same command brings it to its end.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.integration.chaos.deployment import Deployment
from tests.integration.forked import Process, start
from tests.integration.kafka_broker import Broker, eventually
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import content, unique
from tests.integration.test_topic_identity import events
from tests.integration.worker_process import Outcome, Watcher, Worker, run_weir
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.ops.stop_request import INTERRUPTED
from weir.streams.redis.stored_rebuild import StoredRebuild
from weir.streams.worker.rebuild_checks import alone

pytestmark = pytest.mark.integration
REBUILD = ("features", "rebuild", "--yes")


def worked(folder: Path, kafka: Broker, redis_url: str, **worker: object) -> Deployment:
    """A deployment of two tasks whose worker has done everything, and ended."""
    made = Deployment.create(
        folder, kafka, redis_url, prefix=unique("refused"), partitions=2, tasks=("fraud", "spend"),
        worker={"web_port": "auto", **worker},
    )  # fmt: skip
    with Watcher(made) as watcher, Worker(made, folder / "before.log") as before:
        watcher.send(topics.USER_EVENTS, events(0, 200))
        watcher.settle(before)
        assert before.end() == 0
    return made


def begun(deployment: Deployment, log: Path, *arguments: str) -> Process:
    """A process of its own, as what a client leaves behind then goes with it."""
    command = [sys.executable, "-P", "-m", "weir.streams.cli.main", *REBUILD, "--config", str(deployment.config)]
    with log.open("ab") as out:
        return start([*command, *arguments], dict(os.environ), out)


def in_words(outcome: Outcome) -> str:
    return " ".join((outcome.out + outcome.err).split())


def test_every_task_that_is_stored_is_named_or_dropped(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = worked(tmp_path, kafka, redis_server.url)
    store, prefix = redis.Redis.from_url(redis_server.url), deployment.settings.redis.prefix
    fraud = next(str(path) for path in deployment.settings.worker.tasks if path.stem == "fraud")

    def stored() -> dict[bytes, object]:
        """All but what a link tries its rights on."""
        return {key: store.dump(key) for key in store.scan_iter(f"{prefix}:*") if b"{probe}" not in key}

    every = stored()
    for arguments, why in (
        ((), "rows, or predictions that wait, are also stored of spend, and would be cleared.*--drop spend"),
        (("--drop", "spent"), "--drop spent: nothing is stored of such a task; stored are: fraud, spend"),
        (("--drop", "fraud"), "--drop fraud: its task file is among those given"),
    ):
        refused = run_weir(deployment, *REBUILD, "--task", fraud, *arguments)
        assert refused.status == 2
        assert re.search(why, in_words(refused)), refused.err
    assert stored() == every, "nothing was touched"
    with Watcher(deployment) as watcher:
        rows = content(watcher.rows())
        assert run_weir(deployment, *REBUILD, "--task", fraud, "--drop", "spend").status == 0
        left = content(watcher.rows())
    assert {key.split(":")[2] for key in rows} > {key.split(":")[2] for key in left} > {"fraud.user"}
    assert {key: row for key, row in rows.items() if ":fraud." in key} == left
    again = run_weir(deployment, *REBUILD, "--task", fraud)
    assert again.status == 0, "nobody asks for what was dropped"


def test_it_is_alone_and_workers_wait_for_its_end(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = worked(tmp_path, kafka, redis_server.url, session_timeout_s=6.0)
    store, key = redis.Redis.from_url(redis_server.url), f"{deployment.settings.redis.prefix}:{{identity}}:rebuild"
    with Worker(deployment, tmp_path / "running.log") as worker:
        worker.until(worker.ready, "it is ready")
        refused = run_weir(deployment, *REBUILD)
        assert (refused.status, "are running, and would write the same rows" in in_words(refused)) == (2, True)
        assert not store.exists(key, f"{key}:by"), "it has not begun, and lets another begin"
        assert worker.end() == 0
    with Watcher(deployment) as watcher:
        other = StoredRebuild(watcher.link, "ada@desk, process 7")
        assert watcher.run(other.hold(600.0)) == ""
        refused = run_weir(deployment, *REBUILD)
        assert (refused.status, "at work on this store (ada@desk, process 7)" in in_words(refused)) == (2, True)
        assert not store.exists(key)
        watcher.run(other.begin())
        watcher.run(other.let_go())
        checked = run_weir(deployment, "worker", "--check")
        assert (checked.status, "is under way, or was cut short" in in_words(checked)) == (2, True)
        with Worker(deployment, tmp_path / "early.log") as worker:
            assert worker.wait() == 2
        assert "'weir features rebuild' is under way, or was cut short" in worker.log
        rows = content(watcher.rows())
        assert run_weir(deployment, *REBUILD).status == 0
        assert content(watcher.rows()) == rows
        with Worker(deployment, tmp_path / "after.log") as worker:
            worker.until(worker.ready, "it is ready")
            assert worker.end() == 0


def test_one_that_stood_still_ends_where_another_took_it_for_dead(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(tmp_path, kafka, redis_server.url, prefix=unique("two"), tasks=("spend",))
    with Watcher(deployment) as watcher:
        other = StoredRebuild(watcher.link, "ada@desk")

        async def work(_: StoredRebuild) -> None:
            await watcher.link.execute("DEL", f"{watcher.link.prefix}:{{identity}}:rebuild:by")  # as if it ran out
            assert await other.hold(600.0) == ""
            await asyncio.Event().wait()

        with pytest.raises(UsageError, match=r"stood still for 0\.2 s, and another rebuild began \(ada@desk\)"):
            watcher.run(alone(watcher.link, 0.2, work))
        assert watcher.run(StoredRebuild(watcher.link).hold(0.2)) == "ada@desk", "it is still the other's"


@pytest.mark.parametrize("away", ["before", "within"])
def test_a_store_that_goes_away_is_told_and_the_same_command_goes_on(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path, away: str
) -> None:
    server = new_redis(aof=True)
    deployment = worked(tmp_path, kafka, server.url, store_patience_s=1.0)
    key = f"{deployment.settings.redis.prefix}:{{identity}}:rebuild"
    with Watcher(deployment) as watcher:
        rows = content(watcher.rows())
    log = tmp_path / "rebuild.log"
    if away == "before":
        server.stop()
    process = begun(deployment, log)
    if away == "within":
        store = redis.Redis.from_url(server.url)
        eventually(lambda: bool(store.exists(key)) or process.poll() is not None, 60, "it has begun")
        server.kill()
    assert process.wait(60) == 2, log.read_text()
    told = " ".join(log.read_text().split())
    assert "Traceback" not in told
    assert "did not take a command for 1 s" in told
    assert ("The rebuild was cut short" in told) == (away == "within")
    server.start()
    assert run_weir(deployment, *REBUILD).status == 0
    with Watcher(deployment) as watcher:
        assert content(watcher.rows()) == rows


def test_one_that_is_interrupted_says_what_to_do_and_another_may_begin_at_once(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment, log = worked(tmp_path, kafka, redis_server.url), tmp_path / "rebuild.log"
    store, key = redis.Redis.from_url(redis_server.url), f"{deployment.settings.redis.prefix}:{{identity}}:rebuild"
    process = begun(deployment, log)
    eventually(lambda: bool(store.exists(key)) or process.poll() is not None, 60, "it has begun")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == INTERRUPTED, log.read_text()
    assert "The rebuild was cut short" in " ".join(log.read_text().split())
    assert "Traceback" not in log.read_text()
    assert (store.exists(key), store.exists(f"{key}:by")) == (1, 0)
    assert run_weir(deployment, *REBUILD).status == 0
    assert not store.exists(key)


def test_brokers_that_are_away_are_told_and_another_may_begin_at_once(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = worked(tmp_path, kafka, redis_server.url)
    log = tmp_path / "rebuild.log"
    assert begun(deployment, log, "--bootstrap", "127.0.0.1:1").wait(120) == 2, log.read_text()
    assert "Traceback" not in log.read_text()
    assert "127.0.0.1:1" in log.read_text()
    store = redis.Redis.from_url(redis_server.url)
    assert not [*store.scan_iter(f"{deployment.settings.redis.prefix}:{{identity}}:rebuild*")]
