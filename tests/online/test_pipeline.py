"""A task's pipeline from events and labels to scores, alerts and examples: what it promises whatever the stream."""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.batch import EventBatch, ExampleBatch, LabelBatch
from online.errors import StateError, TaskError
from online.learners import OnlineModel, build_learner
from online.pipeline import StepOutput, TaskPipeline
from online.task import TaskSpec
from streams.stores import MemoryFeatureStore

HOUR, DAY = 3600.0, 86_400.0
T0 = 1_700_000_000.0

FRAUD = """
name = "fraud"
entity = "user"
types = ["purchase", "refund"]
numbers = ["amount"]

[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"

[[entities]]
name = "merchant"
key = "merchant_id"
labels = [{ name = "fraud", ops = ["positives", "count", "last"], windows = ["7d"], where = "ratio < 3" }]

[[entities]]
name = "user"
key = "user_id"
aggregates = [
  { name = "amount", value = "amount", ops = ["count", "mean", "ewmean", "since_last"], windows = ["1h", "1d"] },
  { name = "high", ops = ["count"], windows = ["1d"], where = "ratio > 2 and channel == 'web'" },
]
labels = [{ name = "seen", ops = ["share", "since_positive"], windows = ["1d"], prior = 2, prior_share = 0.1 }]

[model]
kind = "logistic"
params = { lr = 0.3 }

[labels]
negative_rate = 0.5

[labels.join]
keep_s = "3d"
chunk_rows = 16

[threshold]
kind = "precision"
precision = 0.4
min_labels = 3
fallback = { kind = "budget", alerts_per_day = 40, min_scores = 20, min_days = 0.01 }

[alerts]
resolve_after_s = "6h"
cooldown_s = "1h"

[drift]
block_events = 8
reference_blocks = 8
sample_every = 1
kswin_window_blocks = 8
kswin_recent_blocks = 2
psi_window_blocks = 4
cooldown_s = 600

[retrain]
after_labels = 25
cooldown = "2h"

[metrics]
rolling = 20
fading = 20
every = "1h"
"""

CHURN = """
name = "churn"
entity = "player"
types = ["play"]

[[entities]]
name = "player"
key = "user_id"
aggregates = [{ name = "plays", ops = ["count", "since_first", "since_last"], windows = ["30d"] }]

[model]
kind = "logistic"

[labels.silence]
observe_s = "2h"
horizon_s = "5h"

[threshold]
kind = "fixed"
value = 0.5
"""

Call = tuple[str, EventBatch | LabelBatch | float]


def pipeline_of(toml: str = FRAUD, **changes: Any) -> TaskPipeline:
    task = TaskSpec.from_toml(toml)
    return TaskPipeline(task.model_copy(update=changes), MemoryFeatureStore())


