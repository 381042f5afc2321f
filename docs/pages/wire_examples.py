"""One record of each kind for docs/WIRE.md, made by the code that makes them at work."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from weir.online.batch import ExampleBatch, LabelBatch, PredictionBatch, RankedBatch, ScoredBatch, UpdateBatch
from weir.online.codec import wire
from weir.online.codec.decision_blocks import decisions_on, encode_decisions
from weir.online.codec.encode import encode_examples, encode_labels, encode_model, encode_ranked, encode_scored
from weir.online.codec.row_updates import encode_updates
from weir.online.decisions.alert_state import AlertState, Reason
from weir.streams.config import topics as t
from weir.streams.config.topic_settings import TopicSettings
from weir.streams.kafka.admin.dead_letters import Letter, Place, mark
from weir.streams.offline_models.model_updates import update_record
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord
from weir.streams.service.access.audit.audit_chain import chained
from weir.streams.service.notify.messages import Message, id_of
from weir.streams.service.notify.outbox import Entry
from weir.streams.worker.inference.inference_wire import encode_answer, encode_request

NOW: Final = 1_700_000_000.0
TASK: Final = "fraud"
FEATURES: Final = ("amount", "user.spend_count_1h")
_AT: Final = np.array([NOW])
_X: Final = np.array([[512.0, 17.0]])


class Example(NamedTuple):
    """A record as it is in its topic."""

    title: str
    key: bytes
    value: bytes
    model: type[wire.WireModel] | None
    """The contract of a JSON record; None where the layout is told in words."""


def examples() -> dict[str, list[Example]]:
    """By topic, in the order of the page; a topic with two kinds of records has two."""
    return {
        t.USER_EVENTS: [Example("A purchase", b"user-7", _user_event(), wire.UserEvent)],
        t.DEVICE_EVENTS: [Example("Readings of a machine", b"press-3", _device_event(), wire.DeviceEvent)],
        t.LABELS: [Example("A chargeback", b"user-7", _label(), wire.Label)],
        t.PREDICTIONS: [
            Example("A score", b"user-7", _prediction(), wire.Prediction),
            Example("What comes next", b"user-7", _ranked(), wire.Prediction),
        ],
        t.ALERTS: [Example("An alert", b"user-7", _alert(), wire.Alert)],
        t.DECISIONS: [Example("Two scores, one of which alerts", b"fraud", decision_block(), None)],
        t.EXAMPLES: [
            Example("What a model learns", b"fraud", _example(), wire.Example),
            Example("Examples taken back", b"fraud", _quarantine(), wire.ExampleQuarantine),
        ],
        t.ENTITY_UPDATES: [
            Example("A block of one change of a merchant's row", b"shop-1", _update(), None),
            Example("The same, as versions before blocks wrote it", b"shop-1", _old_update(), wire.EntityUpdate),
        ],
        t.RETRAIN_REQUESTS: [Example("A person asks", b"fraud", _request(), wire.RetrainRequest)],
        t.MODEL_UPDATES: [Example("Version 2 serves", b"fraud", _model_update(), wire.ModelUpdate)],
        t.DEAD_LETTERS: [_dead_letter()],
        t.DEAD_LETTERS_DONE: [_marker()],
        t.CASE_EVENTS: [Example("A confirmed alert", b"fraud:user-7:pay-1", _case_event(), wire.CaseEvent)],
        t.AUDIT: [Example("Somebody opens an alert", b"weir-1:8080", _audit(), None)],
        t.NOTIFICATIONS: [
            Example("An alert is to be told", b"alerts-0", _decided(), None),
            Example("It was", notified().id.encode(), _sent(), None),
        ],
        t.INFERENCE_REQUESTS: [Example("Two rows of two columns", b"fraud", inference_request(), None)],
        t.INFERENCE_RESULTS: [Example("What a model says of them", b"fraud", inference_answer(), None)],
    }


def _user_event() -> bytes:
    return encode_model(
        wire.UserEvent(
            v=1, event_id="pay-1", type="purchase", user_id="user-7", ts=NOW, amount=512.0, merchant_id="shop-1",
            channel="web", country="DE", properties={"basket": 3.0, "coupon": "none"},
        )
    )  # fmt: skip


def _device_event() -> bytes:
    metrics = {"temperature": 71.5, "pressure": None}
    return encode_model(wire.DeviceEvent(v=1, event_id="r-1", device_id="press-3", ts=NOW, metrics=metrics))


def _label() -> bytes:
    batch = LabelBatch(["cb-1"], ["user-7"], ["pay-1"], _AT, np.array([True]), np.ones(1))
    return encode_labels(batch, TASK, source="chargebacks")[0]


def _prediction() -> bytes:
    made = PredictionBatch(["pay-1"], ["user-7"], _AT, np.array([0.93]), np.array([41_200]), _X)
    scored = ScoredBatch(made, np.array([[1.0]]), np.array([[512.0]]), {"merchant_id": ["shop-1"]})
    return encode_scored(scored, FEATURES, TASK, NOW + 0.02)[0]


def _alert_state() -> AlertState:
    reason = Reason(FEATURES[1], 17.0, 2.1, "17 events in 1 h (usually 2)")
    return AlertState("fraud:user-7:pay-1", TASK, "user-7", "open", "high", 0.93, 0.81, (reason,), NOW, NOW, ("pay-1",))


def _ranked() -> bytes:
    told = RankedBatch(["e-1"], ["user-7"], _AT, [["milk", "bread"]], [[0.125, 0.0625]], np.array([4711]))
    return encode_ranked(told, "groceries", NOW)[0]


def _alert() -> bytes:
    return encode_model(wire.Alert.model_validate(_alert_state().to_wire_dict()))


def decision_block() -> bytes:
    """Two decisions."""
    two, scores = np.repeat(_AT, 2), np.array([0.93, 0.12])
    made = PredictionBatch(["pay-1", "pay-2"], ["user-7", "user-9"], two, scores, np.full(2, 41_200), np.zeros((2, 2)))
    batch = decisions_on(made, np.full(2, 0.81), {0: _alert_state()}, FEATURES)
    return encode_decisions(batch, TASK, NOW + 0.02)[0]


def _case_event() -> bytes:
    return encode_model(
        wire.CaseEvent(
            case_event_id="5f0c", alert_id="fraud:user-7:pay-1", task=TASK, entity_id="user-7", action="verdict",
            by="ana", at=NOW + 60.0, verdict="confirmed", note="stolen card", expects=0, examples_before=41_200,
        )
    )  # fmt: skip


def _audit() -> bytes:
    who = {"id": "person:ana", "name": "Ana", "via": "session"}
    facts = {"object": "/v1/alerts/fraud:user-7:pay-1", "request_id": "5f0c", "address": "10.0.0.7", "outcome": 200}
    return chained({"at": NOW, "action": "GET /alerts/{alert_id}", "who": who, **facts}, "weir-1:8080", None)[0]


def notified() -> Message:
    """A message about the alert."""
    alert, own = _alert_state(), id_of("desk", "slack", "fraud:user-7:pay-1", "opened")
    return Message(
        own, "desk", "slack", "opened", alert.alert_id, TASK, "user-7", "high", 0.93, 0.81, 476.16, NOW, NOW, NOW + 0.1,
        own, (alert.reasons[0].text,),
    )  # fmt: skip


def _decided() -> bytes:
    entry = Entry(
        kind="decided", at=NOW + 0.1, epoch="5f0c", topic=t.ALERTS, start=17, end=18, messages=(notified(),)
    )  # fmt: skip
    return entry.record().value


def _sent() -> bytes:
    return Entry(kind="sent", at=NOW + 0.4, ids=(notified().id,), answer="HTTP 200 OK").record().value


def _example() -> bytes:
    one, no = np.ones(1), np.zeros(1, np.bool_)
    batch = ExampleBatch(
        ["pay-1"], _AT, _X, np.array([0.93]), ~no, one, no, np.zeros(1, np.int64), entity_id=["user-7"]
    )
    return encode_examples(batch, FEATURES, TASK)[0]


def _quarantine() -> bytes:
    return encode_model(wire.ExampleQuarantine(task=TASK, quarantine=(120, 122), by="ana", made_at=NOW))


def _update() -> bytes:
    return encode_updates(UpdateBatch(["pay-1"], ["shop-1"], _AT, np.array([[512.0, np.nan]])), TASK, "merchant")[0]


def _old_update() -> bytes:
    return encode_model(
        wire.EntityUpdate(
            update_id="pay-1", task=TASK, table="merchant", entity_id="shop-1", ts=NOW, values=(512.0, None)
        )
    )


def _request() -> bytes:
    return encode_model(
        wire.RetrainRequest(
            request_id="ana-1", task=TASK, cause="manual", requested_at=NOW, text="new rules", details={"force": True}
        )
    )


def _model_update() -> bytes:
    digest = f"sha256:{'0f' * 32}"
    update = wire.ModelUpdate(
        task=TASK, version="2", action="promote", uri="fraud/2", digest=digest, created_at=NOW, metrics={"gain": 0.012}
    )
    return update_record(update, NOW).value


def _letter() -> Record:
    refused = RefusedRecord(1234, "amount: got '12,5'; give a number without quotes, as 12.5", Record(b"u", b"{}", NOW))
    return dead_letter(t.USER_EVENTS, 3, refused, NOW, room=1_000)


def _dead_letter() -> Example:
    letter = _letter()
    return Example("A refused event", letter.key, letter.value, wire.DeadLetter)


class _Sent:
    """Stands for kafka-python's producer: keeps what is sent."""

    def __init__(self) -> None:
        self.key, self.value = b"", b""

    def send(self, _: str, value: bytes, key: bytes) -> _Sent:
        self.key, self.value = key, value
        return self

    def get(self) -> None:
        """Nothing is awaited."""


def _marker() -> Example:
    sent: Any = _Sent()
    letter = Letter(Place(t.DEAD_LETTERS, 0, 17), wire.DeadLetter.model_validate_json(_letter().value), None)
    mark(sent, [letter], "replayed", NOW, TopicSettings())
    return Example("The letter at 0-17 was replayed", sent.key, sent.value, None)


def inference_request() -> bytes:
    """A request of two rows."""
    return encode_request("worker-1-9", TASK, ["pay-1", "pay-2"], ["user-7", "user-9"], np.repeat(_AT, 2), np.eye(2))


def inference_answer() -> bytes:
    """An answer of two rows."""
    return encode_answer("worker-1-9", TASK, np.array([[2.0, 1.0], [-3.0, 1.0]]))
