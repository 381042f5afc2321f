from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import PredictionBatch, ScoredBatch
from weir.online.codec.encode import encode_predictions, encode_scored
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.codec.wire import FEATURE_MAX, Prediction

SHAPES = {
    "fraud": ScoredShape(("count_1d", "mean_1d"), masks=2, watched=1, entities=("merchant_id", "device_id")),
    "churn": ScoredShape(("count_1d",)),
    "risk": ScoredShape(("caf\u00e9", "x"), masks=1, entities=("shop",)),
}
ids = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from('"\\/,{}[]\u2028'),
    min_size=1,
    max_size=64,
)
plain = st.text("abc019-", min_size=1, max_size=64)
floats = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.1, 5e-324, 2.2250738585072014e-308, FEATURE_MAX, 9007199254740993.0]),
    st.floats(-FEATURE_MAX, FEATURE_MAX),
    st.integers(-(2**59), 2**59).map(float),
    st.decimals(-1_000_000, 1_000_000, places=2).map(float),
)
or_missing = st.one_of(st.just(float("nan")), floats)
times = st.floats(946_684_800, 4_102_444_800)


@st.composite
def scored(draw: st.DrawFn, shape: ScoredShape) -> ScoredBatch:
    n = draw(st.integers(0, 5))
    some = draw(st.sampled_from([ids, plain]))

    def column(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(of, min_size=n, max_size=n))

    def matrix(width: int, of: st.SearchStrategy[float]) -> Any:
        rows = column(st.lists(of, min_size=width, max_size=width))
        return np.array(rows, np.float64).reshape(n, width)

    predictions = PredictionBatch(
        column(some),
        column(some),
        np.array(column(times), np.float64),
        np.array(column(st.floats(0, 1)), np.float64),
        np.array(column(st.integers(0, 2**63 - 1)), np.int64),
        matrix(len(shape.features), floats),
    )
    entities = {name: column(st.one_of(st.none(), some)) for name in shape.entities}
    return ScoredBatch(predictions, matrix(shape.masks, or_missing), matrix(shape.watched, or_missing), entities)


