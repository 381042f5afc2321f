"""Turns what a pipeline made into records, each with the topic and key it goes to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

from weir.online.batch import ExampleBatch, FloatVector, PredictionBatch, RankedBatch
from weir.online.codec.decision_blocks import BLOCK_BYTES, decisions_on, encode_decisions
from weir.online.codec.encode import encode_examples, encode_model, encode_predictions, encode_ranked
from weir.online.codec.wire import REASON_CHARS, Alert, DeadLetter, RetrainRequest
from weir.online.decisions.alert_state import AlertState
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.stages.retrain_policy import RetrainAsked
from weir.streams.config import topics
from weir.streams.records import Record, RefusedRecord


def records_of(
    out: StepOutput, pipeline: TaskPipeline, now: float, *, decisions: bool = False
) -> dict[str, list[Record]]:
    """Encoded outputs by topic; ``now`` is the time they are published, epoch seconds.

    ``decisions`` : whether somebody reads what was decided on each prediction.
    """
    task = pipeline.task.name
    made: dict[str, list[Record]] = {}
    p = out.predictions
    if p is not None:
        values = encode_predictions(p, pipeline.features, task, now)
        made[topics.PREDICTIONS] = [Record(k.encode(), v, now) for k, v in zip(p.entity_id, values, strict=True)]
    made |= decision_records(task, pipeline.features, out, now)
    if decisions and p is not None:
        made[topics.DECISIONS] = decision_blocks(task, pipeline.features, p, out, now)
    return made


def ranked_records(told: RankedBatch, task: str, now: float) -> list[Record]:
    """What a task of ``kind = "next"`` told, as records of ``predictions`` published at ``now``, epoch seconds."""
    values = encode_ranked(told, task, now)
    return [Record(key.encode(), value, now) for key, value in zip(told.entity_id, values, strict=True)]


class StageOutput(Protocol):
    """What a pipeline or a labelling stage made besides scores."""

    alerts: list[AlertState]
    examples: list[ExampleBatch]
    requests: list[RetrainAsked]
    thresholds: FloatVector | None
    decided: dict[int, AlertState]


def alert_records(alerts: Sequence[AlertState], now: float) -> list[Record]:
    """The records of ``alerts``, in order."""
    models = [Alert.model_validate(a.to_wire_dict()) for a in alerts]
    return [Record(a.entity_id.encode(), encode_model(a), now) for a in models]


def decision_records(task: str, features: tuple[str, ...], out: StageOutput, now: float) -> dict[str, list[Record]]:
    """Alerts, examples and retrain requests by topic."""
    made: dict[str, list[Record]] = {}
    if out.alerts:
        made[topics.ALERTS] = alert_records(out.alerts, now)
    for examples in out.examples:
        values = encode_examples(examples, features, task)
        made.setdefault(topics.EXAMPLES, []).extend(Record(task.encode(), v, now) for v in values)
    for r in out.requests:
        record = Record(task.encode(), encode_model(retrain_request(task, r)), now)
        made.setdefault(topics.RETRAIN_REQUESTS, []).append(record)
    return made


def retrain_request(task: str, asked: RetrainAsked) -> RetrainRequest:
    """What a task's pipeline asked for, as it is told to a trainer."""
    return RetrainRequest(
        request_id=asked.request_id, task=task, cause=asked.cause, requested_at=asked.ts, text=asked.detail[:2000]
    )


def decision_blocks(
    task: str, features: tuple[str, ...], p: PredictionBatch, out: StageOutput, now: float, most: int = BLOCK_BYTES
) -> list[Record]:
    """What was decided on each of the predictions ``p`` of one step, as blocks of at most ``most`` bytes.

    Their key is the task: rows of many entities are in one, so whoever sends it chooses the partition.
    """
    assert out.thresholds is not None  # it is noted with every prediction
    batch = decisions_on(p, out.thresholds, out.decided, features)
    return [Record(task.encode(), block, now) for block in encode_decisions(batch, task, now, most)]


KEY_KEPT: Final = 1_024
"""Bytes of a record's key that its dead letter holds."""
_AROUND: Final = 16_384
"""The most that a dead letter holds beside its record, in bytes of JSON; a character of the reason may take six."""


def letter_room(most: int) -> int:
    """Bytes of a record that a dead letter can hold where its topic takes ``most`` bytes: base64 is a third longer.

    >>> letter_room(1_048_588), letter_room(1_000)
    (774153, 0)
    """
    return max(most - _AROUND, 0) // 4 * 3


def dead_letter(topic: str, partition: int, refused: RefusedRecord, now: float, room: int) -> Record:
    """One refused record, with where it came from, its key and why; of the record itself the first ``room`` bytes."""
    value, size, sha256 = refused.record.value, refused.size, refused.sha256
    if len(value) > room:
        # A record that was cut when it was fetched comes with its whole size and digest; these are of the part.
        size = len(value) if size is None else size
        sha256 = hashlib.sha256(value).hexdigest() if sha256 is None else sha256
    letter = DeadLetter(
        topic=topic,
        partition=partition,
        offset=refused.offset,
        last_offset=refused.last_offset,
        # A reason quotes the record, and half a surrogate pair in it could not be encoded: the letter would fail, too.
        reason=refused.reason.encode("utf-8", "backslashreplace").decode()[:REASON_CHARS],
        raw=value[:room],
        raw_bytes=size,
        raw_sha256=sha256,
        failed_at=now,
        key=refused.record.key[:KEY_KEPT],
    )
    return Record(f"{topic}-{partition}".encode(), encode_model(letter), now)
