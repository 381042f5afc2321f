"""Scoring and labelling apart: lanes that only send each other batches do what one process does, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from online.batch import EventBatch, ExampleBatch, LabelBatch, PredictionBatch, Scored, UpdateBatch
from online.decisions import BudgetThreshold, CostThreshold, PrecisionThreshold
from online.errors import StateError, TaskError
from online.labelling import LabellingStage, LabelOutput, share_of
from online.numbering import ExampleNumbers
from online.pipeline import TaskPipeline
from online.scoring import ScoreOutput, ScoringStage
from online.task import TaskSpec
from online.taskshape import shape_of
from streams.stores import MemoryFeatureStore
from tests.online.test_pipeline import (
    CHURN,
    DAY,
    FRAUD,
    T0,
    Call,
    events,
    label,
    plain,
    plain_examples,
    plays,
    purchase,
    script,
)

MERCHANT = """
[[entities]]
name = "merchant"
key = "merchant_id"
aggregates = [
  { name = "tx", ops = ["count", "since_last", "since_first"], windows = ["1h", "1d"] },
  { name = "paid", value = "amount", ops = ["mean", "max", "distinct"], windows = ["1d"], where = "ratio < 9" },
  { name = "odd", value = "amount / merchant.paid_mean_1d", ops = ["mean", "over_mean"], windows = ["1d"] },
]
labels ="""
EVERYONE = """
[[entities]]
name = "everyone"
key = "*"
aggregates = [{ name = "spent", value = "amount", ops = ["sum"], windows = ["1h"] }]
labels = [
  { name = "bad", ops = ["share", "ewmean"], windows = ["1d"], where = "amount > 5" },
  { name = "run", ops = ["run_count", "run_min", "run_since_first", "run_since_negative"], value = "amount" },
]

[model]"""
MANY = FRAUD.replace('\n[[entities]]\nname = "merchant"\nkey = "merchant_id"\nlabels =', MERCHANT)
MANY = MANY.replace("\n[model]", EVERYONE)
CHURN_OF_ALL = CHURN.replace(
    "\n[model]",
    """labels = [{ name = "left", ops = ["share", "since_positive"], windows = ["1d"] }]

[[entities]]
name = "everyone"
key = "*"
aggregates = [{ name = "plays", ops = ["count", "since_last"], windows = ["1h"] }]

