"""Turn scores over a threshold into few alerts. It knows one task's scores and verdicts, not models or sinks."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import astuple
from itertools import islice
from typing import Final

import msgspec
import numpy as np

from weir.online.batch import FloatVector, IntVector, LabelBatch, PredictionBatch
from weir.online.decisions.alert_policy import AlertPolicy, AlertStats, BookDecision
from weir.online.decisions.alert_state import SEVERITIES, AlertState, Reason, Verdict
from weir.online.decisions.stored_book import TEXT_BYTES, BookEntry, StoredBook
from weir.online.decisions.threshold import Decide
from weir.online.errors import StateError, stored

ReasonsOf = Callable[[IntVector], list[list[Reason]]]
"""Explains rows of the batch being decided: ``(k,) int64`` row numbers to ``k`` lists of reasons."""
Admit = Callable[[float, float, int], bool]
"""Whether an alert may open at a watermark, by a row of a time: `Threshold.admit`."""

_SAMPLE: Final = 16
_SEEN_BYTES: Final = TEXT_BYTES + 60
"""Of a row that is remembered, beside what its text says."""


class _Change(msgspec.Struct):
    """A state to be returned."""

    entry: BookEntry
    alert: AlertState
    row: int = -1
    """Whose outcome it is, where it is that of a row."""
    raised: bool = False
    """Whether it carries the reasons of ``row``; else it keeps those it had."""
    told: bool = True
    """Whether it differs from the state before: one that does not is only for the row."""


class AlertBook:
    """At most one open alert per entity; repeats escalate it, quiet time or a verdict ends it.

    Parameters
    ----------
    policy : how alerts open, escalate and end.
    task : the task's name, part of every ``alert_id``.
    amount : which of the F features is the amount of an event, where one is.
    admit : asked before an alert opens; a row that it refuses has an infinite threshold from then on.

    Notes
    -----
    - A row is over its threshold when ``score >= threshold``. Only such rows cost Python time.
    - Severity is the higher of two steps: how many events (``escalate_at``) and how far over the threshold
      (``margin_step``); or as ``severity_by`` says. It never falls while the alert is open.
    - A state is told only where something changed: it opened, its severity rose, it resolved; and of repeats alone
      every so often (``told_every_events``, ``told_every_s``).
    - An alert resolves by quiet time when the watermark reaches the time of its last event plus ``resolve_after_s``;
      alerts resolve in order of that time, before the row that moved the watermark. A row or label of a later time than
      the watermark counts as of the watermark: its clock does not mute the entity until then.
    - A label with value 1 for an event of an alert (or, without event, for its entity) confirms and resolves it; labels
      with value 0 for all its events, or one for the entity, resolve it as a false alarm.
    - A repeated ``event_id`` changes nothing. ``alert_id`` is ``<task>:<entity>:<first event>``, so a replay makes the
      same alerts.

    Examples
    --------
    >>> book = AlertBook(AlertPolicy(), task="fraud")
    >>> ts, score, version = np.array([1.0, 2.0]), np.array([0.9, 0.1]), np.zeros(2, np.int64)
    >>> batch = PredictionBatch(["e1", "e2"], ["u1", "u1"], ts, score, version, np.zeros((2, 1)))
    >>> made = book.decide_by(batch, lambda take: take(0, 2, np.full(2, 0.5)))
    >>> [(a.alert_id, a.status, a.severity) for a in made.alerts]
    [('fraud:u1:e1', 'open', 'medium')]
    """

    def __init__(self, policy: AlertPolicy, task: str, amount: int | None = None, admit: Admit | None = None) -> None:
        self.policy = policy
        self.task = task
        self._amount = amount
        self._admit = admit
        self.watermark = -math.inf
        self.stats = AlertStats()
        self._entries: dict[str, BookEntry] = {}
        # Heaps of (when, entry number, entity). A repeat leaves its quiet timer alone; when that fires, it is set anew.
        self._quiet: list[tuple[float, int, str]] = []
        self._cooling: list[tuple[float, int, str]] = []
        self._open = 0
        self._number = 0
        self._seen: set[str] = set()
        self._seen_order: deque[str] = deque()

    def __len__(self) -> int:
        """Number of open alerts."""
        return self._open

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about: the newest of each kind stand for all, as somebody asks every second."""
        entries = [entry.nbytes for entry in islice(reversed(self._entries.values()), _SAMPLE)]
        seen = [_SEEN_BYTES + len(line) for line in islice(reversed(self._seen_order), _SAMPLE)]
        of = ((self._entries, entries), (self._seen_order, seen))
        return sum(len(held) * sum(some) // len(some) for held, some in of if some)

    def open_alerts(self) -> list[AlertState]:
        """Return the open alerts, in the order in which they opened."""
        return [e.alert for e in sorted(self._entries.values(), key=lambda e: e.number) if e.is_open]

    def decide_by(
        self,
        predictions: PredictionBatch,
        lines: Callable[[Decide], object],
        reasons: ReasonsOf | None = None,
        marks: FloatVector | None = None,
    ) -> BookDecision:
        """Take in scored rows, in order.

        Parameters
        ----------
        predictions : scored events in order.
        lines : hands rows over run by run, ``start, stop`` and their thresholds ``(n,)``: these may depend on what
            opened before.
        reasons : called at most once, with the rows that opened an alert or raised its score.
        marks : ``(n,)`` watermark at each row; the largest event time so far when not given.
        """
        changed: list[_Change] = []
        marks = np.maximum.accumulate(predictions.ts if marks is None else marks)

        def take(start: int, stop: int, thresholds: FloatVector) -> None:
            # Rows under the threshold only move time, which the last one does for all of them.
            for at in (predictions.score[start:stop] >= thresholds[start:stop]).nonzero()[0].tolist():
                row = start + at
                self._move(float(marks[row]), changed)
                self._take(row, predictions, thresholds, changed)

        lines(take)
        if len(marks):
            self._move(float(marks[-1]), changed)
        return _with_reasons(changed, reasons) if changed else BookDecision([], {})

    def due(self, at: float) -> bool:
        """Whether an alert may resolve by event time ``at``, if no row comes."""
        return bool(self._quiet) and self._quiet[0][0] <= at

    def advance(self, at: float) -> list[AlertState]:
        """Let event time pass up to ``at`` without rows; returns the alerts that this resolves.

        The watermark stays where it is: rows that come after this all the same are as good as before.
        """
        changed: list[_Change] = []
        self._wake(max(self.watermark, at), changed)
        return [change.alert for change in changed]

    def resolve_labels(self, labels: LabelBatch) -> list[AlertState]:
        """Resolve open alerts by labels of their events or entities; returns the changed states in order."""
        out: list[AlertState] = []
        if not self._open:
            return out
        rows = zip(labels.event_id, labels.entity_id, labels.ts.tolist(), labels.value.tolist(), strict=True)
        for event_id, entity_id, ts, value in rows:
            entry = self._entries.get(entity_id)
            if entry is None or not entry.is_open or (event_id is not None and event_id not in entry.alert.event_ids):
                continue
            if event_id is None and ts < entry.alert.opened_at:
                continue  # it speaks of a time before this alert
            if event_id is not None and not value:
                entry.cleared.add(event_id)
                if len(entry.cleared) < entry.alert.events:
                    continue
            # A label speaks of the past but resolves now: the cooldown starts at the watermark.
            at = max(self._reached(ts), entry.alert.updated_at, self.watermark)
            out.append(self._resolve(entry, at, "confirmed" if value else "false_alarm"))
        return out

    def adopt(self, alert: AlertState) -> bool:
        """Go on with an open alert that another book opened; not where its entity has one here, or cools down."""
        mine = self._entries.get(alert.entity_id)
        if mine is None:
            self._enter(alert, self._reached(alert.updated_at))
        return mine is None or mine.alert.alert_id == alert.alert_id

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        seen, stats = list(self._seen_order), list(astuple(self.stats))
        held = StoredBook(self.task, self.watermark, self._number, self._entries, seen, stats)
        return msgspec.msgpack.encode(held, order="deterministic")  # sets have no order, and equal books equal bytes

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of another task."""
        held = stored(state, StoredBook, "an alert book")
        if held.task != self.task:
            raise StateError(f"the snapshot is of task {held.task!r}, this book of {self.task!r}; start it anew")
        self.watermark, self._number, self._entries = held.watermark, held.number, held.entries
        self._seen_order, self._seen = deque(held.seen), set(held.seen)
        self.stats = AlertStats(*held.stats)
        if self.watermark > -math.inf:  # a snapshot of 12015ac may hold what a label of the year 2099 muted
            for entry in held.entries.values():
                span = self.policy.resolve_after_s if entry.is_open else self.policy.cooldown_s
                entry.wake_at = min(entry.wake_at, self.watermark + span)
        opened = {entity: entry for entity, entry in held.entries.items() if entry.is_open}
        self._quiet = sorted((entry.wake_at, entry.number, entity) for entity, entry in opened.items())
        self._cooling = sorted(
            (entry.wake_at, entry.number, entity) for entity, entry in held.entries.items() if not entry.is_open
        )
        self._open = len(opened)

    def _take(self, row: int, predictions: PredictionBatch, thresholds: FloatVector, changed: list[_Change]) -> None:
        threshold = float(thresholds[row])
        event_id, entity_id = predictions.event_id[row], predictions.entity_id[row]
        if not self._remember(f"{entity_id}\n{event_id}"):  # no id holds a control character
            self.stats.repeated_events += 1
            if (known := self._entries.get(entity_id)) is not None:
                # The row still belongs to the alert: who waits for its decision is told of it, the topic of alerts is
                # not.
                changed.append(_Change(known, known.alert, row, told=False))
            return
        entry = self._entries.get(entity_id)
        ts, score = float(predictions.ts[row]), float(predictions.score[row])
        # A feature that is missing is 0: nothing is known to be at stake then.
        amount = None if self._amount is None else float(predictions.features[row, self._amount]) or None
        told = True
        if entry is None:
            if self._admit is not None and not self._admit(self.watermark, ts, row):
                self.stats.refused += 1
                # Written into the caller's array: metrics and decisions tell the line that the row met in the end.
                thresholds[row] = math.inf
                return
            if self._open >= self.policy.max_open:
                self._displace(changed)
            entry, raised = self._start(event_id, entity_id, ts, score, threshold, amount), True
        elif entry.is_open:
            before, raised = entry.alert.severity, score > entry.alert.score
            self._repeat(entry, event_id, ts, score, threshold, amount)
            told = before != entry.alert.severity or self._is_news(entry)
        else:
            self.stats.suppressed += 1
            changed.append(_Change(entry, entry.alert, row, told=False))
            return
        if told:
            entry.told_events, entry.told_at = entry.alert.events, entry.alert.updated_at
        changed.append(_Change(entry, entry.alert, row, raised, told))

    def _is_news(self, entry: BookEntry) -> bool:
        """Whether so much came since the last record that repeats alone are worth one."""
        more = entry.alert.events - entry.told_events
        if entry.alert.events == self.policy.max_event_ids:
            return True  # the last event that is listed: a verdict is on those that a record told
        later = entry.alert.updated_at - entry.told_at
        return more >= min(entry.told_events, self.policy.told_every_events) or later >= self.policy.told_every_s

    def _start(
        self, event_id: str, entity_id: str, ts: float, score: float, threshold: float, amount: float | None
    ) -> BookEntry:
        alert = AlertState(
            alert_id=f"{self.task}:{entity_id}:{event_id}",
            task=self.task,
            entity_id=entity_id,
            status="open",
            severity=SEVERITIES[self.policy.step(1, score, threshold, amount)],
            score=score,
            threshold=threshold,
            reasons=(),
            opened_at=ts,
            updated_at=ts,
            event_ids=(event_id,),
            amount=amount,
        )
        self.stats.opened += 1
        return self._enter(alert, self._reached(ts))

    def _enter(self, alert: AlertState, reached: float) -> BookEntry:
        """Keep an open alert, until it is quiet for long."""
        quiet_at = reached + self.policy.resolve_after_s
        entry = BookEntry(self._number, alert, quiet_at, set(), alert.events, alert.updated_at)
        self._number += 1
        self._open += 1
        self._entries[alert.entity_id] = entry
        heapq.heappush(self._quiet, (quiet_at, entry.number, alert.entity_id))
        return entry

    def _repeat(
        self, entry: BookEntry, event_id: str, ts: float, score: float, threshold: float, amount: float | None
    ) -> None:
        self.stats.repeats += 1
        alert, events = entry.alert, entry.alert.events + 1
        step = max(SEVERITIES.index(alert.severity), self.policy.step(events, score, threshold, amount))
        listed = alert.event_ids
        if len(listed) < self.policy.max_event_ids:
            listed = (*listed, event_id)
        higher = score > alert.score
        entry.alert = msgspec.structs.replace(
            alert,
            status="escalated" if SEVERITIES[step] != alert.severity else alert.status,
            severity=SEVERITIES[step],
            score=max(score, alert.score),
            threshold=threshold if higher else alert.threshold,
            updated_at=max(ts, alert.updated_at),
            event_ids=listed,
            events=events,
            amount=amount if higher else alert.amount,
        )
        entry.wake_at = max(entry.wake_at, self._reached(ts) + self.policy.resolve_after_s)

    def _reached(self, ts: float) -> float:
        """A time told from outside as far as it has come: nothing stays open or cools down beyond the watermark."""
        return ts if self.watermark == -math.inf else min(ts, self.watermark)

    def _move(self, mark: float, changed: list[_Change]) -> None:
        self.watermark = max(self.watermark, mark)
        self._wake(self.watermark, changed)

    def _wake(self, watermark: float, changed: list[_Change]) -> None:
        """Resolve what has gone quiet and forget what has cooled down by ``watermark``."""
        while (entry := self._quietest(watermark)) is not None:
            changed.append(_Change(entry, self._resolve(entry, entry.wake_at, "quiet")))
        while self._cooling and self._cooling[0][0] <= watermark:
            self._forget()

    def _quietest(self, until: float) -> BookEntry | None:
        """Take the open alert that is to resolve first off the heap, if that is by ``until``."""
        while self._quiet and self._quiet[0][0] <= until:
            at, number, entity_id = heapq.heappop(self._quiet)
            entry = self._entries.get(entity_id)
            # A timer of an alert that a label resolved is left in the heap: taking it out would cost a search.
            if entry is None or entry.number != number or not entry.is_open:
                continue
            if entry.wake_at <= at:
                return entry
            heapq.heappush(self._quiet, (entry.wake_at, number, entity_id))
        return None

    def _forget(self) -> None:
        _, _, entity_id = heapq.heappop(self._cooling)
        del self._entries[entity_id]

    def _resolve(self, entry: BookEntry, at: float, verdict: Verdict) -> AlertState:
        entry.alert = msgspec.structs.replace(entry.alert, status="resolved", updated_at=at, verdict=verdict)
        self.stats.resolved += 1
        self._open -= 1
        entry.wake_at = self._reached(at) + self.policy.cooldown_s
        heapq.heappush(self._cooling, (entry.wake_at, entry.number, entry.alert.entity_id))
        # Resolved alerts would else be kept without a bound where cooldowns are long.
        if len(self._cooling) > self.policy.max_open:
            self._forget()
        return entry.alert

    def _displace(self, changed: list[_Change]) -> None:
        entry = self._quietest(math.inf)
        if entry is not None:
            self.stats.displaced += 1
            at = max(self.watermark, entry.alert.updated_at)
            changed.append(_Change(entry, self._resolve(entry, at, "displaced")))

    def _remember(self, event: str) -> bool:
        """Whether the event is new; the oldest is forgotten beyond ``remember_events``."""
        if event in self._seen:
            return False
        self._seen.add(event)
        self._seen_order.append(event)
        if len(self._seen_order) > self.policy.remember_events:
            self._seen.remove(self._seen_order.popleft())
        return True


def _with_reasons(changed: list[_Change], reasons: ReasonsOf | None) -> BookDecision:
    """Ask for all reasons at once and put them into the states, in order."""
    rows = [change.row for change in changed if change.raised]
    found = dict(zip(rows, reasons(np.array(rows, dtype=np.int64)), strict=True)) if reasons and rows else {}
    current: dict[int, tuple[Reason, ...]] = {}
    out = BookDecision([], {})
    for change in changed:
        number = change.entry.number
        if change.row in found:
            current[number] = tuple(found[change.row])
        state = msgspec.structs.replace(change.alert, reasons=current.get(number, change.alert.reasons))
        # What came later in this call may have left the entry in a newer state, which lacks the reasons yet.
        change.entry.alert = msgspec.structs.replace(change.entry.alert, reasons=state.reasons)
        if change.told:
            out.alerts.append(state)
        if change.row >= 0:
            out.of_rows[change.row] = state
    return out
