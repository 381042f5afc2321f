"""The embedded host on simulated streams: nothing disappears, replays are exact, and a crash leaves no trace."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.errors import StateError
from online.intake import IntakePolicy
from online.task import TaskSpec
from online.wire import Alert, DeadLetter, Example, Prediction, RetrainRequest, WireModel
from streams import topics
from streams.errors import TooManyRejects, UsageError
from streams.host import EmbeddedHost
from streams.host.rejects import RejectPolicy
from streams.log import EmbeddedLog, Record
from streams.simulate import SimulationConfig, simulate

PARTITIONS = {topics.USER_EVENTS: 3, topics.DEVICE_EVENTS: 2}

FRAUD = """
name = "fraud"
entity = "user"
types = ["purchase"]
[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "ewmean"], windows = ["1d"] }]
[[entities]]
name = "merchant"
key = "merchant_id"
labels = [{ name = "fraud", ops = ["positives", "since_positive"], windows = ["7d"], where = "ratio < 4" }]
[model]
kind = "logistic"
params = { lr = 0.1 }
[labels]
negative_rate = 0.5
[labels.join]
negative_after_s = "1d"
[threshold]
kind = "budget"
alerts_per_day = 30
min_scores = 100
min_days = 0.1
[drift]
block_events = 16
reference_blocks = 8
sample_every = 1
[retrain]
after_labels = 100
cooldown = "6h"
"""
FAILURE = """
name = "device_failure"
stream = "device-events"
entity = "device"
[[entities]]
name = "device"
key = "device_id"
aggregates = [{ name = "heat", value = "temperature", ops = ["mean", "max"], windows = ["1h"] }]
anomalies = [{ name = "shake", value = "vibration" }]
[model]
kind = "logistic"
[labels.join]
match = "entity_range"
range_s = "6h"
[threshold]
kind = "fixed"
value = 0.6
"""
CHURN = """
name = "churn"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "seen", ops = ["count", "since_last"], windows = ["1d", "7d"] }]
[model]
kind = "logistic"
[labels.silence]
observe_s = "12h"
horizon_s = "2d"
[threshold]
kind = "fixed"
value = 0.9
"""

Call = tuple[str, tuple[Record, ...]]


def tasks(*which: str) -> list[TaskSpec]:
    return [TaskSpec.from_toml(t) for t in which or (FRAUD, FAILURE, CHURN)]


@functools.cache
def inputs(events: int = 2500) -> tuple[Call, ...]:
    """A dirty simulated stream, one call a topic and block, in the order in which records become available."""
    config = SimulationConfig(
        seed=5, events=events, days=5, users=60, merchants=12, devices=4, malformed_share=0.01, duplicate_share=0.02,
        late_share=0.03, fraud_share=0.05, label_delay_days=0.5, review_share=0.1, block_s=6 * 3600.0,
    )  # fmt: skip
    calls: list[Call] = []
    for block in simulate(config):
        calls += [(topic, tuple(Record(*r) for r in records)) for topic, records in block.topics.items() if records]
    return tuple(calls)


def host_on(log: EmbeddedLog, *which: str, **options: Any) -> EmbeddedHost:
    return EmbeddedHost(tasks(*which), log, **options)


def outputs(log: EmbeddedLog) -> dict[str, list[tuple[bytes, bytes, float]]]:
    """Every record of every output topic, in order."""
    made: dict[str, list[tuple[bytes, bytes, float]]] = {}
    for topic in topics.OUTPUTS:
        made[topic] = [(r.key, r.value, r.ts) for batch in log.read([topic], 0) for r in batch.records]
    return made


def run(log: EmbeddedLog, host: EmbeddedHost, calls: tuple[Call, ...]) -> None:
    for topic, records in calls:
        log.append(topic, records)
        host.run_pending()


class Straight:
    """One uninterrupted run, shared by the tests that compare with it."""

    def __init__(self) -> None:
        self.log = EmbeddedLog(PARTITIONS)
        self.host = host_on(self.log)
        run(self.log, self.host, inputs())
        self.outputs = outputs(self.log)


@pytest.fixture(scope="module")
def straight() -> Straight:
    return Straight()


def values(records: list[tuple[bytes, bytes, float]]) -> list[Any]:
    return [orjson.loads(value) for _, value, _ in records]


def records_in(log: EmbeddedLog, topic: str) -> Iterator[tuple[int, int, Record]]:
    for batch in log.read([topic], 0):
        for i, record in enumerate(batch.records):
            yield batch.partition, batch.base_offset + i, record


def test_the_stream_reaches_every_output(straight: Straight) -> None:
    s = straight.host.stats
    assert min(s.predictions, s.alerts, s.examples, s.requests, s.dead_letters) > 0
    by_task = Counter(p["task"] for p in values(straight.outputs[topics.PREDICTIONS]))
    assert set(by_task) == {"fraud", "device_failure", "churn"}
    assert {e["task"] for e in values(straight.outputs[topics.EXAMPLES])} == set(by_task)


def test_no_record_disappears(straight: Straight) -> None:
    """Each input record is scored, a repeat, a label, or a dead letter with a reason; the numbers add up."""
    stats, log = straight.host.stats, straight.log
    records = {topic: sum(1 for _ in records_in(log, topic)) for topic in topics.INPUTS}
    letters = Counter(v["topic"] for v in values(straight.outputs[topics.DEAD_LETTERS]))
    repeats = sum(intake.duplicates for intake in straight.host.intake.values())
    assert repeats > 0
    events = records[topics.USER_EVENTS] + records[topics.DEVICE_EVENTS]
    assert events == stats.events + repeats + letters[topics.USER_EVENTS] + letters[topics.DEVICE_EVENTS]
    assert records[topics.LABELS] == stats.labels + letters[topics.LABELS]
    assert stats.dead_letters == sum(letters.values())
    assert stats.predictions == sum(p.scored for p in straight.host.pipelines.values())


def test_every_good_event_is_scored_exactly_once(straight: Straight) -> None:
    log = straight.log
    dead = {(v["topic"], v["partition"], v["offset"]) for v in values(straight.outputs[topics.DEAD_LETTERS])}
    scored = Counter((p["task"], p["event_id"]) for p in values(straight.outputs[topics.PREDICTIONS]))
    assert set(scored.values()) == {1}
    for topic, task in ((topics.USER_EVENTS, "fraud"), (topics.DEVICE_EVENTS, "device_failure")):
        good = set()
        for partition, offset, record in records_in(log, topic):
            if (topic, partition, offset) not in dead:
                event = orjson.loads(record.value)
                if task != "fraud" or event["type"] == "purchase":
                    good.add(event["event_id"])
        assert good == {event for name, event in scored if name == task}


def test_dead_letters_say_where_and_why_and_hold_the_bytes(straight: Straight) -> None:
    log, reasons = straight.log, Counter[str]()
    at = {(t, p, o): r.value for t in topics.INPUTS for p, o, r in records_in(log, t)}
    for _, value, _ in straight.outputs[topics.DEAD_LETTERS]:
        letter = DeadLetter.model_validate_json(value)
        assert at[letter.topic, letter.partition, letter.offset] == letter.raw
        reasons[letter.reason.split(":")[0]] += 1
    assert reasons["late"] > 0
    assert len(reasons) > 3


def test_every_output_fits_the_wire_format(straight: Straight) -> None:
    models: dict[str, type[WireModel]] = {
        topics.PREDICTIONS: Prediction, topics.ALERTS: Alert, topics.EXAMPLES: Example,
        topics.RETRAIN_REQUESTS: RetrainRequest, topics.DEAD_LETTERS: DeadLetter,
    }  # fmt: skip
    for topic, model in models.items():
        for _, value, _ in straight.outputs[topic]:
            model.model_validate_json(value)


def test_an_alert_comes_behind_its_events_prediction(straight: Straight) -> None:
    """And an example behind the prediction whose features it holds."""
    seen: dict[tuple[str, str], dict[str, float]] = {}
    for batch in straight.log.read([topics.PREDICTIONS, topics.ALERTS, topics.EXAMPLES], 0):
        for record in batch.records:
            v = orjson.loads(record.value)
            if batch.topic == topics.PREDICTIONS:
                seen[v["task"], v["event_id"]] = v["features"]
            elif batch.topic == topics.ALERTS:
                assert (v["task"], v["event_ids"][-1]) in seen
            else:
                assert v["features"] == seen[v["task"], v["event_id"]]


def test_everything_processed_is_committed(straight: Straight) -> None:
    for topic in topics.INPUTS:
        for partition, end in straight.log.end_offsets(topic).items():
            assert straight.log.committed("weir", topic, partition) == end


def test_replaying_the_log_gives_the_same_bytes(straight: Straight) -> None:
    log = EmbeddedLog(PARTITIONS)
    host = host_on(log)
    run(log, host, inputs())
    assert outputs(log) == straight.outputs
    assert host.stats == straight.host.stats
    for name, pipeline in host.pipelines.items():
        assert pipeline.snapshot() == straight.host.pipelines[name].snapshot()
    assert host.store.snapshot() == straight.host.store.snapshot()


def test_a_host_that_comes_late_makes_the_same_outputs(straight: Straight) -> None:
    """Whether it reads along or finds the whole log waiting."""
    log = EmbeddedLog(PARTITIONS)
    for topic, records in inputs():
        log.append(topic, records)
    waiting = log.next_seq
    host = host_on(log)
    assert host.run_pending() == sum(len(records) for _, records in inputs())
    assert outputs(log) == straight.outputs
    assert next(log.read(topics.OUTPUTS, 0)).seq >= waiting
    assert host.run_pending() == 0


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_a_crash_anywhere_leaves_no_trace(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Checkpoints now and then, several crashes, torn files: the outputs are those of the uninterrupted run."""
    straight, calls = _straight(), inputs()
    folder = tmp_path_factory.mktemp("state")
    every = data.draw(st.integers(1, 9), "checkpoint every")
    crashes = sorted(data.draw(st.sets(st.integers(1, len(calls) - 1), max_size=3), "crashes"))
    for stop in [*crashes, len(calls)]:
        log = EmbeddedLog(PARTITIONS, folder / "log")
        host = host_on(log, checkpoints=folder / "checkpoints")
        resumed = host.resume()
        start = int(host.resumed_extra) if resumed else 0
        for at in range(start, stop):
            log.append(*calls[at])
            waits = at % every == 0 and data.draw(st.booleans(), "checkpoint before it is processed")
            if waits:
                host.checkpoint(b"%d" % (at + 1))
            host.run_pending()
            if at % every == 0 and not waits:
                host.checkpoint(b"%d" % (at + 1))
        held = (folder / "log" / "records.log").stat().st_size
        log.close()
        if stop < len(calls):
            _tear(folder / "log" / "records.log", held, data)
    with EmbeddedLog(PARTITIONS, folder / "log") as log:
        assert outputs(log) == straight.outputs
    assert host.stats == straight.host.stats