def events(n: int, seed: int) -> EventBatch:
    """A stream with steps back in time, repeats of a moment, missing values, and a shift in its second half."""
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0.0, 20.0, 300.0, 2000.0, -100.0, 9000.0], n, p=[0.1, 0.3, 0.3, 0.2, 0.07, 0.03])
    amount = np.asarray(np.round(np.exp(rng.normal(2.0, 1.0, n) + 2.0 * (np.arange(n) > n // 2)), 2), dtype=np.float64)
    amount[rng.random(n) < 0.1] = np.nan
    merchants: list[str | None] = ["m1", "m2", "m3", None]
    return EventBatch(
        event_id=[f"e{i}" for i in range(n)],
        ts=T0 + np.cumsum(gaps),
        type=rng.choice(["purchase", "refund", "view"], n, p=[0.7, 0.1, 0.2]).tolist(),
        entities={
            "user_id": rng.choice(["u1", "u2", "u3", "u4"], n).tolist(),
            "merchant_id": [merchants[i] for i in rng.integers(0, 4, n)],
        },
        numbers={"amount": amount},
        texts={"channel": [None if c == "" else c for c in rng.choice(["web", "pos", ""], n).tolist()]},
    )


def label(number: int, event: int, value: bool, ts: float = T0) -> LabelBatch:
    return LabelBatch([f"l{number}"], ["u1"], [f"e{event}"], np.array([ts]), np.array([value]), np.ones(1))


def script(n: int, seed: int) -> list[Call]:
    """The stream in batches of random size, and labels between them: early, late, corrected, of unscored events."""
    rng = np.random.default_rng([seed, 1])
    stream = events(n, seed)
    cuts = np.sort(rng.choice(np.arange(1, n), min(n - 1, n // 6), replace=False))
    edges = [0, *cuts.tolist(), n]
    calls: list[Call] = []
    made = 0
    for a, b in pairwise(edges):
        calls.append(("events", stream.slice(a, b)))
        for _ in range(int(rng.integers(0, 8))):
            event = int(rng.integers(max(0, b - 30), min(n, b + 5)))
            calls.append(("labels", label(made, event, bool(rng.random() < 0.35), float(stream.ts[event]))))
            made += 1
    return calls


def call(pipeline: TaskPipeline, step: Call) -> StepOutput:
    kind, given_ = step
    if isinstance(given_, EventBatch):
        return pipeline.events(given_)
    if isinstance(given_, LabelBatch):
        return pipeline.labels(given_)
    assert kind == "advance"
    return pipeline.advance(given_)


def run(pipeline: TaskPipeline, calls: list[Call]) -> list[StepOutput]:
    return [call(pipeline, step) for step in calls]


def scores(out: StepOutput) -> dict[str, tuple[float, list[float]]]:
    p = out.predictions
    if p is None:
        return {}
    return {e: (s, x) for e, s, x in zip(p.event_id, p.score.tolist(), p.features.tolist(), strict=True)}


def all_scores(outs: list[StepOutput]) -> dict[str, tuple[float, list[float]]]:
    return {event: made for out in outs for event, made in scores(out).items()}


def plain_examples(batches: list[ExampleBatch]) -> list[Any]:
    rows: list[Any] = []
    for e in batches:
        columns = (e.ts, e.x, e.score, e.y, e.weight, e.correction)
        rows += zip(e.event_id, *(column.tolist() for column in columns), strict=True)
    return rows


def plain(out: StepOutput, reasons: bool = True) -> list[Any]:
    """An output as Python values that compare by value."""
    p = out.predictions
    made = [] if p is None else [p.event_id, p.entity_id, *(a.tolist() for a in (p.ts, p.score, p.model_version))]
    thresholds = [] if out.thresholds is None else out.thresholds.tolist()
    alerts = out.alerts if reasons else [msgspec.structs.replace(a, reasons=()) for a in out.alerts]
    features = [] if p is None else p.features.tolist()
    kept = [astuple(d) for d in out.detections], [astuple(r) for r in out.requests]
    return [made, features, thresholds, alerts, plain_examples(out.examples), *kept]


def state(pipeline: TaskPipeline) -> tuple[bytes, bytes]:
    store = pipeline.engine.store
    assert isinstance(store, MemoryFeatureStore)
    return pipeline.snapshot(), store.snapshot()


def resumed(pipeline: TaskPipeline, toml: str = FRAUD) -> TaskPipeline:
    made = pipeline_of(toml)
    store = made.engine.store
    assert isinstance(store, MemoryFeatureStore)
    held = state(pipeline)
    store.restore(held[1])
    made.restore(held[0])
    return made


seeds = st.integers(0, 10_000)


def test_the_streams_of_these_tests_reach_every_part() -> None:
    """The properties below would hold for a pipeline that does nothing: on these streams it does everything."""
    outs = run(pipeline_of(), script(400, 3))
    assert sum(len(out.alerts) for out in outs) > 10
    assert {a.status for out in outs for a in out.alerts} >= {"open", "resolved"}
    assert any(a.reasons for out in outs for a in out.alerts)
    assert len({s for s, _ in all_scores(outs).values()}) > 50
    examples = [e for out in outs for e in out.examples]
    assert any(e.correction.any() for e in examples)
    assert any((e.weight > 1).any() for e in examples)
    assert any(out.detections for out in outs)
    assert {r.cause for out in outs for r in out.requests} == {"drift", "volume"}


@settings(max_examples=30, deadline=None)
@given(seeds, st.data())
def test_a_label_never_changes_its_own_events_score(seed: int, data: st.DataObject) -> None:
    """Nor any score made before it became known, wherever it comes: before its event, right after it, or late."""
    n = 60
    calls = script(n, seed)
    event = data.draw(st.integers(0, n - 1), "event")
    place = data.draw(st.integers(0, len(calls)), "place")
    extra: Call = ("labels", label(99_999, event, data.draw(st.booleans(), "value")))
    without, with_label = pipeline_of(), pipeline_of()
    plain_outs = run(without, calls)
    outs = run(with_label, [*calls[:place], extra, *calls[place:]])
    del outs[place]
    own = next(k for k, (_, b) in enumerate(calls) if isinstance(b, EventBatch) and f"e{event}" in b.event_id)
    for k in range(max(place, own + 1)):
        assert scores(outs[k]) == scores(plain_outs[k]), f"call {k}, event in {own}, label before {place}"


def test_a_label_does_change_later_scores() -> None:
    """The property above is not empty."""
    calls = script(60, 5)
    one, other = pipeline_of(), pipeline_of()
    first: Call = ("labels", label(99_999, 0, True))
    assert all_scores(run(one, calls)) != all_scores(run(other, [calls[0], first, *calls[1:]]))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_same_calls_give_the_same_bits(seed: int) -> None:
    one, two = pipeline_of(), pipeline_of()
    calls = script(150, seed)
    assert [plain(out) for out in run(one, calls)] == [plain(out) for out in run(two, calls)]
    assert state(one) == state(two)
    assert one.model.snapshot() == two.model.snapshot()


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0, 1))
def test_snapshot_and_restore_equal_the_straight_run(seed: int, at: float) -> None:
    calls = script(150, seed)
    cut = round(at * len(calls))
    straight = pipeline_of()
    run(straight, calls[:cut])
    second = resumed(straight)
    assert state(second) == state(straight)
    expected, got = run(straight, calls[cut:]), run(second, calls[cut:])
    assert [plain(out) for out in got] == [plain(out) for out in expected]
    assert state(second) == state(straight)
    assert second.evaluation.get() == straight.evaluation.get()
    assert second.evaluation.points() == straight.evaluation.points()


@settings(max_examples=25, deadline=None)
@given(seeds, seeds)
def test_scores_do_not_depend_on_how_events_are_cut_into_calls(seed: int, cuts: int) -> None:
    rng = np.random.default_rng(cuts)
    calls = script(120, seed)
    finer: list[Call] = []
    for kind, b in calls:
        if isinstance(b, EventBatch) and len(b) > 1 and rng.random() < 0.5:
            at = int(rng.integers(1, len(b)))
            finer += [(kind, b.slice(0, at)), (kind, b.slice(at, len(b)))]
        else:
            finer.append((kind, b))
    # An early label is learned in the call of its event, so only labels of events that were scored compare.
    known: set[str] = set()
    kept: list[list[Call]] = [[], []]
    for out, version in zip(kept, (calls, finer), strict=True):
        known.clear()
        for kind, b in version:
            if isinstance(b, EventBatch):
                known.update(b.event_id)
            elif isinstance(b, LabelBatch) and b.event_id[0] not in known:
                continue
            out.append((kind, b))
    one, two = pipeline_of(), pipeline_of()
    outs, others = run(one, kept[0]), run(two, kept[1])
    assert all_scores(others) == all_scores(outs)
    assert plain_examples([e for o in others for e in o.examples]) == plain_examples(
        [e for o in outs for e in o.examples]
    )
    assert [a.alert_id for o in others for a in o.alerts] == [a.alert_id for o in outs for a in o.alerts]
    assert one.model.snapshot() == two.model.snapshot()


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([1.0, 0.5, 0.1]))
def test_folding_the_examples_gives_the_model(seed: int, rate: float) -> None:
    """Design decision 7: a replica that reads ``examples`` holds the same bits."""
    task = TaskSpec.from_toml(FRAUD.replace("negative_rate = 0.5", f"negative_rate = {rate}"))
    pipeline = TaskPipeline(task, MemoryFeatureStore())
    outs = run(pipeline, script(150, seed))
    replica = OnlineModel(build_learner(task.model, pipeline.features))
    replica.replay(e for out in outs for e in out.examples)
    assert replica.snapshot() == pipeline.model.snapshot()


def test_every_prediction_names_the_model_that_made_it() -> None:
    pipeline = pipeline_of()
    replica = OnlineModel(build_learner(pipeline.task.model, pipeline.features))
    for step in script(150, 11):
        out = call(pipeline, step)
        if out.predictions is not None:
            again, version = replica.score(out.predictions.features)
            assert set(out.predictions.model_version.tolist()) == {version}
            assert again.tolist() == out.predictions.score.tolist()
        replica.replay(out.examples, first_offset=replica.version)


def purchase(
    number: int,
    ts: float,
    user: str | None = "u1",
    merchant: str | None = "m1",
    kind: str = "purchase",
    amount: float = 10,
) -> EventBatch:
    return EventBatch(
        [f"e{number}"], np.array([ts]), [kind], {"user_id": [user], "merchant_id": [merchant]},
        {"amount": np.array([float(amount)])}, {"channel": ["web"]},
    )  # fmt: skip


def features(pipeline: TaskPipeline, batch: EventBatch) -> dict[str, float]:
    out = pipeline.events(batch)
    assert out.predictions is not None
    return dict(zip(pipeline.features, out.predictions.features[0].tolist(), strict=True))


def test_a_correction_moves_the_label_to_the_other_side() -> None:
    pipeline = pipeline_of()
    pipeline.events(purchase(1, T0))
    pipeline.labels(label(1, 1, False))
    before = features(pipeline, purchase(2, T0 + 60))
    corrected = pipeline.labels(label(2, 1, True))
    after = features(pipeline, purchase(3, T0 + 120))
    assert (before["merchant.fraud_positives_7d"], after["merchant.fraud_positives_7d"]) == (0.0, 1.0)
    assert before["merchant.fraud_count_7d"] == after["merchant.fraud_count_7d"] == 1.0
    assert (before["merchant.fraud_last"], after["merchant.fraud_last"]) == (0.0, 1.0)
    assert corrected.examples[0].y.tolist() == [True]
    back = pipeline.labels(label(3, 1, False))
    assert features(pipeline, purchase(4, T0 + 180))["merchant.fraud_positives_7d"] == 0.0
    assert [e.correction.tolist() for e in back.examples] == [[True]]


@pytest.mark.parametrize("repeat", ["label", "value"])
def test_a_repeated_label_changes_nothing(repeat: str) -> None:
    pipeline = pipeline_of()
    pipeline.events(purchase(1, T0))
    pipeline.labels(label(1, 1, True))
    version = pipeline.model.version
    out = pipeline.labels(label(1 if repeat == "label" else 2, 1, True))
    assert (out.examples, pipeline.model.version, pipeline.labelled) == ([], version, 1)


def test_the_filter_of_a_label_aggregate_is_judged_when_the_event_is_scored() -> None:
    """``where`` may use what is known only after other aggregates of the event have run, in any order of entities."""
    pipeline = pipeline_of()
    pipeline.events(purchase(1, T0, amount=10))
    pipeline.events(purchase(2, T0 + 60, amount=1000))  # 100 times this user's mean: ``ratio < 3`` fails
    for number in (1, 2):
        pipeline.labels(label(number, number, True))
    assert features(pipeline, purchase(3, T0 + 120))["merchant.fraud_positives_7d"] == 1.0


def test_an_event_without_a_secondary_entity_has_its_features_missing() -> None:
    pipeline = pipeline_of()
    for number in range(3):
        pipeline.events(purchase(number, T0 + number))
        pipeline.labels(label(number, number, True))
    made = features(pipeline, purchase(9, T0 + 60, merchant=None))
    assert made["merchant.fraud_positives_7d"] == made["merchant.fraud_last"] == 0.0
    assert made["merchant.fraud_missing"] == 1.0
    assert made["user.amount_count_1d"] == 4.0
    pipeline.labels(label(9, 9, True))
    assert features(pipeline, purchase(10, T0 + 90, merchant=None))["merchant.fraud_positives_7d"] == 0.0
    assert features(pipeline, purchase(11, T0 + 90))["merchant.fraud_positives_7d"] == 3.0


def test_events_of_other_types_or_without_the_entity_are_not_seen() -> None:
    pipeline = pipeline_of()
    assert pipeline.events(purchase(1, T0, kind="view")).predictions is None
    assert pipeline.events(purchase(2, T0, user=None)).predictions is None
    assert features(pipeline, purchase(3, T0 + 1))["user.amount_count_1d"] == 1.0
    assert pipeline.scored == 1


def test_another_tasks_columns_do_not_disturb() -> None:
    """Tasks share a stream's batch: what one reads as text may be a number to the other."""
    pipeline = pipeline_of()
    batch = purchase(1, T0)
    shared = EventBatch(
        batch.event_id, batch.ts, batch.type, {**batch.entities, "ratio": ["x"]},
        {**batch.numbers, "ratio": np.ones(1)}, {**batch.texts, "amount": ["ten"], "ratio": ["x"]},
    )  # fmt: skip
    assert features(pipeline, shared) == features(pipeline_of(), batch)


def test_an_empty_call_does_nothing() -> None:
    pipeline = pipeline_of()
    before = state(pipeline)
    out = pipeline.events(purchase(1, T0).slice(0, 0))
    assert out.predictions is None
    none = LabelBatch([], [], [], np.empty(0), np.empty(0, np.bool_), np.empty(0))
    assert pipeline.labels(none).examples == []
    assert state(pipeline) == before


def test_sampled_negatives_keep_probabilities_calibrated() -> None:
    """One negative in ten is learned, and the mean prediction is still the base rate."""
    rng = np.random.default_rng(8)
    n = 6_000
    y = rng.random(n) < 0.05
    means = {}
    for rate in (1.0, 0.1):
        pipeline = pipeline_of(FRAUD.replace("negative_rate = 0.5", f"negative_rate = {rate}").replace("0.3", "0.03"))
        made: list[float] = []
        learned = 0
        for start in range(0, n, 200):
            batch = EventBatch(
                [f"e{i}" for i in range(start, start + 200)],
                T0 + 60.0 * np.arange(start, start + 200, dtype=np.float64),
                ["purchase"] * 200,
                {"user_id": [f"u{i % 40}" for i in range(200)], "merchant_id": [None] * 200},
                {"amount": rng.lognormal(2, 0.5, 200) + 5.0 * y[start : start + 200]},
                {"channel": [None] * 200},
            )
            out = pipeline.events(batch)
            assert out.predictions is not None
            made += out.predictions.score.tolist()
            known = pipeline.labels(
                LabelBatch(
                    [f"l{e}" for e in batch.event_id], ["u"] * 200, list(batch.event_id), batch.ts,
                    y[start : start + 200], np.ones(200),
                )
            )  # fmt: skip
            learned += sum(len(e) for e in known.examples)
        assert pipeline.labelled == n
        assert learned == pipeline.model.version
        assert learned < n * (rate + 0.1) + 1
        means[rate] = float(np.mean(made[n // 3 :]))
    base = float(y[n // 3 :].mean())
    # Plain SGD is a little off; without their weights, the sampled negatives would make it some seven times the rate.
    assert means[1.0] == pytest.approx(base, rel=0.5)
    assert means[0.1] == pytest.approx(base, rel=0.5)
    assert means[0.1] == pytest.approx(means[1.0], rel=0.3)


def plays(rows: list[tuple[str, float]]) -> EventBatch:
    return EventBatch(
        [f"e{i}" for i in range(len(rows))], np.array([T0 + ts for _, ts in rows]), ["play"] * len(rows),
        {"user_id": [user for user, _ in rows]},
    )  # fmt: skip


def churn_oracle(rows: list[tuple[str, float]], end: float) -> dict[str, tuple[float, int, bool | None]]:
    """Of each player's first play: when it is scored, the plays until then, and whether silence followed."""
    observe, horizon = 2 * HOUR, 5 * HOUR
    out: dict[str, tuple[float, int, bool | None]] = {}
    for user in dict.fromkeys(u for u, _ in rows):
        times = [ts for u, ts in rows if u == user]
        due = times[0] + observe
        if due > end:
            continue
        back = any(due <= ts < due + horizon for ts in times)
        known: bool | None = False if back else (True if due + horizon <= end else None)
        out[f"{user}@{T0 + times[0]:.0f}"] = (T0 + due, sum(ts < due for ts in times), known)
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3 * 3600)), min_size=1, max_size=40),
    st.lists(st.integers(1, 39), max_size=4),
    st.integers(0, 10 * 3600),
)
def test_timers_score_and_label_like_the_oracle(gaps: list[tuple[str, int]], cuts: list[int], rest: int) -> None:
    now, rows = 0.0, []
    for user, gap in gaps:
        now += gap
        rows.append((user, now))
    end = now + rest
    pipeline = pipeline_of(CHURN)
    batch = plays(rows)
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    outs = [pipeline.events(batch.slice(a, b)) for a, b in pairwise(edges)]
    outs.append(pipeline.advance(T0 + end))
    count = pipeline.features.index("player.plays_count_30d")
    made: dict[str, tuple[float, float]] = {}
    for out in outs:
        if out.predictions is not None:
            p = out.predictions
            made |= {e: (ts, x[count]) for e, ts, x in zip(p.event_id, p.ts.tolist(), p.features.tolist(), strict=True)}
    known = {e: y for out in outs for b in out.examples for e, y in zip(b.event_id, b.y.tolist(), strict=True)}
    expected = churn_oracle(rows, end)
    assert {e: (ts, n) for e, (ts, n, _) in expected.items()} == made
    assert {e: y for e, (_, _, y) in expected.items() if y is not None} == known


def test_timers_survive_a_snapshot() -> None:
    rng = np.random.default_rng(4)
    ts = np.cumsum(rng.integers(0, 3000, 200)).astype(float).tolist()
    batch = plays([(f"u{i}", t) for i, t in zip(rng.integers(0, 30, 200).tolist(), ts, strict=True)])
    straight = pipeline_of(CHURN)
    for cut in (1, 60, 110):
        straight.events(batch.slice(0 if cut == 1 else (1 if cut == 60 else 60), cut))
        second = resumed(straight, CHURN)
        assert state(second) == state(straight)
    for each in (straight, second):
        each.events(batch.slice(110, 200))
        each.advance(float(batch.ts[-1]) + DAY)
    assert state(second) == state(straight)
    assert straight.scored == 30


def test_a_label_from_silence_is_dated_when_it_became_known() -> None:
    """Aggregates fed by labels place it at the end of the silence, not at the time of the score."""
    toml = CHURN.replace(
        "aggregates = [", 'labels = [{ name = "left", ops = ["since_last"] }]\naggregates = ['
    ).replace('key = "user_id"', 'key = "user_id"\nttl = "60d"')
    toml = toml.replace('horizon_s = "5h"', 'horizon_s = "5h"\nremember_s = "1h"')
    pipeline = pipeline_of(toml)
    pipeline.events(plays([("a", 0.0), ("b", 20 * HOUR), ("a", 20 * HOUR)]))  # a: scored at 2 h, silent at 7 h
    out = pipeline.advance(T0 + 23 * HOUR)
    assert out.predictions is not None
    since = out.predictions.features[:, pipeline.features.index("player.left_since_last")].tolist()
    assert dict(zip(out.predictions.entity_id, since, strict=True)) == {"b": 0.0, "a": 15 * HOUR}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('ops = ["count"], windows = ["1d"], where', 'ops = ["count"], windows = ["2d", "1d"], where'),
        ('kind = "logistic"\nparams = { lr = 0.3 }', 'kind = "adaptive_tree"'),
        ('[drift]', '[labels.silence]\nobserve_s = "1h"\nhorizon_s = "1h"\n[drift]'),
        ("min_labels = 3\n", "bins = 64\n"),
    ],
    ids=["features", "model", "timers", "threshold"],
)  # fmt: skip
def test_the_state_of_another_task_is_refused(old: str, new: str) -> None:
    pipeline = pipeline_of()
    run(pipeline, script(30, 1))
    assert old in FRAUD
    other = pipeline_of(FRAUD.replace(old, new))
    with pytest.raises(StateError, match=r"task fraud: .*start with a fresh directory"):
        other.restore(pipeline.snapshot())


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x80", b"\x81\xa5model\x90", b"text"])
def test_what_is_no_state_is_refused(damage: bytes) -> None:
    with pytest.raises(StateError, match="task fraud"):
        pipeline_of().restore(damage)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('entity = "user"\n', 'entity = "user"\nwatch = ["amont"]\n', "watch: no numeric column 'amont'; there are"),
        ('entity = "user"\n', 'entity = "user"\nwatch = ["channel"]\n', "watch: no numeric column 'channel'"),
        ('entity = "user"\n', 'entity = "user"\ninputs = ["nothing.*"]\n', "'nothing.\\*' matches no column"),
        ('kind = "logistic"', 'kind = "forest"', r"\[model\]: unknown learner kind 'forest'; known: "),
        ("{ lr = 0.3 }", "{ speed = 1 }", r"\[model\]: learner 'logistic' has no parameter speed; known: "),
        ("{ lr = 0.3 }", '{ lr = "fast" }', r"task fraud: \[model\]: "),
        ('"ratio < 3"', '"ratio <"', "expression 'ratio <'"),
        ('"ratio < 3"', '"user.amont_mean_1d > 1"', "'user.amont_mean_1d': no aggregate makes this"),
        ('name = "amount", value', f'name = "{"a" * 48}", value', "has 65 characters, the limit is 64; shorten"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_run_is_refused_before_the_first_event(old: str, new: str, message: str) -> None:
    assert old in FRAUD
    toml = FRAUD.replace(old, new, 1)
    if "aaa" in new:
        toml = toml.replace("user.amount_ewmean", f"user.{'a' * 48}_ewmean").replace("since_last", "over_ewmean")
    with pytest.raises(TaskError, match=message):
        pipeline_of(toml)


def test_extreme_but_valid_values_are_scored() -> None:
    """The wire accepts any finite number; whatever comes, scores stay probabilities and features finite."""
    pipeline = pipeline_of()
    for number, amount in enumerate([0.0, 1e12, 5e-324, 1e12, 0.0, 1e300, 1.7e308, 1.7e308, -1.7e308, 1e-300, 3.0] * 3):
        out = pipeline.events(purchase(number, T0 + 60 * number, amount=amount))
        assert out.predictions is not None
        assert 0.0 <= out.predictions.score[0] <= 1.0
        assert np.isfinite(out.predictions.features).all()
        pipeline.labels(label(number, number, number % 3 == 0))
