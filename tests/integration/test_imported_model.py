"""A model of scikit-learn on real Kafka: imported, gated, shadowed, promoted by ``weir trainer``, served by a worker.

The graph is one that skl2onnx made of a fitted pipeline (``tests/models/imported``); what a worker logs of it is held
against the graph as it came.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import REPOSITORY, Broker, eventually
from tests.integration.orphans import leave_none
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.worker_process import PATIENCE_S, Watcher, Worker, run_weir
from tests.models.imported_models import FOLDER
from tests.streams.test_import_model import TASK
from weir.models.registry.registry import Registry
from weir.online.codec.wire import ModelUpdate
from weir.streams.config import topics
from weir.streams.simulate import SimulationConfig, simulate

pytestmark = pytest.mark.integration
MAP = '[inputs]\nX = ["amount", "ratio", "hour"]\n'
DAYS, DAY_S = 30, 86_400.0
Row = dict[str, Any]


def spread(deployment: Deployment, topic: str) -> list[Row]:
    return [orjson.loads(each.record.value) for log in deployment.read(topic).values() for each in log]


def updates(deployment: Deployment) -> list[tuple[str, str]]:
    found = [ModelUpdate.model_validate(each) for each in spread(deployment, topics.MODEL_UPDATES)]
    return list(dict.fromkeys((each.action, each.version) for each in found))


def serving(worker: Worker) -> tuple[int | None, int | None]:
    told = orjson.loads(worker.get("/ready")[1])["full"]["fraud"]
    return told["champion"], told["shadow"]


@contextmanager
def trainer(deployment: Deployment, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ``weir trainer`` that is not left behind."""
    command = [sys.executable, "-P", "-m", "weir.streams.cli.main", "trainer", "--config", str(deployment.config)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )  # fmt: skip
    leave_none(process.pid)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def deployment(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> Deployment:
    task, prefix = tmp_path / "fraud.toml", f"imported-{os.getpid()}-{os.urandom(3).hex()}"
    task.write_text(TASK.replace("state = 0", 'state = 0\ninputs = ["hour"]'))
    made = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=prefix, partitions=2, tasks=(task,), worker={"web_port": "auto"}
    )
    with made.config.open("a") as file:
        file.write(f'[models]\nregistry = "{tmp_path}/registry"\n[trainer]\nwork = "{tmp_path}/work"\n')
        file.write(f'heartbeat_s = 0.5\nlease_s = 3.0\ngroup = "{prefix}-trainer"\nweb_port = "auto"\n')
    return made


def test_a_model_of_scikit_learn_is_imported_gated_shadowed_promoted_and_explained(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = SimulationConfig(
        seed=4, events=4_000, days=DAYS, users=60, devices=0, label_delay_days=0.5, review_share=0.8, fraud_share=0.15,
        drift_at=None, block_s=DAY_S, start_ts=time.time() - (DAYS + 1) * DAY_S,
    )  # fmt: skip
    blocks = list(simulate(config))
    half, rest = blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]
    shutil.copy(FOLDER / "sklearn_zipmap.onnx", tmp_path / "model.onnx")
    (tmp_path / "map.toml").write_text(MAP)
    arguments = [str(tmp_path / "model.onnx"), "--task", "fraud", "--inputs", str(tmp_path / "map.toml")]
    with (
        Watcher(deployment) as watcher,
        trainer(deployment, tmp_path / "trainer.log") as training,
        Worker(deployment, tmp_path / "worker.log") as worker,
    ):

        def send(some: list[Any]) -> None:
            """Days one after the other: labels come when their events are scored."""
            for block in some:
                for topic, records in block.topics.items():
                    if records:
                        watcher.send(topic, [(r[0], r[1]) for r in records])
                watcher.settle(worker)

        def told(what: list[tuple[str, str]]) -> None:
            said = f"{what}: {(tmp_path / 'trainer.log').read_text()[-3000:]}"
            eventually(lambda: updates(deployment) == what, PATIENCE_S, said)

        send(half)
        imported = run_weir(deployment, "models", "import", *arguments)
        assert (imported.status, imported.out) == (0, "fraud v1\n"), imported.err
        assert "better: average precision" in imported.err
        told([("shadow", "1")])
        worker.until(lambda: serving(worker) == (None, 1), "it is scored in the shadow")
        send(rest[:-3])
        told([("shadow", "1"), ("promote", "1")])
        worker.until(lambda: serving(worker) == (1, None), "it serves")
        send(rest[-3:])
        assert worker.end() == 0
        training.send_signal(signal.SIGTERM)
        assert training.wait(PATIENCE_S) == 0
    assert Registry(str(tmp_path / "registry")).champion("fraud") == 1
    assert "Traceback" not in (tmp_path / "worker.log").read_text() + (tmp_path / "trainer.log").read_text()

    predictions = spread(deployment, topics.PREDICTIONS)
    assert len({p["event_id"] for p in predictions}) == len(predictions)
    served = [p["features"] for p in predictions if p["features"]["full.version"] == 1]
    shadowed = [p["features"] for p in predictions if p["features"]["full.shadow_version"] == 1]
    assert len(served) > 100
    assert len(shadowed) > 150
    as_it_came = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows, logit in ((served, "full.logit"), (shadowed, "full.shadow_logit")):
        x = np.array([[row[name] for name in ("amount", "ratio", "hour")] for row in rows], np.float32)
        said = as_it_came.run([as_it_came.get_outputs()[1].name], {"X": x})[0]
        p = np.array([each[1] for each in said])
        ours = 1 / (1 + np.exp(-np.array([row[logit] for row in rows])))
        np.testing.assert_allclose(ours, p, atol=1e-5)
    assert {1.0, 2.0, 3.0} & {row["full.why0"] for row in served}
    by_it = {p["event_id"] for p in predictions if p["features"]["full.version"] == 1}
    alerts = [a for a in spread(deployment, topics.ALERTS) if by_it & {*a["event_ids"]} and a["reasons"]]
    assert {"amount", "ratio", "hour"} & {reason["feature"] for each in alerts for reason in each["reasons"]}
