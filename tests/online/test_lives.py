"""What an entity that was away has forgotten: by its own records alone, however they are cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.online.feature_rows import T0, Row, batch_of, column, engine_of, run
from weir.online.batch import FloatMatrix, FloatVector, UpdateBatch
from weir.online.features.engine import FeatureEngine
from weir.online.features.plan import build_plan
from weir.online.features.spec import KEPT, Aggregate, Entity, LabelAggregate
from weir.online.features.store import FeatureStore
from weir.online.stages.full_states import score_full
from weir.streams.embedded.memory_store import MemoryFeatureStore

TTL = 80.0
KEPT_S = KEPT * TTL
SEEN = Aggregate(name="seen", ops=("count", "since_first"), windows=("ever",))
SPENT = Aggregate(name="spent", value="amount", ops=("ewmean",), windows=("1h",))
USER = Entity(name="user", key="user_id", ttl=TTL, aggregates=(SEEN, SPENT))
gaps = st.sampled_from([0.0, 7.0, KEPT_S / 2, KEPT_S, KEPT_S + 0.5, 3 * KEPT_S, 40 * KEPT_S])
late = st.sampled_from([0.0, 0.0, 0.0, 5.0, KEPT_S / 9, KEPT_S / 8])
streams = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), gaps, late), min_size=1, max_size=40)
Stream = list[tuple[str | None, float, float]]


def rows_of(stream: Stream) -> list[Row]:
    """Rows behind one another, some of them late: by an eighth of what is kept at most, as stores allow for."""
    rows, now = list[Row](), T0
    for i, (user, gap, late_s) in enumerate(stream):
        now += gap
        rows.append(Row(user, now - late_s, 1.0 + i))
    return rows


def lives_of(rows: list[Row]) -> list[list[int]]:
    """Which rows are of one life of an entity, from the definition in ``docs/TASKS.md``."""
    lives: list[list[int]] = []
    open_: dict[str, tuple[list[int], float]] = {}
    for i, row in enumerate(rows):
        if row.user is None:
            continue
        life, seen = open_.get(row.user, ([], -math.inf))
        if row.ts - seen > KEPT_S:
            life = []
            lives.append(life)
        life.append(i)
        open_[row.user] = life, max(seen, row.ts)
    return lives


@settings(max_examples=60, deadline=None)
@given(streams, st.lists(st.integers(1, 39), max_size=5))
@example([("a", 0.0, 0.0), ("a", KEPT_S + 0.5, 0.0), ("a", KEPT_S + 0.5, 0.0), ("b", 0.0, 0.0), ("a", 0.0, 5.0)], [])
def test_an_entity_begins_anew_where_it_was_away_for_longer_than_it_is_kept(stream: Stream, cuts: list[int]) -> None:
    rows = rows_of(stream)
    found = run(engine_of(USER), rows, cuts)
    for_ever = USER.model_copy(update={"ttl": 1e9})
    for life in lives_of(rows):
        wanted = run(engine_of(for_ever), [rows[i] for i in life], [])
        for name, values in wanted.items():
            assert np.array_equal([found[name][i] for i in life], values, equal_nan=True), name


@pytest.mark.parametrize("ahead", [3 * KEPT_S, 1e9])
def test_an_event_that_is_dated_far_ahead_ends_no_other_life(ahead: float) -> None:
    users = ["a", "b", "c"] * 20
    rows = [Row(user, T0 + 9.0 * i + ahead * (i == 30), 1.0 + i) for i, user in enumerate(users)]
    others = [i for i, user in enumerate(users) if user != users[30]]
    wanted = run(engine_of(USER), [rows[i] for i in others], [])
    for cuts in ([], list(range(1, 60))):
        found = run(engine_of(USER), rows, cuts)
        for name, values in wanted.items():
            assert np.array_equal([found[name][i] for i in others], values, equal_nan=True), name


@settings(max_examples=30, deadline=None)
@given(streams, st.lists(st.integers(1, 39), max_size=5))
def test_a_detector_forgets_with_its_entity(stream: Stream, cuts: list[int]) -> None:
    rows = rows_of(stream)
    watched = Entity.model_validate(
        {"name": "user", "key": "user_id", "ttl": TTL, "anomalies": [{"name": "odd", "value": "amount"}]}
    )
    found = run(engine_of(watched), rows, cuts)
    for life in lives_of(rows):
        wanted = run(engine_of(watched.model_copy(update={"ttl": 1e9})), [rows[i] for i in life], [])
        for name, values in wanted.items():
            assert np.array_equal([found[name][i] for i in life], values, equal_nan=True), name


RISK = LabelAggregate(name="risk", ops=("count",), windows=("ever",))


@pytest.mark.parametrize("own_key", [None, "user_id"], ids=["embedded", "lane"])
def test_what_labels_feed_is_kept_as_long_behind_the_last_label_in_every_host(own_key: str | None) -> None:
    """The owner of such a row, another lane, knows of no event; so events keep it nowhere."""
    plan = build_plan((Entity(name="user", key="user_id", ttl=TTL, labels=(RISK,)),), {})
    engine = FeatureEngine(plan, MemoryFeatureStore(), inputs=("*",), indicators=False, own_key=own_key)
    engine.apply("user.labels", UpdateBatch(["e#0"], ["a"], np.array([T0]), np.ones((1, 2))))
    at = [T0 + 40.0, T0 + KEPT_S, T0 + KEPT_S + 1.0, T0 + KEPT_S - 1.0]
    for cuts in ([], [1, 2, 3]):
        edges = [0, *cuts, len(at)]
        blocks = [engine.process(batch_of([Row("a", ts, 1.0) for ts in at[a:b]])) for a, b in pairwise(edges)]
        assert [v for b in blocks for v in column(b, "user.risk_count_ever")] == [1.0, 1.0, 0.0, 1.0]
    engine.apply("user.labels", UpdateBatch(["f#0"], ["a"], np.array([T0 + KEPT_S + 2.0]), np.ones((1, 2))))
    assert column(engine.process(batch_of([Row("a", T0 + KEPT_S + 3.0, 1.0)])), "user.risk_count_ever") == [1.0]


def test_reading_keeps_nothing_in_memory() -> None:
    store = MemoryFeatureStore()
    plan = build_plan((Entity(name="user", key="user_id", ttl=TTL, labels=(RISK,)),), {})
    engine = FeatureEngine(plan, store, inputs=("*",), indicators=False)
    engine.process(batch_of([Row(f"u{i}", T0, 1.0) for i in range(50)]))
    assert store.count("user.labels") == 0


class Counting:
    """A ``FullScorer`` that counts the rows of each entity in its state."""

    width, row_bytes, schema = 1, 8, 1

    def score(
        self, table: str, store: FeatureStore, keys: Sequence[str], ts: FloatVector, x: FloatMatrix
    ) -> FloatMatrix:
        names = sorted(set(keys))  # in another order than that in which they come
        state: NDArray[np.int64] = store.load(table, names).view(np.int64)[:, 0]
        made = np.empty((len(x), 1))
        for i, key in enumerate(keys):
            state[names.index(key)] += 1
            made[i] = state[names.index(key)]
        store.save(table, names, np.ascontiguousarray(state[:, None]).view(np.uint8), float(ts.max()))
        return made


@settings(max_examples=100, deadline=None)
@given(streams, st.lists(st.integers(1, 39), max_size=5))
def test_the_state_of_a_full_model_is_forgotten_alike(stream: Stream, cuts: list[int]) -> None:
    rows = [row for row in rows_of(stream) if row.user is not None]
    store, made = MemoryFeatureStore(), list[float]()
    store.create("t.full", 8, 1, KEPT_S)
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    for a, b in pairwise(edges):
        keys, ts = [row.user or "" for row in rows[a:b]], np.array([row.ts for row in rows[a:b]])
        made += score_full(Counting(), "t.full", store, keys, ts, np.empty((b - a, 0)), KEPT_S)[:, 0].tolist()
    for life in lives_of(rows):
        assert [made[i] for i in life] == list(range(1, len(life) + 1))
