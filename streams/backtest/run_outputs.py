"""What a run collects and writes: each step goes in, and its outputs are whole whenever the run ends.

Steps are small, so they are joined to blocks before anything is made of them. It knows what a pipeline made and Parquet
files, not tasks, labels' sources or metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from weir.online.batch import PredictionBatch
from weir.online.labels.join_policy import JoinResult
from weir.online.stages.pipeline import StepOutput
from weir.online.task.spec import LabelSpec
from weir.streams.backtest.alert_log import AlertLog
from weir.streams.backtest.outcomes import Keep, OutcomeLog, Outcomes, ScoredBlock
from weir.streams.whole_files import whole

IDS: Final = {"event_id": pa.string(), "entity_id": pa.string(), "ts": pa.float64(), "task": pa.string()}
"""What each row of a file is of."""
# The first six columns are what the files of earlier versions had.
SCORE_SCHEMA: Final = pa.schema(IDS | {
    "score": pa.float64(), "model_version": pa.int64(), "label": pa.int8(), "known_at": pa.float64(),
    "threshold": pa.float64(), "alerted": pa.bool_(), "alert_id": pa.string(), "reasons": pa.list_(pa.string()),
})  # fmt: skip
_SCORE_ROWS: Final = 65_536
_BLOCK_ROWS: Final = 16_384


class RowFile:
    """A Parquet file that is written in groups of rows, however few come at once, and in its place when it is closed.

    Raises ``UsageError`` where it cannot be written; what was there before stays.
    """

    def __init__(self, path: Path, schema: pa.Schema, **options: Any) -> None:
        self._held = schema.empty_table()
        with ExitStack() as opened:
            file = opened.enter_context(whole(path))
            self._writer = opened.enter_context(pq.ParquetWriter(file, schema, compression="zstd", **options))
            self._opened = opened.pop_all()

    def write(self, rows: pa.Table) -> None:
        """Add rows."""
        self._held = pa.concat_tables([self._held, rows]) if len(self._held) else rows
        if len(self._held) >= _BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        group, self._held = self._held, self._held.slice(0, 0)
        with ExitStack() as failing:
            failing.push(self._opened)
            self._writer.write_table(group)
            failing.pop_all()

    def close(self) -> None:
        """Write what is left, and finish the file."""
        if len(self._held):
            self._flush()
        self._opened.close()


def write_scores(path: Path, task: str, outcomes: Outcomes) -> None:
    """Write every outcome, in large row groups."""
    rows, file = outcomes.table(), RowFile(path, SCORE_SCHEMA)
    for at in range(0, len(rows), _SCORE_ROWS):
        part = rows.slice(at, _SCORE_ROWS)
        # Added a group at a time: the name in every row of millions would be held at once.
        part = part.append_column("task", pa.array([task] * len(part), pa.string()))
        file.write(part.select(SCORE_SCHEMA.names).cast(SCORE_SCHEMA))
    file.close()


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """Where outputs are written, each in a file of its own; ``None`` for not at all."""

    scores: Path | None = None
    """Parquet: every score with its label and decision."""
    alerts: Path | None = None
    """Parquet or, with any other ending, JSONL: every record of an alert."""
    features: Path | None = None
    """Parquet: what each score was made from."""


class FeatureLog:
    """What scores were made from, exactly as logged: a value that is missing is -0.0.

    Parameters
    ----------
    features : names of the columns.
    path : written block by block where it is given.
    hold : whether all of it is kept in memory, too.
    """

    def __init__(self, features: Sequence[str], path: Path | None, *, hold: bool) -> None:
        ids = {name: IDS[name] for name in ("event_id", "entity_id", "ts")}
        self._chosen = [i for i, name in enumerate(features) if name not in ids]  # `ts` may be an input, too
        self._schema = pa.schema([*ids.items(), *((features[i], pa.float64()) for i in self._chosen)])
        # Floats repeat seldom: a dictionary of them costs time and saves nothing.
        options: dict[str, Any] = {"compression_level": 1, "use_dictionary": ["entity_id"]}
        self._file = None if path is None else RowFile(path, self._schema, **options)
        self._hold = hold
        self._held: list[pa.Table] = []

    def add(self, p: PredictionBatch) -> None:
        """Add rows in order."""
        arrays = [pa.array(p.event_id, pa.string()), pa.array(p.entity_id, pa.string()), pa.array(p.ts)]
        block = pa.Table.from_arrays([*arrays, *map(pa.array, p.features.T[self._chosen])], schema=self._schema)
        if self._file is not None:
            self._file.write(block)
        if self._hold:
            self._held.append(block)

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()

    def table(self) -> pa.Table | None:
        """What was held; ``None`` where that was not asked for."""
        if not self._hold:
            return None
        return pa.concat_tables(self._held) if self._held else self._schema.empty_table()


class Outputs:
    """The outputs of one run.

    Parameters
    ----------
    task, features : the name of the task, and those of the columns of its predictions.
    labels : what the task says of them.
    keep, files : what is collected, and what is written.
    """

    def __init__(self, task: str, features: Sequence[str], labels: LabelSpec, keep: Keep, files: OutputFiles) -> None:
        self._task, self._files = task, files
        self._field = keep.field is not None
        # Alerts get their outcome from the labels of their rows.
        wanted = keep.outcomes or keep.alerts or files.scores is not None or files.alerts is not None
        reasons = keep.reasons or files.scores is not None
        self._outcomes = OutcomeLog(features, labels, reasons=reasons) if wanted else None
        self.alerts = AlertLog() if keep.alerts or files.alerts is not None else None
        wide = keep.features or files.features is not None
        self.features = FeatureLog(features, files.features, hold=keep.features) if wide else None
        self._held: list[ScoredBlock] = []
        self._rows = 0

    def add(
        self,
        out: StepOutput,
        values: Mapping[tuple[str, str], str | None] | None = None,
        held_back: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        """Add what one step made.

        Parameters
        ----------
        values : of the field that is kept, by entity and event.
        held_back : how long its labels were held back, and until what time; see `OutcomeLog.tell`.
        """
        if self.alerts is not None and out.alerts:
            self.alerts.add(out.alerts)
        if self._outcomes is not None:
            self._outcomes.tell(out.told, *held_back)
        p = out.predictions
        # A step of labels alone has no rows.
        if p is None or out.thresholds is None or (self._outcomes is None and self.features is None):
            return
        keys = zip(p.entity_id, p.event_id, strict=True)
        found = [(values or {}).get(key) for key in keys] if self._field else None
        self._held.append(ScoredBlock(p, out.thresholds, out.decided, found))
        self._rows += len(p)
        if self._rows >= _BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        block = ScoredBlock.joined(self._held)
        self._held, self._rows = [], 0
        if self._outcomes is not None:
            self._outcomes.add(block)
        if self.features is not None:
            self.features.add(block.predictions)

    def close(self) -> Outcomes | None:
        """Write what is left and finish every file; the outcomes, where they were collected."""
        self._flush()
        if self.features is not None:
            self.features.close()
        if self._outcomes is None:
            return None
        outcomes = self._outcomes.outcomes()
        if self.alerts is not None:
            self.alerts.settle(outcomes)
        if self._files.scores is not None:
            write_scores(self._files.scores, self._task, outcomes)
        if self.alerts is not None and self._files.alerts is not None:
            self.alerts.write(self._files.alerts)
        return outcomes

    def later(self, outcomes: Outcomes, told: Sequence[JoinResult], delay_s: float) -> Outcomes:
        """``outcomes`` with labels of after the end, held back for ``delay_s``; files are as they are."""
        return outcomes if self._outcomes is None else self._outcomes.later(outcomes, told, delay_s)