@functools.cache
def _straight() -> Straight:
    return Straight()


def _tear(path: Path, keep: int, data: st.DataObject) -> None:
    """Lose some bytes that were written since the last sync; those before ``keep`` are on the disk."""
    size = path.stat().st_size
    lost = data.draw(st.integers(0, min(500, max(0, size - keep))), "bytes lost")
    with path.open("r+b") as file:
        file.truncate(size - lost)


def test_a_checkpoint_taken_with_input_waiting_loses_none_of_it(tmp_path: Path) -> None:
    calls, straight = inputs()[:6], EmbeddedLog(PARTITIONS)
    run(straight, host_on(straight), calls)
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        run(log, host, calls[:3])
        for topic, records in calls[3:]:
            log.append(topic, records)
        host.checkpoint()
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        assert host.resume()
        assert host.run_pending() == sum(len(records) for _, records in calls[3:])
        assert outputs(log) == outputs(straight)


def test_resume_takes_up_the_committed_offsets(tmp_path: Path) -> None:
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        run(log, host, inputs()[:6])
        ends = {topic: log.end_offsets(topic) for topic in topics.INPUTS}
        host.checkpoint()
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host_on(log, checkpoints=tmp_path).resume()
        for topic, partitions in ends.items():
            assert {p: log.committed("weir", topic, p) for p in partitions} == partitions