def assert_same(found: ScoredBatch, expected: ScoredBatch) -> None:
    for name in ("ts", "score", "model_version", "features"):
        a, b = getattr(found.predictions, name), getattr(expected.predictions, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
    assert found.predictions.event_id == expected.predictions.event_id
    assert found.predictions.entity_id == expected.predictions.entity_id
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_array_equal(np.signbit(found.watched), np.signbit(expected.watched))
    np.testing.assert_array_equal(found.watched, expected.watched)
    assert found.entities == expected.entities


@given(scored(SHAPES["fraud"]), scored(SHAPES["churn"]), scored(SHAPES["risk"]), times, st.booleans(), st.randoms())
@settings(max_examples=100)
def test_scores_of_several_tasks_read_back_bit_for_bit(
    fraud: ScoredBatch, churn: ScoredBatch, risk: ScoredBatch, at: float, degraded: bool, random: Random
) -> None:
    expected = {"fraud": fraud, "churn": churn, "risk": risk}
    records = {task: encode_scored(s, SHAPES[task].features, task, at, degraded) for task, s in expected.items()}
    assert all(Prediction.model_validate_json(record, extra="forbid") for of in records.values() for record in of)
    order = [task for task in expected for _ in records[task]]
    random.shuffle(order)
    of = {task: iter(own) for task, own in records.items()}
    raw = [next(of[task]) for task in order]
    decoded = decode_scored(raw, SHAPES)
    assert (decoded.rejects, decoded.unknown) == ([], {})
    for task, found in decoded.tasks.items():
        assert_same(found.scored, expected[task])
        assert found.index.tolist() == [i for i, name in enumerate(order) if name == task]


def one(task: str, /, **changes: Any) -> bytes:
    record = {
        "v": 1, "event_id": "e1", "entity_id": "u1", "task": task, "ts": 1.7e9, "score": 0.5, "model_version": 3,
        "features": dict.fromkeys(SHAPES[task].features, 1.5) if task in SHAPES else {}, "scored_at": 1.7e9,
        "degraded": False, "masks": [1.0, 0.0], "watched": [None],
    }  # fmt: skip
    if task == "churn":
        del record["masks"], record["watched"]
    return json.dumps(record | changes).encode()


MISFITS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the record is empty"),
    "not json": (b"hello", "not JSON"),
    "a feature is missing": (
        one("fraud", features={"count_1d": 1}),
        "features: 1 missing, as 'mean_1d': it was written before the task file was changed",
    ),
    "another feature": (
        one("churn", features={"count_1d": 1, "x": 2}),
        "features: 1 unknown, as 'x': it was written before",
    ),
    "a feature is null": (one("churn", features={"count_1d": None}), "features.count_1d: got null; give a number"),
    "a feature is repeated": (one("churn").replace(b"1.5", b'1.5,"count_1d":1'), "given more than once"),
    "an infinite feature": (one("churn").replace(b"1.5", b"1e999"), "features.count_1d"),
    "a registry model": (one("churn", model_version="v12"), "model_version: 'v12' is not of an online model"),
    "too many masks": (one("fraud", masks=[1, 2, 3]), "masks: 3 of them, the task has 2"),
    "no masks": (one("fraud", masks=None), "masks: 0 of them, the task has 2"),
    "masks of a task without": (one("churn", masks=[1.0]), "masks: 1 of them, the task has 0"),
    "another entity": (one("fraud", entities={"shop": "s"}), "entities: ['shop'] are not the task's"),
    "a null entity": (
        one("fraud", entities={"merchant_id": None}),
        "entities.merchant_id: got null; give a text",
    ),
    "a score above 1": (one("churn", score=1.5), "score: got 1.5; give a number from 0 to 1"),
    "a time too early": (
        one("churn", ts="1999-01-01T00:00:00Z"),
        "ts: got '1999-01-01T00:00:00Z', which is 1999-01-01: before 2000",
    ),
    "published too early": (
        one("churn", scored_at="1999-01-01T00:00:00Z"),
        "scored_at: got '1999-01-01T00:00:00Z', which is 1999-01-01: before",
    ),
    "no task": (one("churn").replace(b'"task": "churn", ', b""), "task: missing; give"),
    "an empty task": (one("churn", task=""), "task: got ''; give a text of 1"),
    "two records": (one("churn") + b"," + one("churn"), "not JSON: the record goes on after its end"),
    "an escaped control character": (one("churn", event_id="a\n"), "event_id: got 'a\\n'; give a text without"),
    "a raw control character": (one("churn", event_id="@").replace(b"@", b"\x01"), "invalid control character"),
    "a long id": (one("churn", entity_id="x" * 65), "1 to 64 characters (it has 65)"),
    "a leading zero": (one("churn", score=0.25).replace(b"0.25", b"00.25"), "not JSON"),
    "no digit after the point": (one("churn", score=0.25).replace(b"0.25", b"0."), "not JSON"),
    "a plus sign": (one("churn", score=0.25).replace(b"0.25", b"+0.25"), "not JSON"),
}


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.parametrize("alone", [True, False])
def test_a_record_that_does_not_fit_is_a_reject_with_a_reason(name: str, alone: bool) -> None:
    bad, reason = MISFITS[name]
    raw = [bad] if alone else [one("fraud"), bad, one("churn")]
    decoded = decode_scored(raw, SHAPES)
    [reject] = decoded.rejects
    assert (reject.index, reject.raw) == (0 if alone else 1, bad)
    assert reason in reject.reason
    assert decoded.unknown == {}
    assert sum(len(found.scored) for found in decoded.tasks.values()) == len(raw) - 1


def test_records_of_unknown_tasks_are_counted_and_skipped() -> None:
    raw = [one("old"), one("churn"), one("old"), one("older"), one("churn", event_id="e2")]
    decoded = decode_scored(raw, SHAPES)
    assert decoded.unknown == {"old": 2, "older": 1}
    assert decoded.rejects == []
    assert decoded.tasks["churn"].scored.predictions.event_id == ["e1", "e2"]
    assert decoded.tasks["churn"].index.tolist() == [1, 4]
    assert len(decoded.tasks["fraud"].scored) == 0
    assert decoded.tasks["fraud"].scored.predictions.features.shape == (0, 2)
    assert decoded.tasks["fraud"].scored.masks.shape == (0, 2)


