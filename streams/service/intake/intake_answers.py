"""What the intake's routes answer, and what OpenAPI says of them: bodies, answers, and an example of each."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from weir.online.codec.wire import DeviceEvent, Label, UserEvent, WireModel
from weir.online.decisions.alert_state import Status
from weir.streams.service.intake.record_results import IntakeAnswer, RecordResult

_EVENT: Final = {
    "v": 1, "event_id": "e-1", "type": "purchase", "user_id": "u-7", "ts": "2026-11-28T12:00:00Z", "amount": 42.5
}  # fmt: skip
_LABEL: Final = {"v": 1, "task": "fraud", "entity_id": "u-7", "event_id": "e-1", "ts": "2026-11-29T09:00:00Z",
                 "value": 1}  # fmt: skip
_CLOUD_EVENT: Final = {
    "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "purchase", "subject": "u-7",
    "time": "2026-11-28T12:00:00Z", "data": {"amount": 42.5},
}  # fmt: skip


class TaskDecision(msgspec.Struct):
    """What one task decided on one event.

    The threshold is null where no score alerts: the task has not seen enough, or its budget has no alert left. The
    decision is ``alert`` where the score is at or over it, also in the cooldown after an alert: then ``alert_status``
    is ``resolved``, and the event has neither severity nor reasons, as it opened nothing.
    """

    task: str
    decision: Literal["alert", "pass", "repeat"]
    score: float | None = None
    threshold: float | None = None
    severity: str | None = None
    alert_id: str | None = None
    alert_status: Status | None = None
    reasons: list[dict[str, Any]] | UnsetType = UNSET
    model_version: int | None = None
    degraded: bool = False
    repeat: bool = False


class EventResult(msgspec.Struct):
    """What was decided on one event, by each task that sees it."""

    index: int
    event_id: str | None
    status: Literal["accepted", "repeat", "refused", "late"]
    reason: str
    decisions: list[TaskDecision]


class DecisionAnswer(msgspec.Struct):
    """What was decided on the events of a body, in their order."""

    results: list[EventResult]


def _content(schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": example}}


def _body(models: tuple[type[WireModel], ...], example: dict[str, Any]) -> dict[str, Any]:
    one = {"anyOf": [model.model_json_schema() for model in models]}
    content = _content({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}, [example])
    text: dict[str, Any] = {"schema": {"type": "string"}}
    # A text: OpenAPI has no schema for lines of JSON.
    content["application/x-ndjson"] = {**text, "example": "{...}\n{...}\n"}
    content["application/cloudevents+json"] = {"schema": {"type": "object"}, "example": _CLOUD_EVENT}
    content["application/cloudevents-batch+json"] = {"schema": {"type": "array"}, "example": [_CLOUD_EVENT]}
    return {"requestBody": {"required": True, "content": content}}


def _route(models: tuple[type[WireModel], ...], example: dict[str, Any], answer: msgspec.Struct) -> dict[str, Any]:
    (schema,), parts = msgspec.json.schema_components([type(answer)])
    content = _content(_inlined(schema, parts), msgspec.to_builtins(answer))
    taken = {"description": "All records, or some of them, were taken.", "content": content}
    return {"openapi_extra": _body(models, example), "responses": {200: taken}}


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    """A schema without references: those of msgspec are not where OpenAPI looks for them."""
    if isinstance(node, list):
        return [_inlined(each, parts) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(parts[node["$ref"].rpartition("/")[2]], parts)
    return {key: _inlined(value, parts) for key, value in node.items()}


_REASON: Final = {"feature": "amount", "value": 42.5, "contribution": 1.2, "text": "amount is 42.50, usually 9.10"}
_TAKEN: Final = IntakeAnswer(1, 0, 1, [RecordResult(1, "refused", "amount: got 'nine', give a number")])
_ALERT: Final = TaskDecision("fraud", "alert", 0.91, 0.83, "high", "fraud:u-7:e-1", "open", [_REASON], 12_400)
_DECIDED: Final = DecisionAnswer([EventResult(0, "e-1", "accepted", "", [_ALERT])])
EVENTS: Final = _route((UserEvent, DeviceEvent), _EVENT, _TAKEN)
LABELS: Final = _route((Label,), _LABEL, _TAKEN)
DECISIONS: Final = _route((UserEvent, DeviceEvent), _EVENT, _DECIDED)
