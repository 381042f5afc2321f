"""Maturity: what a label join has learn, and when, against an oracle that goes row by row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import EventBatch, LabelBatch, PredictionBatch
from weir.online.errors import TaskError
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy, JoinResult
from weir.online.labels.logged_predictions import RowsToRead
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore

KEEP = 40.0
Event = tuple[str, float, float]
"""Id, time, after how long it is mature."""
Label = tuple[str, bool, float]
"""Event, value, weight."""
Learned = tuple[str, bool, bool, float]
"""Event, value, correction, weight."""


def predictions(events: list[Event]) -> PredictionBatch:
    n, at = len(events), np.array([ts for _, ts, _ in events])
    names = [name for name, _, _ in events]
    return PredictionBatch(names, ["u"] * n, at, np.full(n, 0.5), np.zeros(n, np.int64), at.reshape(n, 1))


def log(to: LabelJoiner, events: list[Event], topic: list[Event] | None = None) -> JoinResult:
    """Log events; where they go to a topic they are read back from there."""
    batch, offsets = predictions(events), None
    if topic is not None:
        offsets = len(topic) + np.arange(len(events))
        topic += events
        lend(to, to.wanted_due(np.maximum.accumulate(batch.ts)), topic)
    return to.log(batch, ripens_s=np.array([ripens for _, _, ripens in events]), offsets=offsets)


def lend(to: LabelJoiner, wanted: RowsToRead, topic: list[Event]) -> None:
    if len(wanted.rows):
        to.lend(
            wanted.rows, predictions([topic[i] for i in wanted.offsets.tolist()]), np.empty((len(wanted.rows), 0)), {}
        )


def tell(to: LabelJoiner, label: Label, number: int, topic: list[Event] | None = None) -> JoinResult:
    event, value, weight = label
    labels = LabelBatch([f"l{number}"], ["u"], [event], np.zeros(1), np.array([value]), np.array([weight]))
    if topic is not None:
        lend(to, to.wanted(labels), topic)
    return to.label(labels)


def rows(joined: JoinResult, which: str) -> list[Learned]:
    e = joined.where(getattr(joined, which)).examples
    return list(zip(e.event_id, e.y.tolist(), e.correction.tolist(), e.weight.tolist(), strict=True))


@dataclass
class Row:
    name: str
    ts: float
    mark: float
    ripe_at: float
    value: bool | None = None
    weight: float = 1.0
    waits: bool = False


@dataclass
class Oracle:
    """One row at a time, by the words of `LabelJoiner`."""

    after: float | None
    now: float = -np.inf
    rows: list[Row] = field(default_factory=list)
    early: list[Label] = field(default_factory=list)
    told: list[Learned] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)

    def event(self, event: Event) -> None:
        name, ts, ripens = event
        self.now = max(self.now, ts)
        row = Row(name, ts, self.now, min(ts, self.now) + min(ripens, KEEP))
        for each in self.rows:
            if self.after is not None and each.value is None and each.mark + self.after <= self.now:
                self._say(each, value=False, weight=1.0, at=each.mark + self.after)
            if each.waits and each.ripe_at <= self.now:
                each.waits = False
                self.learned.append((each.name, bool(each.value), False, each.weight))
        self.rows.append(row)
        for told, value, weight in [label for label in self.early if label[0] == name]:
            del told
            self._say(row, value=value, weight=weight, at=self.now)
        self.early = [label for label in self.early if label[0] != name]

    def label(self, label: Label) -> None:
        found = [row for row in self.rows if row.name == label[0]]
        if not found:
            self.early.append(label)
        for row in found:
            self._say(row, value=label[1], weight=label[2], at=self.now)

    def _say(self, row: Row, *, value: bool, weight: float, at: float) -> None:
        if row.value is value:
            return
        said = (row.name, value, row.value is not None, weight)
        row.value, row.weight = value, weight
        self.told.append(said)
        row.waits = row.waits or at < row.ripe_at
        if not row.waits:
            self.learned.append(said)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("event"), st.sampled_from([0.0, 1.0, 4.0, -3.0]), st.sampled_from([0.0, 3.0, 9.0, 99.0])),
            st.tuples(st.just("label"), st.integers(0, 12), st.booleans()),
            st.tuples(st.just("cut"), st.just(0.0), st.just(0.0)),
        ),
        max_size=60,
    ),
    st.sampled_from([None, 5.0, 12.0]),
    st.booleans(),
)
def test_an_event_is_learned_once_when_it_is_mature(
    ops: list[tuple[str, float, float]], after: float | None, reads_back: bool
) -> None:
    """Whatever is said of it before; how batches are cut, and restarts, change nothing, and no order."""
    policy = JoinPolicy(keep_s=KEEP, wait_s=1e6, negative_after_s=after, chunk_rows=1)
    topic = list[Event]() if reads_back else None

    def new() -> LabelJoiner:
        joiner = LabelJoiner(policy, 1, matures=True)
        joiner.cache_bytes = 0 if reads_back else joiner.cache_bytes
        return joiner

    to, oracle = new(), Oracle(after)
    told, learned, batch, at, n = list[Learned](), list[Learned](), list[Event](), 100.0, 0

    def note(joined: JoinResult) -> None:
        told.extend(rows(joined, "new"))
        learned.extend(rows(joined, "ripe"))

    for number, (what, a, b) in enumerate([*ops, ("cut", 0.0, 0.0)]):
        if what == "event":
            at += max(a, 0.0)
            batch.append((f"e{n}", at + min(a, 0.0), b))
            n += 1
            oracle.event(batch[-1])
            continue
        if batch:
            note(log(to, batch, topic))
            batch = []
        if what == "label":
            label = (f"e{int(a)}", bool(b), 1.0 + number % 3)
            oracle.label(label)
            note(tell(to, label, number, topic))
        else:
            state, to = to.snapshot(), new()
            to.restore(state)
    assert told == oracle.told
    assert learned == oracle.learned
    assert to.stats.lost == 0


def test_memory_of_what_waits_for_its_maturity_is_counted() -> None:
    n = 5_000
    to = LabelJoiner(JoinPolicy(keep_s=KEEP), n_features=1, matures=True)
    log(to, [(f"e{i}", 1.0, 30.0) for i in range(n)])
    names: list[str | None] = [f"e{i}" for i in range(n)]
    labels = LabelBatch([f"l{i}" for i in range(n)], ["u"] * n, names, np.ones(n), np.ones(n, np.bool_), np.ones(n))
    before = to.nbytes
    to.label(labels)
    waiting = to.nbytes
    assert waiting > before + 100 * n
    log(to, [("later", 32.0, 30.0)])
    assert to.nbytes < waiting - 100 * n


def test_a_task_that_begins_to_wait_or_stops_goes_on_with_what_it_held() -> None:
    policy = JoinPolicy(keep_s=KEEP)
    old = LabelJoiner(policy, 1)
    log_old = PredictionBatch(["a", "b"], ["u"] * 2, np.zeros(2), np.zeros(2), np.zeros(2, np.int64), np.zeros((2, 1)))
    old.log(log_old)
    tell(old, ("a", True, 1.0), 0)
    to = LabelJoiner(policy, 1, matures=True)
    to.restore(old.snapshot())
    assert rows(tell(to, ("b", True, 1.0), 1), "ripe") == [("b", True, False, 1.0)]  # it was logged without maturity
    log(to, [("c", 1.0, 9.0)])
    assert rows(tell(to, ("c", True, 1.0), 2), "ripe") == []
    log(to, [("d", 2.0, 9.0), ("e", 3.0, 9.0)])
    tell(to, ("d", True, 2.5), 3)
    old = LabelJoiner(policy, 1)
    old.restore(to.snapshot())
    # What waited is learned when it is mature, once and as the last label says; what is scored from now on at once.
    assert rows(tell(old, ("c", False, 1.0), 4), "ripe") == []
    old.log(predictions([("f", 4.0, 0.0)]))
    assert rows(tell(old, ("f", True, 1.0), 5), "ripe") == [("f", True, False, 1.0)]
    again = LabelJoiner(policy, 1)
    again.restore(old.snapshot())
    for join in (old, again):
        learned = join.log(predictions([("g", 20.0, 0.0)]))
        assert rows(learned, "ripe") == [("c", False, False, 1.0), ("d", True, False, 2.5)]
        assert rows(tell(join, ("d", False, 1.0), 6), "ripe") == [("d", False, True, 1.0)]
    again.restore(old.snapshot())
    assert not again.matures


TASK = """
name = "lapse"
entity = "user"
inputs = ["amount", "wait", "user.*"]
indicators = false
[values]
wait = "amount * 10"
[[entities]]
name = "user"
key = "user_id"
labels = [{ name = "bad", ops = ["count"], windows = ["7d"] }]
[model]
kind = "logistic"
[labels]
maturity = "MATURITY"
"""


def pipeline(maturity: str) -> TaskPipeline:
    return TaskPipeline(TaskSpec.from_toml(TASK.replace("MATURITY", maturity)), MemoryFeatureStore())


@pytest.mark.parametrize("maturity", ["100s", "wait", 'horizon"\njoin = { negative_after_s = "100s" }  # "'])
def test_metrics_and_the_model_wait_and_features_do_not(maturity: str) -> None:
    run = pipeline(maturity)

    def event(name: str, ts: float) -> float:
        numbers = {"amount": np.array([10.0])}
        made = run.events(EventBatch([name], np.array([ts]), ["x"], {"user_id": ["u"]}, numbers)).predictions
        assert made is not None
        return float(made.features[0, run.features.index("user.bad_count_7d")])

    event("a", 1e9)
    run.labels(LabelBatch(["l"], ["u"], ["a"], np.array([1e9]), np.ones(1, np.bool_), np.ones(1)))
    assert (event("b", 1e9 + 50.0), run.labelled, run.model.version) == (1.0, 0, 0)
    assert "cumulative" not in run.evaluation.get() or run.evaluation.get()["cumulative"]["n"] == 0
    event("c", 1e9 + 100.0)
    assert (run.labelled, run.model.version, run.evaluation.get()["cumulative"]["n"]) == (1, 1, 1.0)


def test_the_horizon_is_the_maturity_unless_the_task_says_otherwise() -> None:
    def after(labels: str) -> float | str:
        return TaskSpec.from_toml(TASK.replace('maturity = "MATURITY"', labels)).labels.matures_after

    horizon = 'join = { negative_after_s = "4d" }'
    assert (after(horizon), after(""), after(f'maturity = "none"\n{horizon}')) == (4 * 86_400.0, "none", "none")
    assert after(f'maturity = "5d"\n{horizon}') == 5 * 86_400.0


def test_an_event_without_its_maturity_waits_as_long_as_any() -> None:
    """Learned as soon as its label is known, one value of it would count too often."""
    run = pipeline("wait")
    keep_s = run.task.labels.join.keep_s

    def event(name: str, ts: float, amount: float) -> None:
        run.events(EventBatch([name], np.array([ts]), ["x"], {"user_id": ["u"]}, {"amount": np.array([amount])}))

    event("a", 1e9, np.nan)
    event("b", 1e9, 0.0)
    run.labels(LabelBatch(["l", "m"], ["u"] * 2, ["a", "b"], np.full(2, 1e9), np.ones(2, np.bool_), np.ones(2)))
    assert run.joiner.stats.no_maturity == 1
    for n in range(1, int(keep_s / 3600.0)):  # an hour is what one event may move the time
        event(f"c{n}", 1e9 + n * 3600.0, 1e9)
    assert run.labelled == 1, "a wait of 0 s is one"
    event("d", 1e9 + keep_s, 1e9)
    assert run.labelled == 2


def test_a_maturity_that_cannot_be_is_told() -> None:
    with pytest.raises(TaskError, match="keep_s"):
        pipeline('90d"\njoin = { keep_s = "80d" }  # "')
    assert pipeline("90d").task.labels.join.keep_s > 90 * 86_400  # not given: it follows
    with pytest.raises(TaskError, match=r"'wiat' is no duration and no input; .*wait"):
        pipeline("wiat")
