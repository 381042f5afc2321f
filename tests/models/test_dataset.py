"""A training sees nothing that was not known at its cut-off, and its validation nothing that training learned from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.models.dataset.cut import cut, training_set
from weir.models.dataset.sequences import next_events
from weir.models.dataset.split import Rows, columns_of, train_rows, validation_rows
from weir.models.errors import ModelError
from weir.models.training.chunks import Timeline
from weir.models.types import History, Labels, TrainingSet

TIMES = st.integers(0, 12).map(float)


def history(events: list[tuple[int, float]], types: int = 2) -> History:
    """Events as (entity, ts); every other value tells the row."""
    n = len(events)
    row = np.arange(n)
    return History(
        inputs=("row", "ts"),
        event_id=[f"e{i}" for i in range(n)],
        entity=np.array([e for e, _ in events], np.int64),
        ts=np.array([t for _, t in events], np.float64),
        x=np.column_stack([row, [t for _, t in events]]).astype(np.float32).reshape(n, 2),
        score=row / 1000.0,
        type=row % types,
        types=tuple(f"t{k}" for k in range(types)),
        amount=np.where(row % 3 == 2, np.nan, row * 10.0),
        item=row % 5 - 1,
    )


def labels(told: list[tuple[int, bool, float]]) -> Labels:
    return Labels(
        np.array([r for r, _, _ in told], np.int64),
        np.array([y for _, y, _ in told], np.bool_),
        np.ones(len(told)) + np.arange(len(told)),
        np.array([k for _, _, k in told], np.float64),
    )


@st.composite
def logged(draw: Any) -> tuple[History, Labels]:
    """Events mostly in order, some of them late; labels in any order: early, late, repeated, corrected, tied.

    Times follow a stream on purpose: of events at any times, hardly any lies before both a cut-off and its validation.
    """
    steps = draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 1, 1, 2, -3])), min_size=1, max_size=18))
    ts = np.maximum(np.cumsum([step for _, step in steps]), 0).tolist()
    events = [(entity, float(t)) for (entity, _), t in zip(steps, ts, strict=True)]
    one = st.tuples(st.integers(0, len(events) - 1), st.booleans(), st.integers(-1, 4))
    told = [(row, y, max(events[row][1] + delay, 0.0)) for row, y, delay in draw(st.lists(one, max_size=24))]
    return history(events), labels(told)


def known_before(h: History, told: Labels, row: int, time: float, *, at_most: bool) -> list[int]:
    """Labels of a row known by a time, the oldest first: the definition, one by one."""
    when = [max(float(k), float(h.ts[r])) for r, k in zip(told.row, told.known_at, strict=True)]
    mine = [i for i in range(len(when)) if told.row[i] == row and (when[i] < time or (at_most and when[i] == time))]
    return sorted(mine, key=lambda i: (when[i], told.known_at[i]))


@given(logged(), TIMES, st.integers(0, 6), st.integers(0, 4), st.integers(1, 12))
def test_nothing_from_after_the_cutoff_reaches_a_training(
    data: tuple[History, Labels], cutoff: float, validation: int, delay: int, window: int
) -> None:
    h, told = data
    made = cut(h, told, cutoff, validation, delay, window)
    rows = made.history.x[:, 0].astype(int).tolist()
    newest = np.maximum.accumulate(h.ts)
    assert rows == [i for i in range(len(h)) if newest[i] <= cutoff and h.ts[i] >= cutoff - window]
    assert made.history.event_id == [h.event_id[i] for i in rows]
    seen = {}
    for k, at in enumerate(made.labels.row.tolist()):
        row = rows[at]
        newest_told = known_before(h, told, row, cutoff, at_most=True)[-1]
        assert row not in seen
        seen[row] = newest_told
        assert (made.labels.y[k], made.labels.weight[k]) == (told.y[newest_told], told.weight[newest_told])
    assert set(seen) == {r for r in rows if known_before(h, told, r, cutoff, at_most=True)}
    assert (np.diff(made.labels.known_at) >= 0).all()
    assert (made.labels.known_at >= made.history.ts[made.labels.row]).all(), "nor before its own event"
    check_split(made)


def check_split(made: TrainingSet) -> None:
    learned, checked = train_rows(made), validation_rows(made)
    when = {int(r): float(k) for r, k in zip(made.labels.row, made.labels.known_at, strict=True)}
    ts = made.history.ts
    assert all(ts[r] < made.valid_from and when[r] < made.valid_from for r in learned.row.tolist())
    assert all(ts[r] >= made.valid_from and when[r] <= made.cutoff for r in checked.row.tolist())
    left = set(made.labels.row.tolist()) - set(learned.row.tolist()) - set(checked.row.tolist())
    assert all(ts[r] < made.valid_from <= when[r] for r in left), "only the gap is left out"


@given(logged(), TIMES, st.randoms(use_true_random=False))
def test_what_is_not_known_yet_changes_nothing(data: tuple[History, Labels], cutoff: float, random: Any) -> None:
    """With another future, and with labels kept in another order, the batches of a training are the same."""
    h, told = data
    late = np.maximum(told.known_at, h.ts[told.row]) > cutoff
    future = np.maximum.accumulate(h.ts) > cutoff
    changed = History(
        h.inputs, h.event_id, np.where(future, 0, h.entity), h.ts, np.where(future[:, None], -1, h.x), h.score,
        np.where(future, 0, h.type), h.types, np.where(future, 5.0, h.amount), np.where(future, 0, h.item),
    )  # fmt: skip
    order = list(range(len(told.row)))
    random.shuffle(order)
    place = {time: iter([i for i in range(len(order)) if told.known_at[i] == time]) for time in told.known_at.tolist()}
    order = [next(place[float(told.known_at[i])]) for i in order]  # of those told together the last one counts
    other = Labels(
        told.row[order], (told.y ^ late)[order], np.where(late, 99.0, told.weight)[order], told.known_at[order]
    )
    assert seen_by_training(cut(changed, other, cutoff, 3.0, 2.0)) == seen_by_training(cut(h, told, cutoff, 3.0, 2.0))


def seen_by_training(data: TrainingSet) -> list[Any]:
    """Everything a trainer gathers for its batches."""
    h, learned, checked, then = data.history, train_rows(data), validation_rows(data), next_events(data.history)
    seen: list[Any] = [[*rows.row.tolist(), *rows.y.tolist(), *rows.weight.tolist()] for rows in (learned, checked)]
    columns = (Timeline.of(h).order, h.x, h.amount, h.type, h.item, h.entity, then.type, then.item, then.log_gap,
               then.log_amount)  # fmt: skip
    return [*seen, repr([c.tolist() for c in columns])]


@given(logged())
def test_every_entitys_events_are_in_the_order_of_scoring_and_know_the_next(data: tuple[History, Labels]) -> None:
    h, _ = data
    timeline, then = Timeline.of(h), next_events(h)
    groups = [g.tolist() for g in np.split(timeline.order, timeline.starts[1:-1])]
    assert groups == [[i for i in range(len(h)) if h.entity[i] == e] for e in sorted(set(h.entity.tolist()))]
    for group in groups:
        for r, after in zip(group, [*group[1:], None], strict=True):
            assert then.type[r] == (-1 if after is None else h.type[after])
            assert then.item[r] == (-1 if after is None else h.item[after])
            gap = np.nan if after is None else np.log1p(max(h.ts[after] - h.ts[r], 0.0))
            amount = np.nan if after is None else np.log1p(h.amount[after])
            np.testing.assert_equal(then.log_gap[r], np.float32(gap))
            np.testing.assert_equal(then.log_amount[r], np.float32(amount))


def test_the_generated_cases_reach_what_they_test() -> None:
    """Else the properties above would hold of nothing: each kind of case has to be common."""
    found: Counter[str] = Counter()

    @settings(max_examples=150, database=None, derandomize=True)
    @given(logged(), TIMES)
    def count(data: tuple[History, Labels], cutoff: float) -> None:
        h, told = data
        made = cut(h, told, cutoff, 3.0, 2.0)
        known_at = np.maximum(told.known_at, h.ts[told.row])
        kept = np.maximum.accumulate(h.ts)[told.row] <= cutoff
        found["cases"] += 1
        found["rows to learn from"] += len(train_rows(made)) > 0
        found["rows of validation"] += len(validation_rows(made)) > 0
        found["a label of a kept row known later"] += bool((kept & (known_at > cutoff)).any())
        found["a label known at the cut-off"] += bool((kept & (known_at == cutoff)).any())

    count()
    assert min(found.values()) > 0.15 * found["cases"], found


def test_the_cutoff_is_exact() -> None:
    """Known at the cut-off is known, known a moment later is not; the same for the begin of validation."""
    h = history([(0, float(t)) for t in range(11)])
    moment = np.nextafter
    told = labels([(1, True, 10.0), (2, True, moment(10.0, 11.0)), (3, True, 4.0), (3, False, moment(10.0, 11.0)),
                   (4, True, moment(6.0, 5.0)), (5, True, 6.0), (0, True, -5.0), (6, True, 6.0)])  # fmt: skip
    made = cut(h, told, 10.0, 3.0, 1.0)
    assert made.valid_from == 6.0
    assert dict(zip(made.labels.row.tolist(), made.labels.y.tolist(), strict=True)) == dict.fromkeys(
        (0, 1, 3, 4, 5, 6), True
    )
    assert train_rows(made).row.tolist() == [0, 3, 4]
    assert validation_rows(made).row.tolist() == [6]
    assert made.labels.known_at[made.labels.row.tolist().index(0)] == 0.0, "not before its own event"
    assert len(cut(h, told, moment(10.0, 9.0), 3.0, 1.0).history) == 10


def test_corrected_rows_are_not_learned_before_the_correction() -> None:
    """The old value is known to be wrong, the new one was not known yet."""
    events = [(0, float(t)) for t in range(20)]
    told = [(r, r % 2 == 0, r + 1.0) for r in range(20)] + [(3, True, 15.0)]
    made = training_set(history(events), labels(told), 20.0, 8.0, 1.0, min_labels=10, min_positives=2)
    assert made.valid_from == 11.0
    assert train_rows(made).row.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert validation_rows(made).row.tolist() == list(range(11, 20))
    after = training_set(history(events), labels(told), 20.0, 3.0, 1.0, min_labels=10, min_positives=2)
    rows = train_rows(after)
    assert dict(zip(rows.row.tolist(), rows.y.tolist(), strict=True))[3] is True


def test_the_delay_is_found_where_none_is_given() -> None:
    told = [(r, r % 2 == 0, r + 5.0) for r in range(80)]
    made = training_set(
        history([(0, float(t)) for t in range(100)]), labels(told), 90.0, 10.0, None, min_labels=1, min_positives=1
    )
    assert made.valid_from == 90.0 - 5.0 - 10.0


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([(0, True, 1.0)], "1 labels known at 1970-01-01T00:00:20Z, 1 of them positive; a training needs 5 and 2"),
        ([(r, r == 4, r + 1.0) for r in range(20)], "20 labels known at 1970-01-01T00:00:20Z, 1 of them positive"),
        (
            [(r, r < 9, r + 1.0) for r in range(20)],
            r"9 labelled events of validation, 0 of them positive; .* those from 1970-01-01T00:00:11Z on validate",
        ),
        ([(r, r > 11, r + 1.0) for r in range(20)], r"to learn from, 0 of them positive"),
    ],
)
def test_too_little_is_refused(told: list[tuple[int, bool, float]], message: str) -> None:
    events = history([(0, float(t)) for t in range(20)])
    with pytest.raises(ModelError, match=message):
        training_set(events, labels(told), 20.0, 8.0, 1.0, min_labels=5, min_positives=2)


def test_every_row_has_its_own_target_and_weight_and_the_others_weigh_nothing() -> None:
    rng = np.random.default_rng(3)
    chosen = np.flatnonzero(rng.random(20_000) < 0.2)
    rows = Rows(chosen, rng.random(len(chosen)) < 0.02, rng.random(len(chosen)) + 0.5)
    y, weight = columns_of(rows, 20_000)
    assert weight[rows.row].tolist() == rows.weight.astype(np.float32).tolist()
    assert np.count_nonzero(weight) == len(rows)
    assert y[rows.row].astype(bool).tolist() == rows.y.tolist()


def test_a_history_in_one_stretch_is_not_copied() -> None:
    h = history([(0, float(t)) for t in range(20)])
    told = labels([(r, r % 2 == 0, r + 1.0) for r in range(20)])
    made = training_set(h, told, 18.0, 5.0, 1.0, window_s=15.0, min_labels=1, min_positives=1)
    assert np.shares_memory(made.history.x, h.x)
    assert len(made.history) == 16
