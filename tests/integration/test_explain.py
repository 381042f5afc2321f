"""``weir explain-score`` and a follower's past on real Kafka and Redis: a score is made again bit for bit."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.integration.follow import (
    FEATURES,
    SPECS,
    NewTopic,
    Place,
    Server,
    examples,
    following,
    start_and_stop,
)
from tests.integration.kafka_broker import Broker
from weir.online.batch import PredictionBatch
from weir.online.codec.encode import encode_examples, encode_predictions
from weir.online.learners.factory import build_learner
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.cli.app import app
from weir.streams.errors import FollowerBehind, UsageError
from weir.streams.model_replicas import past_models as history
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.timeline import ModelTimeline
from weir.streams.records import Record

pytestmark = pytest.mark.integration


@pytest.fixture
def place(kafka: Broker, redis_server: Server, new_topic: NewTopic) -> Place:
    return Place(kafka, redis_server, new_topic(retention_ms="-1"))


TASK = """
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean"]
windows = ["1d"]
[model]
"""
LOGISTIC = 'kind = "logistic"\nparams = { lr = 0.05 }\n'
STACK = """kind = "stack"
[[model.members]]
kind = "logistic"
[[model.members]]
kind = "boosted"
params = { every = 50, buffer = 400, trees = 8, depth = 3, min_hessian = 0.5 }
"""


@dataclass
class Scored:
    """A deployment in which 40 events were scored, one of them twice, and the files to ask it with."""

    task: Path
    config: Path
    events: dict[str, tuple[float, int]]
    """Score and version of each event's first score."""


@pytest.fixture(params=[LOGISTIC, STACK], ids=["logistic", "stack"])
def scored(request: pytest.FixtureRequest, place: Place, new_topic: NewTopic, tmp_path: Path) -> Scored:
    predictions = new_topic(3, retention_ms="-1")
    task, config = tmp_path / "fraud.toml", tmp_path / "weir.toml"
    task.write_text(TASK + request.param)
    config.write_text(
        f'[kafka]\nbootstrap = "{place.kafka.address}"\n[redis]\nurl = "{place.redis.url}"\nprefix = "{place.prefix}"\n'
        f'[topics.names]\nexamples = "{place.topic}"\npredictions = "{predictions}"\n'
    )
    spec = TaskSpec.from_toml(task.read_text())
    events: dict[str, tuple[float, int]] = {}

    async def make() -> None:
        features = shape_of(spec).features
        fold = ExampleFold.of(spec)
        rng = np.random.default_rng(5)
        async with place.producer() as made, place.snapshots() as snapshots:
            for number in range(40):
                batch = examples(25, first=25 * number, features=features)
                again = "s7" if number == 11 else f"s{number}"
                x = rng.normal(size=(1, len(features)))
                score, version = fold.model.score(x)
                events.setdefault(again, (float(score[0]), version))
                one = PredictionBatch(
                    [again],
                    [f"u{number % 4 if number != 11 else 3}"],
                    np.ones(1) * 1.7e9,
                    score,
                    np.array([version]),
                    x,
                )
                values = encode_predictions(one, features, "fraud", 1.7e9)
                values += encode_predictions(one, features, "other", 1.7e9)
                await made.send_and_wait(predictions, [Record(one.entity_id[0].encode(), v, 1.7e9) for v in values])
                values = encode_examples(batch, features, "fraud")
                await made.send_and_wait(place.topic, [Record(b"fraud", v, 1.7e9) for v in values])
                fold.take(batch, np.arange(25) + 25 * number)
                if number == 19:
                    await snapshots.save(fold, fold.state())
        await _tamper(place, predictions, features)

    async def _tamper(place: Place, topic: str, features: tuple[str, ...]) -> None:
        """One prediction that no version made."""
        x = np.zeros((1, len(features)))
        one = PredictionBatch(["odd"], ["u0"], np.ones(1) * 1.7e9, np.array([0.123]), np.array([600]), x)
        async with place.producer() as made:
            values = encode_predictions(one, features, "fraud", 1.7e9)
            await made.send_and_wait(topic, [Record(b"u0", v, 1.7e9) for v in values])

    asyncio.run(make())
    return Scored(task, config, events)


