"""Models that follow ``examples`` on real Kafka and Redis: equal replicas, stored models, ranges, explanations."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from typer.testing import CliRunner

from online.batch import ExampleBatch, PredictionBatch
from online.encode import encode_examples, encode_predictions
from online.learners import LearnerSpec, OnlineModel, build_learner
from online.learners.timeline import ModelTimeline
from online.task import TaskSpec
from online.taskshape import shape_of
from streams.cli.main import app
from streams.errors import BrokerError, StateError, UsageError
from streams.following import (
    ExampleFold,
    Follower,
    FollowerBehind,
    FollowPolicy,
    ModelSnapshots,
    ReplicaDiverged,
    history,
)
from streams.log import Record
from streams.settings import KafkaSettings
from streams.stores.link import RedisLink
from streams.transport import BatchProducer, RecordsDeleted, TransportSettings
from streams.transport.ranges import RangeReader, read_range
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import NamedRedis, RedisServer

pytestmark = pytest.mark.integration
Server = RedisServer | NamedRedis
NewTopic = Callable[..., str]

FEATURES = ("a", "b", "c")
BOOSTED = LearnerSpec(kind="boosted", params={"every": 20, "buffer": 80, "trees": 6, "depth": 3, "min_hessian": 0.5})
SPECS = {
    "fraud": LearnerSpec(kind="stack", members=(BOOSTED, LearnerSpec(kind="logistic"))),
    "churn": LearnerSpec(kind="adaptive_tree", params={"grace_period": 25}),
}


def options(kafka: Broker) -> dict[str, Any]:
    return KafkaSettings(bootstrap=(kafka.address,)).client_options("test")


def examples(count: int, first: int = 0, features: Sequence[str] = FEATURES) -> ExampleBatch:
    rng = np.random.default_rng(first)
    x = rng.normal(size=(count, len(features)))
    return ExampleBatch(
        event_id=[f"e{i}" for i in range(first, first + count)],
        n=np.zeros(count, np.int64),
        ts=1.7e9 + np.arange(count, dtype=np.float64),
        x=x,
        score=np.full(count, 0.5),
        y=x[:, 0] + x[:, 1] > 0.3,
        weight=rng.choice([1.0, 5.0], count),
        correction=np.zeros(count, np.bool_),
    )


def folds(tasks: Sequence[str] = ("fraud", "churn")) -> list[ExampleFold]:
    return [ExampleFold(task, SPECS[task], FEATURES) for task in tasks]


def linear(task: str, batches: Sequence[ExampleBatch]) -> str:
    """The digest of a model that learned each example once, in order."""
    model = OnlineModel(build_learner(SPECS[task], FEATURES))
    for batch in batches:
        model.learn(batch)
    return model.snapshot().digest


@dataclass
class Place:
    """Brokers, a Redis prefix and an ``examples`` topic of one test's own."""

    kafka: Broker
    redis: Server
    topic: str
    prefix: str = field(default_factory=lambda: f"t-{os.urandom(4).hex()}")

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[BatchProducer]:
        made = BatchProducer(TransportSettings(bootstrap=self.kafka.address, group="test"))
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    @asynccontextmanager
    async def snapshots(self) -> AsyncIterator[ModelSnapshots]:
        link = RedisLink(self.redis.settings(), patience_s=5.0, prefix=self.prefix)
        try:
            yield ModelSnapshots(link)
        finally:
            await link.stop()

    def follower(self, snapshots: ModelSnapshots | None = None, **policy: Any) -> Follower:
        return Follower(
            options(self.kafka), folds(), snapshots=snapshots, topic=self.topic, policy=FollowPolicy(**policy)
        )

    async def send(self, *batches: tuple[str, ExampleBatch]) -> None:
        records = [
            Record(task.encode(), value, 1.7e9)
            for task, batch in batches
            for value in encode_examples(batch, FEATURES, task)
        ]
        await self.send_records(records)

    async def send_records(self, records: list[Record]) -> None:
        async with self.producer() as made:
            await made.send_and_wait(self.topic, records)


@pytest.fixture
def place(kafka: Broker, redis_server: Server, new_topic: NewTopic) -> Place:
    return Place(kafka, redis_server, new_topic(retention_ms="-1"))