def test_what_others_may_write_differently_is_read_the_same() -> None:
    """Whole numbers, spaces, another order of keys, times as text, an empty list for none."""
    raw = [
        one("churn"),
        one("churn", ts="2023-11-14T22:13:20Z", scored_at="2023-11-14T23:13:20+01:00", masks=[], entities={}),
        one("churn", score=5e-1, features={"count_1d": 15e-1}),
        json.dumps(dict(reversed(json.loads(one("churn")).items())), indent=1).encode(),
        one("churn").replace(b"1.5", b"0.00000000000000000000000000000000000000000015e43"),
        one("churn", note={"a": [1]}),
    ]
    for records in (raw, *([record] for record in raw)):
        decoded = decode_scored(records, SHAPES)
        assert decoded.rejects == []
        predictions = decoded.tasks["churn"].scored.predictions
        assert predictions.features.tolist() == [[1.5]] * len(records)
        assert predictions.ts.tolist() == [1.7e9] * len(records)
        assert predictions.score.tolist() == [0.5] * len(records)


def test_what_a_task_does_not_need_is_not_written() -> None:
    shape = SHAPES["churn"]
    batch = PredictionBatch(["e1"], ["u1"], np.array([1.7e9]), np.array([0.5]), np.array([3]), np.array([[1.5]]))
    [record] = encode_predictions(batch, shape.features, "churn", 1.7e9)
    assert list(json.loads(record)) == [*Prediction.model_fields][:10]
    scored = ScoredBatch(batch, np.ones((1, 2)), np.array([[np.nan]]), {"a": [None], "b": ["x"]})
    [record] = encode_scored(scored, shape.features, "churn", 1.7e9)
    assert record.endswith(b'"degraded":false,"entities":{"b":"x"},"masks":[1.0,1.0],"watched":[null]}')


@pytest.mark.parametrize("what", ["masks", "watched"])
def test_an_infinite_value_is_an_error_that_names_it(what: str) -> None:
    batch = PredictionBatch(["e1"], ["u1"], np.array([1.7e9]), np.array([0.5]), np.array([3]), np.array([[1.5]]))
    matrices: dict[str, Any] = {"masks": np.zeros((1, 2)), "watched": np.zeros((1, 2))}
    matrices[what][0, 1] = -np.inf
    with pytest.raises(ValueError, match=rf"{what}\[1\] of event 'e1' is -inf; give numbers up to"):
        encode_scored(ScoredBatch(batch, entities={}, **matrices), ("count_1d",), "churn", 1.7e9)


TOKENS = [b"", b'"', b",", b"}", b"0", b"1e", b"-", b"\\", b"\x7f", b"\xc3", b" "]


@given(st.data())
@settings(max_examples=75)
def test_mutated_records_are_decoded_or_rejected_as_the_contract_says(data: st.DataObject) -> None:
    batch = data.draw(scored(SHAPES["fraud"]))
    raw = encode_scored(batch, SHAPES["fraud"].features, "fraud", 1.7e9)
    for i in range(len(raw)):
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(raw[i]) - 1))
            token = data.draw(
                st.sampled_from([b"", b'"', b",", b"}", b"0", b"1e", b"-", b"\\", b"\x7f", b"\xc3", b" "])
            )
            raw[i] = raw[i][:at] + token + raw[i][at + data.draw(st.integers(0, 2)) :]
    decoded = decode_scored(raw, SHAPES)
    alone = [decode_scored([record], SHAPES) for record in raw]
    assert [r.index for r in decoded.rejects] == [i for i, d in enumerate(alone) if d.rejects]
    assert [r.reason for r in decoded.rejects] == [d.rejects[0].reason for d in alone if d.rejects]
    for i, row in zip(decoded.tasks["fraud"].index.tolist(), range(len(raw)), strict=False):
        contract = Prediction.model_validate_json(raw[i])
        assert decoded.tasks["fraud"].scored.predictions.event_id[row] == contract.event_id
        assert decoded.tasks["fraud"].scored.predictions.features[row].tolist() == [*_in_order(contract)]


def _in_order(contract: Prediction) -> list[float]:
    return [contract.features[name] for name in SHAPES["fraud"].features]
