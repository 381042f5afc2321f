"""Odd records and odd tasks, written by hand: the embedded host counts, refuses or fits each as it should."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.streams.host_runs import CHURN, FRAUD, host_on, outputs, process_all, values
from weir.online.codec.wire import Alert, Example, Prediction
from weir.online.intake_policy import IntakePolicy
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import TooManyRejects, UsageError
from weir.streams.records import Record
from weir.streams.reject_limit import RejectPolicy


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
    process_all(host)
    assert (host.stats.labels, host.stats.unknown_task_labels, host.stats.dead_letters) == (3, 2, 0)


def test_too_many_rejects_stop_the_host_before_it_goes_on() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD, rejects=RejectPolicy(share=0.5, window=10))
    log.append(topics.USER_EVENTS, [event(1), *[Record(b"u1", b"{", 1.7e9)] * 9])
    with pytest.raises(TooManyRejects, match=r"9 of the last 10 records were rejected, the limit is 50%.*Correct the"):
        process_all(host)
    assert host.seq == 0
    assert len(outputs(log)[topics.DEAD_LETTERS]) == 9


def test_a_clock_that_runs_ahead_does_not_make_the_rest_late() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD, intake=IntakePolicy(allowed_lateness=60, max_ahead=60))
    log.append(topics.USER_EVENTS, [event(1), event(2, ts=4e9), event(3)])
    process_all(host)
    assert (host.stats.predictions, host.stats.dead_letters) == (2, 1)
    assert "ahead" in values(outputs(log)[topics.DEAD_LETTERS])[0]["reason"]


@pytest.mark.parametrize(("max_step", "hours"), [(3_600.0, 0), (8 * 3_600.0, 5)])
def test_all_clocks_of_a_host_go_by_one_step(max_step: float, hours: int) -> None:
    """What one event may move: of what is late, of labels and alerts, and of timers of a silence."""
    log = EmbeddedLog()
    host = host_on(log, FRAUD, CHURN, intake=IntakePolicy(max_step=max_step, max_ahead=1e9))
    log.append(topics.USER_EVENTS, [*(event(n) for n in (1, 2, 3)), event(4, user_id="u2", ts=1.7e9 + 5 * 3_600.0)])
    process_all(host)
    now = 1.7e9 + hours * 3_600.0 if hours else 1.7e9 + 3
    assert [intake.watermark for intake in host.intake.values()] == [now]
    assert host.pipelines["fraud"].labelling.time.watermark == now
    timers = host.pipelines["churn"].timers
    assert timers is not None
    assert timers.watermark == now


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_lateness_does_not_depend_on_batches(cut: int) -> None:
    """A repeat that claims a newer time counts the same for the row behind it, in its batch or in the next."""
    begun = [event(3), event(4), event(5)]
    records = [*begun, event(1), event(1, ts=1.7e9 + 3500), event(2, ts=1.7e9 + 100)]
    records = [Record(r.key, r.value, 1.7e9 + 6000) for r in records]
    log = EmbeddedLog(max_batch=cut)
    host = host_on(log, FRAUD, intake=IntakePolicy(allowed_lateness=1000))
    log.append(topics.USER_EVENTS, records)
    process_all(host)
    assert (host.stats.events, host.stats.dead_letters) == (4, 1)


def test_long_ids_make_records_that_fit_the_wire_format() -> None:
    """An alert's id holds the task's, the entity's and the event's; a timer's event id the entity's."""
    user, log = "u" * 64, EmbeddedLog()
    host = host_on(log, FRAUD.replace('kind = "budget"\nalerts_per_day = 30\nmin_scores = 100\nmin_days = 0.1',
                                      'kind = "fixed"\nvalue = 0.0'), CHURN.replace("0.9", "0.0"))  # fmt: skip
    rows = [event(i, user_id=user, event_id=f"{i:064d}", ts=1.7e9 + 3600 * i) for i in range(80)]
    log.append(topics.USER_EVENTS, [Record(user.encode(), r.value, 1.7e9 + 3600 * i) for i, r in enumerate(rows)])
    process_all(host)
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
    process_all(host)
    assert [p["entity_id"] for p in values(outputs(log)[topics.PREDICTIONS])] == ["c" * 64, "c1"]
    assert host.stats.events == 6


def test_tasks_may_read_one_name_in_different_ways() -> None:
    number = FRAUD.replace('types = ["purchase"]', 'numbers = ["zone"]')
    text = FRAUD.replace('name = "fraud"', 'name = "other"', 1).replace('"ratio < 4"', "\"zone == 'x'\"")
    alone, both = EmbeddedLog(), EmbeddedLog()
    for log, which in ((alone, [number]), (both, [number, text])):
        host = host_on(log, *which)
        log.append(topics.USER_EVENTS, [event(i, properties={"zone": i if i % 2 else "x"}) for i in range(6)])
        process_all(host)
    mine = [v for v in values(outputs(both)[topics.PREDICTIONS]) if v["task"] == "fraud"]
    assert mine == values(outputs(alone)[topics.PREDICTIONS])


@pytest.mark.parametrize("names", [(), (FRAUD, FRAUD)], ids=["none", "twice"])
def test_tasks_have_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="give at least one, each with a name of its own"):
        EmbeddedHost([TaskSpec.from_toml(n) for n in names], EmbeddedLog())


def test_a_label_of_a_time_to_come_is_refused() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD)
    far, near = label("fraud", 1), label("fraud", 2)
    log.append(topics.LABELS, [Record(far.key, far.value.replace(b"1700000000.0", b"4000000000.0"), far.ts), near])
    process_all(host)
    assert (host.stats.labels, host.stats.dead_letters) == (1, 1)
    assert values(outputs(log)[topics.DEAD_LETTERS])[0]["reason"].startswith("ahead: ")


@pytest.mark.parametrize("cut", [1, 700, 2_000])
def test_what_a_task_never_gets_is_told_once(cut: int, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt field or type is no error of any record; a worker tells it by the same code."""
    shop = 'kind = "next"\nname = "shop"\nentity = "user_id"\nitem = "sku"\ntypes = ["Purchase"]\n'
    log = EmbeddedLog(max_batch=cut)
    other = FRAUD.replace('name = "fraud"', 'name = "refunds"', 1).replace('["purchase"]', '["refund"]')
    tasks: list[TaskSpec | NextTask] = [TaskSpec.from_toml(FRAUD), TaskSpec.from_toml(other), NextTask.from_toml(shop)]
    host = EmbeddedHost(tasks, log)
    log.append(topics.USER_EVENTS, [event(n, amuont=5, amount=None) for n in range(2_000)])
    process_all(host)
    said = [record.getMessage() for record in caplog.records if record.name == "weir.streams.embedded.embedded_host"]
    fraud = [words for words in said if words.startswith("task fraud: ")]
    assert [words.partition("has a value of ")[2].split()[0] for words in fraud] == ["amount", "merchant_id"]
    (refunds,) = [words for words in said if words.startswith("task refunds: ")]
    assert "events of user-events is of its types (refund)" in refunds
    (shop_,) = [words for words in said if words.startswith("task shop: ")]
    assert "is of its types (Purchase)" in shop_
    assert len(said) == 4  # no column that only another task reads