[model]""",
)
USERS, MERCHANTS = ["u1", "u2", "u3", "u4"], ["m1", "m2", "m3"]
seeds = st.integers(0, 10_000)


class Apart:
    """One labelling lane and scoring lanes over one store, each user in a lane; what they send is applied at once."""

    def __init__(self, toml: str, lanes: int = 1) -> None:
        self.task, self.store = TaskSpec.from_toml(toml), MemoryFeatureStore()
        first = ScoringStage(self.task, self.store, side=True)
        others = [ScoringStage(self.task, self.store, side=True, model=first.model) for _ in range(lanes - 1)]
        self.lanes, self.model, self.engine = [first, *others], first.model, first.engine
        self.labelling = labelling_of(self.task, lambda x, _: self.model.learner.contributions(x))

    def lane(self, user: str | None) -> ScoringStage:
        return self.lanes[(USERS.index(user) if user in USERS else 0) % len(self.lanes)]

    def call(self, step: Call) -> tuple[ScoreOutput | None, list[LabelOutput]]:
        _, given_ = step
        if isinstance(given_, LabelBatch):
            return None, [self.take(self.labelling.labels(given_))]
        if isinstance(given_, EventBatch):
            user = given_.entities["user_id"][0] if len(given_) else None
            out = self.lane(user).events(given_)
        else:
            out = self.lanes[0].advance(given_)
        made: list[LabelOutput] = []
        for layout, updates in out.updates.items():
            self.engine.apply(layout, updates)
        if out.scored is not None:
            made.append(self.take(self.labelling.scored(out.scored)))
        if out.timer_labels is not None:
            made.append(self.take(self.labelling.labels(out.timer_labels, out.known_at)))
        if not isinstance(given_, EventBatch):
            made.append(self.labelling.advance(given_))
        return out, made

    def take(self, made: LabelOutput) -> LabelOutput:
        for layout, updates in made.updates.items():
            self.engine.apply(layout, updates)
        for examples in made.examples:
            self.model.learn(examples)
        return made


def labelling_of(task: TaskSpec, contributions: Any = None, **options: Any) -> LabellingStage:
    shape = shape_of(task)
    explain = contributions or (lambda x, versions: np.where(x > 0, 0.1 * versions[:, None], 0.0))
    return LabellingStage(task, shape.features, shape.masks, shape.secondary, explain, **options)


def together(toml: str) -> TaskPipeline:
    return TaskPipeline(TaskSpec.from_toml(toml), MemoryFeatureStore())


def tables(of: TaskPipeline | Apart) -> dict[str, bytes]:
    """Every row of every table."""
    ids = {"*": ["*"], "user_id": [*USERS, *(f"u{i}" for i in range(5, 30)), "a", "b"], "merchant_id": MERCHANTS}
    return {t.name: of.engine.store.load(t.name, ids[t.key]).tobytes() for t in of.engine.tables}


def plain_labelled(made: Sequence[LabelOutput]) -> list[Any]:
    return [
        [[] if m.thresholds is None else m.thresholds.tolist() for m in made if m.scored is not None],
        [a for m in made for a in m.alerts],
        plain_examples([e for m in made for e in m.examples]),
        [str(d) for m in made for d in m.detections],
        [r for m in made for r in m.requests],
        [plain_updates(m.updates) for m in made],
        [m.scored.predictions.event_id for m in made if m.scored is not None],
        [e.n.tolist() for m in made for e in m.examples],
    ]


def plain_updates(updates: dict[str, UpdateBatch]) -> list[Any]:
    return [(k, u.update_id, u.entity_id, u.ts.tolist(), u.values.tobytes()) for k, u in updates.items()]


def same(pipeline: TaskPipeline, apart: Apart, step: Call) -> None:
    """One call of both, and that they made the same."""
    kind, given_ = step
    out = getattr(pipeline, kind)(given_)
    scored, made = apart.call(step)
    expected = plain(out)
    p = scored.scored.predictions if scored is not None and scored.scored is not None else None
    assert (p is None) == (out.predictions is None)
    if p is not None:
        assert p.features.tobytes() == out.predictions.features.tobytes()
        assert [p.event_id, p.entity_id, p.ts.tolist(), p.score.tolist(), p.model_version.tolist()] == expected[0]
    assert [a for m in made for a in m.alerts] == expected[3]
    assert plain_examples([e for m in made for e in m.examples]) == expected[4]


def singly(calls: list[Call]) -> list[Call]:
    out: list[Call] = []
    for kind, b in calls:
        out += [(kind, b.slice(i, i + 1)) for i in range(len(b))] if isinstance(b, EventBatch) else [(kind, b)]
    return out


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_a_lane_that_sends_updates_scores_as_one_process_does(seed: int) -> None:
    """With late events, repeats of a moment, missing ids and values, and labels of any kind between."""
    pipeline, apart = together(MANY), Apart(MANY)
    for step in script(100, seed):
        same(pipeline, apart, step)
    assert tables(apart) == tables(pipeline)


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_lanes_that_take_turns_score_as_one_process_does(seed: int) -> None:
    """Each lane sees its own users only; what it knows of merchants and of everyone came by updates."""
    pipeline, apart = together(MANY), Apart(MANY, lanes=3)
    for step in singly(script(70, seed)):
        same(pipeline, apart, step)
    assert tables(apart) == tables(pipeline)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-1800, 3 * 3600)), min_size=1, max_size=40),
    st.lists(st.integers(1, 39), max_size=5),
)
def test_timers_in_a_lane_score_as_in_one_process(gaps: list[tuple[str, int]], cuts: list[int]) -> None:
    rows, now = [], 0.0
    for user, gap in gaps:
        now += gap
        rows.append((user, now))
    pipeline, apart = together(CHURN_OF_ALL), Apart(CHURN_OF_ALL)
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    for a, b in pairwise(edges):
        same(pipeline, apart, ("events", plays(rows).slice(a, b)))
    same(pipeline, apart, ("advance", T0 + now + DAY))
    assert tables(apart) == tables(pipeline)


def test_what_is_sent_is_what_feeds_the_rows_of_others() -> None:
    """No update without an entity, none for a timer, none of the lane's own rows; ids say which event, or label."""
    apart = Apart(MANY)
    out, _ = apart.call(("events", purchase(1, T0, merchant=None)))
    assert out is not None
    assert list(out.updates) == ["everyone"]
    out, _ = apart.call(("events", purchase(2, T0 + 1, amount=20)))
    assert out is not None
    assert {k: (u.update_id, u.entity_id, u.ts.tolist()) for k, u in out.updates.items()} == {
        "merchant": (["e2"], ["m1"], [T0 + 1]),
        "everyone": (["e2"], ["*"], [T0 + 1]),
    }
    assert all(u.values.shape == (1, apart.engine.width(k)) for k, u in out.updates.items())
    _, (told,) = apart.call(("labels", label(1, 2, False)))
    _, (corrected,) = apart.call(("labels", label(2, 2, True)))
    assert list(told.updates) == ["merchant.labels", "user.labels", "everyone.labels"]
    merchant, corrected_merchant = told.updates["merchant.labels"], corrected.updates["merchant.labels"]
    assert (merchant.update_id, merchant.entity_id, merchant.values.tolist()) == (["e2#0"], ["m1"], [[0.0, 1.0, 1.0]])
    assert (corrected_merchant.update_id, corrected_merchant.values.tolist()) == (["e2#1"], [[1.0, 0.0, 1.0]])
    _, (unnamed,) = apart.call(("labels", label(3, 1, True)))
    assert list(unnamed.updates) == ["user.labels", "everyone.labels"]
    assert unnamed.updates["user.labels"].entity_id == ["u1"]


