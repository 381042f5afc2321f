"""Models that follow ``examples`` on real Kafka and Redis: equal replicas, stored models, a past that is asked for."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from tests.integration.follow import (
    FEATURES,
    SPECS,
    NewTopic,
    Place,
    Server,
    delete_before,
    digests,
    examples,
    folds,
    following,
    linear,
    start_and_stop,
    until,
)
from tests.integration.kafka_broker import Broker
from weir.online.codec.encode import encode_examples
from weir.online.learners.factory import build_learner
from weir.online.learners.online_model import OnlineModel
from weir.streams.errors import FollowerBehind, ReplicaDiverged, StateError, UsageError
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.model_snapshots import ModelSnapshots, _split
from weir.streams.records import Record

pytestmark = pytest.mark.integration


@pytest.fixture
def place(kafka: Broker, redis_server: Server, new_topic: NewTopic) -> Place:
    return Place(kafka, redis_server, new_topic(retention_ms="-1"))


async def test_replicas_that_start_at_different_times_are_bit_identical(place: Place) -> None:
    """One from the beginning, one from a stored model, one late from scratch; repeats and junk in the log."""
    fraud, churn = examples(300), examples(120, first=1000)
    correction = replace(fraud.slice(10, 20), n=np.ones(10, np.int64), y=~fraud.y[10:20])
    junk = [Record(b"fraud", b"{", 1.7e9), Record(b"other", encode_examples(fraud, FEATURES, "other")[0], 1.7e9)]
    junk += [Record(b"fraud", encode_examples(examples(1, 0, "xyz"), "xyz", "fraud")[0], 1.7e9)]

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
                assert middle.learned < 220, "it began with a stored model"
                await place.send(("fraud", correction), ("churn", churn), ("fraud", fraud), ("fraud", correction))
                for follower in (early, middle):
                    await follower.wait_for("fraud", 310, 20)
                    await follower.wait_for("churn", 120, 20)
                await place.send(("churn", churn.slice(0, 5)))
                late = place.follower()
                await late.catch_up()
                await middle.wait_for("churn", 120, 20)
                await until(lambda: early.lag() == middle.lag() == 0 and early.offset == middle.offset)
                found = [digests(follower) for follower in (early, middle, late)]
                await late.stop()
    assert found[0] == found[1] == found[2]
    assert found[0]["fraud"] == (310, linear("fraud", [fraud.slice(0, 220), correction, fraud.slice(220, 300)]))
    assert found[0]["churn"] == (120, linear("churn", [churn]))
    assert late.rejected == early.rejected == 2
    assert late.learned == 430
    assert late.offset == early.offset


async def test_a_stop_stores_what_was_learned_and_the_next_start_goes_on_there(place: Place) -> None:
    batch = examples(50)

    async with place.snapshots() as snapshots:
        await place.send(("fraud", batch))
        one = place.follower(snapshots)
        async with following(one):
            pass
        two = place.follower(snapshots)
        seen: list[tuple[int, int]] = []
        await two.catch_up(lambda done, total: seen.append((done, total)))
        assert (two.version("fraud"), two.learned, two.lag()) == (50, 0, 0)
        assert two.model("fraud").snapshot().digest == linear("fraud", [batch])
        await two.stop()


async def test_catching_up_tells_its_progress(place: Place) -> None:
    await place.send(("fraud", examples(5000)))
    follower = place.follower()
    seen: list[tuple[int, int]] = []
    await follower.catch_up(lambda done, total: seen.append((done, total)))
    await follower.stop()
    assert seen[-1] == (5000, 5000)
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_two_replicas_that_differ_are_found_out(place: Place) -> None:
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


async def versions(snapshots: ModelSnapshots, fold: ExampleFold) -> list[int]:
    """The stored versions that fit, oldest first."""
    members = await snapshots._link.execute("ZRANGE", snapshots._index(fold.task), 0, -1)
    return [version for version, fit in _split(members) if fit == fold.fit]


async def test_an_equal_model_is_stored_once_and_old_ones_thin_out(place: Place) -> None:
    async with place.snapshots() as snapshots:
        one, two = folds(["fraud"]) * 2
        for number in range(20):
            batch, offsets = examples(10, first=10 * number), np.arange(10) + 10 * number
            one.take(batch, offsets)
            assert await snapshots.save(one, one.state())
            assert not await snapshots.save(two, one.state())
        kept = await versions(snapshots, one)
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


async def test_a_stored_model_with_a_part_missing_is_passed_over(place: Place) -> None:
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


async def test_a_stored_model_that_somebody_forged_stops_nobody(place: Place) -> None:
    """Its digests are right and its content is not; another header is no header; a member of the index is none."""
    batch = examples(20)

    async with place.snapshots() as snapshots:
        await place.send(("fraud", batch))
        fold = folds(["fraud"])[0]
        fold.take(batch.slice(0, 10), np.arange(10))
        await snapshots.save(fold, fold.state())
        index = f"{place.prefix}:{{models}}:fraud"
        good = fold.state()
        junk = b"\x80\x05junk \xff"
        forged = replace(good, version=12, model=junk, digest=hashlib.sha256(junk).hexdigest())
        await snapshots.save(fold, forged)
        await snapshots._link.execute("HSET", f"{index}:15:{fold.fit}", "header", b"\x98\xa1\xff")
        await snapshots._link.execute("ZADD", index, 15, f"15:{fold.fit}")
        await snapshots._link.execute("ZADD", index, 99, b"\xff:what")
        follower = place.follower(snapshots)
        async with following(follower):
            assert (follower.version("fraud"), follower.learned) == (20, 10), "from the older one that is whole"
            assert follower.model("fraud").snapshot().digest == linear("fraud", [batch])
        assert 12 not in await versions(snapshots, fold), "its place is free for the true one"


async def test_waiting_for_a_version(place: Place) -> None:
    follower = place.follower()
    async with following(follower):
        await follower.wait_for("fraud", 0, 0.0)
        with pytest.raises(FollowerBehind, match=r"version 1 was not reached within 0\.2 s; this worker has learned 0"):
            await follower.wait_for("fraud", 1, 0.2)
        waiting = asyncio.create_task(follower.wait_for("fraud", 30, 20))
        await place.send(("fraud", examples(30)))
        await waiting
        assert follower.version("fraud") == 30
        waiting = asyncio.create_task(follower.wait_for("fraud", 31, 20))
        await asyncio.sleep(0)
    with pytest.raises(FollowerBehind, match="will not be reached here: the worker stops"):
        await waiting


async def test_a_log_that_does_not_fit_the_stored_models_is_an_error(place: Place, new_topic: NewTopic) -> None:
    async with place.snapshots() as snapshots:
        await place.send(("fraud", examples(20)))
        await place.send(("churn", examples(20)))
        async with following(place.follower(snapshots)):
            pass
        delete_before(place, 30)
        with pytest.raises(RecordsDeleted, match=r"needs .* from offset 0 on, and Kafka holds it from 30 on"):
            await start_and_stop(place.follower())
        await start_and_stop(place.follower(snapshots))  # the stored models are behind what was deleted
        place.topic = new_topic()
        with pytest.raises(StateError, match=r"has read .* up to 40, and the log ends at 0: it was made anew"):
            await start_and_stop(place.follower(snapshots))
        place.topic = new_topic(2)
        with pytest.raises(UsageError, match="has 2 partitions; models need one order"):
            await start_and_stop(place.follower())


async def test_following_goes_on_when_the_broker_was_away(
    restartable_kafka: Broker, redis_server: Server, new_topic: NewTopic
) -> None:
    place = Place(restartable_kafka, redis_server, new_topic())

    follower = place.follower()
    async with following(follower) as task:
        await place.send(("fraud", examples(10)))
        await follower.wait_for("fraud", 10, 20)
        await asyncio.to_thread(restartable_kafka.stop)
        await asyncio.to_thread(restartable_kafka.start)
        await place.send(("fraud", examples(10, first=10)))
        await follower.wait_for("fraud", 20, 30)
        assert not task.done()
