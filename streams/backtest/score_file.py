"""The Parquet file of scores that a backtest writes: event_id, entity_id, ts, task, score, model_version."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from weir.online.batch import PredictionBatch

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("entity_id", pa.string()),
        ("ts", pa.float64()),
        ("task", pa.string()),
        ("score", pa.float64()),
        ("model_version", pa.int64()),
    ]
)
_GROUP_ROWS = 65_536


class ScoreFile:
    """Collects predictions and writes them in large row groups; what was added is in the file once it is closed."""

    def __init__(self, path: Path, task: str) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._task = task
        self._held: list[PredictionBatch] = []
        self._rows = 0

    def add(self, predictions: PredictionBatch) -> None:
        """Add scores in order."""
        self._held.append(predictions)
        self._rows += len(predictions)
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        held = PredictionBatch.concat(self._held)
        who = {"event_id": held.event_id, "entity_id": held.entity_id, "ts": held.ts}
        said = {"task": [self._task] * len(held), "score": held.score, "model_version": held.model_version}
        self._writer.write_table(pa.table(who | said, schema=SCHEMA))
        self._held, self._rows = [], 0

    def close(self) -> None:
        """Write the rest and finish the file."""
        self._flush()
        self._writer.close()
