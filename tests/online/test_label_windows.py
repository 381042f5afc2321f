"""Windows and runs fed by labels: seen once they are known, corrected in place, runs equal to a brute-force oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.feature_rows import DAY, HOUR, T0, Row, amounts, batch_of, column, engine_of, gaps, rows_of, run
from weir.online.batch import UpdateBatch
from weir.online.features.spec import Entity, LabelAggregate


def test_labels_are_seen_only_after_they_became_known() -> None:
    risk = LabelAggregate(
        name="risk", ops=("count", "positives", "share", "since_positive", "last"), windows=(DAY,), where="amount > 1"
    )
    engine = engine_of(Entity(name="user", key="user_id", labels=(risk,)))
    first = engine.process(batch_of([Row("a", T0, 5.0), Row("a", T0 + 1, 5.0), Row("a", T0 + 2, 0.5)]))
    assert column(first, "user.risk_count_1d") == [0.0, 0.0, 0.0]
    assert all(math.isnan(v) for v in column(first, "user.risk_share_1d"))
    y_unit = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    known_at = np.full(3, T0 + HOUR)
    labels = UpdateBatch(["e0#0", "e1#0", "e2#0"], ["a"] * 3, known_at, np.hstack([y_unit, first.label_masks]))
    engine.apply("user.labels", labels)
    after = engine.process(batch_of([Row("a", T0 + 2 * HOUR, 5.0), Row("b", T0 + 2 * HOUR, 5.0)]))
    assert column(after, "user.risk_count_1d") == [2.0, 0.0]  # the third event did not satisfy `where`
    assert column(after, "user.risk_positives_1d") == [1.0, 0.0]
    assert column(after, "user.risk_since_positive")[0] == HOUR
    to_no = np.hstack([[[-1.0, 0.0]], first.label_masks[:1]])
    engine.apply("user.labels", UpdateBatch(["e0#1"], ["a"], known_at[:1], to_no))
    corrected = engine.process(batch_of([Row("a", T0 + 2 * HOUR, 5.0)]))
    assert column(corrected, "user.risk_count_1d") == [2.0]
    assert column(corrected, "user.risk_positives_1d") == [0.0]
    gone = engine.process(batch_of([Row("a", T0 + 2 * DAY, 5.0)]))
    assert column(gone, "user.risk_count_1d") == [0.0]


def test_a_late_event_reads_labels_as_of_its_own_time() -> None:
    """Whatever other events have read before it, and in whichever call: labels alone move a label window on."""
    risk = LabelAggregate(name="risk", ops=("count",), windows=(HOUR,), panes=6)
    rows = [Row("a", T0 + 5 * HOUR, 1.0), Row("a", T0 + 10, 1.0)]
    for cuts in ([], [1]):
        engine = engine_of(Entity(name="user", key="user_id", labels=(risk,)))
        engine.apply("user.labels", UpdateBatch(["e0#0"], ["a"], np.array([T0]), np.ones((1, 2))))
        assert run(engine, rows, cuts)["user.risk_count_1h"] == [0.0, 1.0]


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


@settings(max_examples=80, deadline=None)
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
            got = column(look, f"user.run_{name}")
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
        return [column(look, name)[0] for name in names]

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


@pytest.mark.parametrize("declared", [{"ops": ["run_min"]}, {"ops": ["run_count"], "value": "amount"}])
def test_a_run_s_smallest_needs_a_value_and_nothing_else_takes_one(declared: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="run_min and value go together"):
        LabelAggregate.model_validate({"name": "bad", **declared})
