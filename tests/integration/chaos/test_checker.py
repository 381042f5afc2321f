"""The checker itself: it accepts what undisturbed stages leave, repeats included, and names every fault put into it.

Needs neither Kafka nor Redis: logs and rows are made here by the embedded stages.
"""

from __future__ import annotations

import copy
import fnmatch
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from tests.integration.chaos.checker import Checker, Differs
from tests.integration.chaos.deployment import TASKS, Deployment, StoredRecord
from tests.integration.chaos.feeder import Made, StreamPlan
from tests.integration.chaos.replay import replay_updates, rows_of, side_widths
from weir.online.codec.decode import decode_labels, decode_user_events
from weir.online.codec.encode import encode_examples, encode_labels, encode_model, encode_scored
from weir.online.codec.row_updates import encode_updates
from weir.online.codec.wire import Alert
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.online.task.column_plan import union
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.outputs import dead_letter, decision_blocks
from weir.streams.records import Record, RefusedRecord
from weir.streams.redis.stored_rows import encode_row, row_key
from weir.streams.task_files import load_task

NOW = time.time()


class FakeRedis:
    """Keys and values, as far as the checker asks."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def scan_iter(self, match: str, count: int) -> Iterable[bytes]:
        pattern = match.replace("[", "[[]")
        return [key for key in self.values if fnmatch.fnmatchcase(key.decode(), pattern)]

    def mget(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]


class Left(Deployment):
    """A deployment of one partition whose logs are lists."""

    def __init__(self, *names: str) -> None:
        settings = Settings.model_validate({"topics": {"partitions": 1}})
        loaded = [load_task(TASKS / f"{name}.toml") for name in names or ("fraud", "spend", "quiet")]
        tasks = {task.name: task for task in loaded}
        super().__init__(settings, tasks, Path("none"))
        object.__setattr__(self, "logs", defaultdict(list))
        object.__setattr__(self, "redis", FakeRedis())

    logs: dict[str, list[Record]]
    redis: FakeRedis

    def append(self, topic: str, values: Iterable[bytes]) -> None:
        self.logs[topic] += [Record(b"k", value, NOW) for value in values]

    def read(self, topic: str) -> dict[int, list[StoredRecord]]:
        return {0: [StoredRecord(i, record) for i, record in enumerate(self.logs[topic])]}

    def check(self) -> dict[str, Any]:
        return Checker(self, cast(redis.Redis, self.redis)).check()


def run(left: Left, made: list[Made]) -> None:
    """What one worker without an accident leaves."""
    left.append(topics.USER_EVENTS, [m.value for m in made if m.topic == topics.USER_EVENTS])
    left.append(topics.LABELS, [m.value for m in made if m.topic == topics.LABELS])
    store, intake = MemoryFeatureStore(), Admission(IntakePolicy())
    scoring = {n: ScoringStage(t, store, side=True) for n, t in left.tasks.items()}
    labelling = {
        n: LabellingStage(s.task, s.features, s.shape.masks, s.shape.secondary, lambda x, _: np.zeros_like(x))
        for n, s in scoring.items()
    }
    columns, events = union([s.columns for s in scoring.values()]), left.logs[topics.USER_EVENTS]
    for start in range(0, len(events), 300):
        raw = [r.value for r in events[start : start + 300]]
        decoded = decode_user_events(raw, columns)
        admitted = intake.admit(decoded.batch, np.full(len(decoded.index), NOW))
        refused = [(r.index, r.reason) for r in decoded.rejects]
        refused += [(int(decoded.index[r.row]), r.reason) for r in admitted.refused]
        refuse(left, topics.USER_EVENTS, [(start + i, why, raw[i]) for i, why in refused])
        for name, stage in scoring.items():
            out = stage.events(admitted.batch)
            for table, updates in out.updates.items():
                left.append(topics.ENTITY_UPDATES, encode_updates(updates, name, table))
            if out.timer_labels is not None:
                left.append(topics.LABELS, encode_labels(out.timer_labels, name, "silence"))
            if out.scored is not None:
                left.append(topics.PREDICTIONS, encode_scored(out.scored, stage.features, name, NOW))
                publish(left, stage, labelling[name].scored(out.scored))
    raw = [r.value for r in left.logs[topics.LABELS]]
    labels = decode_labels(raw)
    refuse(left, topics.LABELS, [(r.index, r.reason, raw[r.index]) for r in labels.rejects])
    for name, batch in labels.by_task().items():
        publish(left, scoring[name], labelling[name].labels(batch))
    keep_rows(left, store, scoring)


def refuse(left: Left, topic: str, refused: list[tuple[int, str, bytes]]) -> None:
    bad = [RefusedRecord(at, why, Record(b"", raw, NOW)) for at, why, raw in refused]
    left.append(topics.DEAD_LETTERS, [dead_letter(topic, 0, each, NOW, 1 << 20).value for each in bad])


def publish(left: Left, stage: ScoringStage, out: Any) -> None:
    name = stage.task.name
    alerts = [Alert.model_validate(a.to_wire_dict()) for a in out.alerts]
    left.append(topics.ALERTS, [encode_model(alert) for alert in alerts])
    if out.scored is not None:
        decided = decision_blocks(name, stage.features, out.scored.predictions, out, NOW)
        left.append(topics.DECISIONS, [record.value for record in decided])
    for examples in out.examples:
        left.append(topics.EXAMPLES, encode_examples(examples, stage.features, name))
        stage.model.learn(examples)
    for table, updates in out.updates.items():
        left.append(topics.ENTITY_UPDATES, encode_updates(updates, name, table))


def keep_rows(left: Left, store: MemoryFeatureStore, scoring: dict[str, ScoringStage]) -> None:
    side = {f"{n}.{table}" for n, s in scoring.items() for table in side_widths(s)}
    own = {table: rows for table, rows in rows_of(store).items() if table not in side}
    others = replay_updates(left.tasks, left.read(topics.ENTITY_UPDATES)[0])[0]
    for lane, tables in (((topics.USER_EVENTS, 0), own), ((topics.ENTITY_UPDATES, 0), others)):
        for table, rows in tables.items():
            for entity, row in rows.items():
                left.redis.values[row_key("weir", lane, table, entity).encode()] = encode_row(1, 0, 0.0, row)


@pytest.fixture(scope="module")
def made() -> Left:
    left = Left()
    run(left, list(islice(StreamPlan(seed=5, users=60, label_delay=200).records(), 1_600)))
    return left


@pytest.fixture
def left(made: Left) -> Left:
    new = Left()
    new.logs.update({topic: list(records) for topic, records in made.logs.items()})
    new.redis.values = copy.copy(made.redis.values)
    return new


def test_what_undisturbed_stages_leave_is_accepted(left: Left) -> None:
    notes = left.check()
    assert notes["events"]["fraud"] > 1_000
    assert notes["duplicate events"] > 30
    assert notes["dead letters"][0] > 10
    assert notes["examples"]["fraud"][0] > 100
    assert notes["examples"]["quiet"][0] > 20
    assert notes["alerts"]["of label-free tasks"] > 5
    assert notes["side rows"] > 20
    assert notes["decisions"][0] == sum(notes["events"].values())


@pytest.mark.parametrize(
    "topic",
    [topics.PREDICTIONS, topics.ENTITY_UPDATES, topics.DEAD_LETTERS, topics.EXAMPLES, topics.ALERTS, topics.DECISIONS],
)
def test_records_that_a_crash_repeated_are_accepted(left: Left, topic: str) -> None:
    log = left.logs[topic]
    log[200:200] = log[100:200] if topic not in (topics.ALERTS, topics.DECISIONS) else []
    log += log[-5:]
    left.check()


def _without(topic: str, at: int = 10) -> Callable[[Left], None]:
    return lambda left: left.logs[topic].__delitem__(at)


def _row(left: Left, lane: str) -> bytes:
    return next(key for key in left.redis.values if lane.encode() in key)


def _flip(left: Left, lane: str) -> None:
    key = _row(left, lane)
    value = bytearray(left.redis.values[key])
    value[40] ^= 1
    left.redis.values[key] = bytes(value)


def _replace(left: Left, topic: str, old: bytes, new: bytes) -> None:
    log = left.logs[topic]
    at = next(i for i, r in enumerate(log) if old in r.value and b'"fraud"' in r.value)
    log[at] = log[at]._replace(value=log[at].value.replace(old, new, 1))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (_without(topics.PREDICTIONS), "every_event_has_its_predictions"),
        (_without(topics.DEAD_LETTERS), "every_bad_record_is_a_dead_letter"),
        (_without(topics.ENTITY_UPDATES, 0), "updates_are_complete"),
        (_without(topics.EXAMPLES), "examples_are_those_of_the_first_predictions"),
        (_without(topics.ALERTS), "alerts_equal_the_embedded_ones"),
        (_without(topics.DECISIONS, 3), "decisions_are_those_on_the_first"),
        (lambda left: left.logs[topics.DECISIONS].reverse(), "not in the order of their predictions"),
        (lambda left: _flip(left, "user-events-0"), "rows_equal_a_linear_replay"),
        (lambda left: _flip(left, "entity-updates-0"), "side_rows_equal_a_linear_replay"),
        (lambda left: left.redis.values.pop(_row(left, "user-events-0")), "rows_equal_a_linear_replay"),
        (lambda left: _replace(left, topics.PREDICTIONS, b'"score":0.', b'"score":0.1'), "scores_are_those_of_their"),
        (lambda left: _replace(left, topics.PREDICTIONS, b"count_1h\":", b"count_1h\":1"), "features_are_those_of_a"),
        (lambda left: left.logs[topics.LABELS].pop(), "timers_told_their_labels"),
        (lambda left: left.logs[topics.PREDICTIONS].append(
            left.logs[topics.PREDICTIONS][0]._replace(
                value=left.logs[topics.PREDICTIONS][0].value.replace(b'"event_id":"', b'"event_id":"x', 1))),
         "every_event_has_its_predictions"),
    ],
)  # fmt: skip
def test_a_fault_is_named(left: Left, fault: Callable[[Left], None], named: str) -> None:
    fault(left)
    with pytest.raises(Differs, match=named):
        left.check()


def test_where_time_makes_negatives_the_last_example_of_each_event_counts() -> None:
    left = Left("horizon")
    run(left, list(islice(StreamPlan(seed=5, users=60, label_delay=800).records(), 2_000)))
    assert left.check()["examples"]["fraud"][0] > 300
    left.logs[topics.EXAMPLES].pop()
    with pytest.raises(Differs, match="last examples of fraud: "):
        left.check()
