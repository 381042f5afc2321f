"""Windows from seconds to ever, gaps, rates and quantiles against brute force, under any order, cuts and lateness."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.feature_rows import DAY, HOUR, T0, Row, batch_of, column, engine_of, gaps, rows_of, run, streams
from weir.online.batch import UpdateBatch
from weir.online.durations import EVER
from weir.online.features.levels import feature_names
from weir.online.features.plan import build_plan
from weir.online.features.spec import KEPT, Aggregate, Entity, LabelAggregate
from weir.streams.embedded.memory_store import MemoryFeatureStore

SPANS = {"10s": 10.0, "5m": 300.0, "90d": 90 * DAY, "ever": EVER}
PANES = 6
VALUES = Aggregate.model_validate(
    {
        "name": "amount",
        "value": "amount",
        "ops": ["count", "sum", "mean", "std", "min", "max", "over_mean", "rate", "q50", "q90", "q99"],
        "windows": list(SPANS),
        "panes": PANES,
        "where": "amount < 900",
    }
)
GAPS = Aggregate.model_validate(
    {
        "name": "pace",
        "value": "amount",
        "ops": ["gap_mean", "gap_std", "gap_trend"],
        "windows": ["5m", "1d", "90d"],
        "panes": PANES,
        "where": "amount < 900",
    }
)
LIFE = Aggregate.model_validate({"name": "life", "ops": ["gap_mean", "gap_std"], "windows": ["ever"]})
PACE = Aggregate(name="ew", ops=("gap_mean", "gap_std", "gap_trend"), half_life=HOUR)
USER = Entity(name="user", key="user_id", aggregates=(VALUES, GAPS, LIFE, PACE))
Fed = list[tuple[float, float]]
cuts_of = st.lists(st.integers(1, 60), max_size=4)


def in_window(fed: Fed, newest: float, span: float, panes: int = PANES) -> tuple[float, list[tuple[int, float]]]:
    """The first time that a window took, and ``(how many panes old, value)`` of what it holds of ``(time, value)``."""
    pane, head, first, kept = span / panes, -math.inf, math.inf, list[tuple[int, float]]()
    for ts, x in fed:
        index = math.floor(ts / pane)
        head = max(head, index)
        if index > head - panes and not math.isnan(x):
            kept.append((index, x))
            first = min(first, ts)
    now = math.floor(newest / pane)
    return first, [(now - index, x) for index, x in kept if index > now - panes]


def check(got: dict[str, list[float]], i: int, name: str, want: float) -> None:
    assert got[name][i] == pytest.approx(want, rel=3e-5, abs=3e-4, nan_ok=True), (i, name)


@settings(max_examples=25, deadline=None)
@given(streams, cuts_of)
def test_windows_of_any_length_equal_brute_force(
    stream: list[tuple[str | None, float, float]], cuts: list[int]
) -> None:
    rows = rows_of(stream)
    got = run(engine_of(USER), rows, cuts)
    for i, row in enumerate(rows):
        mine = [r for r in rows[: i + 1] if r.user == row.user]
        fed = [(r.ts, r.amount if r.amount < 900 else math.nan) for r in mine]
        for label, span in SPANS.items():
            if row.user is None:
                assert math.isnan(got[f"user.amount_count_{label}"][i])
                continue
            first, kept = in_window(fed, max(r.ts for r in mine), span)
            held = [x for _, x in kept]
            check(got, i, f"user.amount_count_{label}", len(held))
            check(got, i, f"user.amount_sum_{label}", math.fsum(held))
            check(got, i, f"user.amount_mean_{label}", float(np.mean(held)) if held else math.nan)
            check(got, i, f"user.amount_std_{label}", float(np.std(held)) if held else math.nan)
            check(got, i, f"user.amount_min_{label}", min(held, default=math.nan))
            check(got, i, f"user.amount_max_{label}", max(held, default=math.nan))
            days = min(max(row.ts - first, DAY), span) / DAY if held else 1.0
            check(got, i, f"user.amount_rate_{label}", len(held) / days)
            for q in (50, 90, 99):
                check_quantile(got[f"user.amount_q{q}_{label}"][i], held, q / 100, [x for _, x in fed])


def check_quantile(got: float, held: list[float], q: float, seen: list[float]) -> None:
    """Within one bin of the exact one; a bin is less than a 15th of the range of all that was seen."""
    if not held:
        assert math.isnan(got)
        return
    ys = np.arcsinh([x for x in seen if not math.isnan(x)])
    width = max((ys.max() - ys.min()) / 15.0, 2.0**-19)
    exact = float(np.arcsinh(np.quantile(held, q, method="inverted_cdf")))
    assert abs(math.asinh(got) - exact) <= width


@settings(max_examples=25, deadline=None)
@given(streams, cuts_of)
def test_gaps_equal_brute_force(stream: list[tuple[str | None, float, float]], cuts: list[int]) -> None:
    rows = rows_of(stream)
    got = run(engine_of(USER), rows, cuts)
    for i, row in enumerate(rows):
        mine = [r for r in rows[: i + 1] if r.user == row.user]
        if row.user is None:
            continue
        for name, below, spans in (
            ("pace", 900.0, {"5m": 300.0, "1d": DAY, "90d": 90 * DAY}),
            ("life", math.inf, {"ever": EVER}),
        ):
            fed = gaps_of(mine, below)
            for label, span in spans.items():
                _, held = in_window(fed, max(r.ts for r in mine), span)
                found = [x for _, x in held]
                check(got, i, f"user.{name}_gap_mean_{label}", float(np.mean(found)) if found else math.nan)
                check(got, i, f"user.{name}_gap_std_{label}", float(np.std(found)) if found else math.nan)
                if span != EVER:
                    new, old = ([x for age, x in held if (2 * age < PANES) == half] for half in (True, False))
                    trend = np.mean(new) / np.mean(old) if new and old and sum(old) else math.nan
                    check(got, i, f"user.{name}_gap_trend_{label}", float(trend))
        before = [g for _, g in gaps_of(mine[:-1], math.inf) if not math.isnan(g)]
        for op, want in weighted(before).items():
            # Of gaps of a day, whose weight is nearly none, squares are rounded to about a millionth of a day.
            rounded = 3e-4 + 1e-6 * max(before, default=0.0) * (op == "gap_std")
            assert got[f"user.ew_{op}"][i] == pytest.approx(want, rel=3e-5, abs=rounded, nan_ok=True), (i, op)


def gaps_of(mine: list[Row], below: float) -> Fed:
    """``(time, gap)`` of rows in order of arrival: NaN of a first and a late one, and of one that does not count."""
    newest, fed = math.nan, list[tuple[float, float]]()
    for r in mine:
        counts = below == math.inf or r.amount < below
        fed.append((r.ts, r.ts - newest if counts and r.ts >= newest else math.nan))
        if counts:
            newest = r.ts if math.isnan(newest) else max(newest, r.ts)
    return fed


def weighted(gaps: list[float]) -> dict[str, float]:
    """Mean, deviation and trend of gaps, weighed by the time since each ended."""
    if not gaps:
        return dict.fromkeys(("gap_mean", "gap_std", "gap_trend"), math.nan)
    age = np.array([sum(gaps[k + 1 :]) for k in range(len(gaps))])
    slow, fast = 0.5 ** (age / HOUR), 0.5 ** (4 * age / HOUR)
    mean = np.average(gaps, weights=slow)
    trend = np.average(gaps, weights=fast) / mean if mean > 0 else math.nan
    return {
        "gap_mean": mean,
        "gap_std": math.sqrt(np.average((np.array(gaps) - mean) ** 2, weights=slow)),
        "gap_trend": trend,
    }


@settings(max_examples=30, deadline=None)
@given(streams, cuts_of, st.lists(st.tuples(st.integers(0, 60), gaps), max_size=5))
def test_neither_cuts_nor_looks_change_a_bit(
    stream: list[tuple[str | None, float, float]], cuts: list[int], looks: list[tuple[int, float]]
) -> None:
    rows = rows_of(stream)
    whole, pieces = run(engine_of(USER), rows, []), run(engine_of(USER), rows, cuts)
    assert {k: np.array(v).tobytes() for k, v in whole.items()} == {k: np.array(v).tobytes() for k, v in pieces.items()}
    seen, modes = list(rows), [0] * len(rows)
    for at, ahead in looks:
        place = min(at, len(seen))
        seen.insert(place, Row("a", seen[place - 1].ts + ahead, 7.0))
        modes.insert(place, 1)
    block = engine_of(USER).process(batch_of(seen), np.array(modes, dtype=np.uint8))
    for name, values in whole.items():
        assert np.array(column(block, name))[np.array(modes) == 0].tobytes() == np.array(values).tobytes(), name


def test_quantiles_of_many_values_are_close_and_forget() -> None:
    """A pane of which one bin overflows 16 bits, and hours later a window of other values, many below 0."""
    aggregate = Aggregate.model_validate({"name": "v", "value": "amount", "ops": ["q50", "q99"], "windows": ["1h"]})
    engine, rng = engine_of(Entity(name="user", key="user_id", aggregates=(aggregate,))), np.random.default_rng(7)
    usual = np.where(rng.random(80_000) < 0.9, 100.0, rng.lognormal(5.0, 0.5, 80_000))
    for start, values in ((T0, usual), (T0 + 3 * HOUR, rng.normal(-20.0, 100.0, 1000))):
        block = engine.process(batch_of([Row("a", start + 1e-3 * k, v) for k, v in enumerate(values.tolist())]))
        for q in (50, 99):
            check_quantile(column(block, f"user.v_q{q}_1h")[-1], values.tolist(), q / 100, values.tolist())


def test_a_lifetime_s_deviation_is_exact_far_from_zero() -> None:
    aggregate = Aggregate.model_validate({"name": "v", "value": "amount", "ops": ["mean", "std"], "windows": ["ever"]})
    engine = engine_of(Entity(name="user", key="user_id", aggregates=(aggregate,)))
    values = 1e6 + np.random.default_rng(3).normal(0.0, 1.0, 20_000)
    block = engine.process(batch_of([Row("a", T0 + k, v) for k, v in enumerate(values.tolist())]))
    assert column(block, "user.v_std_ever")[-1] == pytest.approx(np.std(values), rel=1e-9)


RISK = LabelAggregate.model_validate(
    {
        "name": "risk",
        "ops": ["count", "positives", "share"],
        "windows": [*SPANS, "30s"],
        "panes": PANES,
        "prior": 2.0,
        "prior_share": 0.1,
    }
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), gaps, st.booleans()), min_size=1, max_size=30), cuts_of, gaps)
def test_label_windows_equal_brute_force(told: list[tuple[str, float, bool]], cuts: list[int], ahead: float) -> None:
    """Labels become known in any order, are applied in any cuts, and are read at any time."""
    engine, now, fed = (
        engine_of(Entity(name="user", key="user_id", labels=(RISK,))),
        T0,
        list[tuple[str, float, bool]](),
    )
    for user, gap, y in told:
        now += gap
        fed.append((user, now, y))
    edges = sorted({0, len(fed), *(c for c in cuts if c < len(fed))})
    for start, stop in pairwise(edges):
        part = fed[start:stop]
        values = np.array([[float(y), 1.0] for _, _, y in part])
        ids, known = [f"l{start + k}" for k in range(len(part))], np.array([ts for _, ts, _ in part])
        engine.apply("user.labels", UpdateBatch(ids, [user for user, _, _ in part], known, values))
        at = now + ahead
        block = engine.process(batch_of([Row(user, at, 1.0) for user in "ab"]))
        for i, user in enumerate("ab"):
            mine = [(ts, float(y)) for who, ts, y in fed[:stop] if who == user]
            for label, span in (SPANS | {"30s": 30.0}).items():
                held = [y for _, y in in_window(mine, max([at, *(ts for ts, _ in mine)]), span)[1]]
                wants = {"count": len(held), "positives": sum(held), "share": (sum(held) + 0.2) / (len(held) + 2.0)}
                for op, want in wants.items():
                    assert column(block, f"user.risk_{op}_{label}")[i] == pytest.approx(want), (op, label)


def test_labels_are_remembered_for_ever_and_for_seconds() -> None:
    """A category's share of positives: an entity keyed by it, smoothed towards a prior."""
    engine = engine_of(Entity(name="user", key="user_id", labels=(RISK,)))
    y = np.array([1.0, 0.0, 1.0])
    known = T0 + np.array([0.0, 1.0, 400 * DAY])
    engine.apply("user.labels", UpdateBatch(["a", "b", "c"], ["a"] * 3, known, np.column_stack([y, np.ones(3)])))
    block = engine.process(batch_of([Row("a", T0 + 400 * DAY + 1, 1.0), Row("b", T0 + 400 * DAY, 1.0)]))
    assert column(block, "user.risk_count_ever") == [3.0, 0.0]
    assert column(block, "user.risk_count_30s") == [1.0, 0.0]
    assert column(block, "user.risk_share_ever") == pytest.approx([2.2 / 5, 0.1])
    assert column(block, "user.risk_share_30s") == pytest.approx([1.2 / 3, 0.1])


