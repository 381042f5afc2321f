from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from weir.online.codec.hot_structs import decoders, struct_of
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import (
    MODELS,
    DeadLetter,
    DeviceEvent,
    EntityUpdate,
    Example,
    Label,
    ModelUpdate,
    Prediction,
    UserEvent,
    WireModel,
)

DIGEST = "sha256:" + "0a" * 32
DECODED: tuple[type[WireModel], ...] = (UserEvent, DeviceEvent, Label, Prediction, Example, EntityUpdate)
EXAMPLES: dict[str, dict[str, Any]] = {
    "CaseEvent": {
        "v": 1,
        "case_event_id": "c1",
        "alert_id": "fraud:u1:e1",
        "task": "fraud",
        "entity_id": "u1",
        "action": "verdict",
        "by": "ana",
        "at": 1.7e9,
        "verdict": "confirmed",
        "reason": "stolen card",
        "note": "called the customer",
        "assignee": "ben",
        "until": 1.8e9,
        "snoozes": "entity",
        "feature": "amount",
        "expects": 2,
        "state": "open",
        "version": 41,
        "examples_before": 7,
    },
    "UserEvent": {
        "v": 1,
        "event_id": "e1",
        "type": "purchase",
        "user_id": "u1",
        "ts": 1.7e9,
        "amount": 9.5,
        "merchant_id": "m1",
        "device_id": "d1",
        "session_id": "s1",
        "channel": "web",
        "country": "DE",
        "properties": {"items": 2.0, "gift": True, "note": "hi"},
    },
    "DeviceEvent": {
        "v": 1,
        "event_id": "e1",
        "device_id": "d1",
        "ts": 1.7e9,
        "metrics": {"temp": 21.5, "rpm": None},
        "status": "ok",
        "properties": {"site": "north"},
    },
    "Label": {
        "v": 1,
        "label_id": "l1",
        "task": "fraud",
        "entity_id": "u1",
        "event_id": "e1",
        "ts": 1.7e9,
        "value": 1,
        "source": "chargeback",
        "weight": 2.0,
    },
    "Prediction": {
        "v": 1,
        "event_id": "e1",
        "entity_id": "u1",
        "task": "fraud",
        "ts": 1.7e9,
        "score": 0.25,
        "model_version": 12,
        "features": {"count_1d": 3.0},
        "scored_at": 1.7e9,
        "degraded": False,
        "entities": {"merchant_id": "m1"},
        "masks": [1.0, 0.0],
        "watched": [9.5, None],
        "items": {"milk": 0.5},
    },
    "Alert": {
        "v": 1,
        "alert_id": "a1",
        "task": "fraud",
        "entity_id": "u1",
        "status": "open",
        "severity": "high",
        "score": 0.97,
        "threshold": 0.9,
        "reasons": [{"feature": "count_1d", "value": 30.0, "contribution": 2.1, "text": "30 purchases in a day"}],
        "opened_at": 1.7e9,
        "updated_at": 1.7e9,
        "event_ids": ["e1"],
        "amount": 512.0,
        "events": 7,
    },
    "Example": {
        "v": 1,
        "event_id": "e1",
        "n": 2,
        "task": "fraud",
        "ts": 1.7e9,
        "features": {"count_1d": 3.0},
        "score": 0.25,
        "value": 1,
        "weight": 1.0,
        "correction": False,
        "entity_id": "u1",
    },
    "ExampleQuarantine": {
        "v": 1,
        "task": "fraud",
        "quarantine": [120, 121, 300, 400],
        "by": "ops",
        "reason": "stolen test cards",
        "made_at": 1.7e9,
    },
    "EntityUpdate": {
        "v": 1,
        "update_id": "e1#0",
        "task": "fraud",
        "table": "merchant.labels",
        "entity_id": "m1",
        "ts": 1.7e9,
        "values": [1.0, None],
    },
    "RetrainRequest": {
        "v": 1,
        "request_id": "r1",
        "task": "fraud",
        "cause": "drift",
        "requested_at": 1.7e9,
        "text": "amount moved by 3 sigma",
        "details": {"psi": 0.31},
    },
    "ModelUpdate": {
        "v": 1,
        "task": "fraud",
        "version": "v12",
        "action": "promote",
        "uri": "file:///models/fraud/v12.onnx",
        "digest": DIGEST,
        "created_at": 1.7e9,
        "metrics": {"ap": 0.71},
    },
    "DeadLetter": {
        "v": 1,
        "topic": "user-events",
        "partition": 3,
        "offset": 17,
        "reason": "the record is empty",
        "raw": "__4=",
        "failed_at": 1.7e9,
        "key": "dTE=",
        "last_offset": 19,
        "raw_bytes": 70_000,
        "raw_sha256": "ab" * 32,
    },
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_reads_and_writes_its_record_in_field_order(model: type[WireModel]) -> None:
    example = EXAMPLES[model.__name__]
    record = json.dumps(example).encode()
    assert explain(model, record) is None
    written = model.model_validate_json(record, extra="forbid").model_dump_json()
    assert list(json.loads(written).items()) == list(example.items())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_models_are_frozen(model: type[WireModel]) -> None:
    record = model.model_validate_json(json.dumps(EXAMPLES[model.__name__]))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, next(iter(model.model_fields)), 2)


@pytest.mark.parametrize("model", DECODED, ids=lambda model: model.__name__)
def test_structs_have_the_fields_of_the_models(model: type[WireModel]) -> None:
    struct = struct_of(model)
    assert list(struct.__struct_fields__) == list(model.model_fields)
    record = json.dumps(EXAMPLES[model.__name__]).encode()
    fields = msgspec.structs.asdict(decoders(model)[0].decode(record))
    assert fields == model.model_validate_json(record).model_dump()
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    assert required == {name for name, info in model.model_fields.items() if info.is_required()}


def test_dead_letters_carry_any_bytes() -> None:
    raw = bytes(range(256))
    letter = DeadLetter(topic="t", partition=0, offset=0, reason="why", raw=raw, failed_at=1.7e9)
    assert DeadLetter.model_validate_json(letter.model_dump_json()) == letter


def test_types_are_not_coerced_and_model_versions_may_be_texts() -> None:
    with pytest.raises(ValidationError):
        Label.model_validate(EXAMPLES["Label"] | {"value": "1"})
    for version in (0, 12, "v12"):
        record = json.dumps(EXAMPLES["Prediction"] | {"model_version": version}).encode()
        assert explain(Prediction, record) is None
    for wrong in (-1, 1.5, True, ""):
        record = json.dumps(EXAMPLES["Prediction"] | {"model_version": wrong}).encode()
        assert "model_version" in (explain(Prediction, record) or "")


def test_an_update_names_a_digest() -> None:
    record = json.dumps(EXAMPLES["ModelUpdate"] | {"digest": "sha256:abc"}).encode()
    assert "digest: got 'sha256:abc'; give sha256: and 64" in (explain(ModelUpdate, record) or "")


def test_a_reason_is_short_however_large_the_record() -> None:
    record = json.dumps(EXAMPLES["UserEvent"] | {"properties": {f"k{i}": ["x" * 500] for i in range(60)}}).encode()
    reason = explain(UserEvent, record)
    assert reason is not None
    assert len(reason) < 800
    assert reason.endswith("; and 57 more")
