"""The Parquet file of scores that a backtest writes.

The first six columns are what the files of earlier versions had: event_id, entity_id, ts, task, score, model_version.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from weir.streams.backtest.outcomes import Outcomes
from weir.streams.errors import UsageError, in_words

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("entity_id", pa.string()),
        ("ts", pa.float64()),
        ("task", pa.string()),
        ("score", pa.float64()),
        ("model_version", pa.int64()),
        ("label", pa.int8()),
        ("known_at", pa.float64()),
        ("threshold", pa.float64()),
        ("alerted", pa.bool_()),
        ("alert_id", pa.string()),
        ("reasons", pa.list_(pa.string())),
    ]
)
_GROUP_ROWS = 65_536


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Errors of writing ``path``, such as a full disk, in one sentence."""
    try:
        yield
    except OSError as exc:  # Arrow's have no file name
        why = in_words(exc)
        raise UsageError(f"{path} cannot be written: {why}; check its rights and the free space") from exc


def write_scores(path: Path, task: str, outcomes: Outcomes) -> None:
    """Write every outcome, in large row groups."""
    whole = outcomes.table()
    with written(path), pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for at in range(0, len(whole), _GROUP_ROWS):
            part = whole.slice(at, _GROUP_ROWS)
            # Added a group at a time: the name in every row of millions would be held at once.
            part = part.append_column("task", pa.array([task] * len(part), pa.string()))
            writer.write_table(part.select(SCHEMA.names).cast(SCHEMA))
