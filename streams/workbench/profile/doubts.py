"""What is odd of a task and its data, found on a sample before an hour is spent: each with value, limit and fix.

It reads the data as a backtest does and computes no feature. What a backtest notes at its end (``RunWatch``) is said
here first, beside what only labels, windows and budgets tell.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from weir.online.batch import EventBatch, FloatVector, LabelBatch
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.durations import EVER, format_duration
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.notes import DAY_S, RunWatch
from weir.streams.backtest.wire_files import WireSource, read_labels
from weir.streams.checks.findings import Check
from weir.streams.workbench.measures import roc_auc
from weir.streams.workbench.profile.sampled import Sample, samples_of

_BATCH: Final = 4096
_FEW: Final = 50
_TOO_WELL: Final = 0.98
"""ROC AUC of one raw column, beyond which it rather tells the label than foretells it."""
_GRAVE: Final = frozenset({"types", "not scored", "entity key"})
"""Notes of a backtest with which a run is of no use."""


@dataclass(slots=True)
class _Sample:
    """The n events of a sample."""

    task: TaskSpec
    source: WireSource | FileSource
    watch: RunWatch
    rows: int
    """Of the files, estimated where only a part was read."""
    whole: bool
    """Whether all was read."""
    batches: list[EventBatch] = field(default_factory=list)
    y: FloatVector = field(default_factory=lambda: np.empty(0))
    """``(n,)`` 1, 0, NaN where no label is known."""
    late_s: FloatVector = field(default_factory=lambda: np.empty(0))
    """How late labels are: of each where a column says it, else the delay of the task."""
    refused: list[str] = field(default_factory=list)

    @property
    def span_s(self) -> float:
        return self.watch.last - self.watch.first

    @property
    def labels(self) -> FloatVector:
        return self.y[np.isfinite(self.y)]

    @property
    def rows_a_day(self) -> float:
        return self.rows / max(self.span_s / DAY_S, 1e-9)


def doubts_of(task: TaskSpec, paths: Sequence[Path], labels: Sequence[Path] = ()) -> list[Check]:
    """Checks of a task against a sample of its data; raises ``UsageError`` where that cannot be read at all."""
    with TemporaryDirectory(prefix="weir-check-") as folder:
        samples, _ = samples_of(paths, Path(folder))
        columns, read = columns_of(task), [path for sample in samples for path in sample.read]
        source = (WireSource if task.source is None else FileSource)(task, columns, read)
        seen = _Sample(task, source, RunWatch(task, columns), *_size(samples))
        _look(seen, labels)
    # Without a row that fits the other checks have nothing to look at.
    checks = (_of_rows, _of_notes, _of_times, _of_labels, _of_entities, _of_columns, _of_budget)
    return [check for of in checks[: None if seen.batches else 1] for check in of(seen)]


def _size(samples: Sequence[Sample]) -> tuple[int, bool]:
    """The rows of all files, and whether these are what was read."""
    return sum(sample.rows for sample in samples), all(sample.read == sample.paths for sample in samples)


class _GivenLabels:
    """Labels of files, found for an event as the label join finds them."""

    def __init__(self, task: TaskSpec, labels: LabelBatch | None) -> None:
        join = task.labels.join
        self._range_s = join.range_s if join.match == "entity_range" else -1.0
        self._by_event: dict[tuple[str, str], float] = {}
        self._by_owner: dict[str, tuple[list[float], list[float]]] = {}
        for k in range(0 if labels is None else len(labels)):
            assert labels is not None
            # Where all events are of one entity, labels may name any.
            owner, event = "*" if task.key == "*" else labels.entity_id[k], labels.event_id[k]
            if event is not None:
                self._by_event[owner, event] = float(labels.value[k])
                continue
            times, values = self._by_owner.setdefault(owner, ([], []))
            times.append(float(labels.ts[k]))  # labels come by their time
            values.append(float(labels.value[k]))

    def of(self, owner: str, event: str, ts: float) -> float:
        """1, 0, or NaN where no label speaks of the event; of several the last one counts."""
        if (owner, event) in self._by_event:
            return self._by_event[owner, event]
        times, values = self._by_owner.get(owner, ([], []))
        at = bisect_right(times, ts + self._range_s) - 1
        return values[at] if at >= 0 and times[at] >= ts else np.nan


def _look(seen: _Sample, labels: Sequence[Path]) -> None:
    """Read the sample once."""
    told = _GivenLabels(seen.task, read_labels(seen.task.name, labels)[0] if labels else None)
    y, late = list[FloatVector](), list[FloatVector]()
    for part in seen.source.batches(_BATCH):
        seen.refused += [reject.reason for reject in part.rejects]
        batch = part.batch
        if not len(batch):
            continue
        seen.watch.update(batch, part.labelled)
        seen.batches.append(batch)
        if part.label is not None:
            y.append(np.where(part.labelled, part.label, np.nan))
        else:
            who = batch.entities[seen.task.key] if seen.task.key != "*" else ["*"] * len(batch)
            rows = zip(who, batch.event_id, batch.ts.tolist(), strict=True)
            y.append(np.array([told.of(w or "", event, ts) for w, event, ts in rows]))
        if part.known_at is not None:
            late.append((part.known_at - batch.ts)[np.isfinite(part.known_at)])
    # What it held back is counted now: the checks ask for its span.
    seen.watch.look()
    seen.y = np.concatenate(y) if y else seen.y
    if (after_s := seen.task.labels.join.negative_after_s) is not None and y:
        # As the join will: an event without a label is a 0 by then.
        old = np.concatenate([batch.ts for batch in seen.batches]) < seen.watch.last - after_s
        seen.y = np.where(np.isnan(seen.y) & old, 0.0, seen.y)
    fixed = np.array([seen.task.source.label_delay if seen.task.source is not None else 0.0])
    seen.late_s = np.concatenate(late) if late else fixed


def _of_rows(seen: _Sample) -> Iterator[Check]:
    n, bad = sum(map(len, seen.batches)), len(seen.refused)
    said = f"{n:,} of {seen.rows:,} rows looked at"
    if bad:
        said += f", {bad / (n + bad):.1%} refused (limit 50%): {seen.refused[0]}"
        yield Check("rows", "FAIL" if bad > n else "WARN", said, "Correct [source] in the task file, or the rows.")
    else:
        yield Check("rows", "OK" if n else "FAIL", said, "" if n else "Give files with rows by --data.")


def _of_notes(seen: _Sample) -> Iterator[Check]:
    """What a backtest would note of the events."""
    for note in sorted(seen.watch.notes(seen.watch.events), key=lambda note: note.rank):
        if note.kind == "pause" and not seen.whole:
            continue  # between two stretches of a large file that were read
        yield Check(
            note.kind, "FAIL" if note.kind in _GRAVE else "WARN", note.what, note.fix[:1].upper() + note.fix[1:]
        )


def _of_times(seen: _Sample) -> Iterator[Check]:
    back = seen.source.steps_back if isinstance(seen.source, FileSource) else 0.0
    if back > 0.01:
        what = f"the time goes backwards at {back:.1%} of the rows of the files (limit 1%)"
        yield Check("order", "WARN", what, "A backtest sorts them; live they would be late: see allowed_lateness.")
    windows = [w for entity in seen.task.entities for a in entity.windowed for w in a.windows if w != EVER]
    if max(windows, default=0.0) > seen.span_s:
        what = f"windows of up to {format_duration(max(windows))}, the data spans {seen.span_s / DAY_S:.1f} days"
        yield Check("windows", "WARN", what, "Such a window is as `ever` here: give more data, or shorter ones.")


def _of_labels(seen: _Sample) -> Iterator[Check]:
    task, y, days = seen.task, seen.labels, seen.span_s / DAY_S
    silence, positive = task.labels.silence, int(seen.labels.sum())
    # The median: one label of years must not fail a task.
    wait_s = float(np.median(seen.late_s)) if len(seen.late_s) else 0.0
    if silence is not None:
        wait_s = silence.horizon_s + silence.lateness_s
    elif task.model.kind == "column":
        return
    elif positive in (0, len(y)):
        what = f"{len(y):,} labels, {positive:,} of them positive: nothing can be learned"
        fix = "Look at `label`, `positive` and `negative` in [source], or give --labels."
        if positive and task.source is not None and task.source.label_known and not task.labels.join.negative_after_s:
            column = task.source.label_known
            fix = f"No 0 has a time in {column!r}: say in [labels.join] negative_after_s when one is a 0."
        yield Check("labels", "FAIL", what, fix)
        return
    else:
        few = min(positive, len(y) - positive) < _FEW
        said = f"{len(y):,} labels, {positive:,} ({positive / len(y):.2%}) positive"
        fix = f"Fewer than {_FEW} of a kind teach little: give more data." if few else ""
        yield Check("labels", "WARN" if few else "OK", said, fix)
    if wait_s >= seen.span_s:
        what = f"labels are known {wait_s / DAY_S:.1f} days after their event, the data spans {days:.1f} days"
        yield Check("label delay", "FAIL", what, "Nothing would be learned: give more data, or correct the delay.")
    keep_s = task.waiting(float(seen.late_s.max(initial=0.0))).labels.join.keep_s
    if (beyond := float(np.mean(seen.late_s > keep_s)) if len(seen.late_s) else 0.0) > 0.01:
        what = f"{beyond:.1%} of the labels come later than keep_s = {format_duration(keep_s)} (limit 1%)"
        yield Check("horizon", "FAIL" if beyond > 0.5 else "WARN", what, "Raise keep_s in [labels.join], or drop it.")
    if early := seen.source.early_labels if isinstance(seen.source, FileSource) else 0:
        what = f"{early:,} {'labels are' if early > 1 else 'label is'} known before the event (limit 0)"
        yield Check("early labels", "WARN", what, "Look at `label_known` and `time` in [source]: are they swapped?")


def _of_entities(seen: _Sample) -> Iterator[Check]:
    counts = [n for name, n in seen.watch.owners.items() if name is not None]
    if not counts:
        return
    single = counts.count(1) / len(counts)
    said = f"{len(counts):,} of {seen.task.key}, {sum(counts) / len(counts):.1f} events each"
    said += f"; {single:.0%} have one (limit 90%)" if single > 0.9 else ""
    fix = "Features over time say nothing of them: take an id that comes again as the key." if single > 0.9 else ""
    yield Check("entities", "WARN" if single > 0.9 else "OK", said, fix)


def _of_columns(seen: _Sample) -> Iterator[Check]:
    """Raw numbers that alone tell the label."""
    labelled = np.isfinite(seen.y)
    y = seen.y[labelled] > 0
    for name in seen.batches[0].numbers if 10 <= int(y.sum()) <= len(y) - 10 else ():
        values = np.concatenate([batch.numbers[name] for batch in seen.batches])[labelled]
        # Missing ranks below all: that a value is only there for one label tells it as well.
        auc = roc_auc(y, np.nan_to_num(values, nan=-1e300))
        if max(auc, 1.0 - auc) > _TOO_WELL:
            what = f"{name} alone separates the labels with ROC AUC {max(auc, 1 - auc):.3f} (limit {_TOO_WELL})"
            yield Check("leak", "FAIL", what, f"Is it known when the event comes? Else take {name} out of the task.")


def _of_budget(seen: _Sample) -> Iterator[Check]:
    line, days, y = seen.task.threshold, seen.span_s / DAY_S, seen.labels
    if not isinstance(line, BudgetThreshold) or not seen.task.alerting:
        return
    positives = max(float(y.mean()) * seen.rows_a_day, 0.05) if len(y) else np.inf
    said = f"{line.alerts_per_day:g} alerts of {seen.rows_a_day:,.0f} events a day"
    if seen.rows < line.min_scores or days < line.min_days:
        said = f"{seen.rows:,} rows in {days:.1f} days: nothing alerts before {line.min_scores:,} and {line.min_days:g}"
        yield Check("budget", "WARN", said, 'Give more data, or [threshold] kind = "fixed".')
    elif line.alerts_per_day > seen.rows_a_day / 2:
        yield Check("budget", "WARN", f"{said} (limit: half)", "The stream cannot fill it: give fewer alerts_per_day.")
    elif line.alerts_per_day > 20 * positives:
        said += f", of which {positives:.2g} are positive (limit: 20 times)"
        yield Check("budget", "WARN", said, "Most alerts will be false: give fewer alerts_per_day.")
    else:
        yield Check("budget", "OK", said)
