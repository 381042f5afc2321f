"""The window kernel against a brute-force oracle, under any order, cuts and lateness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.batch import EventBatch, UpdateBatch
from online.errors import TaskError
from online.features.engine import FeatureBlock, FeatureEngine
from online.features.levels import feature_names
from online.features.plan import build_plan
from online.features.spec import Aggregate, Entity, LabelAggregate
from streams.stores import MemoryFeatureStore

HOUR, DAY = 3600.0, 86_400.0
T0 = 1_700_000_000.0


@dataclass(frozen=True)
class Row:
    user: str | None
    ts: float
    amount: float


def batch_of(rows: list[Row]) -> EventBatch:
    return EventBatch(
        event_id=[f"e{i}" for i in range(len(rows))],
        ts=np.array([r.ts for r in rows], dtype=np.float64),
        type=["purchase"] * len(rows),
        entities={"user_id": [r.user for r in rows]},
        numbers={"amount": np.array([r.amount for r in rows], dtype=np.float64)},
    )


def engine_of(*entities: Entity, values: dict[str, str] | None = None) -> FeatureEngine:
    plan = build_plan(entities, values or {})
    return FeatureEngine(plan, MemoryFeatureStore(), inputs=("*",), raw=("amount",), indicators=False)


def run(engine: FeatureEngine, rows: list[Row], cuts: list[int]) -> dict[str, list[float]]:
    """Columns of all rows, processed in pieces that end at ``cuts``."""
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    blocks = [engine.process(batch_of(rows[a:b])) for a, b in pairwise(edges)]
    names = [name for name in blocks[0].columns if "." in name]
    return {name: [v for block in blocks for v in _column(block, name)] for name in names}


def _column(block: FeatureBlock, name: str) -> list[float]:
    return [float(v) for v in np.asarray(block.columns[name], dtype=np.float64)]


ALL_OPS = Aggregate(
    name="amount",
    value="amount",
    ops=("count", "sum", "mean", "std", "min", "max", "last", "since_last", "since_first", "over_mean"),
    windows=(HOUR, DAY),
    panes=6,
    where="amount < 900",
)

amounts = st.sampled_from([0.5, 1.0, 3.0, 20.0, 100.0, 950.0, math.nan])
gaps = st.sampled_from([0.0, 1.0, 30.0, 600.0, 3599.0, 3600.0, 20_000.0, 90_000.0, -40.0, -4000.0])
streams = st.lists(st.tuples(st.sampled_from(["a", "b", None]), gaps, amounts), min_size=1, max_size=60)


def rows_of(stream: list[tuple[str | None, float, float]]) -> list[Row]:
    rows, now = [], T0
    for user, gap, amount in stream:
        now += gap
        rows.append(Row(user, now, amount))
    return rows


def oracle(rows: list[Row], i: int, window: float, panes: int) -> dict[str, float]:
    """Windowed values of row i, from the definition in ``online.features.kernel``."""
    me, pane = rows[i], window / panes
    mine = [r for r in rows[: i + 1] if r.user == me.user]
    newest = max(math.floor(r.ts / pane) for r in mine)
    held: list[float] = []
    head = -math.inf
    kept: list[tuple[int, float]] = []
    for r in mine:
        index = math.floor(r.ts / pane)
        head = max(head, index)
        if index > head - panes and r.amount < 900:
            kept.append((index, r.amount))
    held = [a for index, a in kept if newest - panes < index <= newest]
    n = len(held)
    out = {"count": float(n), "sum": math.fsum(held)}
    out["mean"] = out["sum"] / n if n else math.nan
    out["std"] = float(np.std(held)) if n else math.nan
    out["min"], out["max"] = (min(held), max(held)) if n else (math.nan, math.nan)
    counted = me.amount < 900 and math.floor(me.ts / pane) > newest - panes
    others = list(held)
    if counted:
        others.remove(me.amount)
    own = math.fsum(others) / len(others) if others else math.nan
    out["over_mean"] = me.amount / own if others else math.nan
    return out


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(1, 60), max_size=4))
def test_windows_equal_brute_force_in_any_cuts(stream: list[tuple[str | None, float, float]], cuts: list[int]) -> None:
    rows = rows_of(stream)
    got = run(engine_of(Entity(name="user", key="user_id", aggregates=(ALL_OPS,))), rows, cuts)
    for i, row in enumerate(rows):
        if row.user is None:
            assert all(math.isnan(got[name][i]) for name in got)
            continue
        for label, window in (("1h", HOUR), ("1d", DAY)):
            for op, want in oracle(rows, i, window, 6).items():
                value = got[f"user.amount_{op}_{label}"][i]
                assert value == pytest.approx(want, rel=2e-5, abs=2e-4, nan_ok=True), (i, op, label)
        before = [r for r in rows[:i] if r.user == row.user and r.amount < 900]
        if before:
            newest = max(r.ts for r in before)
            assert got["user.amount_since_last"][i] == max(row.ts - newest, 0.0)
            assert got["user.amount_since_first"][i] == max(row.ts - min(r.ts for r in before), 0.0)
        else:
            assert math.isnan(got["user.amount_since_last"][i])


@settings(max_examples=40, deadline=None)
@given(streams, st.lists(st.integers(1, 60), max_size=6))
def test_cuts_change_no_bit(stream: list[tuple[str | None, float, float]], cuts: list[int]) -> None:
    rows = rows_of(stream)
    entity = Entity(
        name="user",
        key="user_id",
        aggregates=(
            ALL_OPS,
            Aggregate(name="typical", value="amount", ops=("ewmean", "over_ewmean"), clip=3.0, half_life=DAY),
            Aggregate(name="kinds", value="floor(amount)", ops=("distinct",), windows=(DAY,), include_current=False),
            Aggregate(name="high", value="ratio", ops=("count", "max"), windows=(DAY,), where="ratio > 1"),
        ),
    )
    values = {"ratio": "amount / user.amount_mean_1d"}
    whole = run(engine_of(entity, values=values), rows, [])
    pieces = run(engine_of(entity, values=values), rows, cuts)
    assert {k: np.array(v).tobytes() for k, v in whole.items()} == {k: np.array(v).tobytes() for k, v in pieces.items()}


def test_exponential_mean_decays_by_half_each_half_life_and_is_clipped() -> None:
    entity = Entity(
        name="user",
        key="user_id",
        aggregates=(Aggregate(name="typical", value="amount", ops=("ewmean",), clip=2.0, half_life=DAY),),
    )
    rows = [Row("a", T0 + i * DAY, v) for i, v in enumerate([10.0, 10.0, 10.0, 1000.0, 1000.0])]
    got = run(engine_of(entity), rows, [])["user.typical_ewmean"]
    assert math.isnan(got[0])
    # Weights before day 3: 1.75 < 2, so nothing is clipped until then; the first outlier is taken whole.
    assert got[3] == pytest.approx(10.0)
    weight = 1 + 0.5 + 0.25 + 0.125
    assert got[4] == pytest.approx((1000 + 10 * (weight - 1)) / weight)


def test_robust_mean_ignores_the_size_of_a_late_outlier() -> None:
    entity = Entity(
        name="user",
        key="user_id",
        aggregates=(Aggregate(name="typical", value="amount", ops=("ewmean",), clip=3.0, half_life=30 * DAY),),
    )
    rows = [Row("a", T0 + i * HOUR, 10.0) for i in range(50)] + [
        Row("a", T0 + 51 * HOUR, 1e6),
        Row("a", T0 + 52 * HOUR, 1),
    ]
    got = run(engine_of(entity), rows, [])["user.typical_ewmean"]
    assert got[-1] == pytest.approx(10.0 * (49.5 + 3) / 50.5, rel=0.02)


def test_distinct_is_close_to_the_truth() -> None:
    entity = Entity(
        name="user",
        key="user_id",
        aggregates=(Aggregate(name="shops", value="amount", ops=("distinct",), windows=(DAY,), bits=256),),
    )
    rows = [Row("a", T0 + i, float(i % 60)) for i in range(600)]
    got = run(engine_of(entity), rows, [])["user.shops_distinct_1d"]
    assert got[-1] == pytest.approx(60, rel=0.15)


def test_labels_are_seen_only_after_they_became_known() -> None:
    risk = LabelAggregate(
        name="risk", ops=("count", "positives", "share", "since_positive", "last"), windows=(DAY,), where="amount > 1"
    )
    engine = engine_of(Entity(name="user", key="user_id", labels=(risk,)))
    first = engine.process(batch_of([Row("a", T0, 5.0), Row("a", T0 + 1, 5.0), Row("a", T0 + 2, 0.5)]))
    assert _column(first, "user.risk_count_1d") == [0.0, 0.0, 0.0]
    assert all(math.isnan(v) for v in _column(first, "user.risk_share_1d"))
    y_unit = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    known_at = np.full(3, T0 + HOUR)
    labels = UpdateBatch(["e0#0", "e1#0", "e2#0"], ["a"] * 3, known_at, np.hstack([y_unit, first.label_masks]))
    engine.apply("user.labels", labels)
    after = engine.process(batch_of([Row("a", T0 + 2 * HOUR, 5.0), Row("b", T0 + 2 * HOUR, 5.0)]))
    assert _column(after, "user.risk_count_1d") == [2.0, 0.0]  # the third event did not satisfy `where`
    assert _column(after, "user.risk_positives_1d") == [1.0, 0.0]
    assert _column(after, "user.risk_since_positive")[0] == HOUR
    to_no = np.hstack([[[-1.0, 0.0]], first.label_masks[:1]])
    engine.apply("user.labels", UpdateBatch(["e0#1"], ["a"], known_at[:1], to_no))
    corrected = engine.process(batch_of([Row("a", T0 + 2 * HOUR, 5.0)]))
    assert _column(corrected, "user.risk_count_1d") == [2.0]
    assert _column(corrected, "user.risk_positives_1d") == [0.0]
    gone = engine.process(batch_of([Row("a", T0 + 2 * DAY, 5.0)]))
    assert _column(gone, "user.risk_count_1d") == [0.0]


RUN = LabelAggregate(
    name="run",
    ops=("run_count", "run_min", "run_since_first", "run_since_negative"),
    where="amount < 900",
    value="amount",
)


@dataclass(frozen=True)
class Told:
    """A label: of which event, and what it says; a correction says the opposite of the one before."""

    event: int
    y: bool
    correction: bool


def run_oracle(rows: list[Row], told: list[Told], t: float) -> list[float]:
    """Features at ``t`` after labels of events of one entity, from the definition in ``docs/TASKS.md``."""
    negative, run = math.nan, list[Row]()
    for label in told:
        row = rows[label.event]
        if label.y:
            run += [row] if row.amount < 900 and not row.ts <= negative else []
        else:
            negative = row.ts if math.isnan(negative) else max(negative, row.ts)
            run = [] if run and row.ts >= min(r.ts for r in run) else run
    amounts = [r.amount for r in run if not math.isnan(r.amount)]
    first = max(t - min(r.ts for r in run), 0.0) if run else math.nan
    return [float(len(run)), min(amounts, default=math.nan), first, max(t - negative, 0.0)]


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[Row], list[Told]]:
    """Events in any order of time, and labels of them in any other; an event may be told again, the other way round."""
    rows = rows_of(draw(st.lists(st.tuples(st.just("a"), gaps, amounts), min_size=1, max_size=25)))
    events = draw(st.permutations(range(len(rows))))
    said: dict[int, bool] = {}
    told: list[Told] = []
    for event in [*events, *draw(st.lists(st.sampled_from(events), max_size=6))]:
        y = not said[event] if event in said else draw(st.booleans())
        told.append(Told(event, y, event in said))
        said[event] = y
    return rows, told


@settings(max_examples=200, deadline=None)
@given(labelled(), st.lists(st.integers(1, 30), max_size=4), gaps)
def test_label_runs_equal_brute_force_bit_for_bit(
    case: tuple[list[Row], list[Told]], cuts: list[int], ahead: float
) -> None:
    rows, told = case
    engine = engine_of(Entity(name="user", key="user_id", labels=(RUN,)))
    masks = engine.process(batch_of(rows)).label_masks
    edges = sorted({0, len(told), *(c for c in cuts if c < len(told))})
    for a, b in pairwise(edges):
        part = told[a:b]
        y_unit = [[(1.0 if t.y else -1.0) if t.correction else float(t.y), float(not t.correction)] for t in part]
        ids = [f"e{t.event}#{a + k}" for k, t in enumerate(part)]
        known_at = np.full(len(part), T0 + 30 * DAY + b)  # whenever a label comes, ages are those of its event
        values = np.hstack([np.array(y_unit), masks[[t.event for t in part]]])
        engine.apply("user.labels", UpdateBatch(ids, ["a"] * len(part), known_at, values))
        now = rows[-1].ts + ahead
        look = engine.process(batch_of([Row("a", now, 7.0), Row("b", now, 7.0)]))
        for name, want in zip(RUN.ops, run_oracle(rows, told[:b], now), strict=True):
            got = _column(look, f"user.run_{name}")
            assert np.array(got[0]).tobytes() == np.array(want).tobytes() or (math.isnan(got[0]) and math.isnan(want))
            assert got[1] == 0.0 if name == "run_count" else math.isnan(got[1])


def test_a_run_is_of_the_positives_since_the_last_negative() -> None:
    """Labels of payments at hours 0 to 5, in order: negative, positive, one that does not count, positive, positive."""
    rows = [Row("a", T0 + h * HOUR, amount) for h, amount in enumerate([5.0, 20.0, 950.0, 30.0, 10.0])]
    engine = engine_of(Entity(name="user", key="user_id", labels=(RUN,)))
    masks = engine.process(batch_of(rows)).label_masks
    names = [f"user.run_{op}" for op in RUN.ops]

    def tell(event: int, y: float, unit: float = 1.0) -> list[float]:
        values = np.hstack([[[y, unit]], masks[event : event + 1]])
        engine.apply("user.labels", UpdateBatch([f"e{event}#{unit}"], ["a"], np.array([T0 + DAY]), values))
        look = engine.process(batch_of([Row("a", T0 + 2 * DAY, 5.0)]))
        return [_column(look, name)[0] for name in names]

    def nan_to_none(values: list[float]) -> list[float | None]:
        return [None if math.isnan(v) else v for v in values]

    start = 2 * DAY
    assert nan_to_none(tell(0, 0.0)) == [0.0, None, None, start]
    assert tell(1, 1.0) == [1.0, 20.0, start - HOUR, start]
    assert tell(2, 1.0) == [1.0, 20.0, start - HOUR, start]  # does not satisfy `where`
    assert tell(3, 1.0) == [2.0, 20.0, start - HOUR, start]
    assert tell(4, 1.0) == [3.0, 10.0, start - HOUR, start]
    # The positive of hour 3 was wrong: its negative is among the run's events, and ends it.
    assert nan_to_none(tell(3, -1.0, 0.0)) == [0.0, None, None, start - 3 * HOUR]
    assert nan_to_none(tell(1, 1.0)) == [0.0, None, None, start - 3 * HOUR]  # before the last negative


def test_a_timer_row_reads_without_counting() -> None:
    engine = engine_of(
        Entity(name="user", key="user_id", aggregates=(Aggregate(name="plays", ops=("count",), windows=(DAY,)),))
    )
    rows = batch_of([Row("a", T0, 1.0), Row("a", T0 + 60, 1.0), Row("a", T0 + 120, 1.0)])
    got = engine.process(rows, np.array([0, 1, 0], dtype=np.uint8))
    assert _column(got, "user.plays_count_1d") == [1.0, 1.0, 2.0]


KINDS = Aggregate(name="kinds", value="floor(amount)", ops=("distinct",), windows=(DAY,), where="amount < 900")
looks = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab"), gaps), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(streams, looks)
def test_looking_changes_no_bit(
    stream: list[tuple[str | None, float, float]], looks: list[tuple[int, str, float]]
) -> None:
    """Timers at any time between events, before and after them: every event has the features it has without."""
    rows, modes = rows_of(stream), [0] * len(stream)
    entity = Entity(name="user", key="user_id", aggregates=(ALL_OPS, KINDS))
    alone = run(engine_of(entity), rows, [])
    for at, user, ahead in looks:
        place = min(at, len(rows))
        rows.insert(place, Row(user, rows[place - 1].ts + ahead, 7.0))
        modes.insert(place, 1)
    block = engine_of(entity).process(batch_of(rows), np.array(modes, dtype=np.uint8))
    events = np.flatnonzero(np.array(modes) == 0)
    for name, values in alone.items():
        assert np.array(_column(block, name))[events].tobytes() == np.array(values).tobytes()


@settings(max_examples=100, deadline=None)
@given(streams, st.sampled_from("ab"), gaps)
def test_looking_sees_what_an_event_without_a_value_would_see(
    stream: list[tuple[str | None, float, float]], user: str, ahead: float
) -> None:
    """An event moves the windows on before it reads them; a look leaves out the same panes without moving them."""
    rows = rows_of(stream)
    last = batch_of([*rows, Row(user, rows[-1].ts + ahead, math.nan)])
    entity = Entity(name="user", key="user_id", aggregates=(ALL_OPS, KINDS))
    look = np.zeros(len(last), dtype=np.uint8)
    look[-1] = 1
    one, other = engine_of(entity).process(last, look), engine_of(entity).process(last)
    assert one.x[-1].tobytes() == other.x[-1].tobytes()
    assert np.isfinite(one.x[-1][1:3]).all()


def test_a_late_event_reads_labels_as_of_its_own_time() -> None:
    """Whatever other events have read before it, and in whichever call: labels alone move a label window on."""
    risk = LabelAggregate(name="risk", ops=("count",), windows=(HOUR,), panes=6)
    rows = [Row("a", T0 + 5 * HOUR, 1.0), Row("a", T0 + 10, 1.0)]
    for cuts in ([], [1]):
        engine = engine_of(Entity(name="user", key="user_id", labels=(risk,)))
        engine.apply("user.labels", UpdateBatch(["e0#0"], ["a"], np.array([T0]), np.ones((1, 2))))
        assert run(engine, rows, cuts)["user.risk_count_1h"] == [0.0, 1.0]


def test_missing_values_are_flagged_and_zeroed() -> None:
    plan = build_plan((Entity(name="user", key="user_id", aggregates=(ALL_OPS,)),), {})
    engine = FeatureEngine(plan, MemoryFeatureStore(), inputs=("amount", "user.amount_mean_1d"), raw=("amount",))
    x = engine.process(batch_of([Row("a", T0, math.nan), Row("a", T0 + 1, 4.0)])).x
    assert engine.features == ("amount", "user.amount_mean_1d", "amount_missing", "user.amount_1d_missing")
    assert x.tolist() == [[0.0, 0.0, 1.0, 1.0], [4.0, 4.0, 0.0, 0.0]]


def test_row_of_three_windows_fits_a_kilobyte() -> None:
    amount = Aggregate(name="amount", value="amount", ops=("count", "mean", "std"), windows=(DAY, 7 * DAY, 30 * DAY))
    assert build_plan((Entity(name="user", key="user_id", aggregates=(amount,)),), {}).layouts[0].row_bytes <= 1024


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": "amount / user.nothing_mean_1d"}, "no aggregate makes this feature"),
        ({"a": "b + 1", "b": "a + 1"}, "depend on each other"),
        ({"hour": "amount"}, "built-in time column"),
        ({"r": "__import__('os')"}, "unknown function"),
        ({"r": "amount.real.imag"}, "is not allowed"),
        ({"r": "log1p(amount, 2)"}, "takes 1 arguments"),
    ],
)
def test_wrong_declarations_say_what_is_wrong(values: dict[str, str], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        build_plan((Entity(name="user", key="user_id", aggregates=(ALL_OPS,)),), values)


@pytest.mark.parametrize("declared", [{"ops": ["run_min"]}, {"ops": ["run_count"], "value": "amount"}])
def test_a_run_s_smallest_needs_a_value_and_nothing_else_takes_one(declared: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="run_min and value go together"):
        LabelAggregate.model_validate({"name": "bad", **declared})


def test_names_follow_the_pattern() -> None:
    assert [n for n, _, _ in feature_names("user", ALL_OPS)][:3] == [
        "user.amount_count_1h",
        "user.amount_count_1d",
        "user.amount_sum_1h",
    ]
