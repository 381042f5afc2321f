"""The label join under any arrival order, against a brute-force join."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import LabelBatch, PredictionBatch
from weir.online.errors import StateError
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy, JoinResult

Prediction = tuple[str, str, float]
"""Event id, entity id, time."""
Label = tuple[str, str, str | None, float, bool]
"""Label id, entity id, event id, time, value."""
Row = tuple[Any, ...]


def predictions(rows: list[Prediction]) -> PredictionBatch:
    ts = np.array([row[2] for row in rows], dtype=np.float64)
    return PredictionBatch(
        event_id=[row[0] for row in rows],
        entity_id=[row[1] for row in rows],
        ts=ts,
        score=ts / 1000.0,
        model_version=np.zeros(len(rows), dtype=np.int64),
        features=np.column_stack([ts * 2.0, ts * 3.0]),
    )


def labels(rows: list[Label]) -> LabelBatch:
    return LabelBatch(
        label_id=[row[0] for row in rows],
        entity_id=[row[1] for row in rows],
        event_id=[row[2] for row in rows],
        ts=np.array([row[3] for row in rows], dtype=np.float64),
        value=np.array([row[4] for row in rows], dtype=np.bool_),
        weight=np.ones(len(rows)),
    )


def joiner(**policy: Any) -> LabelJoiner:
    return LabelJoiner(JoinPolicy(**policy), n_features=2, n_extra=1, entities=("merchant_id",))


def log(to: LabelJoiner, rows: list[Prediction]) -> JoinResult:
    batch = predictions(rows)
    return to.log(batch, batch.ts[:, None] * 5.0, {"merchant_id": [f"m{row[0]}" for row in rows]})


def rows_of(joined: JoinResult) -> list[Row]:
    e = joined.examples
    return [
        (
            e.event_id[i],
            joined.entity_id[i],
            joined.entities["merchant_id"][i],
            *e.x[i].tolist(),
            *joined.extra[i].tolist(),
            float(e.ts[i]),
            float(e.score[i]),
            bool(e.y[i]),
            bool(e.correction[i]),
        )
        for i in range(len(joined))
    ]


def expected(predictions: list[Prediction], labels: list[Label], range_s: float | None) -> Counter[Row]:
    """Every label in arrival order against every prediction, with nothing bounded."""
    value: dict[tuple[str, str], bool] = {}
    out: Counter[Row] = Counter()
    for _, entity_id, event_id, label_ts, y in labels:
        for event, entity, ts in predictions:
            in_range = range_s is not None and label_ts - range_s <= ts <= label_ts
            spoken_of = entity == entity_id and (event == event_id if event_id is not None else in_range)
            if not spoken_of or value.get((entity, event)) == y:
                continue
            row = (event, entity, f"m{event}", ts * 2, ts * 3, ts * 5, ts, ts / 1000, y, (entity, event) in value)
            out[row] += 1
            value[entity, event] = y
    return out


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Prediction], list[Label]]:
    """Predictions and labels; entities choose their own event ids, so two of them may use the same."""
    times = draw(st.lists(st.integers(0, 50), max_size=12))
    made = [(f"e{i // 2}", "ab"[i % 2], float(ts)) for i, ts in enumerate(times)]
    events = st.one_of(st.none(), st.sampled_from([f"e{i}" for i in range(len(times) + 1)]))
    count = draw(st.integers(0, 12))
    given_labels = [
        (f"l{i}", draw(st.sampled_from("ab")), draw(events), float(draw(st.integers(0, 60))), draw(st.booleans()))
        for i in range(count)
    ]
    return made, given_labels


def shuffled(draw: st.DataObject, made: list[Prediction], known: list[Label]) -> list[tuple[str, Any]]:
    """Any order of predictions, interleaved in any way with the labels in their own order."""
    order = draw.draw(st.permutations(made))
    turns = draw.draw(st.permutations(["p"] * len(made) + ["l"] * len(known)))
    queues = {"p": iter(order), "l": iter(known)}
    return [(turn, next(queues[turn])) for turn in turns]


def run(to: LabelJoiner, steps: list[tuple[str, Any]], cuts: set[int], snapshots: bool = False) -> list[Row]:
    """Feed steps in order; equal neighbours share a call unless a cut is between them."""
    out: list[Row] = []
    start = 0
    for end in range(1, len(steps) + 1):
        if end < len(steps) and steps[end][0] == steps[start][0] and end not in cuts:
            continue
        rows = [row for _, row in steps[start:end]]
        out += rows_of(log(to, rows) if steps[start][0] == "p" else to.label(labels(rows)))
        if snapshots:
            state, to = to.snapshot(), LabelJoiner(to.policy, to.n_features, to.n_extra, to.entities)
            to.restore(state)
        start = end
    return out


CUTS = st.sets(st.integers(0, 30))


@settings(max_examples=50, deadline=None)
@given(streams(), CUTS, st.sampled_from(["event", "entity_range"]), st.data())
def test_any_arrival_order_gives_the_brute_force_examples(
    stream: tuple[list[Prediction], list[Label]], cuts: set[int], match: str, data: st.DataObject
) -> None:
    made, known = stream
    to = joiner(match=match, range_s=20.0, keep_s=1000.0, wait_s=1000.0, chunk_rows=3)
    out = run(to, shuffled(data, made, known), cuts)
    assert Counter(out) == expected(made, known, 20.0 if match == "entity_range" else None)


@settings(max_examples=50, deadline=None)
@given(streams(), CUTS, CUTS, st.data())
def test_tight_bounds_do_not_depend_on_cuts_or_snapshots(
    stream: tuple[list[Prediction], list[Label]], cuts: set[int], other: set[int], data: st.DataObject
) -> None:
    made, known = stream
    if made:
        made = [*made, *data.draw(st.lists(st.sampled_from(made), max_size=4))]
    steps = shuffled(data, made, known)
    policy = {"match": "entity_range", "range_s": 9.0, "keep_s": 15.0, "wait_s": 7.0, "chunk_rows": 2}
    limits = {"max_rows": 5, "max_waiting": 3, "negative_after_s": data.draw(st.sampled_from([None, 4.0, 15.0]))}
    one, two, three = (joiner(**policy, **limits) for _ in range(3))
    out = run(one, steps, cuts)
    assert run(two, steps, other) == out
    assert run(three, steps, other, snapshots=True) == out
    assert one.stats == two.stats


@settings(max_examples=40, deadline=None)
@given(streams(), CUTS, st.data())
def test_every_event_becomes_one_plain_example_when_silence_is_negative(
    stream: tuple[list[Prediction], list[Label]], cuts: set[int], data: st.DataObject
) -> None:
    made, known = stream
    to = joiner(keep_s=1e6, wait_s=1e6, negative_after_s=30.0, chunk_rows=3)
    steps = shuffled(data, made, [label for label in known if label[2] is not None])
    out = run(to, steps, cuts) + rows_of(log(to, [("last", "z", 1e5)]))
    plain = Counter(row[0] for row in out if not row[-1])
    assert plain == Counter(event for event, _, _ in made)
    final = {row[:2]: row[-2] for row in out if row[1] != "z"}
    truth = {(event, entity): y for _, entity, event, _, y in known if event is not None}
    assert final == {(event, entity): truth.get((event, entity), False) for event, entity, _ in made}


def test_an_id_that_two_entities_use_is_two_events() -> None:
    """The second's prediction counted as a repeat, and its label gave the first one's features a wrong value."""
    to = joiner()
    log(to, [("1", "a", 1.0), ("1", "b", 2.0)])
    out = to.label(labels([("l", "b", "1", 9.0, True), ("m", "a", "1", 9.0, False), ("n", "c", "1", 9.0, True)]))
    assert list(zip(out.entity_id, out.examples.ts.tolist(), out.examples.y.tolist(), strict=True)) == [
        ("b", 2.0, True), ("a", 1.0, False),
    ]  # fmt: skip
    assert (to.stats.repeated_predictions, to.waiting) == (0, 1)


def test_the_first_prediction_of_an_event_counts() -> None:
    to = joiner()
    log(to, [("e", "a", 1.0), ("e", "a", 2.0)])
    log(to, [("e", "a", 3.0), ("f", "a", 4.0)])
    out = to.label(labels([("l", "a", "e", 9.0, True)]))
    assert out.examples.ts.tolist() == [1.0]
    assert to.stats.repeated_predictions == 2
    assert to.stats.logged == 2


def test_labels_are_deduplicated_by_id_and_by_value() -> None:
    to = joiner()
    log(to, [("e", "a", 1.0)])
    rows: list[Label] = [("l1", "a", "e", 1.0, False), ("l2", "a", "e", 1.0, True), ("l1", "a", "e", 1.0, False)]
    out = to.label(labels([*rows, ("l3", "a", "e", 1.0, True)]))
    assert out.examples.y.tolist() == [False, True]
    assert out.examples.correction.tolist() == [False, True]
    assert (to.stats.repeated_labels, to.stats.repeated_values, to.stats.corrections) == (1, 1, 1)


def test_memory_is_bounded_and_losses_are_counted() -> None:
    to = joiner(keep_s=100.0, wait_s=50.0, max_waiting=10, chunk_rows=8)
    for start in range(0, 2000, 20):
        log(to, [(f"e{i}", "a", float(i)) for i in range(start, start + 20)])
        to.label(labels([(f"l{i}", "a", f"x{i}", float(i), True) for i in range(start, start + 20)]))
    assert len(to) <= 100 + 20 + 8
    assert to.stats.unmatched == 2000 - 10
    assert to.stats.expired_unlabelled == 2000 - len(to)
    assert len(to.label(labels([("old", "a", "e1", 1.0, True)]))) == 0


def test_silence_becomes_a_negative_when_its_time_is_up_and_not_before() -> None:
    to = joiner(negative_after_s=10.0)
    assert len(log(to, [("e", "a", 100.0), ("f", "a", 105.0), ("g", "a", 109.9)])) == 0
    joined = log(to, [("h", "a", 110.0)])
    assert (joined.examples.event_id, joined.label_ts_known.tolist()) == (["e"], [110.0])
    late = to.label(labels([("l", "a", "e", 100.0, True)]))
    assert (late.examples.y.tolist(), late.examples.correction.tolist()) == ([True], [True])
    assert to.stats.assumed_negatives == 1


def test_only_the_last_rows_and_label_ids_count() -> None:
    to = joiner(max_rows=2, remember_labels=2)
    log(to, [("e", "a", 1.0), ("f", "a", 1.0), ("g", "a", 1.0)])
    first = to.label(labels([("l1", "a", "e", 1.0, True), ("l2", "a", "f", 1.0, True)]))
    assert first.examples.event_id == ["f"], "e is the third last"
    assert len(to.label(labels([("l2", "a", "g", 1.0, True)]))) == 0, "l2 is remembered"
    to.label(labels([("l3", "a", "x", 1.0, True)]))
    again = to.label(labels([("l1", "a", "g", 1.0, True)]))
    assert again.examples.event_id == ["g"], "l1 is not remembered any more"


def test_the_known_time_is_when_both_sides_were_known() -> None:
    to = joiner()
    log(to, [("e", "a", 100.0)])
    known = to.label(labels([("l1", "a", "e", 100.0, True), ("l2", "a", "f", 150.0, True)]), np.array([700.0, 100.0]))
    assert known.label_ts_known.tolist() == [700.0]
    assert log(to, [("f", "a", 150.0)]).label_ts_known.tolist() == [150.0]


def test_wrong_shapes_and_foreign_snapshots_are_refused() -> None:
    to = joiner()
    with pytest.raises(ValueError, match=r"features have shape \(1, 2\), expected \(1, 3\)"):
        LabelJoiner(JoinPolicy(), n_features=3).log(predictions([("e", "a", 1.0)]))
    with pytest.raises(ValueError, match="extra has shape"):
        to.log(predictions([("e", "a", 1.0)]))
    with pytest.raises(ValueError, match="device_id"):
        to.log(predictions([("e", "a", 1.0)]), np.ones((1, 1)), {"device_id": ["d"]})
    with pytest.raises(StateError, match="this join"):
        to.restore(LabelJoiner(JoinPolicy(), n_features=3).snapshot())
    with pytest.raises(StateError, match="not a snapshot"):
        to.restore(b"\x00")
    with pytest.raises(ValueError, match="raise keep_s"):
        JoinPolicy(keep_s="1d", negative_after_s="2d")
