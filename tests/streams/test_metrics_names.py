from __future__ import annotations

import re
from collections import Counter as Tally
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from docs.pages.limits import page
from docs.pages.metrics import reference
from tests.work import calls_of
from weir.online.codec.limits import InputLimits
from weir.online.intake_policy import IntakePolicy
from weir.streams.config.settings import TopicSettings
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import CompletedOffsets
from weir.streams.ops.exposition import Exposition
from weir.streams.ops.instruments import Histogram
from weir.streams.ops.metric_definitions import DEFINITIONS, Stage
from weir.streams.ops.metric_registry import Registry
from weir.streams.ops.metrics import Metrics, letter_class
from weir.streams.records import Record

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"counter": "inc|counter", "gauge": "set|gauge", "histogram": "observe|histogram"}
"""Of a registry, by the kind of metric that they take."""


def values(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus would read, by sample name and labels; Weir's own metrics only."""
    families = text_string_to_metric_families(Exposition(registry).render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value
            for family in families for s in family.samples if s.name.startswith("weir_")}  # fmt: skip


def batch(records: int = 3, ts: float = 100.0, topic: str = "user-events") -> FetchedBatch:
    offsets = CompletedOffsets()
    offsets.assign([(topic, 0)])
    ticket = offsets.begin((topic, 0), 0, records)
    return FetchedBatch(topic, 0, 0, records, [Record(b"k", b"v", ts)] * records, ticket)


# The list


def test_every_name_is_defined_once() -> None:
    assert Tally(d.name for d in DEFINITIONS).most_common(1)[0][1] == 1


def test_the_code_uses_every_metric_and_each_as_what_it_is() -> None:
    code = "".join(re.sub(">>>.*", "", path.read_text()) for path in (ROOT / "streams").rglob("*.py"))
    for kind, methods in METHODS.items():
        used = set(re.findall(rf'\.(?:{methods})\(\s*"(weir_\w+)"', code))
        assert used == {d.name for d in DEFINITIONS if d.kind == kind}


@pytest.mark.parametrize("d", DEFINITIONS, ids=lambda d: d.name)
def test_a_definition_keeps_prometheus_conventions(d: Any) -> None:
    assert re.fullmatch(r"weir_[a-z_]+", d.name)
    assert d.name.endswith("_total") == (d.kind == "counter")
    assert (d.unit == "seconds") == d.name.endswith("_seconds")
    assert bool(d.buckets) == (d.kind == "histogram")
    assert list(d.buckets) == sorted(set(d.buckets))
    assert len(set(d.labels)) == len(d.labels)
    assert d.meaning.endswith(".")
    assert "|" not in d.meaning, "it is a cell of a table"


def test_latency_has_the_buckets_that_the_goals_need() -> None:
    (d,) = [d for d in DEFINITIONS if d.name == "weir_end_to_end_seconds"]
    assert (d.buckets[0], d.buckets[-1]) == (0.001, 10.0)
    assert {0.008, 0.025} <= set(d.buckets), "the median and the 99th percentile that issue 4 asks for"


def test_the_page_is_what_the_code_says() -> None:
    written = (ROOT / "docs" / "METRICS.md").read_text()
    assert written == reference(), "run: python -m docs.pages.metrics > docs/METRICS.md"


# Text for Prometheus


def test_every_metric_can_be_set_and_read_by_prometheus() -> None:
    registry = Registry()
    for d in DEFINITIONS:
        labels = {name: f'a"{name}\n' for name in d.labels}
        {"counter": registry.inc, "gauge": registry.set, "histogram": registry.observe}[d.kind](d.name, 1.0, **labels)  # type: ignore[operator]
    read = values(registry)
    for d in DEFINITIONS:
        name = f"{d.name}_count" if d.kind == "histogram" else d.name
        assert read[name, tuple(sorted((n, f'a"{n}\n') for n in d.labels))] == 1.0


def test_a_histogram_is_cumulative_and_ends_with_everything() -> None:
    registry = Registry()
    for size in (1, 2, 100_000):
        registry.observe("weir_batch_records", size, topic="labels")
    read = values(registry)
    at = {dict(labels)["le"]: v for (name, labels), v in read.items() if name == "weir_batch_records_bucket"}
    assert (at["1.0"], at["4.0"], at["4096.0"], at["+Inf"]) == (1, 2, 2, 3)
    assert read["weir_batch_records_sum", (("topic", "labels"),)] == 100_003


def test_what_was_never_used_is_not_shown_and_the_process_is() -> None:
    text = Exposition(Registry()).render()
    assert b"weir_" not in text
    assert b"process_cpu_seconds_total" in text


def test_labels_that_a_metric_does_not_have_are_refused() -> None:
    registry = Registry()
    with pytest.raises(ValueError, match=r"weir_batches_total has the labels \('topic',\), got \('task',\)"):
        registry.inc("weir_batches_total", task="fraud")
    with pytest.raises(ValueError, match="cannot go down"):
        registry.inc("weir_rebalances_total", -1)


# Histograms over batches


@given(
    st.lists(st.floats(0, 100), max_size=40),
    st.floats(50, 120),
    st.booleans(),
)
def test_ages_of_a_batch_count_as_if_each_were_observed(since: list[float], now: float, in_order: bool) -> None:
    times = np.array(sorted(since) if in_order else since)
    batchwise, each = Histogram((0.5, 1.0, 20.0, 60.0)), Histogram((0.5, 1.0, 20.0, 60.0))
    batchwise.observe_ages(times, now)
    for ts in times.tolist():
        each.observe(max(now - ts, 0.0))
    assert batchwise.sum == pytest.approx(each.sum, abs=1e-6)
    if not any(abs(now - ts - bound) < 1e-9 for ts in since for bound in each.bounds):  # rounding decides those
        assert batchwise.counts == each.counts


def test_no_age_is_negative_and_an_empty_batch_counts_nothing() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe_ages(np.array([]), 5.0)
    histogram.observe_ages(np.array([4.0, 9.0]), 5.0)
    assert (histogram.counts, histogram.sum) == ([2, 0, 0], 1.0)


# In the words of the lanes


def test_topics_are_labelled_with_weirs_own_names() -> None:
    metrics = Metrics(TopicSettings(prefix="prod.").own)
    metrics.completed("prod.user-events", 3)
    metrics.scored(batch(topic="prod.user-events"), 2, 1)
    metrics.refused("prod.user-events", [("late: 3 s", 1), ("amount: got -1", 1), ("late: 4 s", 1)])
    metrics.latency(batch(topic="prod.user-events"), 100.5)
    metrics.rewound("user-events")
    read = values(metrics)
    own = (("topic", "user-events"),)
    assert read["weir_batches_total", own] == 1
    assert read["weir_records_total", own] == 3
    assert read["weir_events_total", own] == 2
    assert read["weir_duplicates_total", own] == 1
    assert read["weir_lane_rewinds_total", own] == 1
    assert read["weir_end_to_end_seconds_sum", own] == pytest.approx(1.5)
    assert read["weir_dead_letters_total", (("reason", "late"), *own)] == 2
    assert read["weir_dead_letters_total", (("reason", "invalid"), *own)] == 1
    assert not [labels for _, labels in read if "prod." in str(labels)]


def test_a_topic_that_is_not_scored_has_no_counts_of_scoring() -> None:
    metrics = Metrics()
    metrics.completed("labels", 3)
    assert {name for name, labels in values(metrics) if dict(labels)["topic"] == "labels"} == {
        "weir_batches_total", "weir_records_total",
        "weir_batch_records_bucket", "weir_batch_records_count", "weir_batch_records_sum",
    }  # fmt: skip


def test_reasons_fall_into_a_few_classes_whatever_they_say() -> None:
    reasons = ["late: 1 s", "ahead: 9 s", "oversized: 3 MB", "x" * 500, "", "later: no", "user_id: field required"]
    assert {letter_class(reason) for reason in reasons} == {"late", "ahead", "oversized", "invalid"}


def test_the_lag_of_a_partition_that_went_away_is_not_shown_for_ever() -> None:
    metrics = Metrics()
    metrics.lags({("labels", 0): 5, ("labels", 1): 7})
    metrics.lags({("labels", 1): 0})
    lags = {dict(labels)["partition"]: v for (name, labels), v in values(metrics).items() if name == "weir_lag_records"}
    assert lags == {"1": 0}


def test_all_metrics_of_a_batch_cost_the_same_however_many_rows_it_has() -> None:
    def cost(rows: int) -> int:
        metrics, one, since = Metrics(), batch(rows), np.linspace(99.0, 100.0, rows)

        def told() -> None:
            laps = metrics.stages("score")
            for stage in get_args(Stage):
                laps.lap(stage)
            metrics.scored(one, rows, 0)
            metrics.latency(one, 100.01, since)
            metrics.completed(one.topic, one.count)

        told()  # the first time makes the labels' children
        return calls_of(told)

    assert cost(2) == cost(2048) < 300


def test_the_page_of_limits_is_the_code() -> None:
    written = (ROOT / "docs" / "LIMITS.md").read_text()
    assert written == page(), "run: python -m docs.pages.limits > docs/LIMITS.md"
    for name in (*InputLimits.model_fields, *IntakePolicy.model_fields):
        assert f"| `{name}` |" in written
