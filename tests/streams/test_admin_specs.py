from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.online.features.spec import Entity
from weir.streams.checks.kafka_checks import differing_topics
from weir.streams.config import topics
from weir.streams.config.settings import TopicOverride, TopicSettings
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.topic_specs import ActualTopic, TopicSpec, compare, shown, wanted_topics

MIB = 1_048_576


def actual(spec: TopicSpec) -> ActualTopic:
    """The topic that a broker made of ``spec``; it has settings that nobody asked for, too."""
    return ActualTopic(spec.name, spec.partitions, spec.replication, {**spec.configs, "segment.ms": "604800000"})


def by_name(settings: TopicSettings | None = None, brokers: int = 3) -> dict[str, TopicSpec]:
    return {spec.name: spec for spec in wanted_topics(settings or TopicSettings(), brokers)}


def test_every_topic_of_weir_is_wanted_once() -> None:
    names = [spec.name for spec in wanted_topics(TopicSettings(), 1)]
    assert sorted(names) == sorted(topics.ALL)
    assert set(topics.INPUTS) | set(topics.OUTPUTS) | {topics.MODEL_UPDATES} <= set(names)


def test_what_readers_need_in_one_order_has_one_partition() -> None:
    specs = by_name(TopicSettings(partitions=12))
    one = {
        topics.EXAMPLES,
        topics.RETRAIN_REQUESTS,
        topics.MODEL_UPDATES,
        topics.DEAD_LETTERS,
        topics.DEAD_LETTERS_DONE,
        topics.CASE_EVENTS,
        topics.AUDIT,
        topics.NOTIFICATIONS,
    }
    assert {name for name, spec in specs.items() if spec.partitions == 1} == one
    assert all(spec.partitions == 12 for name, spec in specs.items() if name not in one)


def test_compaction_keeps_the_markers_of_letters_and_updates_of_models_are_all_kept() -> None:
    policy = {name: spec.configs["cleanup.policy"] for name, spec in by_name().items()}
    assert policy[topics.MODEL_UPDATES] == "delete"  # the newest of a task would not say what serves; see the next test
    assert policy.pop(topics.DEAD_LETTERS_DONE) == "compact,delete"
    assert set(policy.values()) == {"delete"}


def test_a_marker_outlives_its_letter_and_examples_are_never_deleted() -> None:
    kept = {name: int(spec.configs["retention.ms"]) for name, spec in by_name().items()}
    assert kept[topics.DEAD_LETTERS_DONE] > kept[topics.DEAD_LETTERS] > 0
    assert kept[topics.EXAMPLES] == kept[topics.MODEL_UPDATES] == -1


def test_a_dead_letter_has_room_for_the_largest_record_in_base64() -> None:
    specs = by_name()
    largest = int(specs[topics.USER_EVENTS].configs["max.message.bytes"])
    assert int(specs[topics.DEAD_LETTERS].configs["max.message.bytes"]) > largest * 4 / 3 + 4_096


@pytest.mark.parametrize(("brokers", "replication", "in_sync"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (9, 3, 2)])
def test_replication_follows_the_brokers(brokers: int, replication: int, in_sync: int) -> None:
    for spec in wanted_topics(TopicSettings(), brokers):
        assert (spec.replication, spec.configs["min.insync.replicas"]) == (replication, str(in_sync))


def test_more_copies_than_brokers_or_than_can_be_in_sync_are_refused() -> None:
    with pytest.raises(UsageError, match=r"replication = 3 needs as many brokers, there is 1; set replication = 1"):
        wanted_topics(TopicSettings(replication=3), 1)
    with pytest.raises(UsageError, match=r"min_insync_replicas = 3 of 2 copies can never be met"):
        wanted_topics(TopicSettings(replication=2, min_insync_replicas=3), 3)


