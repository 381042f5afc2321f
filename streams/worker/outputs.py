"""Turns what a label lane made into records, by Weir's own name of the topic."""

from __future__ import annotations

from online.encode import encode_alerts, encode_examples, encode_model
from online.labelling import LabelOutput
from online.updates import encode_updates
from online.wire import Alert, RetrainRequest
from streams import topics
from streams.log import Record


def label_records(task: str, features: tuple[str, ...], out: LabelOutput, now: float) -> dict[str, list[Record]]:
    """Records of one step of one task; ``now`` is the time they are published, epoch seconds."""
    made: dict[str, list[Record]] = {}
    name = task.encode()
    if out.alerts:
        alerts = [Alert.model_validate(a.to_wire_dict()) for a in out.alerts]
        made[topics.ALERTS] = [
            Record(a.entity_id.encode(), v, now) for a, v in zip(alerts, encode_alerts(alerts), strict=True)
        ]
    for examples in out.examples:
        values = encode_examples(examples, features, task)
        made.setdefault(topics.EXAMPLES, []).extend(Record(name, value, now) for value in values)
    for layout, updates in out.updates.items():
        values = encode_updates(updates, task, layout)
        records = [Record(k.encode(), v, now) for k, v in zip(updates.entity_id, values, strict=True)]
        made.setdefault(topics.ENTITY_UPDATES, []).extend(records)
    for r in out.requests:
        request = RetrainRequest(
            request_id=r.request_id, task=task, cause=r.cause, requested_at=r.ts, text=r.detail[:2000]
        )
        made.setdefault(topics.RETRAIN_REQUESTS, []).append(Record(name, encode_model(request), now))
    return made
