"""``weir examples`` on real Kafka and Redis: replicas fold again, bit for bit, and old scores are still explained."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.integration.follow import (
    FEATURES,
    SPECS,
    NewTopic,
    Place,
    Server,
    digests,
    examples,
    following,
    linear,
    options,
    run,
    until,
)
from tests.integration.kafka_broker import Broker
from weir.online.batch import ExampleBatch
from weir.streams.cli.app import app
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.refold import rebuild

pytestmark = pytest.mark.integration


@pytest.fixture
def place(kafka: Broker, redis_server: Server, new_topic: NewTopic) -> Place:
    return Place(kafka, redis_server, new_topic(retention_ms="-1"))


def command(place: Place, folder: Path, *args: str) -> str:
    config = folder / "weir.toml"
    config.write_text(
        f'[kafka]\nbootstrap = "{place.kafka.address}"\n[topics.names]\nexamples = "{place.topic}"\n'
        f'[redis]\nprefix = "{place.prefix}"\n'
    )
    done = CliRunner().invoke(app, ["examples", *args, "--config", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def without(batch: ExampleBatch, first: int, stop: int) -> ExampleBatch:
    return batch.take(np.array([i for i in range(len(batch)) if not first <= i < stop]))


async def test_replicas_that_run_and_that_start_later_are_those_that_never_learned_it(
    place: Place, tmp_path: Path
) -> None:
    fraud, churn = examples(300), examples(80, first=1000)

    async with place.snapshots() as snapshots:
        early, other = place.follower(snapshots, snapshot_every=64), place.follower()
        async with following(early), following(other):
            await place.send(("fraud", fraud.slice(0, 200)), ("churn", churn))
            for follower in (early, other):
                await follower.wait_for("fraud", 200, 20)
                await follower.wait_for("churn", 80, 20)
            before = early.model("fraud").snapshot().digest
            order = ("quarantine", "--task", "fraud", "--offsets", "100-119", "--yes")
            await asyncio.to_thread(command, place, tmp_path, *order)
            await place.send(("fraud", fraud.slice(200, 300)))
            for follower in (early, other):
                await follower.wait_for("fraud", 301, 20)
            late, stored = place.follower(), place.follower(snapshots)
            await late.catch_up()
            await until(lambda: early.lag() == other.lag() == 0)
            await stored.catch_up()
            found = [digests(follower) for follower in (early, other, late, stored)]
            await late.stop()
            await stored.stop()
            assert all(each == found[0] for each in found)
            assert found[0]["fraud"] == (301, linear("fraud", [without(fraud, 100, 120)]))
            assert found[0]["churn"] == (80, linear("churn", [churn]))
            assert early.rejected == 0
            for version, wanted in ((200, before), (301, found[0]["fraud"][1])):
                for models in (None, snapshots):
                    fold = ExampleFold("fraud", SPECS["fraud"], FEATURES)
                    await rebuild(
                        lambda: RangeReader(options(place.kafka), place.topic), fold, version, snapshots=models
                    )
                    assert fold.model.snapshot().digest == wanted, f"version {version} can be made again"


def test_the_command_says_what_is_meant_and_what_is_taken_back(place: Place, tmp_path: Path) -> None:
    batch = examples(30)
    batch.entity_id[:] = [f"u{i % 3}" for i in range(30)]

    async def test() -> None:
        await place.send(("fraud", batch))

    run(test())
    words = command(place, tmp_path, "quarantine", "--task", "fraud", "--entity", "u1", "--yes", "--reason", "stolen")
    assert "10 examples of task fraud" in words
    rows = json.loads(command(place, tmp_path, "list", "--task", "fraud", "--limit", "30", "--json"))
    assert [row["entity_id"] for row in rows if row["taken_back"]] == ["u1"] * 10
    done = CliRunner().invoke(
        app, ["examples", "quarantine", "--task", "fraud", "--entity", "u1", "--config", str(tmp_path / "weir.toml")]
    )
    assert done.exit_code != 0
    assert "that is not taken back already" in str(done.exception)
