"""What OpenAPI says of the intake's routes beyond their parameters: bodies, answers, and an example of each."""

from __future__ import annotations

from typing import Any, Final

from weir.online.codec.wire import DeviceEvent, Label, UserEvent, WireModel
from weir.streams.service.problems import MEDIA_TYPE, SCHEMA

_EVENT: Final = {
    "v": 1, "event_id": "e-1", "type": "purchase", "user_id": "u-7", "ts": "2026-11-28T12:00:00Z", "amount": 42.5
}  # fmt: skip
_LABEL: Final = {"v": 1, "task": "fraud", "entity_id": "u-7", "event_id": "e-1", "ts": "2026-11-29T09:00:00Z",
                 "value": 1}  # fmt: skip
_CLOUD_EVENT: Final = {
    "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "purchase", "subject": "u-7",
    "time": "2026-11-28T12:00:00Z", "data": {"amount": 42.5},
}  # fmt: skip
_REFUSED: Final = {"index": 1, "status": "refused", "reason": "amount: got 'nine', give a number"}
_COUNTS: Final = {name: {"type": "integer", "minimum": 0} for name in ("accepted", "repeats", "refused")}
_RESULT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["index", "status"],
    "properties": {
        "index": {"type": "integer", "minimum": 0, "description": "Place of the record in the body."},
        "status": {"enum": ["accepted", "repeat", "refused"]},
        "reason": {"type": "string", "description": "Of a refused one: the words of its dead letter."},
    },
}
_WORDS: Final = {
    400: "The body holds no records, or cannot be read.",
    408: "The body did not arrive in time.",
    413: "The body, or the number of its records, is too large.",
    415: "The Content-Encoding is not known.",
    422: "Every record was refused, or a parameter is not valid.",
    429: "The caller sends more than it may; Retry-After says when to go on.",
    504: "Some decisions are late: the problem has `results` with those that are known.",
    503: "Too much waits; send again after Retry-After.",
    507: "The disk has no room; nothing of it was taken.",
}


def _content(schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example}}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": SCHEMA}}
    return {status: {"description": _WORDS[status], "content": content} for status in statuses}


def _body(models: tuple[type[WireModel], ...], example: dict[str, Any]) -> dict[str, Any]:
    one = {"anyOf": [model.model_json_schema() for model in models]}
    content = _content({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}, [example])
    text: dict[str, Any] = {"schema": {"type": "string"}}
    content["application/x-ndjson"] = {**text, "example": "{...}\n{...}\n"}
    content["application/cloudevents+json"] = {"schema": {"type": "object"}, "example": _CLOUD_EVENT}
    content["application/cloudevents-batch+json"] = {"schema": {"type": "array"}, "example": [_CLOUD_EVENT]}
    return {"requestBody": {"required": True, "content": content}}


def _intake(models: tuple[type[WireModel], ...], example: dict[str, Any]) -> dict[str, Any]:
    answer = {
        "type": "object",
        "required": [*_COUNTS, "results"],
        "properties": {**_COUNTS, "results": {"type": "array", "items": _RESULT}},
    }
    shown = {"accepted": 1, "repeats": 0, "refused": 1, "results": [_REFUSED]}
    taken = {"description": "All records, or some of them, were taken.", "content": _content(answer, shown)}
    return {
        "openapi_extra": _body(models, example),
        "responses": {200: taken, **_problems(400, 408, 413, 415, 422, 429, 503, 507)},
    }


EVENTS: Final = _intake((UserEvent, DeviceEvent), _EVENT)
LABELS: Final = _intake((Label,), _LABEL)


def _decisions() -> dict[str, Any]:
    number, text = {"type": ["number", "null"]}, {"type": ["string", "null"]}
    decision = {
        "type": "object",
        "required": ["task", "decision", "repeat"],
        "properties": {
            "task": {"type": "string"},
            "decision": {"enum": ["alert", "pass", "repeat"]},
            "score": number,
            "threshold": {**number, "description": "Null while nothing was to alert."},
            "severity": text,
            "alert_id": text,
            "reasons": {"type": "array", "items": {"type": "object"}},
            "model_version": {"type": ["integer", "null"]},
            "degraded": {"type": "boolean"},
            "repeat": {"type": "boolean", "description": "Whether the event had been sent before."},
        },
    }
    result = {
        "type": "object",
        "required": ["index", "event_id", "status", "reason", "decisions"],
        "properties": {
            "index": _RESULT["properties"]["index"],
            "event_id": text,
            "status": {"enum": ["accepted", "repeat", "refused", "late"]},
            "reason": {"type": "string"},
            "decisions": {"type": "array", "items": decision, "description": "Of each task that sees the event."},
        },
    }
    reason = {"feature": "amount", "value": 42.5, "contribution": 1.2, "text": "amount is 42.50, usually 9.10"}
    alerted = {
        "task": "fraud", "decision": "alert", "score": 0.91, "threshold": 0.83, "severity": "high",
        "alert_id": "fraud:u-7:e-1", "reasons": [reason], "model_version": 12_400, "degraded": False, "repeat": False,
    }  # fmt: skip
    shown = {"results": [{"index": 0, "event_id": "e-1", "status": "accepted", "reason": "", "decisions": [alerted]}]}
    answer = {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": result}}}
    decided = {"description": "All is decided, or refused with its reason.", "content": _content(answer, shown)}
    return {
        "openapi_extra": _body((UserEvent, DeviceEvent), _EVENT),
        "responses": {200: decided, **_problems(400, 408, 413, 415, 422, 429, 503, 504, 507)},
    }


DECISIONS: Final = _decisions()
