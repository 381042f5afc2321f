"""Writes records into the tables: some of one partition at a time, together with the place up to which they reach."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, delete, select, update

from weir.online.codec.wire import Alert, CaseEvent, ExampleQuarantine, ModelUpdate, RetrainRequest, WireModel
from weir.streams.config import topics
from weir.streams.errors import ShellError
from weir.streams.records import Record
from weir.streams.service.notify.outbox import write_notifications
from weir.streams.service.store import case_rules
from weir.streams.service.store import tables as t
from weir.streams.service.store.alert_queries import find_rows
from weir.streams.service.store.case_rules import AlertRow, SnoozeRow
from weir.streams.service.store.database import database_time
from weir.streams.service.store.learned import RecentExamples, read_examples
from weir.streams.service.store.tables import execute, fetched, upsert

log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=WireModel)


class Piece(NamedTuple):
    """Records of one partition: those from ``start`` to before ``end``."""

    topic: str
    partition: int
    start: int
    end: int
    records: Sequence[tuple[int, Record]]
    """With their offsets. None at all: what was there is no longer kept."""


class OtherLogError(ShellError):
    """Another service has the tables, of another log: it and this one would write over each other."""


class Projection:
    """The tables, for the process that writes them.

    Parameters
    ----------
    engine : of the database.
    clock : by which leases end.
    """

    def __init__(self, engine: Engine, clock: Callable[[Connection], float] = database_time) -> None:
        self._engine, self._clock = engine, clock
        self._epoch: str | None = None
        self.ahead_s = 0.0
        """By how much this machine's clock is ahead of the database's, as of the last look at the lease."""

    def begin(self, epoch: str, rebuild: bool = False) -> None:
        """Empty tables that are of another log than ``epoch``, or that are to be made anew.

        Raises ``OtherLogError`` while a service of that other log writes them.
        """
        state = t.projection_state
        with self._engine.begin() as c:
            upsert(c, state, [{"id": 1, "epoch": epoch}], replace=False)
            # Locked: of two replicas that start together one empties the tables, and the other then sees that it is
            # done.
            held, writer, until = c.execute(
                select(state.c.epoch, state.c.writer, state.c.writer_until).with_for_update()
            ).one()
            if held != epoch and writer is not None and until > self._clock(c):
                raise OtherLogError(
                    f"the tables are of another log ({held}, this is {epoch}), and a service of that one writes them; "
                    "give this one a database of its own ([serve] database, or --dir), or stop the other"
                )
            self._epoch = epoch
            if held == epoch and not rebuild:
                return
            for table in (*t.PROJECTED, t.notifications):
                c.execute(delete(table))
            c.execute(update(state).values(epoch=epoch))
        # Only now: who reads this line and then the tables must not find the old ones.
        why = "as asked" if held == epoch else f"they are of another log ({held}, this is {epoch})"
        log.warning("alerts are made anew from the log: %s", why)

    def lease(self, writer: str, for_s: float) -> bool:
        """Whether ``writer`` may write for so long: nobody else does.

        Of a file of SQLite everybody may: it has one process, whose directory is locked, and after a crash nobody waits
        for a lease to end. Beside Kafka there may be several, and one of them meets what the other has written.
        """
        state, other = t.projection_state, self._engine.dialect.name == "postgresql"
        with self._engine.begin() as c:
            now = self._clock(c)
            self.ahead_s = time.time() - now
            free = (state.c.writer == writer) | state.c.writer.is_(None) | (state.c.writer_until < now)
            taken = update(state).values(writer=writer, writer_until=now + for_s)
            return c.execute(taken.where(free) if other else taken).rowcount == 1

    def release(self, writer: str) -> None:
        """Let another process write."""
        state = t.projection_state
        execute(self._engine, update(state).where(state.c.writer == writer).values(writer=None))

    def position(self, topic: str, partition: int) -> int:
        """Up to where a partition is in the tables."""
        at = select(t.positions.c.next_offset).filter_by(topic=topic, partition=partition)
        return next((row.next_offset for row in fetched(self._engine, at)), 0)

    def write(self, piece: Piece, recent: RecentExamples) -> list[CaseEvent] | None:
        """Add records, all or none; ``None`` where another process was faster, and nothing was written.

        Returns what is to be told of them: verdicts that were learned.

        The position moves only from ``piece.start``: two writers, as there may be for a moment when a lease passes
        from one to the other, cannot count a record twice.
        """
        with self._engine.begin() as c:
            place = {"topic": piece.topic, "partition": piece.partition}
            upsert(c, t.positions, [{**place, "next_offset": 0}], replace=False)
            moved = update(t.positions).filter_by(**place, next_offset=piece.start).values(next_offset=piece.end)
            if self._epoch is not None:  # else a service that stood still would go on in the tables of another log
                moved = moved.where(select(t.projection_state.c.epoch).scalar_subquery() == self._epoch)
            if c.execute(moved).rowcount == 0:
                return None
            if piece.topic == topics.EXAMPLES:
                _write_happenings(c, _taking_back(piece), model=ExampleQuarantine)
                return read_examples(c, recent, piece.records)
            _WRITERS[piece.topic](c, piece)
        return []

    def forget(self, before: float, most: int = 1_000) -> int:
        """Drop at most so many alerts that were resolved, and not touched since ``before``; how many these were.

        Then have the database look at what is left, by which it chooses among indices.
        """
        a = t.alerts.c
        closed = select(a.alert_id).where(a.state == "resolved", a.opened_at < before, a.updated_at < before)
        untouched = closed.where((a.changed_at < before) | a.changed_at.is_(None)).order_by(a.opened_at).limit(most)
        with self._engine.begin() as c:
            gone = list(c.execute(untouched).scalars())
            ended = c.execute(select(t.snoozes.c.snooze_id).where(t.snoozes.c.until < before).limit(most)).scalars()
            for table in (t.alert_events, t.alert_changes, t.verdicts, t.alerts):
                c.execute(delete(table).where(table.c.alert_id.in_(gone)))
            for snooze in ended.all():
                c.execute(delete(t.snoozes).filter_by(snooze_id=snooze))
                c.execute(delete(t.alert_changes).filter_by(alert_id=snooze))
            c.execute(delete(t.happenings).where(t.happenings.c.at < before))
            c.execute(delete(t.presence).where(t.presence.c.until < before))
            c.execute(delete(t.notifications).where(t.notifications.c.changed_at < before))
            if c.dialect.name == "sqlite":  # PostgreSQL does so by itself
                c.exec_driver_sql("PRAGMA analysis_limit = 1000")
                c.exec_driver_sql("ANALYZE")
        return len(gone)


def _write_alerts(c: Connection, piece: Piece) -> None:
    found = list(_decoded(Alert, piece))
    rows = find_rows(c, {alert.alert_id for _, _, alert in found})
    changes, listed = [], dict[tuple[str, str], dict[str, Any]]()
    for offset, record, alert in found:
        row = rows.setdefault(alert.alert_id, AlertRow(alert.alert_id, alert.task, alert.entity_id))
        case_rules.take_alert(row, alert)
        said = alert.model_dump_json(include={"status", "severity", "score", "updated_at"})
        changes.append(_change(piece, offset, alert.alert_id, record.ts, "status", said))
        listed |= {(e, row.alert_id): {"event_id": e, "alert_id": row.alert_id} for e in alert.event_ids}
    upsert(c, t.alerts, [vars(row) for row in rows.values()])
    upsert(c, t.alert_events, list(listed.values()), replace=False)
    upsert(c, t.alert_changes, changes)


_SAID: Final = {"verdict", "reason", "note", "assignee", "until", "version"}


def _write_case_events(c: Connection, piece: Piece) -> None:
    found = list(_decoded(CaseEvent, piece))
    rows = find_rows(c, {event.alert_id for _, _, event in found})
    ids = t.alert_changes.c.case_event_id
    known = set(c.execute(select(ids).where(ids.in_([event.case_event_id for _, _, event in found]))).scalars())
    about = {event.alert_id for _, _, event in found if event.snoozes is not None}
    held = c.execute(select(t.snoozes).where(t.snoozes.c.snooze_id.in_(about))).mappings()
    snoozed = {row["snooze_id"]: SnoozeRow(**row) for row in held}
    changes, judged = [], list[dict[str, Any]]()
    for offset, _, event in found:
        row = rows.get(event.alert_id)
        if event.case_event_id in known or (row is None and event.snoozes is None):
            continue  # it comes again, or its alert is no longer kept
        known.add(event.case_event_id)
        if row is None:
            before = snoozed.get(event.alert_id)
            if (refused := case_rules.snooze_refusal(before, event)) is None:
                snoozed[event.alert_id] = case_rules.take_snooze(before, event)
        elif event.action == "learned":  # its row has it from the example, and is what it was
            refused = None
        elif (refused := case_rules.refusal(row, event)) is None:
            case_rules.take_case_event(row, event, _judge(c, judged, row, event, offset))
        said = event.model_dump_json(exclude_none=True, include=_SAID)
        change = _change(piece, offset, event.alert_id, event.at, event.action, said)
        changes.append({**change, "by": event.by, "case_event_id": event.case_event_id, "refused": refused})
    upsert(c, t.snoozes, [asdict(row) for row in snoozed.values()])
    upsert(c, t.verdicts, judged)
    upsert(c, t.alerts, [vars(row) for row in rows.values()])
    upsert(c, t.alert_changes, changes)


def _judge(
    c: Connection, judged: list[dict[str, Any]], row: AlertRow, event: CaseEvent, offset: int
) -> tuple[str | None, str | None]:
    """Keep a verdict, or take the newest back; of the latter, what counts again and the state before what does not.

    Verdicts gather in ``judged``, as a statement for each would be slow; an undo has to find them in the table.
    """
    v = t.verdicts.c
    if event.action == "verdict" and event.verdict != row.verdict:
        kept = {"case_event_id", "alert_id", "verdict", "by", "at", "reason", "note", "state", "examples_before"}
        judged.append(event.model_dump(include=kept) | {"offset": offset})
    if event.action != "undo":
        return None, None
    upsert(c, t.verdicts, judged)
    judged.clear()
    standing = select(v.case_event_id, v.verdict, v.state).where(v.alert_id == row.alert_id, v.undone_at.is_(None))
    newest, *before = c.execute(standing.order_by(v.offset.desc()).limit(2)).all()
    undone = update(t.verdicts).where(v.case_event_id == newest.case_event_id)
    c.execute(undone.values(undone_by=event.by, undone_at=event.at))
    return before[0].verdict if before else None, newest.state


def _taking_back(piece: Piece) -> Piece:
    """Of examples, the records that take others back: few, so that nothing else is decoded twice."""
    return piece._replace(records=[(o, record) for o, record in piece.records if b'"quarantine":[' in record.value])


def _write_happenings(
    c: Connection, piece: Piece, model: type[RetrainRequest] | type[ModelUpdate] | type[ExampleQuarantine]
) -> None:
    place = {"topic": piece.topic, "partition": piece.partition}
    rows = [
        {**place, "offset": offset, "task": found.task, "at": record.ts, "record": found.model_dump_json()}
        for offset, record, found in _decoded(model, piece)
    ]
    upsert(c, t.happenings, rows)


_WRITERS: Final[Mapping[str, Callable[[Connection, Piece], None]]] = {
    topics.ALERTS: _write_alerts,
    topics.CASE_EVENTS: _write_case_events,
    topics.RETRAIN_REQUESTS: partial(_write_happenings, model=RetrainRequest),
    topics.MODEL_UPDATES: partial(_write_happenings, model=ModelUpdate),
    topics.NOTIFICATIONS: lambda c, piece: write_notifications(c, piece.records),
}
ORDER: Final = (*_WRITERS, topics.EXAMPLES)
"""An alert is there before what people do with it, and a verdict before its example."""


def _decoded(model: type[_M], piece: Piece) -> Iterator[tuple[int, Record, _M]]:
    """The records with their offsets; one that cannot be read is told and left out."""
    for offset, record in piece.records:
        try:
            yield offset, record, model.model_validate_json(record.value)
        except ValidationError as exc:
            why = exc.errors()[0]["msg"]
            log.error("%s-%d, offset %d: left out of the database: %s", piece.topic, piece.partition, offset, why)


def _change(piece: Piece, offset: int, alert_id: str, at: float, kind: str, details: str) -> dict[str, Any]:
    about = {"alert_id": alert_id, "at": at, "kind": kind, "details": details}
    return {"topic": piece.topic, "partition": piece.partition, "offset": offset, **about}
