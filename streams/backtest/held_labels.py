"""The labels of a backtest: held back until they are known, and counted by what became of them.

They come from a column of the rows, or from dumps of the ``labels`` topic. It knows no features, models or scores.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from weir.online.batch import FloatVector, IntVector, LabelBatch
from weir.online.durations import format_duration
from weir.online.labels.join import LabelJoiner
from weir.online.stages.pipeline import StepOutput
from weir.online.task.spec import SourceSpec, TaskSpec
from weir.streams.backtest.event_files import SourceBatch
from weir.streams.backtest.notes import DAY_S, Kind, Note, RunWatch
from weir.streams.backtest.wire_files import read_labels
from weir.streams.errors import UsageError

# A batch spans at most this part of the label delay, so that on a thin stream labels are not seen much too late.
_CUTS_A_DELAY = 8
# Median delays of labels 0 and 1 that differ by so much are told.
_UNEVEN = 1.2


class LabelsBetween(NamedTuple):
    """Labels that become known among the rows of a batch, in the order in which they act."""

    labels: LabelBatch
    known_at: FloatVector | None
    """``(m,)`` event time at which each became known, where each has a time of its own."""
    before: IntVector
    """``(m,)`` ascending: the row of the batch that is the first to be scored with it."""

    def at(self, row: int) -> tuple[LabelBatch, FloatVector | None]:
        """Those that act right before a row."""
        start, stop = np.searchsorted(self.before, [row, row + 1]).tolist()
        return self.labels.slice(start, stop), None if self.known_at is None else self.known_at[start:stop]


class _LabelQueue:
    """Labels held back until they become known.

    After one delay for all, a label waits for those before it. Where each has a time of its own (``timed``) they come
    in the order of these, and an event of the very time at which a label becomes known does not see it: days are such
    times, and what became known on a day was not known all day.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self.timed = timed
        self._held: list[tuple[float, int, int, FloatVector, LabelBatch]] = []
        """A heap of pieces: when its next label becomes known, its number, which label that is, and all of them."""
        self._added, self._latest = 0, -np.inf

    def add(self, known_at: FloatVector, labels: LabelBatch) -> None:
        """Hold labels back until ``known_at (n,)``."""
        if not len(labels):
            return
        if self.timed:
            order = np.argsort(known_at, kind="stable")
            known_at, labels = known_at[order], labels.take(order)
        else:
            known_at = np.maximum.accumulate(np.maximum(known_at, self._latest))
            self._latest = float(known_at[-1])
        self._added += 1
        self._push(self._added, known_at, labels)

    def _push(self, number: int, known_at: FloatVector, labels: LabelBatch, start: int = 0) -> None:
        # The number tells pieces of the same time apart before arrays would be compared, which raises; it also keeps
        # them in order.
        # Whole, with where it goes on: a file of labels is one piece, and its rest would be copied at each cut.
        heapq.heappush(self._held, (float(known_at[start]), number, start, known_at, labels))

    def turns(self, ts: FloatVector) -> IntVector:
        """Rows of a batch, at times ``ts (n,)``, before which a label that is held becomes known; n for later ones."""
        now = np.maximum.accumulate(ts)
        stops = (int(np.searchsorted(known_at, now[-1], side="right")) for *_, known_at, _ in self._held)
        known = [known_at[start:stop] for (_, _, start, known_at, _), stop in zip(self._held, stops, strict=True)]
        rows: IntVector = np.searchsorted(now, np.concatenate([ts[:0], *known]), side="right" if self.timed else "left")
        return np.unique(rows)

    def between(self, ts: FloatVector, known_at: FloatVector, labels: LabelBatch, after: IntVector) -> LabelsBetween:
        """Take in the labels of a batch's rows, and give out what is known before one of them.

        It is what `due` and `add` give row by row: ``ts (n,)`` are the times of the rows, and the labels ``(m,)`` are
        those of rows ``after (m,)``, -1 for one before the batch.
        """
        if not self.timed:
            known_at = np.maximum.accumulate(np.maximum(known_at, self._latest))
            self._latest = max([self._latest, *known_at[-1:].tolist()])
        # By number, not in the order of the heap: of labels known at the same time the one that was added first acts
        # first.
        pieces = sorted(self._held, key=lambda piece: piece[1])
        held = [(known[start:], old.slice(start, len(old))) for _, _, start, known, old in pieces]
        before_all = [np.full(len(old), -1) for _, old in held]
        known_at = np.concatenate([*(known for known, _ in held), known_at])
        labels = LabelBatch.concat([*(old for _, old in held), labels])
        first = np.searchsorted(np.maximum.accumulate(ts), known_at, side="right" if self.timed else "left")
        # A label never acts before its own event is scored, whatever its time says.
        row = np.maximum(first, np.concatenate([*before_all, after]) + 1)
        for k in np.flatnonzero(row < len(ts)).tolist() if (np.diff(ts) < 0).any() else ():
            seen = ts[row[k] :] > known_at[k] if self.timed else ts[row[k] :] >= known_at[k]
            row[k] += int(np.argmax(seen)) if seen.any() else len(ts)  # clocks stepped back
        left = np.flatnonzero(row >= len(ts))
        left = left[np.argsort(known_at[left], kind="stable")]
        self._held = []
        if len(left):
            self._added += 1
            self._push(self._added, known_at[left], labels.take(left))
        # By row first: within a row they come as they became known.
        due = np.lexsort((known_at, row))[: len(row) - len(left)]
        return LabelsBetween(labels.take(due), known_at[due] if self.timed else None, row[due])

    def left(self) -> list[LabelBatch]:
        """Labels that are not known yet."""
        return [labels.slice(start, len(labels)) for _, _, start, _, labels in self._held]

    def due(self, now: float) -> list[tuple[LabelBatch, FloatVector | None]]:
        """Labels that are known at ``now``, in order, and the times of those that have some of their own."""
        out: list[tuple[LabelBatch, FloatVector]] = []
        while self._held and (self._held[0][0] < now or (self._held[0][0] == now and not self.timed)):
            _, number, start, known_at, labels = heapq.heappop(self._held)
            ripe = int(np.searchsorted(known_at, now, side="left" if self.timed else "right"))
            out.append((labels.slice(start, ripe), known_at[start:ripe]))
            if ripe < len(labels):
                self._push(number, known_at, labels, ripe)
        if not self.timed:
            return [(labels, None) for labels, _ in out]
        if not out:
            return []
        known_at = np.concatenate([known for _, known in out])
        order = np.argsort(known_at, kind="stable")
        return [(LabelBatch.concat([labels for labels, _ in out]).take(order), known_at[order])]


