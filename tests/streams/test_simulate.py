"""The simulation: the wire format, the true frauds, failures and churners, and the dirt that was asked for."""

from __future__ import annotations

import functools
import math
import string
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.streams.simulation_truth import SimulationTruth, truth
from weir.online.codec.wire import DeviceEvent, Label, UserEvent
from weir.streams.simulate import TOPICS, RecordBlock, SimulationConfig, simulate
from weir.streams.simulate.generator import BREAKAGES

CLEAN = {"malformed_share": 0.0, "duplicate_share": 0.0, "late_share": 0.0}
USER_FIELDS = {"v", "event_id", "type", "user_id", "ts", "amount", "merchant_id", "device_id", "session_id",
               "channel", "country", "properties"}  # fmt: skip
LABEL_FIELDS = {"v", "label_id", "task", "entity_id", "event_id", "ts", "value", "source", "weight"}


def small(**changes: Any) -> SimulationConfig:
    base: dict[str, Any] = {"seed": 3, "events": 40_000, "days": 20, "users": 300, "merchants": 40, "devices": 12}
    return SimulationConfig(**(base | changes))


def decoded(config: SimulationConfig) -> dict[str, list[tuple[dict[str, Any], float]]]:
    out: dict[str, list[tuple[dict[str, Any], float]]] = {topic: [] for topic in TOPICS}
    for block in simulate(config):
        for topic, records in block.topics.items():
            out[topic] += [(orjson.loads(value), available) for _, value, available in records]
    return out


@functools.cache
def clean_truth() -> SimulationTruth:
    return truth(small(**CLEAN))


@pytest.fixture(scope="module")
def clean() -> dict[str, list[tuple[dict[str, Any], float]]]:
    return decoded(small(**CLEAN))


