"""Codec of ``decisions``: the threshold that each prediction met, and the alert of each row over it.

One record is a block of predictions of one task, as MessagePack with numbers as their bytes (ADR 30 says why blocks).
The row of a prediction says what the labelling stage decided: nothing here compares a score with a threshold.
It knows columns and alerts, not topics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from weir.online.batch import Batch, BoolVector, FloatVector, IntVector, PredictionBatch
from weir.online.codec.accept import in_range
from weir.online.codec.judge import OUT_OF_RANGE
from weir.online.codec.shapes import degraded_rows
from weir.online.codec.wire import ID_CHARS, INT_MAX, MADE_ID_CHARS, REASON_CHARS, TS_MAX, TS_MIN
from weir.online.decisions.alert_state import AlertState, Reason, Severity, Status
from weir.online.errors import UNREADABLE

VERSION: Final = 1
BLOCK_BYTES: Final = 400_000
"""Of a block, about, at most: brokers take one MiB, and the largest batch of a worker is rarely more."""
REASONS_MAX: Final = 64
_Id = Annotated[str, Meta(min_length=1, max_length=MADE_ID_CHARS)]


class RowAlert(msgspec.Struct, frozen=True, array_like=True):
    """The alert that a row over its threshold opened or belongs to, as it was after the row."""

    alert_id: _Id
    status: Status
    """``resolved``: the entity is in the cooldown after this alert, so that the row called nobody."""
    severity: Severity
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=REASONS_MAX)]
    """Of the alert's highest score so far."""


class Decision(NamedTuple):
    """What was decided on one prediction."""

    event_id: str
    entity_id: str
    ts: float
    """Event time, epoch seconds."""
    score: float
    threshold: float
    """In force at the row; infinite while nothing was to alert."""
    model_version: int
    """How many examples the online model had learned."""
    degraded: bool
    """Whether something was missing that the score should have had."""
    alert: RowAlert | None
    """``None`` under the threshold, and where the task opens no alerts."""

    @property
    def alerted(self) -> bool:
        """Whether an alert was open because of the row, or because of one before it."""
        return self.alert is not None and self.alert.status != "resolved"


@dataclass(frozen=True, slots=True)
class DecisionBatch(Batch):
    """Decisions of one task, in the order of its predictions; fields as in `Decision`."""

    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    score: FloatVector
    threshold: FloatVector
    model_version: IntVector
    degraded: BoolVector
    alert: list[RowAlert | None]

    def rows(self) -> Iterator[Decision]:
        """Each decision by itself."""
        numbers = (self.ts, self.score, self.threshold, self.model_version, self.degraded)
        columns = (self.event_id, self.entity_id, *(column.tolist() for column in numbers), self.alert)
        return map(Decision._make, zip(*columns, strict=True))


class DecisionBlock(NamedTuple):
    """A decoded record."""

    task: str
    made_at: float
    """When it was decided, by the clock of the host, epoch seconds."""
    batch: DecisionBatch


class _Block(msgspec.Struct, array_like=True, frozen=True):
    """The record, column by column."""

    v: int
    task: Annotated[str, Meta(min_length=1, max_length=ID_CHARS)]
    made_at: Annotated[float, Meta(ge=TS_MIN, le=TS_MAX)]
    event_id: Annotated[list[_Id], Meta(min_length=1)]
    entity_id: list[_Id]
    ts_bytes: bytes
    """``(n,) float64``, as the next two."""
    score_bytes: bytes
    threshold_bytes: bytes
    model_version: Annotated[int, Meta(ge=0, le=INT_MAX)] | bytes
    """One for all rows, or ``(n,) int64``."""
    degraded_bytes: bytes | None
    """``n`` bits, the first one the highest of its byte; absent where no row is."""
    row: list[int]
    """Where the rows over the threshold are that have an alert, ascending."""
    alert: list[RowAlert]
    """Of each of them."""


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(_Block).decode


def decisions_on(
    p: PredictionBatch, thresholds: FloatVector, alerts: Mapping[int, AlertState], features: Sequence[str]
) -> DecisionBatch:
    """What a labelling stage decided.

    Parameters
    ----------
    p : n predictions.
    thresholds : ``(n,)``, in force at each.
    alerts : by row over its threshold, its alert as it was after the row.
    features : F names of the columns of ``p.features``.
    """
    of_rows: list[RowAlert | None] = [None] * len(p)
    for row, alert in alerts.items():
        of_rows[row] = RowAlert(alert.alert_id, alert.status, alert.severity, alert.reasons)
    degraded = degraded_rows(p.features, features)
    return DecisionBatch(p.event_id, p.entity_id, p.ts, p.score, thresholds, p.model_version, degraded, of_rows)


def encode_decisions(batch: DecisionBatch, task: str, made_at: float, most: int = BLOCK_BYTES) -> list[bytes]:
    """Encode decisions in order: one block, or several of at most ``most`` bytes where one would be larger.

    A row that is larger by itself has a block of its own. Raises ``ValueError`` for what no block may hold.

    >>> one = np.ones(1)
    >>> batch = DecisionBatch(["e1"], ["u1"], 1.7e9 * one, 0.7 * one, 0.8 * one, one.astype(int), one < 0, [None])
    >>> [next(decode_decisions(block).batch.rows()).score for block in encode_decisions(batch, "fraud", 1.7e9)]
    [0.7]
    """
    if not len(batch):
        return []
    _check(batch)
    return _blocks(batch, task, made_at, most)