def test_timers_send_nothing() -> None:
    apart = Apart(CHURN_OF_ALL)
    out, _ = apart.call(("events", plays([("a", 0.0), ("b", 10.0), ("b", 3 * 3600.0)])))
    assert out is not None
    assert out.scored is not None
    assert out.scored.predictions.event_id == [f"a@{T0:.0f}", f"b@{T0 + 10:.0f}"]
    assert out.updates["everyone"].update_id == ["e0", "e1", "e2"]


def test_side_rows_are_read_and_not_saved() -> None:
    apart = Apart(MANY)
    before = tables(apart)
    out = apart.lanes[0].events(purchase(1, T0))
    changed = {name for name, rows in tables(apart).items() if rows != before[name]}
    assert changed == {"fraud.user"}
    assert out.scored is not None
    made = dict(zip(apart.engine.features, out.scored.predictions.features[0].tolist(), strict=True))
    assert made["merchant.tx_count_1d"] == made["user.amount_count_1d"] == 1.0  # the event itself counts


class Fetched(MemoryFeatureStore):
    """A store that has only what was asked for before."""

    allowed: dict[str, list[str]] | None = None

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        if self.allowed is not None and keys:
            assert set(keys) == set(self.allowed[table]), table
        return super().load(table, keys)


@pytest.mark.parametrize("toml", [MANY, CHURN_OF_ALL], ids=["fraud", "churn"])
def test_a_host_knows_beforehand_which_rows_are_needed(toml: str) -> None:
    """Those of timers that the batch makes due, too."""
    store = Fetched()
    stage = ScoringStage(TaskSpec.from_toml(toml), store, side=True)
    rows = plays([(f"u{i % 7}", 1200.0 * i) for i in range(60)])
    stream = events(60, 3) if toml is MANY else rows
    timers = 0
    for a, b in [*pairwise(range(0, 61, 6)), (60, 60)]:
        prepared = stage.prepare(stream.slice(a, b))
        timers += len(prepared.batch) - (b - a) if stage.timers is not None else 0
        store.allowed = stage.keys(prepared)
        assert all(len(set(keys)) == len(keys) for keys in store.allowed.values())
        out = stage.score(prepared)
        for layout, updates in out.updates.items():
            store.allowed = stage.engine.update_keys(layout, updates)
            stage.engine.apply(layout, updates)
    prepared = stage.prepare_advance(T0 + 10 * DAY)
    store.allowed = stage.keys(prepared)
    stage.score(prepared)
    assert (timers > 3) == (stage.timers is not None)