def test_without_a_checkpoint_the_log_starts_anew(tmp_path: Path) -> None:
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        run(log, host_on(log), inputs()[:3])
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        assert not host_on(log, checkpoints=tmp_path).resume()
        assert log.next_seq == 0


def event(number: int = 1, **changes: Any) -> Record:
    body = {"v": 1, "event_id": f"e{number}", "type": "purchase", "user_id": "u1", "ts": 1.7e9 + number, "amount": 5}
    return Record(b"u1", orjson.dumps(body | changes), 1.7e9 + number)


def label(task: str, number: int = 1) -> Record:
    body = {"v": 1, "label_id": f"l{number}", "task": task, "entity_id": "u1", "event_id": f"e{number}", "ts": 1.7e9}
    return Record(b"u1", orjson.dumps(body | {"value": 1}), 1.7e9 + 60)


def test_labels_of_unknown_tasks_are_counted() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD)
    log.append(topics.LABELS, [label("fraud", 1), label("other", 2), label("other", 3)])
    host.run_pending()
    assert (host.stats.labels, host.stats.unknown_task_labels, host.stats.dead_letters) == (3, 2, 0)


def test_too_many_rejects_stop_the_host_before_the_offset_is_committed() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD, rejects=RejectPolicy(share=0.5, window=10))
    log.append(topics.USER_EVENTS, [event(1), *[Record(b"u1", b"{", 1.7e9)] * 9])
    with pytest.raises(TooManyRejects, match=r"9 of the last 10 records were rejected, the limit is 50%.*Correct the"):
        host.run_pending()
    assert log.committed("weir", topics.USER_EVENTS, 0) == 0
    assert len(outputs(log)[topics.DEAD_LETTERS]) == 9


