"""What was decided on each prediction is one row of the topic, as the stage made it and as the other topics say it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.online.pipeline_runs import pipeline_of, run
from tests.online.task_streams import FRAUD, purchase, script, seeds
from tests.streams.host_runs import PARTITIONS, host_on, inputs, outputs, straight_run
from tests.streams.host_runs import run as run_host
from weir.online.codec.decision_blocks import Decision, decode_decisions
from weir.online.codec.wire import Alert, Prediction
from weir.online.decisions.alert_policy import AlertPolicy
from weir.online.decisions.threshold_policy import ThresholdPolicy
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.outputs import records_of

NOW = 1.7e9
POLICIES: list[dict[str, Any]] = [
    {"kind": "fixed", "value": 0.3},
    {"kind": "budget", "alerts_per_day": 40, "min_scores": 20, "min_days": 0.01},
    {"kind": "precision", "precision": 0.4, "min_labels": 3},
]


def decided(out: StepOutput, pipeline: TaskPipeline) -> list[Decision]:
    made = records_of(out, pipeline, NOW, decisions=True).get(topics.DECISIONS, [])
    assert {record.key for record in made} <= {b"fraud"}
    blocks = [decode_decisions(record.value) for record in made]
    assert {(block.task, block.made_at) for block in blocks} <= {("fraud", NOW)}
    return [row for block in blocks for row in block.batch.rows()]


def with_policy(policy: dict[str, Any], **changes: Any) -> TaskPipeline:
    return pipeline_of(FRAUD, threshold=TypeAdapter(ThresholdPolicy).validate_python(policy), **changes)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(POLICIES), st.booleans())
def test_every_prediction_has_one_row_with_its_threshold_and_alert(
    seed: int, policy: dict[str, Any], alerting: bool
) -> None:
    pipeline = with_policy(policy, alerting=alerting, alerts=AlertPolicy(told_every_events=1))
    newest: dict[str, tuple[Any, ...]] = {}
    for out in run(pipeline, script(150, seed)):
        rows = decided(out, pipeline)
        p, thresholds = out.predictions, out.thresholds
        if p is None or thresholds is None:
            assert rows == []
        else:
            columns = (p.ts, p.score, thresholds, p.model_version)
            wanted = zip(p.event_id, p.entity_id, *(column.tolist() for column in columns), strict=True)
            assert [row[:6] for row in rows] == list(wanted)
            assert [row.alert is not None for row in rows] == (alerting & (p.score >= thresholds)).tolist()
        # A row opens an alert or adds to one, and an alert says so; or it is in a cooldown, and none does.
        told = [Alert.model_validate(alert.to_wire_dict()) for alert in out.alerts]
        said = {
            row.alert.alert_id: row.alert for row in rows if row.alert is not None and row.alert.status == "resolved"
        }
        grown = [row.alert for row in rows if row.alerted and row.alert is not None]
        states = [(a.alert_id, a.status, a.severity, [r.model_dump() for r in a.reasons]) for a in told]
        assert [(a.alert_id, a.status, a.severity, [*map(as_dict, a.reasons)]) for a in grown] == [
            state for state in states if state[1] != "resolved"
        ]
        newest |= {state[0]: state for state in states}
        for alert in said.values():
            assert newest[alert.alert_id][1:] == ("resolved", alert.severity, [*map(as_dict, alert.reasons)])


def as_dict(reason: Any) -> dict[str, Any]:
    return {name: getattr(reason, name) for name in ("feature", "value", "contribution", "text")}


def test_the_streams_of_the_property_reach_every_kind_of_row() -> None:
    found: Counter[str] = Counter()
    for seed in range(6):
        for policy in POLICIES:
            pipeline = with_policy(policy)
            for row in (row for out in run(pipeline, script(150, seed)) for row in decided(out, pipeline)):
                found[row.alert.status if row.alert else "none"] += 1
                found["infinite"] += np.isinf(row.threshold)
                found["reasons"] += bool(row.alert and row.alert.reasons)
    assert min(found[kind] for kind in ("none", "open", "escalated", "resolved", "infinite", "reasons")) > 5


def test_a_repeat_that_the_alerts_know_has_the_alert_of_the_first() -> None:
    """A pipeline behind a memory of ids that was too small sees an event again: it is scored and decided again."""
    pipeline = with_policy({"kind": "fixed", "value": 0.0})
    first, again = (decided(pipeline.events(purchase(1, NOW)), pipeline)[0] for _ in range(2))
    assert first.alerted
    assert again.alert == first.alert


def test_a_host_appends_decisions_where_it_is_asked_to_and_nothing_else_changes() -> None:
    log = EmbeddedLog(PARTITIONS)
    host = host_on(log, decisions=True)
    run_host(log, host, inputs())
    assert outputs(log) == straight_run().outputs
    assert not [*straight_run().log.read([topics.DECISIONS], 0)]
    decisions: dict[str, list[Decision]] = {}
    alerts: dict[str, list[tuple[Any, ...]]] = {}
    predictions: dict[str, list[tuple[Any, ...]]] = {}
    for batch in log.read([topics.DECISIONS, topics.PREDICTIONS, topics.ALERTS], 0):
        for record in batch.records:
            if batch.topic == topics.DECISIONS:
                block = decode_decisions(record.value)
                assert (record.key, record.ts) == (block.task.encode(), block.made_at)
                decisions.setdefault(block.task, []).extend(block.batch.rows())
            elif batch.topic == topics.PREDICTIONS:
                p = Prediction.model_validate_json(record.value)
                row = (p.event_id, p.entity_id, p.ts, p.score, p.model_version, p.degraded)
                predictions.setdefault(p.task, []).append(row)
            else:
                a = Alert.model_validate_json(record.value)
                alerts.setdefault(a.task, []).append((a.alert_id, a.status, a.severity, a.score, a.threshold))
    assert decisions.keys() == predictions.keys() == {"fraud", "device_failure", "churn"}
    for task, rows in decisions.items():
        assert [(*row[:4], row.model_version, row.degraded) for row in rows] == predictions[task]
        told = [a for a in alerts.get(task, []) if a[1] != "resolved"]
        grown = [row for row in rows if row.alerted]
        states = iter([(r.alert.alert_id, r.alert.status, r.alert.severity) for r in grown if r.alert])
        assert all(a[:3] in states for a in told), "each record is of a row, in their order; not each row has one"
    assert sum(map(len, alerts.values())) > 50
