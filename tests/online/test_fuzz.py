"""40,000 mutated records: each is decoded or rejected with a reason, as the contract says, and none disappears."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from weir.online.batch import PredictionBatch, ScoredBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import DecodedEvents, decode_device_events, decode_user_events
from weir.online.codec.encode import encode_scored
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import REASON_CHARS, DeviceEvent, Prediction, UserEvent, WireModel

EVENTS, BATCH = 20_000, 1_000
TOKENS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"null", b"true", b'""', b"[]", b"{}", b"{}, {}", b"},{",
    b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00\\ud83d", b"\\ud83d\\ude00", b"\\n", b"\x00", b"\x7f", b"\xff",
    b"\xc2\x85", b"\xc2\xb0", b"\xef\xbb\xbf", b"9" * 70, b"9" * 400, b"0." + b"1" * 80, b"[" * 40, b"[" * 3_000,
    b'"v":2,', b'"v":1,', b'"amount":1,', b'"zz":{"a":{"b":[1,2]}},', b'"\\u0061mount":1,', b",", b", ", b" ", b"\t",
    b'"2024-01-01T00:00:00Z"', b'"1999-01-01T00:00:00Z"', b"946684799", b"4102444801", b"x" * 65, b"x" * 300, b":",
    b"-0", b"-0.0", b"1.5", b"1E5", b"01", b"18446744073709551616", b'"k":1,"k":1,', b"\r\n",
]  # fmt: skip


def user_event(rng: random.Random, i: int) -> dict[str, Any]:
    event: dict[str, Any] = {"v": 1, "event_id": f"e{i}", "type": "purchase", "user_id": f"u{i % 97}", "ts": 1.7e9 + i}
    optional = {
        "amount": round(rng.lognormvariate(3, 1), 2),
        "merchant_id": f"m{i % 31}",
        "channel": rng.choice(["web", "app", "caf\u00e9"]),
        "country": "DE",
        "properties": {"items": rng.randrange(9), "gift": True, "note": 'a \\ b " c', "\u00b0C": 3.5},
    }
    event |= {name: value for name, value in optional.items() if rng.random() < 0.5}
    if rng.random() < 0.1:
        event["ts"] = "2024-03-01T12:00:00.5+01:00"
    return event


def device_event(rng: random.Random, i: int) -> dict[str, Any]:
    metrics = {f"sensor_{k}": rng.choice([None, rng.gauss(0, 1)]) for k in range(rng.randrange(6))}
    return {"v": 1, "event_id": f"e{i}", "device_id": f"d{i % 11}", "ts": 1.7e9 + i, "metrics": metrics, "status": "ok"}


def mutate(rng: random.Random, record: bytes, other: bytes) -> bytes:
    """Most records get one change, some more, a tenth none."""
    for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 1, 2, 3, 5])):
        a, b = sorted((rng.randrange(len(record) + 1), rng.randrange(len(record) + 1)))
        match rng.randrange(9):
            case 0:
                record = record[:a] + bytes([rng.randrange(256)]) + record[a + 1 :]
            case 1:
                record = record[:a] + bytes([rng.randrange(256)]) + record[a:]
            case 2:
                record = record[:a] + record[min(b, a + 8) :]
            case 3:
                record = record[:a]
            case 4:
                record = record[a:]
            case 5:
                record = record[:a] + other[b:]
            case 6:
                record = record[:b] + record[a:b] + record[b:]
            case 7:
                record = record[:a] + rng.choice(TOKENS) + record[a:]
            case _:  # a token in the place of a value, which keeps the grammar more often
                at = record.find(b":", a) + 1
                end = min((e for e in (record.find(b",", at), record.find(b"}", at)) if e >= 0), default=at)
                record = record[:at] + rng.choice(TOKENS) + record[end:]
    return record


@pytest.mark.parametrize(
    ("model", "event", "decode", "seed"),
    [(UserEvent, user_event, decode_user_events, 1), (DeviceEvent, device_event, decode_device_events, 2)],
)
def test_every_mutated_record_is_decoded_or_rejected_with_a_reason(
    model: type[WireModel],
    event: Callable[[random.Random, int], dict[str, Any]],
    decode: Callable[..., DecodedEvents],
    seed: int,
) -> None:
    rng = random.Random(seed)
    accepted = 0
    for start in range(0, EVENTS, BATCH):
        whole = [json.dumps(event(rng, i), ensure_ascii=i % 2 == 0).encode() for i in range(start, start + BATCH)]
        raw = [mutate(rng, record, rng.choice(whole)) for record in whole]
        decoded = decode(raw, ColumnRequest(texts=("event_id",)))

        rejected = [reject.index for reject in decoded.rejects]
        assert sorted([*rejected, *decoded.index.tolist()]) == list(range(BATCH))
        assert len(decoded.batch) == len(decoded.index)
        for reject in decoded.rejects:
            assert reject.raw == raw[reject.index]
            assert 0 < len(reject.reason) <= REASON_CHARS
            assert reject.reason.isprintable(), reject
        for i, event_id, ts in zip(
            decoded.index.tolist(), decoded.batch.event_id, decoded.batch.ts.tolist(), strict=True
        ):
            contract: Any = model.model_validate_json(raw[i])
            assert (event_id, ts) == (contract.event_id.strip() or contract.event_id, contract.ts)
        verdicts = [explain(model, record) is None for record in raw]
        assert [i for i, valid in enumerate(verdicts) if valid] == decoded.index.tolist(), "the two definitions differ"
        accepted += len(decoded.index)
    assert 0.1 < accepted / EVENTS < 0.7  # else the mutations are too weak or too wild to say much


def test_every_mutated_prediction_is_decoded_or_rejected_with_a_reason() -> None:
    """Here the tasks know what their records look like, and compiled code reads what it can of each batch."""
    rng, shape = random.Random(3), ScoredShape(("a", "\u00b0C"), 1, 1, ("merchant_id", "shop"))
    for start in range(0, EVENTS // 2, BATCH):
        numbers = np.array([[rng.gauss(0, 1), rng.randrange(9), rng.random(), rng.random()] for _ in range(BATCH)])
        ids = [f"e{i}" for i in range(start, start + BATCH)]
        ts, score = 1.7e9 + np.arange(BATCH, dtype=np.float64), numbers[:, 2].copy()
        predictions = PredictionBatch(ids, ids, ts, score, np.arange(BATCH), numbers[:, :2])
        entities: dict[str, list[str | None]] = {"merchant_id": [None, *ids[1:]], "shop": [*ids[:-1], None]}
        scored = ScoredBatch(predictions, numbers[:, 2:3], numbers[:, 3:], entities)
        whole = encode_scored(scored, shape.features, "fraud", 1.7e9)
        raw = [mutate(rng, record, rng.choice(whole)) for record in whole]
        decoded = decode_scored(raw, {"fraud": shape})

        found = decoded.tasks["fraud"]
        rejected = {reject.index for reject in decoded.rejects}
        assert rejected.isdisjoint(found.index.tolist())
        assert len(rejected) + len(found.index) + sum(decoded.unknown.values()) == BATCH
        for reject in decoded.rejects:
            assert reject.raw == raw[reject.index]
            assert 0 < len(reject.reason) <= REASON_CHARS
        valid = {i for i, record in enumerate(raw) if explain(Prediction, record) is None}
        assert valid >= {*found.index.tolist()}
        for row, i in enumerate(found.index.tolist()):
            contract = Prediction.model_validate_json(raw[i])
            assert contract.features == dict(
                zip(shape.features, found.scored.predictions.features[row].tolist(), strict=True)
            )
            assert contract.event_id == found.scored.predictions.event_id[row]
        for i in valid - {*found.index.tolist()}:  # a record, but not one of the task
            contract = Prediction.model_validate_json(raw[i])
            assert contract.task != "fraud" or not fits(contract, shape)


def fits(record: Prediction, shape: ScoredShape) -> bool:
    return (
        record.features.keys() == {*shape.features}
        and isinstance(record.model_version, int)
        and (record.entities or {}).keys() <= {*shape.entities}
        and (len(record.masks or ()), len(record.watched or ())) == (shape.masks, shape.watched)
    )