def test_a_clock_that_runs_ahead_does_not_make_the_rest_late() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD, intake=IntakePolicy(allowed_lateness=60, max_ahead=60))
    log.append(topics.USER_EVENTS, [event(1), event(2, ts=4e9), event(3)])
    host.run_pending()
    assert (host.stats.predictions, host.stats.dead_letters) == (2, 1)
    assert "ahead" in values(outputs(log)[topics.DEAD_LETTERS])[0]["reason"]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_lateness_does_not_depend_on_batches(cut: int) -> None:
    """A repeat that claims a newer time counts the same for the row behind it, in its batch or in the next."""
    records = [event(1), event(1, ts=1.7e9 + 5000), event(2, ts=1.7e9 + 100)]
    records = [Record(r.key, r.value, 1.7e9 + 6000) for r in records]
    log = EmbeddedLog(max_batch=cut)
    host = host_on(log, FRAUD, intake=IntakePolicy(allowed_lateness=1000))
    log.append(topics.USER_EVENTS, records)
    host.run_pending()
    assert (host.stats.events, host.stats.dead_letters) == (1, 1)


def test_long_ids_make_records_that_fit_the_wire_format() -> None:
    """An alert's id holds the task's, the entity's and the event's; a timer's event id the entity's."""
    user, log = "u" * 64, EmbeddedLog()
    host = host_on(log, FRAUD.replace('kind = "budget"\nalerts_per_day = 30\nmin_scores = 100\nmin_days = 0.1',
                                      'kind = "fixed"\nvalue = 0.0'), CHURN.replace("0.9", "0.0"))  # fmt: skip
    rows = [event(i, user_id=user, event_id=f"{i:064d}", ts=1.7e9 + 3600 * i) for i in range(80)]
    log.append(topics.USER_EVENTS, [Record(user.encode(), r.value, 1.7e9 + 3600 * i) for i, r in enumerate(rows)])
    host.run_pending()
    made = outputs(log)
    assert {a["task"] for a in values(made[topics.ALERTS])} == {"fraud", "churn"}
    for _, value, _ in made[topics.ALERTS]:
        Alert.model_validate_json(value)
    for _, value, _ in made[topics.PREDICTIONS]:
        Prediction.model_validate_json(value)
    for _, value, _ in made[topics.EXAMPLES]:
        Example.model_validate_json(value)


