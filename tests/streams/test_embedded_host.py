"""The embedded host on a simulated stream: every record is scored, a repeat, a label or a dead letter; none is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import orjson

from tests.streams.host_runs import Straight, host_on, inputs, outputs, process_all, values
from weir.online.codec.wire import Alert, DeadLetter, Example, Prediction, RetrainRequest, WireModel
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record
from weir.streams.reject_limit import RejectPolicy


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


def mutated(rng: Random, value: bytes) -> bytes:
    """A record with one to three bytes changed, dropped or doubled, or cut short."""
    out = bytearray(value)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(max(1, len(out)))
        match rng.randrange(4):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del out[at : at + 1]
            case 2:
                out[at:at] = out[at : at + 3]
            case _:
                out[at : at + 1] = rng.choice([b'"', b"}", b",", b"0", b"-", b"e9"])
    return bytes(out)


def test_mutated_records_are_scored_or_dead_letters_and_none_disappears() -> None:
    rng = Random(0)  # of numpy's a single number takes ten times as long
    log = EmbeddedLog()  # repeats are found within a partition; a mutation can bear an id of another one
    host = host_on(log, rejects=RejectPolicy(share=1.0))
    given_: Counter[str] = Counter()
    for topic, records in inputs(4_000):
        for mutate in (False, *[True] * 10):
            made = [Record(r.key, mutated(rng, r.value), r.ts) for r in records] if mutate else records
            given_[topic] += len(made)
            log.append(topic, made)
    process_all(host)
    letters = Counter(v["topic"] for v in values(outputs(log)[topics.DEAD_LETTERS]))
    repeats = sum(intake.duplicates for intake in host.intake.values())
    good = host.stats.events + repeats + host.stats.labels
    assert good + sum(letters.values()) == sum(given_.values()) > 44_000
    assert host.stats.labels + letters[topics.LABELS] == given_[topics.LABELS]
    assert min(letters[topic] for topic in topics.INPUTS) > 0
    scored = Counter((p["task"], p["entity_id"], p["event_id"]) for p in values(outputs(log)[topics.PREDICTIONS]))
    assert set(scored.values()) == {1}