def test_an_override_changes_its_topic_only() -> None:
    override = {topics.ALERTS: TopicOverride(partitions=2, replication=2, retention="forever", min_insync_replicas=2)}
    specs, plain = by_name(TopicSettings(override=override)), by_name()
    changed = specs.pop(topics.ALERTS)
    assert (changed.partitions, changed.replication) == (2, 2)
    assert (changed.configs["retention.ms"], changed.configs["min.insync.replicas"]) == ("-1", "2")
    assert specs == {name: spec for name, spec in plain.items() if name != topics.ALERTS}


@pytest.mark.parametrize(
    "name", [topics.LABELS, topics.USER_EVENTS, topics.DEVICE_EVENTS, topics.ENTITY_UPDATES]
)  # fmt: skip
def test_what_one_entity_is_about_must_meet_in_the_same_partition(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} would have 3 partitions and predictions 6"):
        wanted_topics(TopicSettings(override={name: TopicOverride(partitions=3)}), 1)


def test_topics_are_wanted_under_the_names_they_have_on_the_cluster() -> None:
    special = {topics.ALERTS: TopicOverride(replication=2)}
    names = TopicSettings(prefix="prod.", names={topics.ALERTS: "alarms"}, override=special)
    specs = by_name(names)
    assert set(specs) == {names.name(own) for own in topics.ALL}
    assert (specs["alarms"].replication, specs["prod.labels"].replication) == (2, 3)
    assert specs["prod.dead-letters"].configs == by_name()[topics.DEAD_LETTERS].configs
    (found,) = compare([specs["alarms"]], {topics.ALERTS: actual(by_name()[topics.ALERTS])})
    assert (found.topic, found.actual) == ("alarms", "missing")


def test_updates_are_kept_for_as_long_as_a_row_lives() -> None:
    kept_s = int(by_name()[topics.ENTITY_UPDATES].configs["retention.ms"]) / 1000
    assert kept_s >= Entity(name="shop", key="merchant_id").kept_s, "a rebuild needs the updates of every row alive"


@pytest.mark.parametrize("largest", [1_048_588, 3_000_000, 20_000_000])
def test_every_topic_takes_what_a_worker_may_send(largest: int) -> None:
    limits = {s.name: int(s.configs["max.message.bytes"]) for s in wanted_topics(TopicSettings(), 3, largest)}
    assert all(limits[name] >= largest for name in topics.PRODUCED)
    assert limits[topics.DEAD_LETTERS] >= largest * 4 / 3 + 4_096, "a refused record is there in base64"


def test_a_topic_that_takes_less_than_a_worker_sends_is_a_difference() -> None:
    there = {spec.name: actual(spec) for spec in wanted_topics(TopicSettings(), 3)}
    found = compare(wanted_topics(TopicSettings(), 3, 2 * MIB), there)
    assert {d.topic for d in found} == set(topics.PRODUCED)
    assert {(d.setting, d.fix) for d in found} == {("max.message.bytes", "weir topics create --alter")}


def test_topics_as_wanted_do_not_differ() -> None:
    wanted = wanted_topics(TopicSettings(), 3)
    assert compare(wanted, {spec.name: actual(spec) for spec in wanted}) == []


def test_a_missing_topic_is_one_difference() -> None:
    wanted = wanted_topics(TopicSettings(), 3)
    there = {spec.name: actual(spec) for spec in wanted if spec.name != topics.LABELS}
    (found,) = compare(wanted, there)
    assert (found.topic, found.actual, found.fix) == (topics.LABELS, "missing", "weir topics create")


def test_topics_with_one_fault_and_one_fix_are_one_check() -> None:
    wanted = wanted_topics(TopicSettings(), 3)
    there = {spec.name: actual(spec) for spec in wanted}
    gone = [wanted[0].name, wanted[2].name]
    for name in gone:
        del there[name]
    there[wanted[1].name] = replace(there[wanted[1].name], replication=1)
    missing, copies = differing_topics(compare(wanted, there))
    assert (missing.name, missing.status, missing.fix) == ("2 topics", "FAIL", "weir topics create")
    assert missing.found == f"topic: missing, wanted there: {', '.join(gone)}"
    assert copies.name == f"topic {wanted[1].name}"


