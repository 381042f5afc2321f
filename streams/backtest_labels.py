"""The labels of a backtest: held back until they are known, and counted by what became of them.

They come from a column of the rows, or from dumps of the ``labels`` topic. It knows no features, models or scores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from online.batch import FloatVector, LabelBatch
from online.durations import format_duration
from online.pipeline import StepOutput
from online.task import SourceSpec, TaskSpec
from streams.errors import UsageError
from streams.notes import LabelCounts
from streams.sources import SourceBatch
from streams.wirefiles import read_labels

_CUTS_A_DELAY = 8
"""A batch spans at most this part of the label delay, so that on a thin stream labels are not seen much too late."""


class _LabelQueue:
    """Labels held back until they become known."""

    def __init__(self) -> None:
        self._held: deque[tuple[FloatVector, LabelBatch]] = deque()

    def add(self, known_at: FloatVector, labels: LabelBatch) -> None:
        """Hold labels back; a label waits for those before it, so ``known_at`` never steps back."""
        if len(labels):
            self._held.append((np.maximum.accumulate(known_at), labels))

    def left(self) -> list[LabelBatch]:
        """Labels that are not known yet."""
        return [labels for _, labels in self._held]

    def due(self, now: float) -> list[LabelBatch]:
        """Labels that are known at ``now``, in order."""
        out: list[LabelBatch] = []
        while self._held:
            known_at, labels = self._held[0]
            ripe = int(np.searchsorted(known_at, now, side="right"))
            if ripe == 0:
                break
            self._held.popleft()
            out.append(labels.slice(0, ripe))
            if ripe < len(labels):
                self._held.appendleft((known_at[ripe:], labels.slice(ripe, len(labels))))
                break
        return out


def _row_labels(rows: SourceBatch, task: TaskSpec) -> LabelBatch:
    """The labels that rows of a file bring with them, where the task scores them."""
    key, types = task.key, set(task.types)
    known = np.flatnonzero(rows.labelled)
    if types or (key != "*" and None in rows.batch.entities[key]):
        who, kinds = rows.batch.entities.get(key, rows.batch.event_id), rows.batch.type
        mine = [i for i in known.tolist() if who[i] is not None and (not types or kinds[i] in types)]
        known = np.array(mine, np.int64)
    b = rows.batch.take(known)
    entity = [k or "*" for k in (b.entities[key] if key != "*" else ["*"] * len(b))]
    value = rows.label[known] if rows.label is not None else np.zeros(0, dtype=np.bool_)
    return LabelBatch([f"{e}/label" for e in b.event_id], entity, list(b.event_id), b.ts, value, np.ones(len(b)))


class LabelInput:
    """The labels of a run, held back until they are known, and what becomes of them."""

    def __init__(self, task: TaskSpec, paths: Sequence[Path], delay_s: float | None) -> None:
        self.task, self.spec = task, task.source or SourceSpec()
        if paths and self.spec.label is not None:
            raise UsageError(f"labels come from the column {self.spec.label!r} and from files: drop one of the two")
        if paths and delay_s is None and task.source is None:
            raise UsageError("labels become known late: say how late with --label-delay, such as 7d (0s for at once)")
        self.delay_s = self.spec.label_delay if delay_s is None else delay_s
        labelled = bool(paths) or self.spec.label is not None
        slack_s = task.labels.join.keep_s - self.delay_s if labelled else np.inf
        if slack_s <= 0:
            raise UsageError(
                f"labels become known after {format_duration(self.delay_s)}, but predictions wait for them only "
                f"keep_s = {format_duration(task.labels.join.keep_s)}: nothing would be learned. Set keep_s in "
                "[labels.join] to more than the delay"
            )
        self.span_s = min(self.delay_s / _CUTS_A_DELAY or np.inf, slack_s)
        """Event time of one batch at most: labels are seen when the batch before is done, and must not be late then."""
        self.held = _LabelQueue()
        self._counts = LabelCounts(self._source(paths), self.delay_s)
        self._told: list[str | None] = []
        self._unseen: dict[str, float] = {}
        """By event that labels name and that did not come yet, the time that the last of them speaks of."""
        self._unscored: set[str] = set()
        if paths:
            self._read_files(paths)

    def _source(self, paths: Sequence[Path]) -> str | None:
        if paths:
            return ", ".join(map(str, paths))
        if self.spec.label is not None:
            return f"the column {self.spec.label!r}"
        assumed = self.task.labels.silence is not None or self.task.labels.join.negative_after_s is not None
        return "[labels] of the task" if assumed else None

    def _read_files(self, paths: Sequence[Path]) -> None:
        known = read_labels(self.task.name, paths, self.delay_s)
        self.held.add(known.known_at, known.labels)
        self._told = known.labels.event_id
        self._unseen = {e: t for e, t in zip(self._told, known.labels.ts.tolist(), strict=True) if e is not None}
        self._unscored = set(self._unseen)
        self._counts.given, self._counts.refused = len(known.labels), known.rejects

    def read(self, rows: SourceBatch) -> None:
        """Take in the labels that rows bring, and note which events there are."""
        if self._unseen:
            floors = (rows.batch.ts - self.task.labels.join.wait_s).tolist()
            for event, floor in zip(rows.batch.event_id, floors, strict=True):
                self._counts.early += self._unseen.pop(event, np.inf) < floor
        if rows.label is not None:
            told = _row_labels(rows, self.task)
            self._counts.given += int(np.count_nonzero(rows.labelled))
            self._counts.unscored += int(np.count_nonzero(rows.labelled)) - len(told)
            self.held.add(told.ts + self.delay_s, told)

    def learned(self, out: StepOutput) -> None:
        """Note what was scored and learned."""
        if out.predictions is not None and self._unscored:
            self._unscored.difference_update(out.predictions.event_id)
        for examples in out.examples:
            positive = int(np.count_nonzero(examples.y))
            self._counts.positive += positive
            self._counts.negative += len(examples) - positive

    def counts(self) -> LabelCounts:
        """What became of all of them, at the end."""
        counts, by_event = self._counts, self.task.labels.join.match == "event"
        counts.unknown = [event for event in self._told if event in self._unseen]
        counts.nameless = self._told.count(None) if by_event else 0
        nowhere = {*self._unscored, *([None] if by_event else [])}
        waiting = [event for labels in self.held.left() for event in labels.event_id]
        explained = sum(event in nowhere for event in self._told)
        counts.unscored += explained - len(counts.unknown) - counts.nameless
        counts.explained = explained - sum(event in nowhere for event in waiting)
        counts.ahead = len(waiting)
        return counts