def test_rows_live_as_long_as_their_windows() -> None:
    def kept(**more: object) -> float:
        aggregate = {"name": "n", "ops": ["count"], "windows": ["10s", "90d"]}
        return Entity.model_validate({"name": "u", "key": "user_id", "aggregates": [aggregate], **more}).kept_s

    assert (kept(), kept(ttl="7d")) == (KEPT * 90 * DAY, KEPT * 7 * DAY)
    store = MemoryFeatureStore()
    plan = build_plan((USER,), {})
    store.create("user", plan.layouts[0].row_bytes, plan.layouts[0].schema, plan.layouts[0].kept_s)
    assert plan.layouts[0].kept_s == KEPT * 730 * DAY


def test_names_tell_seconds_from_ever() -> None:
    names = [name for name, op, _ in feature_names("user", VALUES) if op == "q50"]
    assert names == ["user.amount_q50_10s", "user.amount_q50_5m", "user.amount_q50_90d", "user.amount_q50_ever"]
    assert feature_names("user", PACE)[0] == ("user.ew_gap_mean", "gap_mean", None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"windows": [0.5]}, "window 0.5s is not whole seconds from 1s to 3653d"),
        ({"windows": ["1.5s"]}, "whole seconds"),
        ({"windows": ["4000d"]}, "window 4000d is not whole seconds from 1s to 3653d"),
        ({"windows": ["ever", "ever"]}, "named twice"),
        ({"windows": ["never"]}, "is not a duration"),
        ({"windows": ["ever"], "ops": ["gap_trend"]}, "'ever' has none"),
        ({"windows": ["1d"], "ops": ["q50"]}, "q50 needs value"),
        ({"ops": ["rate"]}, "rate needs windows"),
    ],
)
def test_wrong_windows_are_told(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Aggregate.model_validate({"name": "n", "ops": ["count"], **wrong})