def ask(scored: Scored, event: str, *more: str) -> tuple[int, dict[str, Any]]:
    command = ["explain-score", event, "--task", str(scored.task), "--config", str(scored.config), "--json", *more]
    done = CliRunner().invoke(app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_score_is_made_again_bit_for_bit(scored: Scored) -> None:
    for event, start in (("s0", 0), ("s5", 0), ("s20", 500), ("s33", 500), ("s39", 500)):
        status, found = ask(scored, event)
        score, version = scored.events[event]
        assert (status, found["equal"]) == (0, True)
        assert found["score"] == found["logged"]["score"] == score
        assert found["model"]["version"] == version == 25 * int(event[1:])
        assert found["model"]["rebuilt_from"] == start
        assert found["repeats"] == []
        sizes = [abs(c["contribution"]) for c in found["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert (sizes[0] > 0) == (version > 0)
    _, slow = ask(scored, "s33", "--from-start", "--entity", "u1")
    _, fast = ask(scored, "s33")
    assert slow["model"].pop("rebuilt_from") == 0
    assert fast["model"].pop("rebuilt_from") == 500
    assert slow == fast


def test_the_first_of_two_scores_of_an_event_counts(scored: Scored) -> None:
    _, found = ask(scored, "s7")
    assert found["logged"]["model_version"] == scored.events["s7"][1] == 175
    assert [repeat["model_version"] for repeat in found["repeats"]] == [275]
    assert found["repeats"][0]["offset"] > found["logged"]["offset"]


def test_a_score_that_cannot_be_made_again_is_said_to_be_wrong(scored: Scored) -> None:
    status, found = ask(scored, "odd")
    assert (status, found["equal"], found["logged"]["score"]) == (1, False, 0.123)
    assert found["score"] != 0.123


def test_people_get_a_page(scored: Scored) -> None:
    command = ["explain-score", "s7", "--task", str(scored.task), "--config", str(scored.config)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for words in ("equal bit for bit", repr(scored.events["s7"][0]), "version 175", "they do not count", "log-odds"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--since", "2100-01-01"], "no score of event 's3' by task fraud in .* since 2100-01-01"),
        (["--partition", "7"], "has no partition 7; it has 0 to 2"),
        (["--since", "soon"], "--since 'soon': give a time"),
    ],
)
def test_what_cannot_be_found_is_said(scored: Scored, more: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask(scored, "s3", *more)


def test_a_task_file_with_other_features_is_refused(scored: Scored) -> None:
    scored.task.write_text(scored.task.read_text().replace('"mean"', '"max"'))
    with pytest.raises(UsageError, match="the task file has other features than the score was made from"):
        ask(scored, "s3")


def test_without_redis_all_examples_are_learned_again(scored: Scored) -> None:
    text = scored.config.read_text()
    scored.config.write_text(text.replace(text.split('url = "')[1].split('"')[0], "redis://127.0.0.1:1/0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIR_REDIS__TIMEOUT_S", "0.2")
        status, found = ask(scored, "s33")
    assert (status, found["model"]["rebuilt_from"]) == (0, 0)


async def test_the_timeline_of_a_follower_explains_what_others_scored(place: Place) -> None:
    """What a label lane does: the reasons of a score of another worker, by the version that made it."""
    batch = examples(200)

    follower = place.follower(turn_records=32)
    async with following(follower):
        await place.send(("fraud", batch))
        await follower.wait_for("fraud", 200, 20)
        versions = np.array([200, 60, 130])
        found = follower.model("fraud").contributions(batch.x[:3], versions)
    for row, version in enumerate(versions.tolist()):
        then = ModelTimeline("fraud", lambda: build_learner(SPECS["fraud"], FEATURES))
        then.learn(batch.slice(0, version))
        assert found[row].tobytes() == then.learner.contributions(batch.x[row : row + 1])[0].tobytes()


async def test_a_lane_that_is_far_behind_gets_every_version_exactly(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart the live model has no past; what a lane asks for is older, jumps about, and catches up."""
    monkeypatch.setattr(history, "SLACK", 40)
    batch = examples(900)
    then = ModelTimeline("fraud", lambda: build_learner(SPECS["fraud"], FEATURES), keep=900)
    then.learn(batch)
    asked = [(0, 0), (90, 130), (100, 220), (70, 75), (500, 620), (640, 640), (899, 900), (900, 900), (10, 890)]

    async with place.snapshots() as snapshots:
        await place.send(("fraud", batch.slice(0, 450)), ("churn", batch.slice(0, 30)))
        await start_and_stop(place.follower(snapshots))
        await place.send(("fraud", batch.slice(300, 900)))
        await start_and_stop(place.follower(snapshots))
        follower = place.follower(snapshots)
        async with following(follower):
            assert follower.model("fraud").oldest == 900
            past = follower.history("fraud")
            for oldest, newest in asked:
                versions = np.array([newest, oldest, (oldest + newest) // 2])
                await past.cover(versions, 20.0)
                found = past.contributions(batch.x[:3], versions)
                assert found.tobytes() == then.contributions(batch.x[:3], versions).tobytes(), (oldest, newest)
            await past.close()
            with pytest.raises(FollowerBehind, match="version 901 was not reached"):
                await past.cover(np.array([20, 901]), 0.1)
