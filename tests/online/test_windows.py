"""The window kernel against a brute-force oracle, under any order, cuts and lateness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.feature_rows import DAY, HOUR, T0, Row, batch_of, column, engine_of, gaps, rows_of, run, streams
from weir.online.batch import missing_of
from weir.online.durations import EVER
from weir.online.errors import TaskError
from weir.online.features import descriptors
from weir.online.features.engine import FeatureEngine
from weir.online.features.expression import Expression
from weir.online.features.levels import feature_names
from weir.online.features.plan import WindowPass, build_plan
from weir.online.features.spec import Aggregate, Anomaly, Entity, WindowOp
from weir.online.features.touched_rows import Grouping, group
from weir.streams.embedded.memory_store import MemoryFeatureStore

ALL_OPS = Aggregate(
    name="amount",
    value="amount",
    ops=("count", "sum", "mean", "std", "min", "max", "last", "since_last", "since_first", "over_mean"),
    windows=(HOUR, DAY),
    panes=6,
    where="amount < 900",
)


def oracle(rows: list[Row], i: int, window: float, panes: int) -> dict[str, float]:
    """Windowed values of row i, from the definition in ``weir.online.features.kernel``."""
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


@settings(max_examples=80, deadline=None)
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


@pytest.mark.parametrize("values", [[-1.0, -2.0] * 200, [0.0] * 20 + [5.0] * 380])
def test_a_robust_mean_of_what_is_not_above_0_stays_among_its_values(values: list[float]) -> None:
    """A multiple of a mean below 0 is lower still, and ran away; of 0 it is 0, and stayed so for ever."""
    entity = Entity(
        name="user",
        key="user_id",
        aggregates=(Aggregate(name="typical", value="amount", ops=("ewmean",), clip=3.0, half_life=DAY),),
    )
    rows = [Row("a", T0 + i * HOUR, value) for i, value in enumerate(values)]
    got = run(engine_of(entity), rows, [])["user.typical_ewmean"]
    assert got[-1] == pytest.approx(np.mean(values[-20:]), abs=0.1)


def test_distinct_is_close_to_the_truth() -> None:
    entity = Entity(
        name="user",
        key="user_id",
        aggregates=(Aggregate(name="shops", value="amount", ops=("distinct",), windows=(DAY,), bits=256),),
    )
    rows = [Row("a", T0 + i, float(i % 60)) for i in range(600)]
    got = run(engine_of(entity), rows, [])["user.shops_distinct_1d"]
    assert got[-1] == pytest.approx(60, rel=0.15)


def test_a_timer_row_reads_without_counting() -> None:
    engine = engine_of(
        Entity(name="user", key="user_id", aggregates=(Aggregate(name="plays", ops=("count",), windows=(DAY,)),))
    )
    rows = batch_of([Row("a", T0, 1.0), Row("a", T0 + 60, 1.0), Row("a", T0 + 120, 1.0)])
    got = engine.process(rows, np.array([0, 1, 0], dtype=np.uint8))
    assert column(got, "user.plays_count_1d") == [1.0, 1.0, 2.0]


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
        assert np.array(column(block, name))[events].tobytes() == np.array(values).tobytes()


@settings(max_examples=60, deadline=None)
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


def test_missing_values_are_flagged_and_zeroed() -> None:
    plan = build_plan((Entity(name="user", key="user_id", aggregates=(ALL_OPS,)),), {})
    engine = FeatureEngine(plan, MemoryFeatureStore(), inputs=("amount", "user.amount_mean_1d"), raw=("amount",))
    x = engine.process(batch_of([Row("a", T0, math.nan), Row("a", T0 + 1, 4.0)])).x
    assert engine.features == ("amount", "user.amount_mean_1d", "amount_missing", "user.amount_1d_missing")
    assert x.tolist() == [[0.0, 0.0, 1.0, 1.0], [4.0, 4.0, 0.0, 0.0]]


@pytest.mark.parametrize("indicators", [False, True])
def test_a_missing_value_is_told_from_a_nought(indicators: bool) -> None:
    """Whoever reads a row as numbers sees 0; -0.0 that came, or was computed, is a number."""
    entity = Entity(name="user", key="user_id", aggregates=(ALL_OPS,), anomalies=(Anomaly(name="odd", value="amount"),))
    values = {"minus": "amount * -1", "ratio": "amount / user.amount_mean_1d"}
    plan, names = build_plan((entity,), values), ("amount", "minus", "ratio", "user.amount_last", "user.odd")
    engine = FeatureEngine(plan, MemoryFeatureStore(), inputs=names, raw=("amount",), indicators=indicators)
    rows = [Row("a", T0, math.nan), Row("a", T0 + 1, -0.0), Row("a", T0 + 2, 0.0), Row("a", T0 + 3, 5.0)]
    x = engine.process(batch_of(rows)).x[:, :5]
    assert missing_of(x).tolist() == [[True] * 5, [False, False, True, True, False], [False, False, True, False, False],
                                      [False] * 5]  # fmt: skip
    assert (x[:3] == 0.0).all()


@pytest.mark.parametrize(
    ("ops", "windows", "panes", "row_bytes"),
    [
        (("count", "mean", "std"), (DAY, 7 * DAY, 30 * DAY), 24, 1176),
        (("count", "mean", "std"), (DAY, 7 * DAY, 30 * DAY), 12, 600),
        (("count", "mean", "std", "rate"), (HOUR, 90 * DAY, EVER), 16, 584),
        (("count", "sum", "mean", "std", "min", "max", "rate"), (EVER,), 24, 56),
    ],
)
def test_a_row_is_as_long_as_docs_tasks_says(
    ops: tuple[WindowOp, ...], windows: tuple[float, ...], panes: int, row_bytes: int
) -> None:
    amount = Aggregate(name="amount", value="amount", ops=ops, windows=windows, panes=panes)
    assert build_plan((Entity(name="user", key="user_id", aggregates=(amount,)),), {}).layouts[0].row_bytes == row_bytes


@pytest.mark.parametrize("start", [0.0, 733.0, 254_321.7, 48_211_733.0, 1.7e9, -(2.0**40), 9e14])
def test_windows_keep_the_differences_of_a_large_counter(start: float) -> None:
    ops: tuple[WindowOp, ...] = ("min", "max", "sum", "mean", "std")
    aggregate = Aggregate(name="kwh", value="amount", ops=ops, windows=(HOUR,), panes=12)
    plan = build_plan((Entity(name="user", key="user_id", aggregates=(aggregate,)),), {})
    engine = FeatureEngine(plan, MemoryFeatureStore(), inputs=("user.*",), raw=("amount",), indicators=False)
    readings = start + 1.5 * np.arange(240)  # one a minute
    x = engine.process(batch_of([Row("a", T0 + 60.0 * i, v) for i, v in enumerate(readings.tolist())])).x
    low, high, total, mean, std = (x[:, engine.features.index(f"user.kwh_{op}_1h")] for op in aggregate.ops)
    assert set(low.tolist()) | set(high.tolist()) <= set(readings.tolist())
    assert (high - low)[60:].min() >= 1.5 * 54
    step, exact = np.spacing(abs(start)), [readings[int((v - start) / 1.5) : i + 1] for i, v in enumerate(low)]
    assert np.allclose(mean, [np.mean(part - start) + start for part in exact], rtol=1e-15, atol=step)
    assert np.allclose(std, [np.std(part - start) for part in exact], rtol=1e-6, atol=step)
    assert np.allclose(total, [np.sum(part) for part in exact], rtol=1e-12, atol=1e-9)


def test_a_pane_counts_beyond_what_float32_holds() -> None:
    plan = build_plan((Entity(name="user", key="user_id", aggregates=(ALL_OPS,)),), {})
    p = plan.passes[0]
    assert isinstance(p, WindowPass)
    store, row, ring = MemoryFeatureStore(), np.zeros((1, plan.layouts[0].row_bytes), dtype=np.uint8), p.rings[0]
    engine = FeatureEngine(plan, store, inputs=("user.*",), indicators=False)
    row.view(np.float64)[0, ring[descriptors.R_HEAD]] = T0 // p.widths[0]
    row.view(np.uint32)[0, ring[descriptors.R_COUNT] : ring[descriptors.R_COUNT] + ring[descriptors.R_PANES]] = 2**24
    store.save("user", ["a"], row, T0)
    x = engine.process(batch_of([Row("a", T0, 1.0)])).x
    assert x[0, engine.features.index("user.amount_count_1h")] == 2**24 * ring[descriptors.R_PANES] + 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": "amount / user.nothing_mean_1d"}, "no aggregate makes this feature"),
        ({"a": "b + 1", "b": "a + 1"}, "depend on each other"),
        ({"hour": "amount"}, "built-in time column"),
        ({"r": "__import__('os')"}, "unknown function"),
        ({"r": "amount.real.imag"}, "is not allowed"),
        ({"r": "max(amount)"}, "max takes two or more arguments, got 1"),
        ({"r": "log1p(amount, 2)"}, "takes 1 argument, got 2"),
        ({"r": "+".join(["amount"] * 2_000)}, "too many parts inside each other"),
        ({"r": "-" * 5_000 + "amount"}, "too many parts inside each other"),
    ],
)
def test_wrong_declarations_say_what_is_wrong(values: dict[str, str], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        build_plan((Entity(name="user", key="user_id", aggregates=(ALL_OPS,)),), values)


def test_expressions_read_as_python_does() -> None:
    columns = {"a": np.array([1.0, -2.6, np.nan]), "b": np.array([2.0, 2.0, 2.0]), "c": np.array([0.0, 5.0, np.nan])}
    for source, expected in {
        "max(a, b, c, 3)": [3, 5, 3],
        "min(a, b, c)": [0, -2.6, 2],
        "max(a, b)": [2, 2, 2],
        "0 < a < b": [1, 0, 0],
        "a if b > c else -1": [1, -1, -1],
        "round(a) + ceil(a) + sign(a)": [3, -3 - 2 - 1, np.nan],
    }.items():
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(Expression.parse(source).evaluate(columns), expected, source)


def test_names_follow_the_pattern() -> None:
    assert [n for n, _, _ in feature_names("user", ALL_OPS)][:3] == [
        "user.amount_count_1h",
        "user.amount_count_1d",
        "user.amount_sum_1h",
    ]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", None])), min_size=1, max_size=4))
def test_groupings_of_parts_make_that_of_all(parts: list[list[str | None]]) -> None:
    made, whole = Grouping.concat([group(part) for part in parts]), group([name for part in parts for name in part])
    assert (made.keys, made.slots.tolist()) == (whole.keys, whole.slots.tolist())