def digests(follower: Follower) -> dict[str, tuple[int, str]]:
    return {task: (follower.version(task), follower.model(task).snapshot().digest) for task in SPECS}


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
    """Caught up, and running in the background."""
    await follower.catch_up()
    task = asyncio.create_task(follower.run())
    try:
        yield task
    finally:
        await follower.stop()
        await asyncio.gather(task, return_exceptions=True)


def run(test: Awaitable[None]) -> None:
    async def go() -> None:
        await test

    asyncio.run(go())


# -- replicas ----------------------------------------------------------------------------------------------------


def test_replicas_that_start_at_different_times_are_bit_identical(place: Place) -> None:
    """One from the beginning, one from a stored model, one late from scratch; repeats and junk in the log."""
    fraud, churn = examples(300), examples(120, first=1000)
    correction = replace(fraud.slice(10, 20), n=np.ones(10, np.int64), y=~fraud.y[10:20])
    junk = [Record(b"fraud", b"{", 1.7e9), Record(b"other", encode_examples(fraud, FEATURES, "other")[0], 1.7e9)]
    junk += [Record(b"fraud", encode_examples(examples(1, 0, "xyz"), "xyz", "fraud")[0], 1.7e9)]

    async def test() -> None:
        async with place.snapshots() as snapshots:
            early = place.follower(snapshots, turn_records=7, snapshot_every=50)
            async with following(early):
                await place.send(("fraud", fraud.slice(0, 180)), ("churn", churn.slice(0, 60)))
                await place.send_records(junk)
                await place.send(("fraud", fraud.slice(90, 180)), ("fraud", fraud.slice(150, 220)))
                await early.wait_for("fraud", 220, 20)

                middle = place.follower(snapshots, turn_records=64, snapshot_every=50)
                async with following(middle):
                    assert middle.offset > 0
                    assert middle.stats.learned < 220, "it began with a stored model"
                    await place.send(("fraud", correction), ("churn", churn), ("fraud", fraud), ("fraud", correction))
                    for follower in (early, middle):
                        await follower.wait_for("fraud", 310, 20)
                        await follower.wait_for("churn", 120, 20)
                    await place.send(("churn", churn.slice(0, 5)))
                    late = place.follower()
                    await late.catch_up()
                    await middle.wait_for("churn", 120, 20)
                    await _until(lambda: early.lag() == middle.lag() == 0 and early.offset == middle.offset)
                    found = [digests(follower) for follower in (early, middle, late)]
                    await late.stop()
        assert found[0] == found[1] == found[2]
        assert found[0]["fraud"] == (310, linear("fraud", [fraud.slice(0, 220), correction, fraud.slice(220, 300)]))
        assert found[0]["churn"] == (120, linear("churn", [churn]))
        assert late.stats.rejected == early.stats.rejected == 2
        assert late.stats.learned == 430
        assert late.offset == early.offset

    run(test())


