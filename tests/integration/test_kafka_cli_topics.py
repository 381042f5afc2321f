"""``weir topics`` against a real broker: create and check agree, describe says who lags; no command leaves a thread."""

from __future__ import annotations

import re
import threading

import orjson
import pytest

from tests.integration.kafka_commands import Weir
from weir.streams.config import topics

pytestmark = pytest.mark.integration


def test_create_may_be_run_again_and_check_agrees(weir: Weir) -> None:
    again = weir("topics", "create")
    assert again.status == 0
    assert again.out.count("exists") == len(topics.ALL)
    assert "0 created" in again.err
    checked = weir("topics", "check", "--json")
    document = orjson.loads(checked.out)
    stored = document.pop("stored")
    assert (checked.status, document) == (0, {"ok": True, "differences": []})
    assert [found["status"] for found in stored] == ["WARN"], "there is no store here to compare with"


def test_check_finds_what_somebody_changed_and_create_alter_mends_it(weir: Weir) -> None:
    changed = {"WEIR_TOPICS__OVERRIDE__ALERTS__RETENTION": "3d"}
    found = weir("topics", "check", env=changed)
    assert found.status == 1
    assert re.search(r"alerts\s+retention\.ms\s+3d\s+30d\s+weir topics create --alter", found.out)
    assert "would be altered" in weir("topics", "create", "--alter", "--dry-run", env=changed).out
    assert weir("topics", "check", env=changed).status == 1, "a dry run changes nothing"
    assert "altered: retention.ms" in weir("topics", "create", "--alter", env=changed).out
    assert weir("topics", "check", env=changed).status == 0
    assert weir("topics", "create", "--alter").status == 0
    assert weir("topics", "check").status == 0


def test_updates_that_are_kept_for_less_than_rows_live_are_told_and_fail_nothing(weir: Weir) -> None:
    longer = {"WEIR_TOPICS__OVERRIDE__ENTITY-UPDATES__RETENTION": "400d"}
    found = weir("topics", "check", env=longer)
    assert found.status == 0
    assert re.search(r"entity-updates\s+retention\.ms\s+400d\s+68d\s+weir topics create --alter", found.out)
    assert orjson.loads(weir("topics", "check", "--json", env=longer).out)["ok"]


def test_partitions_that_differ_are_said_with_what_to_do(weir: Weir) -> None:
    found = weir("topics", "check", "--json", env={"WEIR_TOPICS__PARTITIONS": "4"})
    assert found.status == 1
    differences = orjson.loads(found.out)["differences"]
    assert {d["topic"] for d in differences} == {
        "user-events", "device-events", "labels", "predictions", "alerts", "decisions", "entity-updates",
        "inference-requests", "inference-results",
    }  # fmt: skip
    assert all("partitions = 6" in d["fix"] for d in differences)


def test_more_copies_than_brokers_are_refused_before_anything_happens(weir: Weir) -> None:
    found = weir("topics", "create", env={"WEIR_TOPICS__REPLICATION": "3"})
    assert found.status == 2
    assert "replication = 3 needs as many brokers, there is 1" in found.err


def test_describe_shows_offsets_and_the_lag_of_groups(weir: Weir) -> None:
    from kafka import KafkaConsumer, TopicPartition
    from kafka.structs import OffsetAndMetadata

    topic = weir.make("described", 2)
    sent = weir.write(topic, [(b"k%d" % i, b"{}") for i in range(50)])
    ends = {p: sum(partition == p for partition, _ in sent) for p in (0, 1)}
    client = KafkaConsumer(bootstrap_servers=list(weir.settings.bootstrap), group_id="slow", enable_auto_commit=False)
    client.assign([TopicPartition(topic, 0)])
    client.commit({TopicPartition(topic, 0): OffsetAndMetadata(3, "", -1)})
    client.close()
    found = orjson.loads(weir("topics", "describe", topic, "--json").out)
    assert {p["partition"]: p["end"] for p in found["partitions"]} == ends
    assert all(p["leader"] == 1 and p["in_sync"] == [1] and p["size_bytes"] > 0 for p in found["partitions"])
    (group,) = found["groups"]
    assert (group["group"], group["lag"], group["uncommitted"]) == ("slow", 50 - 3, [1])
    worst = max((ends[0] - 3, 0), (ends[1], 1))
    assert (group["worst_lag"], group["worst"]) == worst
    shown = weir("topics", "describe", topic).out
    assert re.search(r"slow\s+empty\s+0\s+described\s+47", shown)


def test_describing_a_topic_that_is_not_there_says_what_is_near_or_which_are(weir: Weir) -> None:
    found = weir("topics", "describe", "user-event")
    assert found.status == 2
    assert "no topic user-event; did you mean user-events" in found.err
    assert re.search(r"no topic zzz; there are: .*\balerts, ", weir("topics", "describe", "zzz").err)


def test_no_thread_is_left_behind(weir: Weir) -> None:
    before = threading.active_count()
    assert weir("topics", "check").status == 0
    assert weir("dlq", "list").status == 0
    assert threading.active_count() <= before