def test_the_order_of_a_list_valued_setting_does_not_matter() -> None:
    spec = by_name()[topics.DEAD_LETTERS_DONE]
    held = actual(spec)
    assert (
        compare([spec], {spec.name: replace(held, configs={**held.configs, "cleanup.policy": "delete, compact"})}) == []
    )


def test_partitions_can_be_too_many_or_too_few_and_neither_is_mended_by_itself() -> None:
    spec = by_name()[topics.USER_EVENTS]
    for partitions, words in ((4, "moves keys away from their state"), (9, "cannot take partitions away")):
        (found,) = compare([spec], {spec.name: replace(actual(spec), partitions=partitions)})
        assert (found.setting, found.wanted, found.actual) == ("partitions", "6", str(partitions))
        assert words in found.fix
        assert f"partitions = {partitions}" in found.fix


def test_partitions_in_trouble_are_differences() -> None:
    spec = by_name()[topics.ALERTS]
    found = compare([spec], {spec.name: replace(actual(spec), leaderless=(1, 4), short=(2,))})
    assert [(d.setting, d.actual) for d in found] == [("leader", "none for 1, 4"), ("in sync", "fewer in 2")]


@given(
    name=st.sampled_from(topics.ALL),
    setting=st.sampled_from(["retention.ms", "cleanup.policy", "min.insync.replicas", "max.message.bytes"]),
    value=st.sampled_from(["1", "7", "3600000", "-1", "compact", "delete", "compact,delete", "2097152"]),
)
def test_every_setting_that_differs_is_found_and_no_other(name: str, setting: str, value: str) -> None:
    wanted = wanted_topics(TopicSettings(), 3)
    there = {spec.name: actual(spec) for spec in wanted}
    there[name] = replace(there[name], configs={**there[name].configs, setting: value})
    found = compare(wanted, there)
    if by_name()[name].configs[setting] == value:
        assert found == []
    else:
        assert [(d.topic, d.setting) for d in found] == [(name, setting)]
        assert found[0].actual == shown(setting, value)
        assert found[0].fix.endswith("weir topics create --alter")


@pytest.mark.parametrize(
    ("stamp", "after", "told"),
    [
        ("CreateTime", str(2**63 - 1), True),
        ("LogAppendTime", str(2**63 - 1), False),
        ("CreateTime", "3600000", False),
        ("CreateTime", "?", False),
    ],
)
def test_a_topic_that_takes_any_time_to_come_is_told(stamp: str, after: str, told: bool) -> None:
    specs = wanted_topics(TopicSettings(), 1)
    clocks = {"message.timestamp.type": stamp, "message.timestamp.after.max.ms": after}
    there = {s.name: replace(actual(s), configs={**s.configs, **clocks}) for s in specs}
    found = compare(specs, there)
    assert [d.topic for d in found] == ([topics.LABELS, topics.USER_EVENTS, topics.DEVICE_EVENTS] if told else [])
    assert all("message.timestamp.after.max.ms=3600000" in d.fix for d in found)


@pytest.mark.parametrize(
    ("held", "record_bytes", "told"), [(MIB + 12, MIB, False), (4 * MIB, MIB, True), (4 * MIB, 4 * MIB, False)]
)
def test_a_topic_of_events_that_takes_more_than_weir_does_is_told(held: int, record_bytes: int, told: bool) -> None:
    wanted = wanted_topics(TopicSettings(), 3, record_bytes=record_bytes)
    there = {spec.name: actual(spec) for spec in wanted}
    configs = {**there[topics.USER_EVENTS].configs, "max.message.bytes": str(held)}
    there[topics.USER_EVENTS] = replace(there[topics.USER_EVENTS], configs=configs)
    found = compare(wanted, there)
    assert [(d.topic, d.wanted, d.actual) for d in found] == (
        [(topics.USER_EVENTS, f"at most {MIB + 12}", str(held))] if told else []
    )
    assert all("raise [limits] record_bytes" in d.fix for d in found)
