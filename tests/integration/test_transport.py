"""The record-batch transport against a real Kafka: delivery, commits, rebalances, crashes, a broker that goes away.

Workers are processes of their own (transport_worker.py) that copy a topic; a copy says where its record came from.
Run with ``-s`` to see the pauses and the repeats that were measured.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.partitioner.default import murmur2

from streams.errors import UsageError
from streams.log import Record
from streams.transport import BatchProducer, DeliveryError, RecordTooLarge, Sent, TransportSettings
from tests.integration.kafka_broker import REPOSITORY, Broker, eventually

pytestmark = pytest.mark.integration
PARTITIONS = 4
NewTopic = Callable[..., str]


class Worker:
    """A worker process and what it said."""

    def __init__(self, log: Path, broker: Broker, source: str, target: str, group: str, *args: str) -> None:
        self._log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.integration.transport_worker", "--bootstrap", broker.address),
                    *("--source", source, "--target", target, "--group", group, *args),
                ],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> list[dict[str, Any]]:
        # Faust's spinner writes its escapes into the same line.
        lines = [line[line.index("{") :] for line in self.log.splitlines() if '{"t": ' in line and line.endswith("}")]
        return [json.loads(line) for line in lines]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def batches(self) -> list[dict[str, Any]]:
        return [said for said in self.said if "batch" in said]

    def assigned(self) -> list[int] | None:
        """The partitions it has, ``None`` before it has any."""
        said = [said["assigned"] for said in self.said if "assigned" in said]
        return said[-1] if said else None

    def has(self, count: int) -> bool:
        return len(self.assigned() or ()) == count

    def assignments(self) -> int:
        return sum("assigned" in said for said in self.said)

    def until(self, what: Callable[[], object], why: str, timeout_s: float = 40) -> None:
        eventually(lambda: what() or self.process.poll() is not None, timeout_s, f"{why}; its log is {self._log}")
        assert what(), f"{why}, but it ended with {self.process.returncode}: {self._log.read_text()[-3000:]}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start_worker(tmp_path: Path, kafka: Broker) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(source: str, target: str, *args: str) -> Worker:
        log = tmp_path / f"worker-{len(workers)}.log"
        workers.append(Worker(log, kafka, source, target, f"g-{source}", *args))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def read(broker: Broker, topic: str) -> list[Any]:
    """Everything in a topic now, by partition and offset."""
    consumer = KafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(tps)
        consumer.seek_to_beginning(*tps)
        ends, records = consumer.end_offsets(tps), []
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
    finally:
        consumer.close()
    return sorted(records, key=lambda r: (r.partition, r.offset))


def ends(broker: Broker, topic: str) -> dict[int, int]:
    consumer = KafkaConsumer(bootstrap_servers=broker.address)
    try:
        tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        return {tp.partition: end for tp, end in consumer.end_offsets(tps).items()}
    finally:
        consumer.close()


def committed(broker: Broker, source: str) -> dict[int, int]:
    consumer = KafkaConsumer(bootstrap_servers=broker.address, group_id=f"g-{source}", enable_auto_commit=False)
    try:
        return {p: consumer.committed(TopicPartition(source, p)) or 0 for p in ends(broker, source)}
    finally:
        consumer.close()


def copied(records: Sequence[Any]) -> dict[int, list[int]]:
    """Source offsets in the order of their copies, by source partition."""
    seen: dict[int, list[int]] = defaultdict(list)
    for record in records:
        partition, offset, _ = record.value.split(b":", 2)
        seen[int(partition)].append(int(offset))
    return seen


def first_occurrences(offsets: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(offsets))


def check_nothing_lost(broker: Broker, source: str, target: str, ordered: bool = True) -> int:
    """Every record was copied, in order; returns how many copies were repeats."""
    seen, repeats = copied(read(broker, target)), 0
    for partition, end in ends(broker, source).items():
        offsets = seen[partition]
        firsts = first_occurrences(offsets)
        assert sorted(firsts) == list(range(end)), f"partition {partition} lost records"
        if ordered:
            assert firsts == list(range(end)), f"partition {partition} is out of order"
        repeats += len(offsets) - len(firsts)
    return repeats


def produce(broker: Broker, topic: str, records: Sequence[Record], **settings: Any) -> None:
    async def run() -> None:
        producer = BatchProducer(TransportSettings(bootstrap=broker.address, group="tests", **settings))
        await producer.start()
        try:
            await producer.send_and_wait(topic, records)
        finally:
            await producer.stop()

    asyncio.run(run())


def some(n: int, start: int = 0) -> list[Record]:
    # Retention goes by the records' timestamps: old ones would be deleted while the test runs.
    now = time.time()
    return [Record(b"k%d" % (i % 997), b"v%d" % i, now + i / 1000) for i in range(start, start + n)]


class Load:
    """Records at a steady pace from a thread of its own, until told to stop."""

    def __init__(self, broker: Broker, topic: str, batch: int = 40, every_s: float = 0.02) -> None:
        self._enough = threading.Event()
        self._run = (broker, topic, batch, every_s)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._produce(*self._run)))

    async def _produce(self, broker: Broker, topic: str, batch: int, every_s: float) -> None:
        producer = BatchProducer(TransportSettings(bootstrap=broker.address, group="tests"))
        await producer.start()
        sent, acknowledged = 0, []
        while not self._enough.is_set():
            acknowledged.append(await producer.send(topic, some(batch, sent)))
            sent += batch
            await asyncio.sleep(every_s)
        await asyncio.gather(*acknowledged)
        await producer.stop()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


def wait_copied(broker: Broker, source: str, target: str, worker: Worker, timeout_s: float = 60) -> None:
    """Until everything is committed, which is after everything is copied."""
    worker.until(lambda: committed(broker, source) == ends(broker, source), f"{source} copied", timeout_s)


def pauses(workers: Sequence[Worker], since: float, partitions: Sequence[int]) -> dict[int, float]:
    """The longest time that each partition went without a batch, from ``since`` on."""
    times: dict[int, list[float]] = {p: [since] for p in partitions}
    for worker in workers:
        for said in worker.batches():
            if said["t"] > since and said["batch"][0] in times:
                times[said["batch"][0]].append(said["t"])
    return {p: max(b - a for a, b in zip(sorted(t), sorted(t)[1:], strict=False)) for p, t in times.items()}


def flowing_since(workers: Sequence[Worker], since: float) -> bool:
    """Every partition has had a batch after ``since``."""
    return {s["batch"][0] for w in workers for s in w.batches() if s["t"] > since} == set(range(PARTITIONS))


# -- delivery and commits ----------------------------------------------------------------------------------------------


def test_every_record_arrives_once_and_in_order(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    produce(kafka, source, some(20_000))
    worker = start_worker(source, target)
    wait_copied(kafka, source, target, worker)
    assert worker.end() == 0
    assert check_nothing_lost(kafka, source, target) == 0
    assert max(said["batch"][2] for said in worker.batches()) == 500, "max_batch is not respected"


def test_batches_in_flight_are_bounded(kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    produce(kafka, source, some(20_000))
    worker = start_worker(source, target, "--delay-s", "0.02", "--max-batch", "200")
    wait_copied(kafka, source, target, worker)
    assert max(said["in_flight"] for said in worker.batches()) == 3
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
    for kills in range(1, 4):
        worker = start_worker(source, target, "--delay-s", "0.005", "--instance-id", "one")
        worker.until(lambda: len(worker.batches()) >= 16, "16 batches")  # noqa: B023 - called before the next turn
        worker.end(signal.SIGKILL)
        seen = copied(read(kafka, target))
        for partition, offset in committed(kafka, source).items():
            assert set(range(offset)) <= set(seen[partition]), f"kill {kills}: a commit passed what was not copied"
    started = time.time()
    worker = start_worker(source, target, "--instance-id", "one")
    wait_copied(kafka, source, target, worker)
    first = worker.batches()[0]["t"] - started
    repeats = check_nothing_lost(kafka, source, target)
    print(f"\n3 SIGKILLs in 40,000 records: {repeats} repeats; first batch {first:.1f} s after the last restart")
    # Not committed at a kill: what was in flight, and what completed in the .1 s since the last commit.
    assert repeats <= 3 * PARTITIONS * 500 * (3 + 16)
    assert first < 6.0, "a static member that comes back should not have to wait for its old session"


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
    there_are = {0: transactions(kafka, source, 200)}
    worker = start_worker(source, target, "--max-batch", "30", "--rewinds", "60", "--rewind-within", "2000")
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


@pytest.mark.parametrize(("how", "says"), [("raise", "the store is not there"), ("hang", "hook_timeout_s=4.0")])
def test_a_start_that_is_not_told_ends_the_worker_before_anything_is_read(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker], how: str, says: str
) -> None:
    source, target = new_topic(1), new_topic(1)
    produce(kafka, source, some(10))
    worker = start_worker(source, target, "--start-fails", how)
    assert worker.process.wait(20) != 0
    assert says in worker.log
    assert worker.batches() == []


# -- rebalances --------------------------------------------------------------------------------------------------------


def two_workers(start: Callable[..., Worker], source: str, target: str, names: Sequence[str]) -> list[Worker]:
    """Two workers that share the partitions; with names, as static members."""
    workers: list[Worker] = []
    for i in range(2):
        workers.append(start(source, target, *(["--instance-id", names[i]] if names else [])))
        count = PARTITIONS // (i + 1)
        for worker in workers:
            worker.until(functools.partial(worker.has, count), "its share of the partitions")
    return workers


@pytest.mark.parametrize("names", [(), ("a", "b")], ids=["dynamic", "static"])
@pytest.mark.parametrize(
    ("number", "bound_s"), [(signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)], ids=["leave", "sigkill"]
)
def test_a_worker_goes_and_the_other_takes_over(
    kafka: Broker,
    new_topic: NewTopic,
    start_worker: Callable[..., Worker],
    number: signal.Signals,
    bound_s: float,
    names: Sequence[str],
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    with Load(kafka, source):
        workers = two_workers(start_worker, source, target, names)
        stays, goes = workers
        ready = time.time()
        stays.until(lambda: flowing_since(workers, ready), "both at work")
        since, lost = time.time(), goes.assigned() or []
        goes.end(number)
        stays.until(lambda: stays.assigned() == list(range(PARTITIONS)), "all partitions")
        over = time.time()
        stays.until(lambda: flowing_since([stays], over), "all partitions flow")
    wait_copied(kafka, source, target, stays)
    paused = pauses(workers, since, range(PARTITIONS))
    repeats = check_nothing_lost(kafka, source, target, ordered=False)
    worst, own = max(paused[p] for p in lost), max(p for q, p in paused.items() if q not in lost)
    print(f"\n{number.name} of a {'static' if names else 'dynamic'} member: its partitions paused {worst:.2f} s, the "
          f"other's {own:.2f} s; {repeats} repeats")  # fmt: skip
    assert worst <= bound_s
    assert number == signal.SIGKILL or repeats == 0, "a clean leave repeats nothing"


def test_a_worker_that_joins_interrupts_for_little(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    with Load(kafka, source):
        first = start_worker(source, target)
        first.until(lambda: flowing_since([first], 0), "at work alone")
        since = time.time()
        second = start_worker(source, target)
        second.until(lambda: second.has(2) and first.has(2), "a share each")
        over = time.time()
        first.until(lambda: flowing_since([first, second], over), "both at work")
    wait_copied(kafka, source, target, first)
    paused = pauses([first, second], since, range(PARTITIONS))
    repeats = check_nothing_lost(kafka, source, target, ordered=False)
    print(f"\na worker joined: paused {max(paused.values()):.2f} s; {repeats} repeats")
    assert max(paused.values()) <= 3.0
    assert repeats == 0


def test_a_killed_static_member_comes_back_without_a_rebalance(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(PARTITIONS), new_topic(PARTITIONS)
    with Load(kafka, source):
        stays, killed = two_workers(start_worker, source, target, ["a", "b"])
        ready = time.time()
        stays.until(lambda: flowing_since([stays, killed], ready), "both at work")
        rebalances, since, lost = stays.assignments(), time.time(), killed.assigned() or []
        killed.end(signal.SIGKILL)
        back = start_worker(source, target, "--instance-id", "b")
        over = time.time()
        back.until(lambda: flowing_since([stays, back], over), "both at work again")
    wait_copied(kafka, source, target, back)
    paused = pauses([stays, killed, back], since, range(PARTITIONS))
    repeats = check_nothing_lost(kafka, source, target, ordered=False)
    print(f"\nSIGKILL and restart of a static member: its partitions paused {max(paused[p] for p in lost):.2f} s, the "
          f"other's {max(p for q, p in paused.items() if q not in lost):.2f} s; {repeats} repeats")  # fmt: skip
    assert stays.assignments() == rebalances, "the other worker should not notice"
    assert max(paused.values()) <= 6.0


def test_a_batch_that_outlasts_the_rebalance_is_repeated_not_lost(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(2), new_topic(2)
    produce(kafka, source, some(600))
    slow = start_worker(source, target, "--delay-s", "6")
    slow.until(slow.batches, "a batch in work")
    joined = start_worker(source, target)
    joined.until(joined.assigned, "a share")
    wait_copied(kafka, source, target, joined)
    repeats = check_nothing_lost(kafka, source, target, ordered=False)
    print(f"\na batch of 6 s through a rebalance that waits 2 s: {repeats} repeats")
    assert repeats > 0, "the rebalance did not meet a batch in work"
    assert Counter(w.process.poll() for w in (slow, joined)) == {None: 2}, "both workers live on"


# -- a broker that goes away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "sigkill"])
def test_a_broker_that_goes_away_for_seconds(
    restartable_kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker], number: signal.Signals
) -> None:
    kafka, source, target = restartable_kafka, new_topic(PARTITIONS), new_topic(PARTITIONS)
    with Load(kafka, source):
        worker = start_worker(source, target)
        worker.until(lambda: flowing_since([worker], 0), "at work")
        kafka.stop(number)
        down = time.monotonic()
        worker.until(lambda: time.monotonic() - down > 4, "alive while the broker is away")
        kafka.start()
        over = time.time()
        worker.until(lambda: flowing_since([worker], over), "at work again")
    wait_copied(kafka, source, target, worker)
    repeats = check_nothing_lost(kafka, source, target)
    resumed = min(s["t"] for s in worker.batches() if s["t"] > over) - over
    print(f"\nbroker away ({number.name}) for 4 s: first batch {resumed:.1f} s after it was back; {repeats} repeats")
    assert worker.process.poll() is None
    assert worker.end() == 0


# -- producing ---------------------------------------------------------------------------------------------------------


def test_batches_are_in_order_and_where_kafkas_partitioner_puts_them(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(7)
    records = [*some(5_000), Record(b"", b"no key", time.time()), Record("ключ".encode(), b"", time.time())]
    produce(kafka, topic, records, produce_batch_bytes=2_048)  # many batches a partition
    expected = defaultdict(list)
    for r in records:
        expected[(murmur2(r.key) & 0x7FFFFFFF) % 7].append((r.key, r.value, int(r.ts * 1000)))
    got = defaultdict(list)
    for r in read(kafka, topic):
        got[r.partition].append((r.key, r.value, r.timestamp))
    assert got == expected


def test_a_send_tells_where_its_records_are(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(3)

    async def run() -> list[tuple[int | None, list[Record], list[Sent]]]:
        producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests", produce_batch_bytes=1_024))
        await producer.start()
        assert await producer.partition_count(topic) == 3
        calls: list[tuple[int | None, list[Record]]] = [(None, some(300)), (1, some(200, 300)), (None, some(100, 500))]
        futures = [
            await (producer.send(topic, records) if p is None else producer.send_to(topic, p, records))
            for p, records in calls
        ]
        assert await (await producer.send(topic, [])) == await (await producer.send_to(topic, 2, [])) == []
        with pytest.raises(UsageError, match="has partitions 0 to 2, so none is 3"):
            await producer.send_to(topic, 3, some(1))
        sent = await asyncio.gather(*futures)
        await producer.stop()
        return [(*call, where) for call, where in zip(calls, sent, strict=True)]

    calls = asyncio.run(run())
    there = {(r.partition, r.offset): r.value for r in read(kafka, topic)}
    for partition, records, sent in calls:
        places = [(s.partition, offset) for s in sent for offset in range(s.base_offset, s.base_offset + s.count)]
        assert len(sent) >= 3
        assert places == sorted(places), "by partition, in order"
        assert {p for p, _ in places} == ({0, 1, 2} if partition is None else {partition})
        assert sorted(there[place] for place in places) == sorted(r.value for r in records)
        if partition is not None:
            assert [there[place] for place in places] == [r.value for r in records]
    assert len(there) == 600


def test_calls_keep_their_order(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(2)

    async def run() -> None:
        producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests", produce_batch_bytes=4_096))
        await producer.start()
        sends = [asyncio.ensure_future(producer.send(topic, some(100, i * 100))) for i in range(60)]
        await asyncio.gather(*[await send for send in sends])
        await producer.stop()

    asyncio.run(run())
    by_partition = defaultdict(list)
    for r in read(kafka, topic):
        by_partition[r.partition].append(int(r.value[1:]))
    assert sum(map(len, by_partition.values())) == 6_000
    assert all(values == sorted(values) for values in by_partition.values())


def test_a_record_that_is_too_large_is_the_callers_and_harms_nothing(kafka: Broker, new_topic: NewTopic) -> None:
    topic = new_topic(2)

    async def run() -> None:
        producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests"))
        await producer.start()
        with pytest.raises(RecordTooLarge, match=r"record 1 for topic .* at most 1048495 fit") as caught:
            await producer.send(topic, [Record(b"a", b"1", time.time()), Record(b"b", bytes(1_048_495), time.time())])
        assert caught.value.index == 1
        # The largest that fits does fit, and the producer still works.
        await producer.send_and_wait(topic, [Record(b"b", bytes(1_048_494), time.time())])
        await producer.stop()

    asyncio.run(run())
    assert [len(r.value) for r in read(kafka, topic)] == [1_048_494]


def test_what_the_broker_refuses_is_an_error_with_a_fix(kafka: Broker, new_topic: NewTopic) -> None:
    topic, other = new_topic(1, max_message_bytes="2000"), new_topic(1)

    async def run() -> None:
        producer = BatchProducer(TransportSettings(bootstrap=kafka.address, group="tests"))
        await producer.start()
        with pytest.raises(DeliveryError, match=r"max\.message\.bytes is smaller than max_record_bytes"):
            await producer.send_and_wait(topic, some(1_000))
        with pytest.raises(DeliveryError, match="an earlier send failed"):
            await producer.send(other, some(1))
        await producer.stop()

    asyncio.run(run())
    assert read(kafka, topic) == []


def test_a_topic_that_is_not_there_is_an_error(kafka: Broker) -> None:
    settings = {"request_timeout_s": 2.0, "session_timeout_s": 1.5, "rebalance_timeout_s": 1.0, "heartbeat_s": 0.2}
    with pytest.raises(DeliveryError, match="no-such-topic"):
        produce(kafka, "no-such-topic", some(1), drain_timeout_s=0.1, hook_timeout_s=1.0, delivery_timeout_s=1.0, **settings)


def test_no_broker_is_an_error() -> None:
    with pytest.raises(DeliveryError, match=r"no broker at 127\.0\.0\.1:1 answers"):
        produce(Broker("127.0.0.1:1", "nowhere"), "any", some(1))
