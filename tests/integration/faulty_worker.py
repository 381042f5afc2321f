"""``weir`` with a fault built into its worker: ``python -m tests.integration.faulty_worker FAULT worker ...``.

What no input can bring about from outside, brought about: an error in a thread, beside the consumer, on the way down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from weir.streams.cli.main import run
from weir.streams.errors import ReplicaDiverged
from weir.streams.kafka.consume.fetch_thread import BatchConsumerThread
from weir.streams.kafka.kafka_errors import DeliveryError
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.model_replicas.follower import Follower
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.redis.store_errors import StoreRefused
from weir.streams.worker.partitions import LaneHost
from weir.streams.worker.run import Worker
from weir.streams.worker.status import WorkerStatus


def fail(owner: type, name: str, outcome: object, after: int) -> None:
    """Have a method raise ``outcome``, or do nothing and give it, once it was called ``after`` times."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= after:
            return whole(*args, **kwargs)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    setattr(owner, name, broken)


BOOM: Final = RuntimeError("the machine is on fire")
DIVERGED: Final = ReplicaDiverged("model 7 is not model 7")
Broken = tuple[type, str, object, int]
FAULTS: Final[dict[str, list[Broken]]] = {
    "follower": [(Follower, "_take_turn", DIVERGED, 3)],
    "follower, a bug": [(Follower, "_take_turn", BOOM, 3)],
    "thread": [(BatchConsumerThread, "_drain_now", BOOM, 3)],
    "before": [(Worker, "prepare", DIVERGED, 0)],
    "before, a bug": [(Worker, "prepare", BOOM, 0)],
    "a lost batch": [(LaneHost, "take", None, 0)],
    "a deaf thread": [(BatchConsumerThread, "_drain_now", ([], []), 0)],
    "tick": [(WorkerStatus, "measure", BOOM, 2)],
    "flush": [(LaneStore, "flush", StoreRefused("the store says no"), 0)],
    "send": [(BatchProducer, "send_parts", DeliveryError("the brokers say no"), 0)],
    "twice": [(Follower, "_take_turn", DIVERGED, 3), (WorkerStatus, "measure", DIVERGED, 1)],
    "on the way down, too": [
        (Follower, "_take_turn", DIVERGED, 3),
        (Worker, "conclude", BOOM, 0),
        (RedisClient, "stop", BOOM, 0),
        (BatchProducer, "stop", BOOM, 0),
    ],
}
"""What raises which error, or does nothing, from which call on."""

if __name__ == "__main__":
    for owner, name, outcome, after in FAULTS[sys.argv.pop(1)]:
        fail(owner, name, outcome, after)
    run()
