from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import ExampleBatch, LabelBatch, PredictionBatch
from weir.online.codec.decode import decode_labels
from weir.online.codec.encode import (
    encode_examples,
    encode_labels,
    encode_model,
    encode_predictions,
)
from weir.online.codec.example_log import decode_example_log
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import FEATURE_MAX, Alert, DeadLetter, Example, Prediction, Reason
from weir.online.errors import TaskError

NAMES = ("count_1d", "mean_1d", "caf\u00e9 ratio")
ids = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from('"\\/,{}[]\u2028\u2029'),
    min_size=1,
    max_size=64,
)
floats = st.floats(-FEATURE_MAX, FEATURE_MAX)
times = st.floats(946_684_800, 4_102_444_800)


def predictions(rows: list[tuple[str, str, float, float, int, list[float]]]) -> PredictionBatch:
    return PredictionBatch(
        event_id=[row[0] for row in rows],
        entity_id=[row[1] for row in rows],
        ts=np.array([row[2] for row in rows], np.float64),
        score=np.array([row[3] for row in rows], np.float64),
        model_version=np.array([row[4] for row in rows], np.int64),
        features=np.array([row[5] for row in rows], np.float64).reshape(len(rows), len(NAMES)),
    )


row = st.tuples(ids, ids, times, st.floats(0, 1), st.integers(0, 2**62), st.lists(floats, min_size=3, max_size=3))


@given(st.lists(row, max_size=6), times, st.booleans())
@settings(max_examples=100, deadline=None)
def test_predictions_read_back_exactly_and_are_valid(
    rows: list[tuple[str, str, float, float, int, list[float]]], scored_at: float, degraded: bool
) -> None:
    records = encode_predictions(predictions(rows), NAMES, "fraud", scored_at, degraded)
    assert len(records) == len(rows)
    for record, (event_id, entity_id, ts, score, version, features) in zip(records, rows, strict=True):
        assert explain(Prediction, record) is None
        assert Prediction.model_validate_json(record, extra="forbid") == Prediction(
            event_id=event_id,
            entity_id=entity_id,
            task="fraud",
            ts=ts,
            score=score,
            model_version=version,
            features=dict(zip(NAMES, features, strict=True)),
            scored_at=scored_at,
            degraded=degraded,
        )


def one(features: list[float], score: float = 0.5) -> PredictionBatch:
    return predictions([("e1", "u1", 1.7e9, score, 3, features)])


def test_fields_are_in_the_order_of_the_contract() -> None:
    [record] = encode_predictions(one([1.0, 2.0, 3.0]), NAMES, 'f"x', 1.7e9)
    assert list(Prediction.model_validate_json(record).model_dump()) == list(Prediction.model_fields)
    assert record.startswith(b'{"v":1,"event_id":"e1","entity_id":"u1","task":"f\\"x","ts":1700000000.0,')


def test_a_model_without_features_is_encoded() -> None:
    batch = one([1.0, 2.0, 3.0])
    bare = PredictionBatch(
        batch.event_id, batch.entity_id, batch.ts, batch.score, batch.model_version, np.zeros((1, 0))
    )
    assert Prediction.model_validate_json(encode_predictions(bare, (), "fraud", 1.7e9)[0]).features == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_cannot_carry_is_an_error_that_names_it(value: float) -> None:
    with pytest.raises(ValueError, match=r"'mean_1d' of event 'e1' is .*replace missing values"):
        encode_predictions(one([1.0, value, 3.0]), NAMES, "fraud", 1.7e9)


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.1])
def test_a_score_outside_0_to_1_is_an_error(score: float) -> None:
    with pytest.raises(ValueError, match="the score of event 'e1' is"):
        encode_predictions(one([1.0, 2.0, 3.0], score), NAMES, "fraud", 1.7e9)


@pytest.mark.parametrize("names", [("a", "a", "b"), ("a", "b", ""), ("a", "b", 'c"'), ("a", "b", "c\n")])
def test_feature_names_that_cannot_be_keys_are_an_error(names: tuple[str, ...]) -> None:
    with pytest.raises(TaskError, match="cannot be keys of a record"):
        encode_predictions(one([1.0, 2.0, 3.0]), names, "fraud", 1.7e9)


def test_a_matrix_of_another_width_and_an_absurd_clock_are_errors() -> None:
    with pytest.raises(ValueError, match=r"features are \(1, 3\); expected \(1, 2\)"):
        encode_predictions(one([1.0, 2.0, 3.0]), NAMES[:2], "fraud", 1.7e9)
    with pytest.raises(ValueError, match="scored_at is 1700000000000"):
        encode_predictions(one([1.0, 2.0, 3.0]), NAMES, "fraud", 1.7e12)