def test_timers_are_rebuilt_from_what_moved_them() -> None:
    task = TaskSpec.from_toml(CHURN)
    stage, again = (ScoringStage(task, MemoryFeatureStore(), side=True) for _ in range(2))
    rng = np.random.default_rng(4)
    times = np.cumsum(rng.integers(0, 3000, 200)).astype(float).tolist()
    stream = plays([(f"u{i}", t) for i, t in zip(rng.integers(0, 30, 200).tolist(), times, strict=True)])
    for a, b in pairwise(range(0, 201, 20)):
        prepared = stage.prepare(replace(stream, type=["view"] * 10 + ["play"] * 190).slice(a, b))
        stage.score(prepared)
        if prepared.moved is not None:
            again.follow(*prepared.moved)
    assert stage.timers is not None
    assert again.timers is not None
    assert again.timers.snapshot() == stage.timers.snapshot()


# -- labelling ---------------------------------------------------------------------------------------------------------

Logged = Scored | LabelBatch


def logged(seed: int, n: int = 100, toml: str = FRAUD) -> list[Logged]:
    """What a label lane would read: scores and labels, in the order in which they were made."""
    pipeline, log = together(toml), list[Logged]()
    for kind, b in script(n, seed):
        if isinstance(b, LabelBatch):
            pipeline.labels(b)
            log.append(b)
        elif isinstance(b, EventBatch) and kind == "events":
            out = pipeline.scoring.events(b)
            if out.scored is not None:
                log.append(out.scored)
                for examples in pipeline.labelling.scored(out.scored).examples:
                    pipeline.model.learn(examples)
    return log


def feed(stage: LabellingStage, item: Logged) -> LabelOutput:
    return stage.scored(item) if isinstance(item, Scored) else stage.labels(item)


def with_repeats(log: list[Logged], seed: int) -> list[Logged]:
    """The same log, with rows repeated in later batches and in batches of their own, by a newer model."""
    rng = np.random.default_rng(seed)
    past: list[Scored] = []
    out: list[Logged] = []
    for item in log:
        if isinstance(item, Scored) and past and rng.random() < 0.6:
            again = _again(past[int(rng.integers(len(past)))], rng)
            out += [_joined(again, item)] if rng.random() < 0.5 else [again, _joined(item, _again(item, rng))]
        else:
            out.append(item)
        if isinstance(item, Scored):
            past.append(item)
    return out


def _again(s: Scored, rng: np.random.Generator) -> Scored:
    rows = np.sort(rng.choice(len(s), int(rng.integers(1, len(s) + 1)), replace=False))
    p = s.predictions.take(rows)
    other = replace(p, score=rng.random(len(p)), model_version=p.model_version + 7, features=p.features + 1.0)
    return replace(s.take(rows), predictions=other)


def _joined(a: Scored, b: Scored) -> Scored:
    p, q = a.predictions, b.predictions
    both: Any = np.concatenate
    predictions = PredictionBatch(
        p.event_id + q.event_id,
        p.entity_id + q.entity_id,
        both([p.ts, q.ts]),
        both([p.score, q.score]),
        both([p.model_version, q.model_version]),
        both([p.features, q.features]),
    )
    entities = {k: a.entities[k] + b.entities[k] for k in a.entities}
    return Scored(predictions, both([a.masks, b.masks]), both([a.watched, b.watched]), entities)


