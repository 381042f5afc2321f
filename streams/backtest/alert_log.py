"""The records of alerts of a run: byte for byte what a worker would have sent, and what the labels said in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from weir.online.decisions.alert_state import AlertState
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.outputs import alert_records
from weir.streams.whole_files import whole

Outcome = Literal["confirmed", "false_alarm"]
"""By the labels known at the end: one of the alert's events is positive, or all of them are negative."""
_REASON = pa.struct([("feature", pa.string()), ("value", pa.float64()), ("contribution", pa.float64()),
                     ("text", pa.string())])  # fmt: skip
ALERT_SCHEMA = pa.schema({
    "alert_id": pa.string(), "task": pa.string(), "entity_id": pa.string(), "status": pa.string(),
    "severity": pa.string(), "score": pa.float64(), "threshold": pa.float64(), "reasons": pa.list_(_REASON),
    "opened_at": pa.float64(), "updated_at": pa.float64(), "event_ids": pa.list_(pa.string()), "events": pa.int64(),
    "amount": pa.float64(), "outcome": pa.string(),
})  # fmt: skip
_GROUP_ROWS = 16_384


class AlertLog:
    """Collects records of alerts in the order in which they would have been sent; the newest of an alert counts."""

    def __init__(self) -> None:
        self._records: list[tuple[str, bytes]] = []
        self.outcomes: dict[str, Outcome] = {}
        """By alert, once `settle` was called; alerts of which not enough is known are left out."""

    def __len__(self) -> int:
        return len(self._records)

    def add(self, alerts: Sequence[AlertState]) -> None:
        """Add what a step told."""
        records = alert_records(alerts, 0.0)  # its time is Kafka's, not part of the record
        self._records += [(a.alert_id, record.value) for a, record in zip(alerts, records, strict=True)]

    def settle(self, outcomes: Outcomes) -> None:
        """Take from the labels what became of each alert."""
        alerted = outcomes.take(outcomes.alerted)
        labels: dict[str, list[float]] = {}
        # A NaN is neither: an alert with one event that is not known, and no positive, stays open.
        for alert_id, label in zip(alerted.alert_ids.to_pylist(), alerted.label.tolist(), strict=True):
            labels.setdefault(alert_id, []).append(label)
        for alert_id, known in labels.items():
            if 1.0 in known:
                self.outcomes[alert_id] = "confirmed"
            elif all(label == 0.0 for label in known):
                self.outcomes[alert_id] = "false_alarm"

    def lines(self) -> Iterator[bytes]:
        """Each record with ``outcome`` at its end, as JSON; null while labels leave it open."""
        for alert_id, value in self._records:
            # Into the record's bytes, not decoded and written anew: all else stays as it would have been sent.
            yield value[:-1] + b',"outcome":' + orjson.dumps(self.outcomes.get(alert_id)) + b"}"

    def table(self) -> pa.Table:
        """The same as columns."""
        lines = [*self.lines()]
        # In parts: Python objects of all records at once would take many times their bytes.
        parts = [self._part(lines[at : at + _GROUP_ROWS]) for at in range(0, len(lines), _GROUP_ROWS)]
        return pa.concat_tables(parts) if parts else ALERT_SCHEMA.empty_table()

    @staticmethod
    def _part(lines: Sequence[bytes]) -> pa.Table:
        rows: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
        return pa.Table.from_pylist(rows, schema=ALERT_SCHEMA)

    def write(self, path: Path) -> None:
        """Write all of it: Parquet where the name ends so, else a JSON record a line."""
        with whole(path) as file:
            if path.suffix == ".parquet":
                pq.write_table(self.table(), file, compression="zstd")
            else:
                file.writelines(line + b"\n" for line in self.lines())