def examples() -> ExampleBatch:
    return ExampleBatch(
        event_id=["e1", "e2"],
        ts=np.array([1.7e9, 1.7e9 + 0.1]),
        x=np.array([[0.1, 2.0, -3e-9], [1.0, 0.0, 5.0]]),
        score=np.array([0.25, 1.0]),
        y=np.array([True, False]),
        weight=np.array([1.0, 20.0]),
        correction=np.array([False, True]),
        n=np.array([0, 3]),
        entity_id=["u1", None],
    )


def test_examples_read_back_exactly() -> None:
    records = encode_examples(examples(), NAMES, "fraud")
    assert all(Example.model_validate_json(record, extra="forbid") for record in records)
    log = decode_example_log(records, {"fraud": NAMES})
    assert log.rejects == []
    for name in ("event_id", "ts", "x", "score", "y", "weight", "correction", "n", "entity_id"):
        np.testing.assert_array_equal(getattr(log.tasks["fraud"].batch, name), getattr(examples(), name))
    turned = decode_example_log(records, {"fraud": NAMES[::-1]})
    np.testing.assert_array_equal(turned.tasks["fraud"].batch.x, examples().x[:, ::-1])


def test_examples_that_do_not_fit_the_model_are_rejects() -> None:
    good = encode_examples(examples(), NAMES, "fraud")
    other = encode_examples(examples(), ("count_1d", "mean_1d", "new"), "fraud")
    log = decode_example_log([other[0], good[0], b"{}", good[1]], {"fraud": NAMES})
    assert log.tasks["fraud"].index.tolist() == [1, 3]
    assert [reject.index for reject in log.rejects] == [0, 2]
    assert "unknown" in log.rejects[0].reason
    assert decode_example_log([], {"fraud": NAMES}).tasks["fraud"].batch.x.shape == (0, 3)


def test_the_examples_of_several_tasks_in_one_log_come_apart_in_order() -> None:
    fraud = encode_examples(examples(), NAMES, "fraud")
    churn = encode_examples(examples(), NAMES[:3][::-1], "churn")
    old = encode_examples(examples(), NAMES, "old")
    raw = [fraud[0], old[0], churn[1], b"{}", fraud[1], old[1], churn[0]]
    log = decode_example_log(raw, {"fraud": NAMES, "churn": NAMES, "none": ()})
    assert (log.unknown, [reject.index for reject in log.rejects]) == ({"old": 2}, [3])
    assert {task: own.index.tolist() for task, own in log.tasks.items()} == {
        "fraud": [0, 4],
        "churn": [2, 6],
        "none": [],
    }
    assert log.tasks["fraud"].batch.event_id == ["e1", "e2"]
    assert log.tasks["churn"].batch.event_id == ["e2", "e1"]
    assert log.tasks["churn"].batch.n.tolist() == [3, 0]
    np.testing.assert_array_equal(log.tasks["fraud"].batch.x, examples().x)
    np.testing.assert_array_equal(log.tasks["churn"].batch.x, examples().x[::-1, ::-1])
    # Written before examples had a number.
    before = fraud[1].replace(b'"n":3,', b"")
    assert decode_example_log([before], {"fraud": NAMES}).tasks["fraud"].batch.n.tolist() == [0]


def test_labels_read_back_with_ids_longer_than_an_events() -> None:
    made = LabelBatch(
        [f"{'u' * 64}@1700000000/first", "l2"],
        ["u" * 64, "u2"],
        [f"{'u' * 64}@1700000000", None],
        np.array([1.7e9, 1.7e9 + 0.1]),
        np.array([True, False]),
        np.array([1.0, 2.5]),
    )
    decoded = decode_labels(encode_labels(made, "churn", source="silence"))
    assert (decoded.rejects, decoded.tasks) == ([], ["churn", "churn"])
    assert (decoded.batch.label_id, decoded.batch.event_id) == (made.label_id, made.event_id)
    for name in ("ts", "value", "weight"):
        np.testing.assert_array_equal(getattr(decoded.batch, name), getattr(made, name))


def test_a_time_or_version_that_no_record_carries_is_an_error() -> None:
    good = one([1.0, 2.0, 3.0])
    for bad in (replace(good, ts=np.array([np.nan])), replace(good, model_version=np.array([-1]))):
        with pytest.raises(ValueError, match="no record can carry"):
            encode_predictions(bad, NAMES, "fraud", 1.7e9)


def test_alerts_and_dead_letters_read_back() -> None:
    alert = Alert(
        alert_id="a1",
        task="fraud",
        entity_id="u1",
        status="open",
        severity="high",
        score=0.97,
        threshold=0.9,
        reasons=(Reason(feature="count_1d", value=30.0, contribution=2.1, text="30 purchases in a day"),),
        opened_at=1.7e9,
        updated_at=1.7e9,
        event_ids=("e1",),
    )
    letter = DeadLetter(topic="t", partition=0, offset=5, reason="line\nline", raw=b"\xff\n", failed_at=1.7e9)
    assert Alert.model_validate_json(encode_model(alert)) == alert
    assert DeadLetter.model_validate_json(encode_model(letter)) == letter
