"""A task file that is changed between two starts: the worker runs, keeps what fits, and says what begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.chaos.deployment import TASKS, Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import DAY, PARTITIONS, examples_of, simulated, unique
from tests.integration.worker_process import Watcher, Worker, run_weir
from weir.streams.config import topics

pytestmark = pytest.mark.integration


def test_a_worker_runs_with_a_tuned_task_and_then_with_other_features(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    file = tmp_path / "fraud.toml"
    text = (TASKS / "fraud.toml").read_text()
    file.write_text(text)
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("tuned"), partitions=PARTITIONS, tasks=(file,)
    )
    records = simulated(DAY)
    events, labels = records[topics.USER_EVENTS], records[topics.LABELS]
    third = len(events) // 3
    with Watcher(deployment) as watcher:
        with Worker(deployment, tmp_path / "before.log") as worker:
            watcher.send(topics.USER_EVENTS, events[:third])
            watcher.settle(worker)
            assert worker.end() == 0
        before, known = watcher.rows(), len(labels) // 3

        # Another threshold, no drift, a longer rolling window: rows and waiting predictions are what they were.
        tuned = text.replace("alerts_per_day = 200", "alerts_per_day = 100\nbins = 512") + "\n[metrics]\nrolling = 99\n"
        file.write_text("drift = false\n" + tuned)
        checked = run_weir(deployment, "worker", "--check")
        assert checked.status == 0, checked.out
        assert "threshold begins anew" in " ".join(checked.out.split())
        with Worker(deployment, tmp_path / "tuned.log") as worker:
            watcher.send(topics.LABELS, labels[:known])
            watcher.settle(worker)
            assert worker.end() == 0
        log = (tmp_path / "tuned.log").read_text()
        assert "task fraud was changed: threshold begins anew" in log
        assert "task fraud was changed: evaluation begins anew" in log
        assert "joiner" not in log
        assert len(examples_of(deployment)) > 20, "labels met the predictions of the run before"
        assert before.keys() <= watcher.rows().keys()

        # Another aggregate: rows of both versions lie beside each other, and either version of the task may run.
        file.write_text(text.replace('"ewmean"]', '"ewmean", "sum"]'))
        checked = run_weir(deployment, "worker", "--check")
        assert checked.status == 0, checked.out
        assert "rows fraud.user" in checked.out
        with Worker(deployment, tmp_path / "other.log") as worker:
            watcher.send(topics.USER_EVENTS, events[third : 2 * third])
            watcher.settle(worker)
            assert worker.end() == 0
        log = (tmp_path / "other.log").read_text()
        assert "table fraud.user: the aggregates of its task changed" in log
        assert "joiner begins anew" in log
        user = events[third][0].decode()
        got = run_weir(deployment, "features", "get", user, "--table", "fraud.user", "--json").document
        assert any(name.endswith("_sum_1d") for name in got[0]["values"])
        assert got[0]["fits"]
        file.write_text(text)
        with Worker(deployment, tmp_path / "back.log") as worker:
            watcher.send(topics.USER_EVENTS, events[2 * third :])
            watcher.settle(worker)
            assert worker.end() == 0
        assert "aggregates of its task changed" not in (tmp_path / "back.log").read_text()