def _row_labels(rows: SourceBatch, task: TaskSpec) -> tuple[LabelBatch, IntVector]:
    """The labels that rows of a file bring with them, where the task scores them, and the place of each."""
    key, types = task.key, set(task.types)
    known = np.flatnonzero(rows.labelled) if rows.label is not None else np.zeros(0, np.int64)
    if types or (key != "*" and None in rows.batch.entities[key]):
        who, kinds = rows.batch.entities.get(key, rows.batch.event_id), rows.batch.type
        mine = [i for i in known.tolist() if who[i] is not None and (not types or kinds[i] in types)]
        known = np.array(mine, np.int64)
    b = rows.batch.take(known)
    entity = [k or "*" for k in (b.entities[key] if key != "*" else ["*"] * len(b))]
    value = rows.label[known] if rows.label is not None else np.zeros(0, dtype=np.bool_)
    labels = [f"{e}/label" for e in b.event_id]
    return LabelBatch(labels, entity, list(b.event_id), b.ts, value, np.ones(len(b))), known


class LabelInput:
    """The labels of a run, held back until they are known, and what becomes of them.

    ``task`` is the run's: its ``keep_s`` is beyond the labels' delay where the file does not give one. ``latest_s`` is
    the longest delay, where each label has one of its own.
    """

    def __init__(
        self, task: TaskSpec, paths: Sequence[Path], delay_s: float | None, latest_s: float | None = None
    ) -> None:
        self.task, self.spec = task, task.source or SourceSpec()
        if paths and self.spec.label is not None:
            raise UsageError(f"labels come from the column {self.spec.label!r} and from files: drop one of the two")
        if paths and delay_s is None and task.source is None:
            raise UsageError("labels become known late: say how late with --label-delay, such as 7d (0s for at once)")
        self.delay_s = self.spec.label_delay if delay_s is None else delay_s
        given = paths or self.spec.label is not None
        if given and self.delay_s >= task.labels.join.keep_s:
            # What the task says of it is derived there; this is a delay of the command, or of a column.
            task = self.task = task.waiting(self.delay_s if latest_s is None else latest_s)
        slack_s = task.labels.join.keep_s - self.delay_s if given else np.inf
        if slack_s <= 0:
            raise UsageError(
                f"labels become known after {format_duration(self.delay_s)}, but predictions wait for them only "
                f"keep_s = {format_duration(task.labels.join.keep_s)}: nothing would be learned. Set keep_s in "
                "[labels.join] to more than the delay"
            )
        self.between_rows = task.labels.act == "between rows"
        delays_s = [self.delay_s] if given else []
        if (silence := task.labels.silence) is not None:
            # A label of silence is as late as that: its prediction must still wait, and a batch be shorter.
            delays_s.append(silence.horizon_s + silence.lateness_s)
            slack_s = min(slack_s, task.labels.join.keep_s - delays_s[-1])
        if (after_s := task.labels.join.negative_after_s) is not None:
            delays_s.append(after_s)
            # A label that is known by then must not find its event taken for a 0 by rows of its own batch.
            if self.delay_s < after_s:
                slack_s = min(slack_s, after_s - self.delay_s)
        cuts_s = [delay_s / _CUTS_A_DELAY or np.inf for delay_s in delays_s if not self.between_rows]
        self.span_s = min([slack_s, *cuts_s])
        """Event time of one batch at most: labels are seen when the batch before is done, and must not be late then."""
        self.held = _LabelQueue(timed=self.spec.label_known is not None)
        self._paths, self._refused = paths, ""
        self._given = self._positive = self._negative = 0
        self._delays: tuple[list[FloatVector], list[FloatVector]] = [], []
        """Of labels 0 and 1, where each has a time of its own."""
        self._told: list[tuple[str, str | None]] = []
        """Entity and event that labels of files name; where all events are of one entity, labels may name any."""
        if paths:
            known, self._refused = read_labels(self.task.name, paths)
            self.held.add(known.ts + self.delay_s, known)
            owners = ["*"] * len(known) if task.key == "*" else known.entity_id
            self._told, self._given = list(zip(owners, known.event_id, strict=True)), len(known)
        # A set beside the list: membership is asked for each scored row, and the list keeps repeats for the counts.
        self._unscored = set(self._told)

    @property
    def any_order(self) -> bool:
        """Whether a label may come before its event."""
        return bool(self._paths)

    def turns(self, ts: FloatVector) -> list[int]:
        """Where a batch of rows at times ``ts (n,)`` is cut so that no event is taken for a 0 whose label is known.

        What is known a delay after each row needs no more than ``span_s``.
        """
        cuts = {0, len(ts)}
        if len(ts) and self.task.labels.join.negative_after_s is not None and (self.any_order or self.held.timed):
            cuts.update(self.held.turns(ts).tolist())
        return sorted(cuts)

    def read(self, rows: SourceBatch) -> None:
        """Take in the labels that rows bring, for the batches after theirs."""
        told, _, known_at = self._brought(rows)
        self.held.add(known_at, told)

    def between(self, rows: SourceBatch) -> LabelsBetween:
        """Take in the labels that rows bring; those known before one of the rows that count act before it."""
        told, at, known_at = self._brought(rows)
        place = at if rows.fresh is None else np.cumsum(rows.fresh)[at] - 1  # a repeat's comes with the row before it
        return self.held.between(rows.events.ts, known_at, told, place)

    def _brought(self, rows: SourceBatch) -> tuple[LabelBatch, IntVector, FloatVector]:
        """The labels of rows, the place of each, and when it is known."""
        told, at = _row_labels(rows, self.task)
        self._given += len(told)
        known_at = told.ts + self.delay_s if rows.known_at is None else rows.known_at[at]
        for value in set(told.value.tolist()) if rows.known_at is not None else ():
            self._delays[value].append((known_at - told.ts)[told.value == value])
        return told, at, known_at

    def learned(self, out: StepOutput) -> None:
        """Note what was scored and learned."""
        if out.predictions is not None and self._unscored:
            self._unscored.difference_update(zip(out.predictions.entity_id, out.predictions.event_id, strict=True))
        for examples in out.examples:
            positive = int(np.count_nonzero(examples.y))
            self._positive += positive
            self._negative += len(examples) - positive

    def notes(self, joiner: LabelJoiner, watch: RunWatch) -> list[Note]:
        """What is odd of the labels of a run that scored something."""
        return [Note(*note) for note in (*self._of_values(watch, joiner.stats.early), *self._of_joins(joiner))]

    def _of_values(self, watch: RunWatch, early: int) -> Iterator[tuple[Kind, str, str]]:
        assumed = self.task.labels.silence is not None or self.task.labels.join.negative_after_s is not None
        source = ", ".join(map(str, self._paths)) or (f"the column {self.spec.label!r}" if self.spec.label else "")
        learned, given = self._positive + self._negative, self._given
        if not source and not assumed:
            if self.task.model.kind != "column":
                what = "no labels were given: the model has learned nothing and its scores mean nothing"
                yield "no labels", what, "name the `label` column in [source], or give --labels"
            return
        if not learned:
            days = (watch.last - watch.first) / DAY_S
            why, fix = f"none of {given:,} labels met a prediction", f"look at {source or '[labels] of the task'}"
            if not given and source:
                why, fix = f"no label was found in {source}", "look at its values: words for missing are no label"
            elif early:
                why = (
                    f"{early:,} of {given:,} labels are early: {self.task.labels.metrics_over} alone are learned, and "
                )
                why, fix = f"{why}the data spans {days:.1f} days", "give more data, or a shorter maturity in [labels]"
            elif (ahead := sum(map(len, self.held.left()))) > given / 2:
                delay = f"{self.delay_s / DAY_S:.1f} days" if self.held.timed else format_duration(self.delay_s)
                why = f"{'none' if ahead == given else 'few'} of {given:,} labels became known before the data ended"
                why += f": it spans {days:.1f} days and labels come {delay} late"
                fix = "give more data, or correct the delay or `ts` of the labels"
            yield "no labels", f"{why}: the model has learned nothing", fix
        elif not self._positive or not self._negative:
            which, other = ("negative", "positive") if self._negative else ("positive", "negative")
            fix = f"look at {source or '[labels] of the task'}"
            fix += "; `positive` in [source] lists what means 1" if self.spec.label else ""
            yield "one class", f"all {learned:,} labels are {which}, none is {other}: nothing can be told apart", fix
        elif not self.task.labels.matures and all(self._delays):
            no, yes = (float(np.median(np.concatenate(delays))) for delays in self._delays)
            if max(no, yes) > _UNEVEN * min(no, yes):
                what = f"half of the labels 1 are known after {yes / DAY_S:.1f} days, half of the labels 0 after "
                what += f"{no / DAY_S:.1f}: the model, and the metrics, count those too often that are known sooner"
                yield "labels uneven", what, "say as `maturity` in [labels] when both would be known"
        if self._refused:
            yield "labels refused", self._refused, "correct these lines"

    def _of_joins(self, joiner: LabelJoiner) -> Iterator[tuple[Kind, str, str]]:
        """Labels that met nothing, by the reason; the rest came too late."""
        join, given, unscored = self.task.labels.join, self._given, self._unscored
        by_event = join.match == "event"
        nowhere = {(owner, event) for owner, event in unscored if by_event or event is not None}
        unknown = [told for told in self._told if told in unscored and told[1] is not None]
        lost = sum(told in nowhere for told in self._told)
        # Labels of files lie in the order of their times here as in the queue, so those that are still ahead are the
        # last ones.
        held = len(self._told) - sum(map(len, self.held.left()))
        ahead = sum(told in nowhere for told in self._told[held:]) if self._told else 0
        if unknown:
            owner, event = unknown[0]
            what = f"{len(unknown):,} labels name events that are not in the data, such as {event!r} of {owner!r}"
            fix = "give their events too by --data, and with the entity_id that the label has"
            yield "labels unknown", what, f"{fix}; those of refused rows or other types count here"
        if lost > len(unknown):
            what = f'{lost - len(unknown):,} labels have no event_id, but are matched by it (match = "event")'
            fix = 'add event_id to them, or set match = "entity_range" and range_s in [labels.join]'
            yield "labels without event", what, fix
        given = max(given, joiner.stats.labels)  # those of silence are in no file
        untimely = joiner.stats.unmatched + (joiner.waiting if by_event else 0) - (lost - ahead)
        if untimely > 0.01 * given:
            met = "came when their predictions had been let go, or long before them" if by_event else (
                f"met no event of their entity in range_s = {format_duration(join.range_s)}")  # fmt: skip
            what = f"{untimely:,} of {given:,} labels {met}: predictions wait for keep_s = "
            what += f"{format_duration(join.keep_s)}, labels for wait_s = {format_duration(join.wait_s)}"
            usual = f"{self.delay_s / DAY_S:.1f} days" if self.held.timed else format_duration(self.delay_s)
            fix = "look at `ts` of the labels, or raise these in [labels.join]"
            yield "labels late", f"{what}, and they come {usual} late", fix
        if joiner.stats.corrections > 0.1 * given:
            what = f"{joiner.stats.corrections:,} labels contradict an earlier one of the same event; the last counts"
            fix = "give each event one label"
            if (after_s := join.negative_after_s) is not None:
                what = (
                    f"{joiner.stats.corrections:,} labels came when their event had been taken for a 0, or contradict "
                )
                what += f"an earlier one; the last counts, but the 0 was learned, too: after {format_duration(after_s)}"
                fix = "raise negative_after_s in [labels.join], and maturity in [labels] with it"
            yield "labels contradict", what, fix
