"""The record-batch transport against a real Kafka: delivery, commits, rewinds, crashes, a broker that goes away.

Workers are processes of their own (transport_worker.py) that copy a topic; a copy says where its record came from.
Run with ``-s`` to see the pauses and the repeats that were measured.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from tests.integration.copying import (
    LONG_SESSION,
    PARTITIONS,
    Load,
    Worker,
    check_nothing_lost,
    committed,
    copied,
    copiers,
    ends,
    flowing_since,
    make_topics,
    produce,
    read,
    some,
    wait_copied,
)
from tests.integration.kafka_broker import Broker
from weir.streams.records import Record

pytestmark = pytest.mark.integration
NewTopic = Callable[..., str]
KILLS, AWAY_S = 2, 3


@pytest.fixture
def start_worker(tmp_path: Path, kafka: Broker) -> Iterator[Callable[..., Worker]]:
    with copiers(tmp_path) as start:
        yield functools.partial(start, kafka)


# -- delivery and commits ----------------------------------------------------------------------------------------------


def test_every_record_arrives_once_and_in_order_in_bounded_batches_of_which_few_are_in_flight(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    produce(kafka, source, some(20_000))
    worker = start_worker(source, target, "--delay-s", "0.02", "--max-batch", "200")
    wait_copied(kafka, source, target, worker)
    assert max(said["batch"][2] for said in worker.batches()) == 200, "max_batch is not respected"
    assert max(said["in_flight"] for said in worker.batches()) in (2, 3)
    assert worker.end() == 0
    assert check_nothing_lost(kafka, source, target) == 0


def test_a_graceful_stop_repeats_nothing(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    produce(kafka, source, some(20_000))
    worker = start_worker(source, target, "--delay-s", "0.05")
    worker.until(lambda: len(worker.batches()) >= 8, "8 batches")
    assert worker.end() == 0
    assert 0 < sum(committed(kafka, source).values()) < 20_000
    rest = start_worker(source, target)
    wait_copied(kafka, source, target, rest)
    assert check_nothing_lost(kafka, source, target) == 0


def test_a_killed_worker_loses_nothing(kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    produce(kafka, source, some(40_000))
    for kills in range(1, KILLS + 1):
        worker = start_worker(source, target, "--delay-s", "0.005", "--instance-id", "one", *LONG_SESSION)
        worker.until(lambda: len(worker.batches()) >= 16, "16 batches")  # noqa: B023 - called before the next turn
        worker.end(signal.SIGKILL)
        seen = copied(read(kafka, target))
        for partition, offset in committed(kafka, source).items():
            assert set(range(offset)) <= set(seen[partition]), f"kill {kills}: a commit passed what was not copied"
    started = time.time()
    worker = start_worker(source, target, "--instance-id", "one", *LONG_SESSION)
    wait_copied(kafka, source, target, worker)
    first = worker.batches()[0]["t"] - started
    repeats = check_nothing_lost(kafka, source, target)
    print(f"\n{KILLS} SIGKILLs in 40,000 records: {repeats} repeats; first batch {first:.1f} s after the last restart")
    # Not committed at a kill: what was in flight, and what completed in the .1 s since the last commit.
    assert repeats <= KILLS * PARTITIONS * 500 * (3 + 16)
    assert first < 20.0, "a static member that comes back should not have to wait for its old session"


def test_an_agent_that_raises_stops_the_worker_before_its_record(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(1), new_topic(1)
    produce(kafka, source, some(1_000))
    worker = start_worker(source, target)
    wait_copied(kafka, source, target, worker)
    produce(kafka, source, [Record(b"k", b"poison", time.time())])
    produce(kafka, source, some(100))
    assert worker.process.wait(20) != 0
    assert committed(kafka, source)[0] <= 1_000
    again = start_worker(source, target)
    assert again.process.wait(20) != 0, "the record must come again"


def transactions(broker: Broker, topic: str, number: int) -> list[int]:
    """Transactions of ten records and a marker, every second one aborted; the offsets of the other ones' records."""

    async def run() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=broker.address, transactional_id=f"x-{topic}")
        await producer.start()
        for i in range(number):
            await producer.begin_transaction()
            batch = producer.create_batch()
            for j in range(10):
                batch.append(timestamp=int(time.time() * 1000), key=None, value=b"%d" % j)
            await producer.send_batch(batch, topic, partition=0)
            await (producer.abort_transaction() if i % 2 else producer.commit_transaction())
        await producer.stop()

    asyncio.run(run())
    return [11 * i + j for i in range(0, number, 2) for j in range(10)]