@pytest.fixture(scope="module")
def purchases(clean: dict[str, list[tuple[dict[str, Any], float]]]) -> list[dict[str, Any]]:
    return [event for event, _ in clean["user-events"] if event["type"] == "purchase"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def records(config: SimulationConfig) -> list[dict[str, Any]]:
        return [block.topics for block in simulate(config)]

    assert records(small(events=3_000)) == records(small(events=3_000))
    assert records(small(events=3_000)) != records(small(events=3_000, seed=4))


@settings(max_examples=15, deadline=None)
@given(
    events=st.integers(1, 3_000),
    days=st.integers(1, 9),
    users=st.integers(1, 40),
    devices=st.integers(0, 5),
    share=st.floats(0.0, 1.0),
    fraud=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_any_size_gives_exactly_that_many_distinct_events(
    events: int, days: int, users: int, devices: int, share: float, fraud: float, seed: int
) -> None:
    config = small(events=events, days=days, users=users, devices=devices, device_event_share=share,
                   fraud_share=fraud, seed=seed, **CLEAN)  # fmt: skip
    records = decoded(config)
    ids = [event["event_id"] for topic in TOPICS[:2] for event, _ in records[topic]]
    assert len(ids) == len(set(ids)) == events


def test_blocks_follow_one_another_and_hold_ordered_records() -> None:
    config = small()
    end = config.start_ts
    for block in simulate(config):
        assert block.start == end
        end = block.end
        times = [available for *_, available in block.merged()]
        assert times == sorted(times)
        assert len(times) == len(block)
        assert all(block.start <= available < block.end for available in times)
    assert end >= config.end_ts


def test_merged_keeps_topics_with_their_records() -> None:
    block = RecordBlock(0.0, 9.0, {"a": [(b"k", b"1", 1.0), (b"k", b"3", 3.0)], "b": [(b"k", b"2", 2.0)]})
    assert [(topic, value) for topic, _, value, _ in block.merged()] == [("a", b"1"), ("b", b"2"), ("a", b"3")]


def test_user_events_are_wire_format_v1(clean: dict[str, list[tuple[dict[str, Any], float]]]) -> None:
    config = small()
    for event, available in clean["user-events"]:
        assert event.keys() <= USER_FIELDS
        assert event["v"] == 1
        assert event["type"] in {"purchase", "login", "view"}
        assert event["ts"] == available
        assert config.start_ts <= event["ts"] < config.end_ts + 86_400
        assert event.get("amount", 1.0) > 0
        assert ("amount" in event) == (event["type"] == "purchase")
        assert all(0 < len(event[name]) <= 64 for name in event if name.endswith("_id"))
        assert all(isinstance(value, int | float | str) for value in event.get("properties", {}).values())


def test_device_events_are_wire_format_v1(clean: dict[str, list[tuple[dict[str, Any], float]]]) -> None:
    missing = 0
    for event, _ in clean["device-events"]:
        assert event.keys() == {"v", "event_id", "device_id", "ts", "metrics", "status", "properties"}
        assert event["metrics"].keys() == {"temperature", "vibration", "load", "pressure"}
        missing += sum(value is None for value in event["metrics"].values())
        assert all(value is None or math.isfinite(value) for value in event["metrics"].values())
    assert 0 < missing < 0.02 * len(clean["device-events"]) * 4


def test_every_clean_record_is_accepted_by_the_contract() -> None:
    models: dict[str, type[BaseModel]] = dict(zip(TOPICS, (UserEvent, DeviceEvent, Label), strict=True))
    for block in simulate(small(events=5_000, **CLEAN)):
        for topic, records in block.topics.items():
            for _, value, _ in records:
                models[topic].model_validate_json(value)


def test_the_key_is_the_entity_that_owns_the_record() -> None:
    owner = {"user-events": "user_id", "device-events": "device_id", "labels": "entity_id"}
    for block in simulate(small(events=3_000, **CLEAN)):
        for topic, records in block.topics.items():
            assert all(orjson.loads(value)[owner[topic]].encode() == key for key, value, _ in records)


def test_labels_come_after_what_they_speak_of(clean: dict[str, list[tuple[dict[str, Any], float]]]) -> None:
    events = {event["event_id"]: event for event, _ in clean["user-events"]}
    delays = []
    for label, available in clean["labels"]:
        assert label.keys() <= LABEL_FIELDS
        assert label["value"] in {0, 1}
        assert available >= label["ts"]
        if label["task"] == "fraud":
            assert label["ts"] == events[label["event_id"]]["ts"]
            assert label["entity_id"] == events[label["event_id"]]["user_id"]
        if label["source"] == "chargeback":
            delays.append(available - label["ts"])
    assert np.median(delays) / 86_400 == pytest.approx(small().label_delay_days, rel=0.25)
    assert np.std(delays) > 0.5 * 86_400


def test_positive_labels_are_the_true_frauds_and_failures(
    clean: dict[str, list[tuple[dict[str, Any], float]]],
) -> None:
    known = clean_truth()
    positives = [label for label, _ in clean["labels"] if label["value"] == 1]
    frauds = {label["event_id"] for label in positives if label["task"] == "fraud"}
    assert frauds <= known.frauds.keys()
    assert len(frauds) > 0.6 * len(known.frauds)  # the rest becomes known after the end
    failures = {(label["entity_id"], round(label["ts"])) for label in positives if label["task"] == "device_failure"}
    assert failures
    assert failures <= {(name, round(ts)) for name, ts in known.failures}


def test_frauds_are_about_the_configured_share_in_all_patterns(purchases: list[dict[str, Any]]) -> None:
    known = clean_truth()
    assert len(known.frauds) / len(purchases) == pytest.approx(small().fraud_share, rel=0.2)
    assert Counter(known.frauds.values()).keys() == {"large", "merchant", "stolen"}
    assert known.frauds.keys() <= {event["event_id"] for event in purchases}


def test_the_drift_turns_large_frauds_into_small_ones_at_night(purchases: list[dict[str, Any]]) -> None:
    config = small(**CLEAN)
    known = truth(config)
    usual: dict[str, list[float]] = {}
    for event in purchases:
        usual.setdefault(event["user_id"], []).append(event["amount"])
    large = [event for event in purchases if known.frauds.get(event["event_id"]) == "large"]
    ratio = [event["amount"] / np.median(usual[event["user_id"]]) for event in large]
    before = np.array([event["ts"] < config.drift_ts for event in large])
    assert np.median(np.array(ratio)[before]) > 4.0
    assert np.median(np.array(ratio)[~before]) < 0.5
    assert all(event["ts"] % 86_400 < 6 * 3_600 for event, early in zip(large, before, strict=True) if not early)
    assert not {e["merchant_id"] for e, early in zip(large, before, strict=True) if early} & {
        e["merchant_id"] for e, early in zip(large, before, strict=True) if not early
    }


def test_without_a_drift_large_frauds_stay_large(purchases: list[dict[str, Any]]) -> None:
    config = small(drift_at=None, **CLEAN)
    known = truth(config)
    assert known.drift_ts == math.inf
    amounts = [
        event["amount"]
        for event, _ in decoded(config)["user-events"]
        if known.frauds.get(event["event_id"]) == "large" and event["ts"] > config.start_ts + 15 * 86_400
    ]
    assert np.median(amounts) > 5 * np.median([event["amount"] for event in purchases])


def test_stolen_credentials_come_from_a_device_and_country_the_user_never_used(
    purchases: list[dict[str, Any]],
) -> None:
    known = clean_truth()
    honest = {(e["user_id"], e["device_id"]) for e in purchases if e["event_id"] not in known.frauds}
    stolen = [event for event in purchases if known.frauds.get(event["event_id"]) == "stolen"]
    assert not honest & {(event["user_id"], event["device_id"]) for event in stolen}
    assert len({event["user_id"] for event in stolen}) < len(stolen) / 4


def test_a_compromised_merchant_is_one_for_some_days(purchases: list[dict[str, Any]]) -> None:
    known = clean_truth()
    times: dict[str, list[float]] = {}
    for event in purchases:
        if known.frauds.get(event["event_id"]) == "merchant":
            times.setdefault(event["merchant_id"], []).append(event["ts"])
    assert all(len(ts) > 10 and 1.0 < (max(ts) - min(ts)) / 86_400 < 15.0 for ts in times.values())


def test_churners_fall_silent_and_the_wire_does_not_say_so(
    clean: dict[str, list[tuple[dict[str, Any], float]]],
) -> None:
    known = clean_truth()
    assert 0.1 < len(known.churned) / 300 < 0.35
    for event, _ in clean["user-events"]:
        if event["event_id"] not in known.frauds:
            assert event["ts"] <= known.churned.get(event["user_id"], math.inf) + 86_400
    assert {label["task"] for label, _ in clean["labels"]} == {"fraud", "device_failure"}


def test_machines_vibrate_before_they_fail_and_are_silent_while_down(
    clean: dict[str, list[tuple[dict[str, Any], float]]],
) -> None:
    known = clean_truth()
    level: dict[str, list[tuple[float, float]]] = {}
    for event, _ in clean["device-events"]:
        if event["metrics"]["vibration"] is not None:
            level.setdefault(event["device_id"], []).append((event["ts"], event["metrics"]["vibration"]))
    ratios = []
    for name, failure in known.failures:
        ts, vibration = np.array(level[name]).T
        last_hours = vibration[(ts > failure - 6 * 3_600) & (ts <= failure)]
        ratios.append(last_hours.mean() / np.median(vibration))
        assert not ((ts > failure) & (ts < failure + 2 * 3_600)).any()
    assert np.median(ratios) > 1.5


def test_people_sleep_at_night(purchases: list[dict[str, Any]]) -> None:
    hours = Counter(int(event["ts"] % 86_400 // 3_600) for event in purchases)
    assert sum(hours[hour] for hour in range(1, 6)) < 0.3 * sum(hours[hour] for hour in range(17, 22))


def test_activity_is_unequal(clean: dict[str, list[tuple[dict[str, Any], float]]]) -> None:
    counts = sorted(Counter(event["user_id"] for event, _ in clean["user-events"]).values())
    assert sum(counts[-30:]) > 0.2 * sum(counts)


def test_a_dirty_stream_loses_nothing_and_holds_what_was_asked_for() -> None:
    config = small(malformed_share=0.02, duplicate_share=0.03, late_share=0.05)
    distinct, repeated, late, broken = set(), 0, 0, 0
    for block in simulate(config):
        for _, value, available in block.topics["user-events"] + block.topics["device-events"]:
            try:
                event = orjson.loads(value)
                assert event["v"] == 1
                assert 0 < len(event["event_id"]) <= 64
                assert event["ts"] <= config.end_ts + 86_400
            except (orjson.JSONDecodeError, AssertionError, KeyError, TypeError):
                broken += 1
                continue
            repeated += event["event_id"] in distinct
            late += available > event["ts"] and event["event_id"] not in distinct
            distinct.add(event["event_id"])
    assert len(distinct) == config.events
    assert repeated / config.events == pytest.approx(0.03, rel=0.2)
    assert broken / config.events == pytest.approx(0.02, rel=0.2)
    assert late / config.events == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_records_are_refused_and_stay_on_one_line(breakage: Any) -> None:
    raw = b'{"v":1,"event_id":"u0000-0000001","type":"login","user_id":"user-1","ts":1767571200.000}'
    broken = breakage(raw)
    assert b"\n" not in broken
    UserEvent.model_validate_json(raw)
    with pytest.raises(ValidationError):
        UserEvent.model_validate_json(broken)


def test_ids_do_not_tell_frauds_apart(purchases: list[dict[str, Any]]) -> None:
    known = clean_truth()
    for name in ("event_id", "device_id", "session_id"):
        shapes = {
            fraud: {event[name].translate(str.maketrans(string.hexdigits, "h" * 22)) for event in purchases
                    if (event["event_id"] in known.frauds) == fraud}
            for fraud in (True, False)
        }  # fmt: skip
        assert shapes[True] == shapes[False]


@pytest.mark.parametrize("wrong", [{"users": 0}, {"fraud_share": 1.5}, {"days": 0}, {"unknown": 1}, {"drift_at": 2.0}])
def test_impossible_configurations_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        small(**wrong)