def _blocks(batch: DecisionBatch, task: str, made_at: float, most: int) -> list[bytes]:
    n, version = len(batch), batch.model_version
    rows = [*compress(range(n), batch.alert)]  # most rows are under the line: nothing of Python is done for them
    ts, score, threshold = (column.astype("<f8").tobytes() for column in (batch.ts, batch.score, batch.threshold))
    versions = int(version[0]) if (version == version[0]).all() else version.astype("<i8").tobytes()
    # Nearly no row is, and nearly all are of one model version: what is alike is written once.
    degraded = np.packbits(batch.degraded).tobytes() if batch.degraded.any() else None
    columns = (batch.event_id, batch.entity_id, ts, score, threshold, versions, degraded)
    block = _ENCODE(_Block(VERSION, task, made_at, *columns, rows, [*filter(None, batch.alert)]))
    if len(block) <= most or n == 1:
        return [block]
    parts = batch.slice(0, n // 2), batch.slice(n // 2, n)  # ids differ in length, so that only trying tells
    return [block for part in parts for block in _blocks(part, task, made_at, most)]


def decode_decisions(record: bytes | None) -> DecisionBlock:
    """Decode one record; floats come back bit for bit. Raises ``ValueError`` that says what is wrong with it."""
    try:
        block = _DECODE(record or b"")
        if block.v != VERSION:
            raise ValueError(f"v: format {block.v}, this version reads {VERSION}; run one version everywhere")
        batch = _batch(block)
        _check(batch)
    except (*UNREADABLE, ValueError) as error:
        raise ValueError(f"not a block of decisions: {error}; only hosts of tasks write this topic") from error
    return DecisionBlock(block.task, block.made_at, batch)


def _batch(block: _Block) -> DecisionBatch:
    n, numbers = len(block.event_id), (block.ts_bytes, block.score_bytes, block.threshold_bytes)
    if len(block.entity_id) != n or {*map(len, numbers)} != {8 * n}:
        raise ValueError(f"{n} event ids, {len(block.entity_id)} entities and columns of {[*map(len, numbers)]} bytes")
    versions, bits = block.model_version, block.degraded_bytes
    if isinstance(versions, bytes) and len(versions) != 8 * n:
        raise ValueError(f"{n} event ids, and model versions of {len(versions)} bytes")
    if bits is not None and len(bits) != (n + 7) // 8:
        raise ValueError(f"{n} event ids, and degraded of {len(bits)} bytes")
    if len(block.row) != len(block.alert) or any(a >= b for a, b in pairwise((-1, *block.row, n))):
        raise ValueError(f"{n} event ids, and {len(block.alert)} alerts at rows {block.row[:5]}, not each in its order")
    ts, score, threshold = (np.frombuffer(column, "<f8") for column in numbers)
    version = np.frombuffer(versions, "<i8") if isinstance(versions, bytes) else np.full(n, versions, np.int64)
    degraded = np.zeros(n, np.bool_) if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=n) > 0
    alerts: list[RowAlert | None] = [None] * n
    for row, alert in zip(block.row, block.alert, strict=True):
        alerts[row] = alert
    return DecisionBatch(block.event_id, block.entity_id, ts, score, threshold, version, degraded, alerts)


def _check(batch: DecisionBatch) -> None:
    """Raise ``ValueError`` for values that no decision has."""
    good = in_range(batch.ts) & (batch.score >= 0) & (batch.score <= 1) & (batch.threshold >= 0)
    good &= batch.model_version >= 0
    if not good.all():
        row = int(np.argmin(good))
        held = f"ts {batch.ts[row]}, score {batch.score[row]}, threshold {batch.threshold[row]}, version "
        raise ValueError(f"{OUT_OF_RANGE}: event {batch.event_id[row]!r} has {held}{batch.model_version[row]}")
    for alert in filter(None, batch.alert):
        for reason in alert.reasons:
            finite = math.isfinite(reason.value) and math.isfinite(reason.contribution)
            if not finite or not 0 < len(reason.feature) <= ID_CHARS or len(reason.text) > REASON_CHARS:
                raise ValueError(f"{OUT_OF_RANGE}: alert {alert.alert_id!r} has a reason that no alert may have")


def decisions_as_json(record: bytes | None) -> dict[str, Any] | None:
    """A block for a person who looks at the topic; ``None`` for another record."""
    try:
        task, made_at, batch = decode_decisions(record)
    except ValueError:
        return None
    rows = [_row_as_json(row) for row in batch.rows()]
    return {"v": VERSION, "task": task, "made_at": made_at, "decisions": rows}


def _row_as_json(row: Decision) -> dict[str, Any]:
    """One decision; what is as usual is left out, and so is an infinite threshold, which JSON cannot carry."""
    usual = {"degraded": False, "threshold": math.inf}
    shown = {name: value for name, value in row._asdict().items() if name != "alert" and usual.get(name) != value}
    if row.alert is not None:
        shown |= msgspec.structs.asdict(row.alert) | {"reasons": [*map(msgspec.structs.asdict, row.alert.reasons)]}
    return shown