async def _until(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():
            await asyncio.sleep(0.01)


def test_a_stop_stores_what_was_learned_and_the_next_start_goes_on_there(place: Place) -> None:
    batch = examples(50)

    async def test() -> None:
        async with place.snapshots() as snapshots:
            await place.send(("fraud", batch))
            one = place.follower(snapshots)
            async with following(one):
                pass
            two = place.follower(snapshots)
            seen: list[tuple[int, int]] = []
            await two.catch_up(lambda done, total: seen.append((done, total)))
            assert (two.version("fraud"), two.stats.learned, two.lag()) == (50, 0, 0)
            assert two.model("fraud").snapshot().digest == linear("fraud", [batch])
            await two.stop()

    run(test())


def test_catching_up_tells_its_progress(place: Place) -> None:
    async def test() -> None:
        await place.send(("fraud", examples(5000)))
        follower = place.follower()
        seen: list[tuple[int, int]] = []
        await follower.catch_up(lambda done, total: seen.append((done, total)))
        await follower.stop()
        assert seen[-1] == (5000, 5000)
        assert len(seen) > 1
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    run(test())


def test_two_replicas_that_differ_are_found_out(place: Place) -> None:
    async def test() -> None:
        async with place.snapshots() as snapshots:
            odd = ExampleFold("fraud", SPECS["fraud"], FEATURES)
            odd.take(examples(50, first=7000), np.arange(50))
            assert await snapshots.save(odd, odd.state())
            follower = place.follower(snapshots, snapshot_every=50)
            follower._snapshots = None  # it starts from the beginning all the same
            async with following(follower) as task:
                await place.send(("fraud", examples(60)))
                async with asyncio.timeout(20):
                    with pytest.raises(ReplicaDiverged, match=odd.state().digest) as raised:
                        await task
        ours = OnlineModel(build_learner(SPECS["fraud"], FEATURES))
        ours.learn(examples(60).slice(0, 50))
        assert ours.snapshot().digest in str(raised.value)

    run(test())


def test_an_equal_model_is_stored_once_and_old_ones_thin_out(place: Place) -> None:
    async def test() -> None:
        async with place.snapshots() as snapshots:
            one, two = folds(["fraud"]) * 2
            for number in range(20):
                batch, offsets = examples(10, first=10 * number), np.arange(10) + 10 * number
                one.take(batch, offsets)
                assert await snapshots.save(one, one.state())
                assert not await snapshots.save(two, one.state())
            kept = await snapshots.versions(one)
            assert kept[-8:] == list(range(130, 201, 10))
            assert len(kept) < 13
            held = await snapshots._link.execute("KEYS", f"{place.prefix}:*")
            assert len(held) == 1 + 3 * len(kept), "an index, and a header and two parts of each"
            for version in (135, 200):
                state = await snapshots.newest(two, at_most=version)
                assert state is not None
                assert state.version == version // 10 * 10
                two.restore(state)
            other = ExampleFold("fraud", SPECS["churn"], FEATURES)
            assert await snapshots.newest(other) is None

    run(test())


def test_a_stored_model_with_a_part_missing_is_passed_over(place: Place) -> None:
    async def test() -> None:
        async with place.snapshots() as snapshots:
            fold = folds(["fraud"])[0]
            for first in (0, 10):
                fold.take(examples(10, first=first), np.arange(10) + first)
                await snapshots.save(fold, fold.state())
            for key in await snapshots._link.execute("KEYS", f"{place.prefix}:{{models}}:fraud:20:*:model:0"):
                await snapshots._link.execute("UNLINK", key)
            state = await snapshots.newest(fold)
            assert state is not None
            assert state.version == 10

    run(test())


def test_waiting_for_a_version(place: Place) -> None:
    async def test() -> None:
        follower = place.follower()
        async with following(follower):
            await follower.wait_for("fraud", 0, 0.0)
            with pytest.raises(
                FollowerBehind, match=r"version 1 was not reached within 0\.2 s; this worker has learned 0"
            ):
                await follower.wait_for("fraud", 1, 0.2)
            waiting = asyncio.create_task(follower.wait_for("fraud", 30, 20))
            await place.send(("fraud", examples(30)))
            await waiting
            assert follower.version("fraud") == 30
            waiting = asyncio.create_task(follower.wait_for("fraud", 31, 20))
            await asyncio.sleep(0)
        with pytest.raises(FollowerBehind, match="will not be reached here: the worker stops"):
            await waiting

    run(test())


def test_a_log_that_does_not_fit_the_stored_models_is_an_error(place: Place, new_topic: NewTopic) -> None:
    async def test() -> None:
        async with place.snapshots() as snapshots:
            await place.send(("fraud", examples(20)))
            await place.send(("churn", examples(20)))
            async with following(place.follower(snapshots)):
                pass
            _delete_before(place, 30)
            with pytest.raises(RecordsDeleted, match=r"needs .* from offset 0 on, and Kafka holds it from 30 on"):
                await _start(place.follower())
            await _start(place.follower(snapshots))  # the stored models are behind what was deleted
            place.topic = new_topic()
            with pytest.raises(StateError, match=r"has read .* up to 40, and the log ends at 0: it was made anew"):
                await _start(place.follower(snapshots))
            place.topic = new_topic(2)
            with pytest.raises(UsageError, match="has 2 partitions; models need one order"):
                await _start(place.follower())

    run(test())


async def _start(follower: Follower) -> None:
    try:
        await follower.catch_up()
    finally:
        await follower.stop()


def _delete_before(place: Place, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=place.kafka.address)
    try:
        admin.delete_records({TopicPartition(place.topic, 0): offset})
    finally:
        admin.close()


def test_following_goes_on_when_the_broker_was_away(
    restartable_kafka: Broker, redis_server: Server, new_topic: NewTopic
) -> None:
    place = Place(restartable_kafka, redis_server, new_topic())

    async def test() -> None:
        follower = place.follower()
        async with following(follower) as task:
            await place.send(("fraud", examples(10)))
            await follower.wait_for("fraud", 10, 20)
            await asyncio.to_thread(restartable_kafka.stop)
            await asyncio.to_thread(restartable_kafka.start)
            await place.send(("fraud", examples(10, first=10)))
            await follower.wait_for("fraud", 20, 30)
            assert not task.done()

    run(test())


# -- ranges ------------------------------------------------------------------------------------------------------


async def _numbers(kafka: Broker, topic: str, start: int, stop: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    async for offsets, records in read_range(options(kafka), topic, 0, start, stop):
        found += [(offset, int(record.value)) for offset, record in zip(offsets, records, strict=True)]
    return found


def test_a_range_is_exact_and_may_have_gaps(kafka: Broker, new_topic: NewTopic) -> None:
    """Transactions leave markers, and records that were taken back: offsets without a record, also at the ends."""
    topic = new_topic()

    async def test() -> None:
        made = AIOKafkaProducer(bootstrap_servers=kafka.address, transactional_id=f"t-{topic}")
        await made.start()
        expected: list[tuple[int, int]] = []
        offset = 0
        for number in range(6):
            await made.begin_transaction()
            for part in range(3):
                await made.send_and_wait(topic, b"%d" % (10 * number + part))
                if number % 2 == 0:
                    expected.append((offset, 10 * number + part))
                offset += 1
            await (made.commit_transaction() if number % 2 == 0 else made.abort_transaction())
            offset += 1
        await made.stop()
        for start, stop in ((0, offset), (1, 2), (2, 9), (3, 8), (4, 8), (7, 8), (5, 5), (9, 22)):
            wanted = [pair for pair in expected if start <= pair[0] < stop]
            assert await _numbers(kafka, topic, start, stop) == wanted, (start, stop)

    run(test())


def test_a_range_that_is_not_there_is_an_error(place: Place) -> None:
    async def test() -> None:
        await place.send(("fraud", examples(30)))
        _delete_before(place, 10)
        with pytest.raises(
            RecordsDeleted, match="from offset 9 on were deleted by retention: the first that is left is 10"
        ):
            await _read(place, 9, 20)
        assert await _read(place, 10, 30) == 20
        with pytest.raises(BrokerError, match="ends at 30, wanted up to 31: the topic was made anew"):
            await _read(place, 25, 31)
        place.topic = "no-such-topic"
        with pytest.raises(UsageError, match="no topic no-such-topic"):
            await _read(place, 0, 1)

    run(test())


async def _read(place: Place, start: int, stop: int) -> int:
    async with RangeReader(options(place.kafka), place.topic, patience_s=1.0) as reader:
        return sum([len(records) async for _, records in reader.read(0, start, stop)])


# -- explanations ------------------------------------------------------------------------------------------------

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


def test_the_timeline_of_a_follower_explains_what_others_scored(place: Place) -> None:
    """What a label lane does: the reasons of a score of another worker, by the version that made it."""
    batch = examples(200)

    async def test() -> None:
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

    run(test())


def test_a_lane_that_is_far_behind_gets_every_version_exactly(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the live model has no past; what a lane asks for is older, jumps about, and catches up."""
    monkeypatch.setattr(history, "SLACK", 40)
    batch = examples(900)
    then = ModelTimeline("fraud", lambda: build_learner(SPECS["fraud"], FEATURES), keep=900)
    then.learn(batch)
    asked = [(0, 0), (90, 130), (100, 220), (70, 75), (500, 620), (640, 640), (899, 900), (900, 900), (10, 890)]

    async def test() -> None:
        async with place.snapshots() as snapshots:
            await place.send(("fraud", batch.slice(0, 450)), ("churn", batch.slice(0, 30)))
            await _start(place.follower(snapshots))
            await place.send(("fraud", batch.slice(300, 900)))
            await _start(place.follower(snapshots))
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

    run(test())
