"""Whatever grows with entities, events or labels is in a gauge of memory: counted, it is about what it takes."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator

import numpy as np
import orjson
import pytest

from tests.streams.host_runs import CHURN
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record
from weir.streams.redis.partitions.row_cache import RowCache
from weir.streams.redis.resp import framed_keys
from weir.streams.worker.status import MEMORY_PARTS, memory_of

FRAUD = """
name = "fraud"
entity = "user"
inputs = ["amount", "user.*"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean"], windows = ["1d"] }]
[model]
kind = "logistic"
[threshold]
kind = "fixed"
value = 0.01
"""
FEW, MANY = 1_000, 8_000
DAY = 86_400.0


def taken(*roots: object) -> int:
    """Bytes of objects and of all that only they lead to: containers, arrays, and objects of Weir's."""
    seen, stack, total = set[int](), list(roots), 0
    while stack:
        one = stack.pop()
        if one is None or isinstance(one, type) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            base = one.base
            if isinstance(base, np.ndarray):
                stack.append(base)
            else:
                total += one.nbytes
            continue
        inside = list(parts(one))
        if inside or type(one) in (str, bytes, int, float):
            total += sys.getsizeof(one)
        stack += inside
    return total


def parts(one: object) -> Iterator[object]:
    if isinstance(one, dict):
        yield from one.keys()
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset | deque):
        yield from one
    elif type(one).__module__.startswith("weir."):
        fields = [*getattr(type(one), "__struct_fields__", ()), *getattr(one, "__dict__", ())]
        fields += [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        yield from (getattr(one, name, None) for name in fields)


def run(host: EmbeddedHost, users: Iterable[int]) -> None:
    """An event of each user, over the line, and a label of an event that nobody has seen."""
    events, labels = [], []
    for user in users:
        key, ts = f"user-of-a-usual-name-{user}", 1e9 + user / 10.0
        event = {"v": 1, "event_id": f"event-{user:08d}", "user_id": key, "type": "purchase", "ts": ts, "amount": 9.5}
        label = {
            "v": 1, "label_id": f"label-{user}", "task": "fraud", "event_id": f"unknown-{user:08d}", "entity_id": key,
            "ts": ts, "value": 1, "source": "test",
        }  # fmt: skip
        events.append(Record(key.encode(), orjson.dumps(event), ts))
        labels.append(Record(key.encode(), orjson.dumps(label), ts))
    for batch in (*host.log.append(topics.USER_EVENTS, events), *host.log.append(topics.LABELS, labels)):
        host.process(batch)


def counted(host: EmbeddedHost) -> Counter[str]:
    held: Counter[str] = Counter(ids=sum(intake.ids.nbytes for intake in host.intake.values()))
    for pipeline in host.pipelines.values():
        held.update(memory_of(pipeline.labelling))
        held.update(memory_of(pipeline.scoring))
    return held


def test_what_grows_with_entities_events_and_labels_is_counted() -> None:
    host = EmbeddedHost([TaskSpec.from_toml(FRAUD), TaskSpec.from_toml(CHURN)], EmbeddedLog())
    took, told = [], []
    for users in (range(FEW), range(FEW, MANY)):
        run(host, users)
        stages = [stage for p in host.pipelines.values() for stage in (p.labelling, p.scoring)]
        store = vars(host.store)  # rows have a test of their own, below: a worker's are elsewhere
        took.append(taken(*stages, *host.intake.values()) - taken(*store.values()))
        told.append(counted(host))
    assert set(told[1]) <= set(MEMORY_PARTS)
    for part in ("label_rows", "alerts", "silence"):
        assert told[1][part] > 2 * told[0][part], part
    grown = told[1].total() - told[0].total()
    assert 0.6 < grown / (took[1] - took[0]) < 1.6, (told, took)


@pytest.mark.parametrize("name", ["u{}", "a-user-whose-id-is-about-as-long-as-such-ids-become-{:060d}"])
def test_cached_rows_are_counted_with_their_keys(name: str) -> None:
    took, told = [], []
    for count in (FEW, MANY):
        cache = RowCache(64, DAY, lambda keys: framed_keys("weir:{user-events-3}:fraud.user:", keys))
        keys = [name.format(number) for number in range(count)]
        cache.put(keys, cache.framed(keys), np.arange(0), np.empty((0, 64), np.uint8), np.empty(0))
        took.append(taken(cache))
        told.append(cache.nbytes)
    assert 0.6 < (told[1] - told[0]) / (took[1] - took[0]) < 1.6, (told, took)


def test_the_time_of_a_stream_takes_the_same_whoever_speaks() -> None:
    host = EmbeddedHost([TaskSpec.from_toml(FRAUD)], EmbeddedLog())
    run(host, range(100))
    (intake,) = host.intake.values()
    before = taken(intake.time)
    for number in range(1_000):  # each claims a time far ahead, and none is believed beside the others
        intake.time.advance(np.array([2e9 + 100 * DAY * number, 1e9 + number]), [f"clock-{number}", "user"])
    assert taken(intake.time) <= before + 500
