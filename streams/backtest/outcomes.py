"""The scored rows of a run with what became of them: the line each met, its alert, and its label once that was known.

Rows are columns in memory, some 150 bytes each: 1.75 million take about a quarter of a gigabyte. It knows what a
pipeline made, not files or metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import BoolVector, FloatVector, IntVector, PredictionBatch
from weir.online.decisions.alert_state import AlertState
from weir.online.digests import Digests, pair_digests
from weir.online.labels.join_policy import JoinResult
from weir.online.labels.row_tables import FirstRows
from weir.online.rows import NumberedRows
from weir.online.task.spec import LabelSpec

_TEXTS = {"event_ids": pa.string(), "entity_ids": pa.string(), "alert_ids": pa.string(),
          "reasons": pa.list_(pa.string()), "values": pa.string()}  # fmt: skip
_NUMBERS = {"ts": pa.float64(), "score": pa.float64(), "threshold": pa.float64(), "alerted": pa.bool_(),
            "version": pa.int64(), "amount": pa.float64(), "matures_at": pa.float64()}  # fmt: skip
_SCHEMA = pa.schema(_TEXTS | _NUMBERS)
_Told: TypeAlias = tuple[Digests, BoolVector, FloatVector]
"""Events, their labels, and when these became known."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What a run collects in memory beside its metrics; files that it writes are apart from this."""

    outcomes: bool = False
    """Every scored row: `BacktestResult.outcomes`."""
    alerts: bool = False
    """Every record of an alert: `BacktestResult.alert_log`."""
    features: bool = False
    """What each score was made from: `BacktestResult.features`."""
    reasons: bool = False
    """The reasons of rows that alerted, among the outcomes."""
    field: str | None = None
    """A field of the events, whose value is kept with each outcome."""
    late_labels: bool = False
    """`BacktestResult.judged` has the labels, too, that become known after the last row: to judge by, for no score
    follows them. Files never have them."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The n scored rows of a run, in the order of scoring.

    Texts are Arrow columns inside, which take less memory than objects; ``event_id`` and its like are lists of them.
    """

    event_ids: pa.ChunkedArray
    entity_ids: pa.ChunkedArray
    alert_ids: pa.ChunkedArray
    """Null where the row is not over its line."""
    reasons: pa.ChunkedArray
    """Lists of sentences, of the alert's highest score then; null where the row has no alert, or none were kept."""
    values: pa.ChunkedArray
    """Of the field that was asked for, as text; null without one."""
    ts: FloatVector
    """Event time, epoch seconds."""
    score: FloatVector
    threshold: FloatVector
    """In force at the row; infinite while nothing was to alert, and where the budget had no alert left."""
    alerted: BoolVector
    """An alert was open because of the row, or because of one before it; not where its entity cools down."""
    label: FloatVector
    """0 or 1 as the last label said; NaN while none is known at the end of the data."""
    known_at: FloatVector
    """When that label became known, event time; NaN without one."""
    version: IntVector
    """How many examples the model had learned."""
    amount: FloatVector
    """What is at stake, NaN where the model sees no amount."""
    matures_at: FloatVector
    """From when on both outcomes would be known, as the task's ``maturity`` says, event time; without one ``ts``."""

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def event_id(self) -> list[str]:
        """The event of each row."""
        return cast("list[str]", self.event_ids.to_pylist())

    @property
    def entity_id(self) -> list[str]:
        """Whom or what each row is about."""
        return cast("list[str]", self.entity_ids.to_pylist())

    @property
    def labelled(self) -> BoolVector:
        """Which rows have a label."""
        return np.asarray(~np.isnan(self.label))

    @property
    def learned(self) -> BoolVector:
        """Which rows were scored by a model that had learned something; all where none ever did, as of a detector."""
        learned = self.version > 0
        return learned if learned.any() else np.ones(len(self), np.bool_)

    @property
    def over_line(self) -> BoolVector:
        """Which rows the line is judged by, as the metrics do: those, too, whose entity cools down from an alert."""
        return np.asarray(self.score >= self.threshold)

    def acted_on(self, alerting: bool) -> BoolVector:
        """Which rows cost what an alert costs: those that alerted; of a task that opens none those over the line."""
        return self.alerted if alerting else self.over_line

    def mature(self, one_sided_s: float, *, newest: bool = False) -> BoolVector:
        """Which rows are mature at the end: of others only those labels may be known that come early.

        ``one_sided_s`` is how old all are that are; with ``newest`` that is enough, whatever their maturity.
        """
        end = float(self.ts.max()) if len(self) else 0.0
        old = self.ts <= end - one_sided_s
        return np.asarray(old if newest else old & (self.matures_at <= end))

    def row_of(self, entity_id: str, event_id: str) -> IntVector:
        """The row of an event, ``(1,)``."""
        same = pc.and_(pc.equal(self.event_ids, event_id), pc.equal(self.entity_ids, entity_id))
        return np.flatnonzero(same)[:1]

    def take(self, rows: IntVector | BoolVector) -> Self:
        """Some of the rows: by their places, or those that are true."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        columns: list[Any] = [getattr(self, name) for name in type(self).__slots__]
        return type(self)(*(c[at] if isinstance(c, np.ndarray) else c.take(pa.array(at)) for c in columns))

    def table(self) -> pa.Table:
        """All of it for Arrow, pandas or Polars; what is not known is null."""
        numbers: dict[str, Any] = {
            "ts": self.ts, "score": self.score, "model_version": self.version,
            # NaN has no int8; the mask hides what stands for it.
            "label": pa.array(np.nan_to_num(self.label).astype(np.int8), mask=~self.labelled),
            "known_at": pa.array(self.known_at, mask=~self.labelled),
            "threshold": self.threshold, "alerted": self.alerted,
            "amount": pa.array(self.amount, mask=np.isnan(self.amount)),
        }  # fmt: skip
        texts = {"alert_id": self.alert_ids, "reasons": self.reasons}
        return pa.table({"event_id": self.event_ids, "entity_id": self.entity_ids, **numbers, **texts})


@dataclass(frozen=True, slots=True)
class ScoredBlock:
    """Consecutive scored rows of a run, of one step or many."""

    predictions: PredictionBatch
    thresholds: FloatVector
    alerts: dict[int, AlertState]
    """By row over its line, its alert as it was after the row."""
    values: list[str | None] | None = None
    """Of the field that is kept."""

    @classmethod
    def joined(cls, blocks: Sequence[ScoredBlock]) -> ScoredBlock:
        """Blocks, one after the other; there is at least one."""
        starts = np.cumsum([0, *(len(b.thresholds) for b in blocks)]).tolist()
        alerts = {at + row: alert for at, b in zip(starts, blocks, strict=False) for row, alert in b.alerts.items()}
        values = None if blocks[0].values is None else list(chain.from_iterable(b.values or () for b in blocks))
        thresholds = np.concatenate([b.thresholds for b in blocks])
        return cls(PredictionBatch.concat([b.predictions for b in blocks]), thresholds, alerts, values)


class OutcomeLog:
    """Collects the outcomes of a run.

    Parameters
    ----------
    features : names of the columns of predictions, among which the amount is found.
    labels : of the task, which say when an event is mature.
    reasons : whether reasons are kept.
    """

    def __init__(self, features: Sequence[str], labels: LabelSpec, *, reasons: bool = False) -> None:
        self._reasons, self._features, self._labels = reasons, features, labels
        self._amount = features.index("amount") if "amount" in features else None
        self._blocks: list[pa.Table] = []
        self._digests: list[Digests] = []
        self._told: list[_Told] = []

    def add(self, block: ScoredBlock) -> None:
        """Add scored rows in order."""
        p, n = block.predictions, len(block.predictions)
        rows = sorted(block.alerts)
        alerted = np.zeros(n, np.bool_)
        alerted[[row for row in rows if block.alerts[row].status != "resolved"]] = True
        ids, said = list[Any]([None] * n), list[Any]([None] * n)
        for row in rows:
            ids[row] = block.alerts[row].alert_id
            said[row] = [reason.text for reason in block.alerts[row].reasons] if self._reasons else None
        # A view would keep all features in memory.
        amount = np.full(n, np.nan) if self._amount is None else p.features[:, self._amount].copy()
        texts = (p.event_id, p.entity_id, ids, said, block.values or [None] * n)
        matures_at = p.ts + self._labels.ripens_s(self._features, p.features)
        numbers = (p.ts, p.score, block.thresholds, alerted, p.model_version, amount, matures_at)
        self._blocks.append(pa.table(dict(zip(_SCHEMA.names, (*texts, *numbers), strict=True)), schema=_SCHEMA))
        # 16 bytes a row, however long its ids are; labels find their row by them.
        self._digests.append(pair_digests(p.entity_id, p.event_id))

    def tell(self, told: Sequence[JoinResult], delay_s: float = 0.0, now: float = np.inf) -> None:
        """Take in labels in the order in which they became known.

        The join calls a label known at the row before it, the watermark. One that was held back for ``delay_s`` became
        known that long after its event, and before ``now``, the time of the next row.
        """
        self._told += [_told(joined, delay_s, now) for joined in told]

    def outcomes(self) -> Outcomes:
        """Everything so far."""
        whole = pa.concat_tables(self._blocks) if self._blocks else _SCHEMA.empty_table()
        label, known_at = np.full((2, len(whole)), np.nan)
        self._note(self._told, label, known_at)
        texts = {name: whole[name] for name in _TEXTS}
        numbers = {name: whole[name].to_numpy().astype(kind.to_pandas_dtype()) for name, kind in _NUMBERS.items()}
        return Outcomes(**texts, **numbers, label=label, known_at=known_at)

    def later(self, outcomes: Outcomes, told: Sequence[JoinResult], delay_s: float) -> Outcomes:
        """``outcomes``, all of them, with the labels that become known after the last row."""
        # Copied: the outcomes that files are made of must not learn of labels that come after the data.
        label, known_at = outcomes.label.copy(), outcomes.known_at.copy()
        self._note([_told(joined, delay_s, np.inf) for joined in told], label, known_at)
        return replace(outcomes, label=label, known_at=known_at)

    def _note(self, told: Sequence[_Told], label: FloatVector, known_at: FloatVector) -> None:
        """Write labels to the rows ``(n,)`` that they are of."""
        if not told or not self._blocks:
            return
        events, y, known = (np.concatenate(parts) for parts in zip(*told, strict=True))
        found = _rows_of(np.concatenate(self._digests), events)
        there = found >= 0
        # Of several labels of one row the last assignment stays: a correction counts.
        label[found[there]], known_at[found[there]] = y[there], known[there]


def _told(joined: JoinResult, delay_s: float, now: float) -> _Told:
    e = joined.examples
    known_at = np.maximum(joined.label_ts_known, np.minimum(e.ts + delay_s, now))
    return pair_digests(joined.entity_id, e.event_id), e.y, known_at


def _rows_of(digests: Digests, wanted: Digests) -> IntVector:
    """The row of each digest wanted, -1 where there is none; of repeats the first one, as in the label join."""
    # The join's own table, so that of two rows of one event both take the same one. Time plays no part here.
    table, zeros = FirstRows(NumberedRows({"digest": (np.uint64, 2), "ts": (np.float64, 0)})), np.zeros(len(digests))
    first, _ = table.claim(digests, zeros, zeros, np.inf, len(digests))
    found = table.find(wanted)
    return np.where(found >= 0, np.append(first, -1)[found], -1)