def nothing_scored(made: LabelOutput) -> bool:
    return made.scored is None and not (made.alerts or made.examples or made.updates or made.detections)


@settings(max_examples=12, deadline=None)
@given(seeds, seeds)
def test_a_repeated_prediction_counts_nowhere(seed: int, repeats: int) -> None:
    """Not in thresholds, alerts, typical values, drift, metrics, examples or updates, whoever scored it again."""
    log = logged(seed)
    once, twice = labelling_of(TaskSpec.from_toml(FRAUD)), labelling_of(TaskSpec.from_toml(FRAUD))
    more = with_repeats(log, repeats)
    expected = [feed(once, item) for item in log]
    got = [made for made in (feed(twice, item) for item in more) if not nothing_scored(made)]
    assert plain_labelled(got) == plain_labelled([made for made in expected if not nothing_scored(made)])
    assert twice.counts.repeats == sum(len(i) for i in more) - sum(len(i) for i in log)
    twice.counts.repeats = 0
    assert twice.snapshot() == once.snapshot()


def test_the_repeats_of_that_test_would_count() -> None:
    """Without the memory of ids they do: the property above is not empty."""
    log = logged(3)
    once, twice = (labelling_of(TaskSpec.from_toml(FRAUD), dedupe=False) for _ in range(2))
    for item in log:
        feed(once, item)
    for item in with_repeats(log, 1):
        feed(twice, item)
    differ = {name for name, part in once.parts().items() if part.snapshot() != twice.parts()[name].snapshot()}
    assert differ >= {"threshold", "typical", "drift", "counts"}


@settings(max_examples=12, deadline=None)
@given(seeds, st.floats(0, 1))
def test_labelling_resumes_from_a_snapshot_as_if_nothing_happened(seed: int, at: float) -> None:
    """And from one that is older: what it makes again is what it made, id by id."""
    task, log = TaskSpec.from_toml(MANY), logged(seed, toml=MANY)
    cut = round(at * len(log))
    straight, second = labelling_of(task), labelling_of(task)
    for item in log[:cut]:
        feed(straight, item)
    held = straight.snapshot()
    expected = [feed(straight, item) for item in log[cut:]]
    second.restore(held)
    assert second.snapshot() == held
    assert plain_labelled([feed(second, item) for item in log[cut:]]) == plain_labelled(expected)
    assert second.snapshot() == straight.snapshot()
    assert second.evaluation.get() == straight.evaluation.get()


@settings(max_examples=6, deadline=None)
@given(seeds)
def test_an_example_has_the_same_name_whatever_is_sampled(seed: int) -> None:
    """``(event_id, n)`` is unique, n counts up, and sampling leaves out rows without renaming the rest."""
    named: dict[float, list[tuple[str, int, bool]]] = {}
    for rate in (1.0, 0.3):
        toml = FRAUD.replace("negative_rate = 0.5", f"negative_rate = {rate}")
        stage = labelling_of(TaskSpec.from_toml(toml))
        made = [e for item in logged(seed) for e in feed(stage, item).examples]
        named[rate] = [row for e in made for row in zip(e.event_id, e.n.tolist(), e.y.tolist(), strict=True)]
    seen: dict[str, int] = {}
    for event_id, n, _ in named[1.0]:
        assert n == seen.get(event_id, 0)
        seen[event_id] = n + 1
    rest = iter(named[1.0])
    assert all(row in rest for row in named[0.3])


def correction(event_id: str, correction: bool = True) -> ExampleBatch:
    row = np.zeros(1)
    return ExampleBatch([event_id], row, row[:, None], row, np.array([True]), row, np.array([correction]))


