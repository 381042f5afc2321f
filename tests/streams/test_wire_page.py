"""docs/WIRE.md is what the encoders write, and each of its examples is read by the decoder that reads it at work."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from docs.pages import wire as page_of_wire
from docs.pages.wire_examples import FEATURES, NOW, TASK, examples
from weir.online.codec import wire
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decision_blocks import decode_decisions
from weir.online.codec.decode import decode_device_events, decode_labels, decode_user_events
from weir.online.codec.example_log import decode_example_log
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.codec.row_updates import decode_updates as decode_row_updates
from weir.online.codec.why_invalid import explain
from weir.online.stages.quarantine import find_quarantines
from weir.streams.config import topics as t
from weir.streams.config.topic_settings import TopicSettings
from weir.streams.kafka.admin import dead_letters
from weir.streams.kafka.admin.dead_letters import Done, Place, letter_of, read_done
from weir.streams.offline_models.model_updates import decode_updates
from weir.streams.service.access.audit.audit_chain import verify
from weir.streams.service.notify.outbox import Entry
from weir.streams.trainer import inputs
from weir.streams.worker.inference.inference_wire import decode_answer, decode_request

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = examples()
CASES = [(topic, k) for topic, found in EXAMPLES.items() for k in range(len(found))]
SHAPE = ScoredShape(FEATURES, 1, 1, ("merchant_id",))


def done(raw: bytes) -> Any:
    record = SimpleNamespace(key=EXAMPLES[t.DEAD_LETTERS_DONE][0].key, value=raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_letters, "read_present", lambda *_: [record])
        return read_done(None, TopicSettings())


def cause(raw: bytes) -> str:
    request = inputs._parse(SimpleNamespace(value=raw))
    assert request is not None
    return request.cause


Reads = Callable[[bytes], Any]
READ: dict[tuple[str, int], tuple[Reads, Any]] = {
    (t.USER_EVENTS, 0): (
        lambda raw: decode_user_events([raw], ColumnRequest(numbers=("amount", "basket"))).batch.numbers,
        {"amount": [512.0], "basket": [3.0]},
    ),
    (t.DEVICE_EVENTS, 0): (
        lambda raw: decode_device_events([raw], ColumnRequest(numbers=("temperature",))).batch.numbers,
        {"temperature": [71.5]},
    ),
    (t.LABELS, 0): (lambda raw: decode_labels([raw]).batch.value, [True]),
    (t.PREDICTIONS, 0): (lambda raw: decode_scored([raw], {TASK: SHAPE}).tasks[TASK].scored.predictions.score, [0.93]),
    (t.PREDICTIONS, 1): (lambda raw: wire.Prediction.model_validate_json(raw).items, {"milk": 0.125, "bread": 0.0625}),
    (t.ALERTS, 0): (lambda raw: wire.Alert.model_validate_json(raw).reasons[0].text, "17 events in 1 h (usually 2)"),
    (t.DECISIONS, 0): (
        lambda raw: [(d.threshold, d.alert and d.alert.alert_id) for d in decode_decisions(raw).batch.rows()],
        [(0.81, "fraud:user-7:pay-1"), (0.81, None)],
    ),
    (t.EXAMPLES, 0): (lambda raw: decode_example_log([raw], {TASK: FEATURES}).tasks[TASK].batch.x, [[512.0, 17.0]]),
    (t.EXAMPLES, 1): (lambda raw: find_quarantines([raw], [130])[0].ranges, ((120, 122),)),
    **{
        (t.ENTITY_UPDATES, k): (
            lambda raw: decode_row_updates([raw], {(TASK, "merchant"): 2}).tables[0].batch.entity_id,
            ["shop-1"],
        )
        for k in range(2)
    },
    (t.RETRAIN_REQUESTS, 0): (cause, "manual"),
    (t.MODEL_UPDATES, 0): (lambda raw: decode_updates([raw]).updates[0].uri, "fraud/2"),
    (t.DEAD_LETTERS, 0): (lambda raw: letter_of(raw, Place(t.DEAD_LETTERS, 0, 17), NOW).raw, b"{}"),
    (t.DEAD_LETTERS_DONE, 0): (done, {Place(t.DEAD_LETTERS, 0, 17): Done("replayed", NOW)}),
    (t.CASE_EVENTS, 0): (lambda raw: wire.CaseEvent.model_validate_json(raw).verdict, "confirmed"),
    (t.AUDIT, 0): (lambda raw: [(r.writer, r.fault) for r in verify([("here", raw)])], [("weir-1:8080", "")]),
    (t.NOTIFICATIONS, 0): (lambda raw: msgspec.json.decode(raw, type=Entry).messages[0].what, "opened"),
    (t.NOTIFICATIONS, 1): (lambda raw: msgspec.json.decode(raw, type=Entry).answer, "HTTP 200 OK"),
    (t.INFERENCE_REQUESTS, 0): (lambda raw: decode_request(raw).x, [[1.0, 0.0], [0.0, 1.0]]),
    (t.INFERENCE_RESULTS, 0): (lambda raw: decode_answer(raw).values, [[2.0, 1.0], [-3.0, 1.0]]),
}


def plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    return found.tolist() if isinstance(found, np.ndarray) else found


def on_page() -> Sequence[str]:
    """What stands between fences on the page, in its order."""
    return (ROOT / "docs" / "WIRE.md").read_text().split("```\n")[1::2]


def test_the_page_is_the_code() -> None:
    written = (ROOT / "docs" / "WIRE.md").read_text()
    assert written == page_of_wire.page(), "run: python -m docs.pages.wire > docs/WIRE.md"


def test_every_topic_and_every_record_of_the_contract_is_on_the_page() -> None:
    assert set(EXAMPLES) == set(t.ALL) == set(page_of_wire.KEYS)
    assert {example.model for found in EXAMPLES.values() for example in found} - {None} == set(wire.MODELS)
    assert set(READ) == set(CASES)


@pytest.mark.parametrize(("topic", "k"), CASES, ids=lambda value: str(value))
def test_the_example_is_read_by_the_decoder_of_its_topic(topic: str, k: int) -> None:
    shown = on_page()[CASES.index((topic, k))]
    raw = shown.removesuffix("\n").encode() if shown.startswith("{") else bytes.fromhex(shown.partition("\n\n")[0])
    assert raw == EXAMPLES[topic][k].value
    read, expected = READ[topic, k]
    assert plain(read(raw)) == expected
    if (model := EXAMPLES[topic][k].model) is not None:
        assert explain(model, raw) is None


@pytest.mark.parametrize("topic", [topic for topic in t.ALL if page_of_wire.KEYS[topic].strip("`").isidentifier()])
def test_the_key_is_the_field_that_the_page_says(topic: str) -> None:
    example, field = EXAMPLES[topic][0], page_of_wire.KEYS[topic].strip("`")
    if example.model is not None:
        assert json.loads(example.value)[field] == example.key.decode()
