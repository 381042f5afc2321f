"""Workers of one group that come, go and come back, against a real Kafka: who takes over, how soon, what is repeated.

Workers are processes of their own (transport_worker.py) that copy a topic; a copy says where its record came from.
Run with ``-s`` to see the pauses and the repeats that were measured.
"""

from __future__ import annotations

import functools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.copying import (
    LONG_SESSION,
    PARTITIONS,
    Load,
    Worker,
    check_nothing_lost,
    copiers,
    flowing_since,
    pauses,
    produce,
    some,
    wait_copied,
)
from tests.integration.kafka_broker import Broker, eventually

pytestmark = pytest.mark.integration
NewTopic = Callable[..., str]


@pytest.fixture
def start_worker(tmp_path: Path, kafka: Broker) -> Iterator[Callable[..., Worker]]:
    with copiers(tmp_path) as start:
        yield functools.partial(start, kafka)


def two_workers(
    start: Callable[..., Worker], source: str, target: str, names: Sequence[str], *args: str
) -> list[Worker]:
    """Two workers that share the partitions; with names, as static members."""
    workers: list[Worker] = []
    for i in range(2):
        workers.append(start(source, target, *(["--instance-id", names[i]] if names else []), *args))
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
        stays, killed = two_workers(start_worker, source, target, ["a", "b"], *LONG_SESSION)
        ready = time.time()
        stays.until(lambda: flowing_since([stays, killed], ready), "both at work")
        rebalances, since, lost = stays.assignments(), time.time(), killed.assigned() or []
        killed.end(signal.SIGKILL)
        back = start_worker(source, target, "--instance-id", "b", *LONG_SESSION)
        over = time.time()
        back.until(lambda: flowing_since([stays, back], over), "both at work again")
    wait_copied(kafka, source, target, back)
    paused = pauses([stays, killed, back], since, range(PARTITIONS))
    repeats = check_nothing_lost(kafka, source, target, ordered=False)
    print(f"\nSIGKILL and restart of a static member: its partitions paused {max(paused[p] for p in lost):.2f} s, the "
          f"other's {max(p for q, p in paused.items() if q not in lost):.2f} s; {repeats} repeats")  # fmt: skip
    assert stays.assignments() == rebalances, "the other worker should not notice"
    assert max(paused.values()) <= 20.0


def test_two_workers_of_one_name_do_not_both_go_on(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker]
) -> None:
    source, target = new_topic(1), new_topic(1)
    produce(kafka, source, some(100))
    first = start_worker(source, target, "--instance-id", "same")
    wait_copied(kafka, source, target, first)
    both = [first, start_worker(source, target, "--instance-id", "same")]
    eventually(lambda: any(worker.process.poll() for worker in both), 40, "one of them gives up")
    assert any("perhaps another worker runs as instance 'same'" in worker.log for worker in both)
    produce(kafka, source, some(100, 100))
    wait_copied(kafka, source, target, start_worker(source, target, "--instance-id", "other"))
    assert check_nothing_lost(kafka, source, target) == 0


def test_a_batch_that_outlasts_the_rebalance_is_repeated_not_lost(
    kafka: Broker, new_topic: NewTopic, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    source, target, go_on = new_topic(2), new_topic(2), tmp_path / "go-on"
    produce(kafka, source, some(600))
    slow = start_worker(source, target, "--first-until", str(go_on))
    slow.until(slow.batches, "a batch in work")
    joined = start_worker(source, target)
    joined.until(lambda: joined.has(1), "a share")
    slow.until(lambda: slow.has(1), "a share that it keeps")
    go_on.touch()
    wait_copied(kafka, source, target, joined)
    repeats = check_nothing_lost(kafka, source, target, ordered=False)
    print(f"\na batch through a rebalance that waits 2 s: {repeats} repeats")
    assert repeats > 0, "the rebalance did not meet a batch in work"
    assert Counter(w.process.poll() for w in (slow, joined)) == {None: 2}, "both workers live on"