def test_an_entity_from_a_property_must_be_an_id() -> None:
    task = FRAUD.replace('key = "user_id"', 'key = "card"')
    task = task.replace(
        'kind = "budget"\nalerts_per_day = 30\nmin_scores = 100\nmin_days = 0.1', 'kind = "fixed"\nvalue = 0.0'
    )
    log = EmbeddedLog()
    host = host_on(log, task)
    cards: list[Any] = ["", "c" * 65, 5, None, "c" * 64, "c1"]
    log.append(
        topics.USER_EVENTS, [event(i, properties={"card": c} if c is not None else {}) for i, c in enumerate(cards)]
    )
    host.run_pending()
    assert [p["entity_id"] for p in values(outputs(log)[topics.PREDICTIONS])] == ["c" * 64, "c1"]
    assert host.stats.events == 6


def test_tasks_may_read_one_name_in_different_ways() -> None:
    number = FRAUD.replace('types = ["purchase"]', 'numbers = ["zone"]')
    text = FRAUD.replace('name = "fraud"', 'name = "other"', 1).replace('"ratio < 4"', "\"zone == 'x'\"")
    alone, both = EmbeddedLog(), EmbeddedLog()
    for log, which in ((alone, [number]), (both, [number, text])):
        host = host_on(log, *which)
        log.append(topics.USER_EVENTS, [event(i, properties={"zone": i if i % 2 else "x"}) for i in range(6)])
        host.run_pending()
    mine = [v for v in values(outputs(both)[topics.PREDICTIONS]) if v["task"] == "fraud"]
    assert mine == values(outputs(alone)[topics.PREDICTIONS])


@pytest.mark.parametrize("names", [(), (FRAUD, FRAUD)], ids=["none", "twice"])
def test_tasks_have_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="give at least one, each with a name of its own"):
        EmbeddedHost([TaskSpec.from_toml(n) for n in names], EmbeddedLog())


class TestCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
            host = host_on(log, FRAUD, CHURN, checkpoints=tmp_path)
            run(log, host, inputs()[:3])
            host.checkpoint()
        return tmp_path

    def resume(self, folder: Path, *which: str) -> bool:
        with EmbeddedLog(PARTITIONS, folder / "log") as log:
            return host_on(log, *which, checkpoints=folder).resume()

    def test_the_same_tasks_resume(self, folder: Path) -> None:
        assert self.resume(folder, FRAUD, CHURN)

    def test_one_of_other_tasks_is_refused(self, folder: Path) -> None:
        with pytest.raises(
            StateError, match=r"of the tasks \['churn', 'fraud'\], now there are \['fraud'\]; start with"
        ):
            self.resume(folder, FRAUD)

    def test_one_of_other_features_is_refused(self, folder: Path) -> None:
        with pytest.raises(StateError, match="start with a fresh"):
            self.resume(folder, FRAUD.replace('windows = ["1d"]', 'windows = ["2d"]'), CHURN)

    def test_one_of_another_model_is_refused(self, folder: Path) -> None:
        with pytest.raises(StateError, match="task churn: the state does not fit"):
            self.resume(folder, FRAUD, CHURN.replace('"logistic"', '"adaptive_tree"'))

    @pytest.mark.parametrize("where", [0, 10, 100, -1])
    def test_a_damaged_one_is_refused(self, folder: Path, where: int) -> None:
        path = folder / "checkpoint.bin"
        data = bytearray(path.read_bytes())
        data[where] ^= 1
        path.write_bytes(data)
        with pytest.raises(StateError, match=r"checkpoint.bin: damaged \(\d+ B\); remove the directory"):
            self.resume(folder, FRAUD, CHURN)

    @pytest.mark.parametrize("size", [0, 3, 36, 50])
    def test_a_torn_one_is_refused(self, folder: Path, size: int) -> None:
        path = folder / "checkpoint.bin"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(StateError, match="damaged"):
            self.resume(folder, FRAUD, CHURN)

    def test_one_that_is_ahead_of_its_log_is_refused(self, folder: Path) -> None:
        (folder / "log" / "records.log").unlink()
        with pytest.raises(StateError, match=r"written at batch \d+ of the log, which ends at 0: it is of another log"):
            self.resume(folder, FRAUD, CHURN)

    def test_a_half_written_new_one_leaves_the_old(self, folder: Path) -> None:
        (folder / "checkpoint.part").write_bytes(b"WCP1half")
        assert self.resume(folder, FRAUD, CHURN)


