"""A worker on Kafka and Redis whose full model is swapped by records of ``model-updates``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.full_fleet import USERS, Fleet, counts, versions
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.worker_process import Watcher, Worker, run_weir

pytestmark = pytest.mark.integration


def told(worker: Worker) -> dict[str, Any]:
    """What the worker says of the task's full model."""
    return dict(orjson.loads(worker.get("/ready")[1])["full"]["spend"])


def until_serves(worker: Worker, champion: int | None, shadow: int | None = None) -> None:
    worker.until(
        lambda: (told(worker)["champion"], told(worker)["shadow"]) == (champion, shadow),
        f"champion {champion} and shadow {shadow} serve",
    )


@pytest.fixture
def fleet(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, kafka, redis_server.url)


@pytest.fixture
def watcher(fleet: Fleet) -> Iterator[Watcher]:
    with Watcher(fleet.deployment) as watching:
        yield watching


def test_a_shadow_a_promotion_a_corrupt_artefact_a_rollback_and_a_restart(
    fleet: Fleet, watcher: Watcher, tmp_path: Path
) -> None:
    models, log = fleet.models, tmp_path / "worker.log"
    first, second, bad = (models.register() for _ in range(3))
    graph = models.folder(bad) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-9] + b"corrupted")
    with Worker(fleet.deployment, log) as worker:
        rows = fleet.step(watcher, worker)
        assert versions(rows) == {(0, 0)}
        assert all(row["degraded"] for row in rows)

        fleet.tell(watcher, models.update("promote", first))
        until_serves(worker, first)
        rows = fleet.step(watcher, worker)
        assert (versions(rows), {row["degraded"] for row in rows}) == ({(first, 0)}, {False})
        # Made again from the 3 events before it, of each user; then one more with each event.
        assert counts(rows, first) == [4.0] * USERS + [5.0] * USERS + [6.0] * USERS

        fleet.tell(watcher, models.update("shadow", second))
        until_serves(worker, first, second)
        assert versions(fleet.step(watcher, worker)) == {(first, second)}

        fleet.tell(watcher, models.update("promote", second))
        until_serves(worker, second, first)
        rows = fleet.step(watcher, worker, each=1)
        assert versions(rows) == {(second, first)}
        # The state it has kept in the shadow goes on: 3 remembered, 3 in the step before, and this one.
        assert counts(rows, second) == [7.0] * USERS

        fleet.tell(watcher, models.update("promote", bad))
        worker.until(lambda: told(worker)["refused"], "it refuses the artefact")
        assert told(worker)["refused"] == [bad]
        assert "corrupt" in worker.log
        assert versions(fleet.step(watcher, worker)) == {(second, first)}
        assert f"full model version {bad} is refused, version {second} goes on" in worker.log
        assert 'weir_full_refused_total{task="spend"} 1' in worker.get("/metrics")[1]

        fleet.tell(watcher, models.update("rollback", first))
        until_serves(worker, first)
        assert versions(fleet.step(watcher, worker)) == {(first, 0)}
        assert worker.end() == 0
    assert "Traceback" not in log.read_text()
    # By the registry the last of the three is in the shadow and none serves: what was told above was not noted.
    check = run_weir(fleet.deployment, "worker", "--check")
    words = " ".join(check.out.split())
    assert (check.status, "weir models promote spend 1 --to archived" in words) == (0, True), check.out + check.err
    models.registry.set_stage("spend", first, "champion", at=2.0)
    models.registry.set_stage("spend", bad, "archived", at=3.0)
    check = run_weir(fleet.deployment, "worker", "--check")
    assert (check.status, "version 1 on cpu" in check.out) == (0, True), check.out + check.err
    # Noted and not told, as by somebody who was killed in between.
    moved = run_weir(fleet.deployment, "models", "promote", "spend", str(second), "--no-publish")
    check = run_weir(fleet.deployment, "worker", "--check")
    assert (moved.status, check.status) == (0, 0), moved.err + check.err
    listed = run_weir(fleet.deployment, "models", "list")
    for said in (check.out, listed.err):
        assert "weir models promote spend 2" in " ".join(said.split()), said
    row = run_weir(fleet.deployment, "features", "get", "user-1", "--json").document
    assert [table["table"] for table in row] == ["spend.user", "spend.full"]
    assert row[1]["values"]["champion.version"] == first
    with Worker(fleet.deployment, tmp_path / "again.log") as worker:
        rows = fleet.step(watcher, worker)
        assert versions(rows) == {(first, 0)}  # from the first event on
        assert counts(rows, first) == [8.0] * len(rows)
        assert worker.end() == 0


def test_a_champion_that_cannot_be_loaded_at_the_start_is_said_and_scoring_begins(
    fleet: Fleet, watcher: Watcher, tmp_path: Path
) -> None:
    version = fleet.models.register()
    fleet.tell(watcher, fleet.models.update("promote", version))
    (fleet.models.folder(version) / "model.onnx").unlink()
    with Worker(fleet.deployment, tmp_path / "worker.log") as worker:
        rows = fleet.step(watcher, worker)
        assert (versions(rows), {row["degraded"] for row in rows}) == ({(0, 0)}, {True})
        assert f"full model version {version} is refused, there is none" in worker.log
        assert worker.end() == 0
    check = run_weir(fleet.deployment, "worker", "--check")
    assert (check.status, "model.onnx is missing" in check.out) == (2, True), check.out + check.err