def test_numbers_are_kept_while_an_event_can_be_corrected() -> None:
    numbers = ExampleNumbers(keep_s=100.0, max_events=1_000)
    made = [numbers.update(correction(f"e{now // 90}"), float(now)).tolist()[0] for now in range(0, 1000, 10)]
    assert made[:18] == [1, 2, 3, 4, 5, 6, 7, 8, 9] * 2
    assert len(numbers) <= 5  # of twelve events


def test_numbers_are_bounded_by_the_rows_that_can_be_corrected() -> None:
    numbers = ExampleNumbers(keep_s=np.inf, max_events=10)
    for i in range(1000):
        assert numbers.update(correction(f"e{i}"), 0.0).tolist() == [1]
        if i >= 10:
            assert numbers.update(correction(f"e{i - 9}"), 0.0).tolist()[0] > 1
    assert len(numbers) <= 60


def test_lanes_split_a_budget() -> None:
    budget = BudgetThreshold(alerts_per_day=20)
    assert share_of(budget, 1.0) == budget
    quarter = share_of(PrecisionThreshold(precision=0.5, fallback=budget), 0.25)
    assert isinstance(quarter, PrecisionThreshold)
    assert quarter.fallback is not None
    assert quarter.fallback.alerts_per_day == 5.0
    cost = CostThreshold(false_positive=1, false_negative=9)
    assert share_of(cost, 0.25) == cost
    with pytest.raises(ValueError, match=r"share is 0.0; it must be in \(0, 1\]"):
        share_of(budget, 0.0)


def test_lanes_with_a_share_alert_as_often_together() -> None:
    """Four lanes, a quarter of the scores and of the budget each: as many rows over the threshold as in one lane."""
    rng = np.random.default_rng(2)
    n, task = 20_000, TaskSpec.from_toml(FRAUD)
    task = task.model_copy(update={"threshold": BudgetThreshold(alerts_per_day=40, min_scores=20, min_days=0.01)})
    ts, score, lane = T0 + 20 * DAY * np.arange(n) / n, rng.beta(1, 8, n), rng.integers(0, 4, n)
    whole = labelling_of(task)
    over = int(np.sum(score >= whole.threshold.thresholds(ts, score)))
    split = 0
    for k in range(4):
        part = labelling_of(task, share=0.25).threshold
        mine = lane == k
        split += int(np.sum(score[mine] >= part.thresholds(ts[mine], score[mine])))
    assert over == pytest.approx(800, rel=0.15)
    assert split == pytest.approx(over, rel=0.15)


def test_requests_of_lanes_have_ids_of_their_own() -> None:
    log, task = logged(3, 400), TaskSpec.from_toml(FRAUD)
    ids = []
    for lane in ("0", "1"):
        stage = labelling_of(task, lane=lane)
        ids += [r.request_id for item in log for r in feed(stage, item).requests]
    assert len(ids) == len(set(ids)) >= 2


# -- what cannot run in lanes ------------------------------------------------------------------------------------------

WATCHED = """
[[entities]]
name = "merchant"
key = "merchant_id"
anomalies = [{ name = "odd", value = "amount" }]

[model]"""


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (FRAUD.replace("\n[model]", WATCHED.replace('"merchant"', '"shop"')), "no worker sees all its values in order"),
        (MANY.replace('entity = "user"', 'entity = "everyone"'), r"keyed by '\*', but user-events is partitioned by"),
        (MANY.replace('entity = "user"', 'entity = "merchant"'), "Score an entity with key = 'user_id', or run the"),
    ],
    ids=["anomaly", "everyone", "merchant"],
)  # fmt: skip
def test_what_needs_all_events_of_another_entity_is_refused_in_lanes(toml: str, message: str) -> None:
    task = TaskSpec.from_toml(toml)
    assert ScoringStage(task, MemoryFeatureStore()).features  # embedded it runs
    with pytest.raises(TaskError, match=message):
        ScoringStage(task, MemoryFeatureStore(), side=True)