def test_the_observer_sees_every_step_and_changes_nothing(straight: Straight) -> None:
    seen: list[str] = []
    log = EmbeddedLog(PARTITIONS)
    host = host_on(log, observe=lambda pipeline, _: seen.append(pipeline.task.name))
    run(log, host, inputs()[:9])
    assert {*seen} == {"fraud", "device_failure", "churn"}
    for topic, made in outputs(log).items():
        assert made == straight.outputs[topic][: len(made)]


def test_the_log_may_forget_what_was_processed(straight: Straight, tmp_path: Path) -> None:
    with EmbeddedLog(PARTITIONS, tmp_path) as log:
        host = host_on(log)
        for topic, records in inputs():
            log.append(topic, records)
            host.run_pending()
            log.forget(host.seq)
        assert outputs(log) == straight.outputs
    assert np.isfinite([i.watermark for i in host.intake.values()]).all()


def mutated(rng: np.random.Generator, value: bytes) -> bytes:
    """A record with one to three bytes changed, dropped or doubled, or cut short."""
    out = bytearray(value)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(out))))
        match int(rng.integers(0, 4)):
            case 0:
                out[at : at + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                del out[at : at + 1]
            case 2:
                out[at:at] = out[at : at + 3]
            case _:
                out[at : at + 1] = rng.choice([b'"', b"}", b",", b"0", b"-", b"e9"])
    return bytes(out)


def test_mutated_records_are_scored_or_dead_letters_and_none_disappears() -> None:
    rng = np.random.default_rng(0)
    log = EmbeddedLog()  # repeats are found within a partition; a mutation can bear an id of another one
    host = host_on(log, rejects=RejectPolicy(share=1.0))
    given_: Counter[str] = Counter()
    for topic, records in inputs(10_000):
        for mutate in (False, *[True] * 10):
            made = [Record(r.key, mutated(rng, r.value), r.ts) for r in records] if mutate else records
            given_[topic] += len(made)
            log.append(topic, made)
    host.run_pending()
    letters = Counter(v["topic"] for v in values(outputs(log)[topics.DEAD_LETTERS]))
    repeats = sum(intake.duplicates for intake in host.intake.values())
    good = host.stats.events + repeats + host.stats.labels
    assert good + sum(letters.values()) == sum(given_.values()) > 110_000
    assert host.stats.labels + letters[topics.LABELS] == given_[topics.LABELS]
    assert min(letters[topic] for topic in topics.INPUTS) > 0
    scored = Counter((p["task"], p["event_id"]) for p in values(outputs(log)[topics.PREDICTIONS]))
    assert set(scored.values()) == {1}


def test_another_process_makes_the_same_bits(straight: Straight, tmp_path: Path) -> None:
    """Nothing depends on the order in which this process happens to hash texts."""
    here = Path(__file__)
    program = f"""
import hashlib, importlib.util
spec = importlib.util.spec_from_file_location("host_tests", {str(here)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.digest(module.Straight()))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(here.parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == digest(straight)


def digest(run: Straight) -> str:
    """Of all outputs and the state of every part."""
    parts = [repr(sorted(run.outputs.items())).encode(), run.host.store.snapshot()]
    parts += [pipeline.snapshot() for _, pipeline in sorted(run.host.pipelines.items())]
    parts += [intake.snapshot() for _, intake in sorted(run.host.intake.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()