def test_aborted_transactions_are_passed_over(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(1), new_topic(1)
    there_are = transactions(kafka, source, 6)
    worker = start_worker(source, target)
    wait_copied(kafka, source, target, worker)  # so commits pass the markers, which are no records
    assert copied(read(kafka, target)) == {0: there_are}


def delete_before(broker: Broker, topic: str, offsets: dict[int, int]) -> None:
    """Delete records as retention would."""
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    admin.delete_records({TopicPartition(topic, p): offset for p, offset in offsets.items()})
    admin.close()


def test_records_deleted_before_they_were_processed_stop_the_worker(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(1), new_topic(1)
    produce(kafka, source, some(1_000))
    worker = start_worker(source, target)
    wait_copied(kafka, source, target, worker)
    assert worker.end() == 0
    produce(kafka, source, some(1_000))
    delete_before(kafka, source, {0: 1_500})
    worker = start_worker(source, target)
    assert worker.process.wait(20) != 0
    assert "offset 1000 is not in Kafka any more" in worker.log
    skips = start_worker(source, target, "--when-deleted", "skip")
    wait_copied(kafka, source, target, skips)
    assert copied(read(kafka, target)) == {0: [*range(1_000), *range(1_500, 2_000)]}


# -- where reading goes on ---------------------------------------------------------------------------------------------


def check_path(worker: Worker, there_are: dict[int, list[int]]) -> None:
    """Each batch begins where the last one of its partition ended or where the partition was rewound to since."""
    position = dict.fromkeys(there_are, 0)
    for said in worker.said:
        if "rewound" in said:
            partition, position[partition] = said["rewound"]
        elif "batch" in said:
            partition, base, count = said["batch"]
            rest = [offset for offset in there_are[partition] if offset >= position[partition]]
            assert base == rest[0], f"partition {partition}: a batch at {base}, and not at {rest[0]}"
            position[partition] = rest[count - 1] + 1
    assert all(position[p] > offsets[-1] for p, offsets in there_are.items()), "did not read on to the end"


def test_rewinds_take_effect_at_once_and_disturb_no_other_partition(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    produce(kafka, source, some(8_000))
    shortest = min(ends(kafka, source).values())
    worker = start_worker(source, target, "--max-batch", "50", "--rewinds", "120", "--rewind-within", str(shortest))
    worker.until(lambda: sum("rewound" in said for said in worker.said) == 120, "120 rewinds")
    wait_copied(kafka, source, target, worker)
    assert worker.end() == 0
    check_path(worker, {p: list(range(end)) for p, end in ends(kafka, source).items()})


def test_rewinds_among_gaps(kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]) -> None:
    source, target = new_topic(1), new_topic(1)
    there_are = {0: transactions(kafka, source, 100)}
    worker = start_worker(source, target, "--max-batch", "30", "--rewinds", "60", "--rewind-within", "1000")
    worker.until(lambda: sum("rewound" in said for said in worker.said) == 60, "60 rewinds")
    wait_copied(kafka, source, target, worker)
    assert worker.end() == 0
    check_path(worker, there_are)


def test_partitions_start_where_the_app_says_and_the_commits_follow(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(3), new_topic(3)
    produce(kafka, source, some(3_000))
    first = start_worker(source, target)
    wait_copied(kafka, source, target, first)
    assert first.end() == 0
    assert [said["revoked"] for said in first.said if "revoked" in said] == [[0, 1, 2]], "told once, at the stop"
    end = ends(kafka, source)
    starts = {0: 7, 1: end[1]}  # back, where it is, and not told: committed
    second = start_worker(source, target, "--starts", json.dumps(starts), "--delay-s", "0.2")
    second.until(lambda: committed(kafka, source)[0] < end[0], "commits that go back")
    wait_copied(kafka, source, target, second)
    assert second.end() == 0
    assert second.batches()[0]["batch"][:2] == [0, 7]
    assert {said["batch"][0] for said in second.batches()} == {0}
    ahead = start_worker(new_source := new_topic(1), target, "--starts", '{"0": 300}')
    produce(kafka, new_source, some(500))
    wait_copied(kafka, new_source, target, ahead)
    assert ahead.batches()[0]["batch"][:2] == [0, 300]


# -- what cannot work --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusals(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """Workers that end by themselves, all started at once: each waits more than it works."""
    arguments = {
        "behind": ("--starts", '{"0": 5000}', "--when-deleted", "skip"),
        "raise": ("--start-fails", "raise"),
        "hang": ("--start-fails", "hang", "--hook-timeout-s", "1"),
        "absent": (),
    }
    sources = {name: f"{name}-{os.urandom(4).hex()}" for name in arguments}
    there = [source for name, source in sources.items() if name != "absent"]
    make_topics(kafka, *there, target := f"t-{os.urandom(4).hex()}", partitions=1)
    for source in there:
        produce(kafka, source, some(10))
    with copiers(tmp_path_factory.mktemp("refusals")) as start:
        yield {name: start(kafka, sources[name], target, *more) for name, more in arguments.items()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("behind", "the log ends at offset 10, and we are at 5000"),
        ("raise", "the store is not there"),
        ("hang", r"hook_timeout_s=1\.0"),
        ("absent", r"topic 'absent-\w+' is not there"),
    ],
    ids=["a start behind the log's end", "a start that raises", "a start that hangs", "no topic"],
)
def test_what_cannot_work_ends_the_worker_before_anything_is_read(
    refusals: dict[str, Worker], name: str, says: str
) -> None:
    worker = refusals[name]
    assert worker.process.wait(40) != 0
    assert re.search(says, worker.log), worker.log
    assert worker.batches() == []


# -- a broker that goes away -------------------------------------------------------------------------------------------


def test_a_broker_that_is_killed_comes_back_seconds_later(
    restartable_kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    """One that stops cleanly is in test_links.py."""
    kafka, source, target = restartable_kafka, new_topic(PARTITIONS), new_topic(PARTITIONS)
    with Load(kafka, source):
        worker = start_worker(source, target)
        worker.until(lambda: flowing_since([worker], 0), "at work")
        kafka.stop(signal.SIGKILL)
        down = time.monotonic()
        worker.until(lambda: time.monotonic() - down > AWAY_S, "alive while the broker is away")
        kafka.start()
        over = time.time()
        worker.until(lambda: flowing_since([worker], over), "at work again")
    wait_copied(kafka, source, target, worker)
    repeats = check_nothing_lost(kafka, source, target)
    resumed = min(s["t"] for s in worker.batches() if s["t"] > over) - over
    print(f"\nbroker killed for {AWAY_S} s: first batch {resumed:.1f} s after it was back; {repeats} repeats")
    assert worker.end() == 0