def test_an_anomaly_may_not_take_the_name_of_the_label_table() -> None:
    toml = FRAUD.replace(
        'name = "user"\nkey', 'name = "user"\nanomalies = [{ name = "labels", value = "amount" }]\nkey'
    )
    with pytest.raises(TaskError, match="entity user: the anomaly name 'labels' is taken by label aggregates"):
        shape_of(TaskSpec.from_toml(toml))


def test_updates_that_do_not_fit_are_refused() -> None:
    engine = Apart(MANY).engine
    batch = UpdateBatch(["e1"], ["m1"], np.array([T0]), np.zeros((1, 9)))
    with pytest.raises(TaskError, match=r"updates of 'merchant' have shape \(1, 9\), expected \(1, 3\)"):
        engine.apply("merchant", batch)
    with pytest.raises(TaskError, match=r"there is no layout 'shop'; the task has merchant, merchant\.labels, user"):
        engine.apply("shop", batch)


def test_labels_and_events_of_an_entity_are_tables_of_their_own() -> None:
    """A change to the one leaves the rows of the other readable."""
    kinds = {t.name: (t.key, t.side) for t in Apart(MANY).engine.tables}
    assert kinds == {
        "fraud.merchant": ("merchant_id", True),
        "fraud.merchant.labels": ("merchant_id", True),
        "fraud.user": ("user_id", False),
        "fraud.user.labels": ("user_id", True),
        "fraud.everyone": ("*", True),
        "fraud.everyone.labels": ("*", True),
    }
    assert not any(t.side for t in together(MANY).engine.tables)
    other = MANY.replace("prior = 2", "prior = 3")
    schemas = [{t.name: t.schema for t in together(toml).engine.tables} for toml in (MANY, other)]
    assert {name for name in schemas[0] if schemas[0][name] != schemas[1][name]} == {"fraud.user.labels"}


def test_the_shape_of_a_task_is_known_without_a_store() -> None:
    task = TaskSpec.from_toml(MANY)
    shape = shape_of(task)
    assert shape == ScoringStage(task, MemoryFeatureStore(), side=True).shape
    assert (shape.masks, shape.secondary, shape.watched) == (4, ("merchant_id",), ("amount",))
    scored = next(item for item in logged(1, toml=MANY) if isinstance(item, Scored))
    assert (scored.masks.shape[1], tuple(scored.entities), scored.watched.shape[1]) == (4, ("merchant_id",), 1)
    assert shape_of(task.model_copy(update={"drift": None})).watched == ()


def test_what_goes_into_records_is_finite_or_missing() -> None:
    """JSON has no infinity: a value that is infinite is a missing one, in every mode alike."""
    toml = MANY.replace("amount / merchant.paid_mean_1d", "1 / amount").replace("amount > 5", "1 / amount")
    toml = toml.replace('"run_since_negative"], value = "amount"', '"run_since_negative"], value = "2 / amount"')
    toml = toml.replace("[values]", 'watch = ["inverse"]\n[values]\ninverse = "1 / amount"')
    pipeline, apart = together(toml), Apart(toml)
    for number, amount in enumerate([0.0, 4.0, 0.0, 5e-324, 2.0]):
        step: Call = ("events", purchase(number, T0 + number, amount=amount))
        out, _ = apart.call(step)
        assert out is not None
        assert out.scored is not None
        assert not any(np.isinf(u.values).any() for u in out.updates.values())
        assert not np.isinf(out.scored.watched).any()
        assert not np.isinf(out.scored.masks).any()
        expected = pipeline.events(step[1]) if isinstance(step[1], EventBatch) else None
        assert expected is not None
        assert expected.predictions is not None
        assert out.scored.predictions.features.tobytes() == expected.predictions.features.tobytes()


def test_a_state_of_other_labelling_is_refused() -> None:
    stage = labelling_of(TaskSpec.from_toml(FRAUD))
    with pytest.raises(StateError, match=r"task fraud: the state does not fit: it holds .*; start with a fresh"):
        stage.restore(labelling_of(TaskSpec.from_toml(FRAUD), dedupe=False).snapshot())
