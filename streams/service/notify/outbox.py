"""The outbox: what the topic ``notifications`` says was decided and sent, as rows; and what is to be decided.

A record ``decided`` holds the messages that follow from some records of ``alerts`` or ``case-events`` *and* up to where
these are decided. It counts only where it begins at the place up to which was decided before: a process that wakes up
after another has taken over cannot tell anything twice, and no crash lies between a message and its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Connection, RowMapping, and_, func, select, update

from weir.online.decisions.alert_state import SEVERITIES
from weir.online.errors import UNREADABLE
from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.service.notify.messages import Delivery, Happening, Message, Told
from weir.streams.service.store import tables as t
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.tables import notifications, upsert

log = logging.getLogger(__name__)
SOURCES: Final = (topics.ALERTS, topics.CASE_EVENTS)
_STANDING: Final = 10_000
_DAY_S: Final = 86_400.0
_N: Final = notifications.c
_OUTCOME: Final = ("status", "changed_at", "answer")
Place = tuple[str, int]
"""A partition of a topic."""


class Entry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A record of ``notifications``."""

    v: int = 1
    kind: Literal["decided", "sent", "failed", "retry"]
    at: float
    epoch: str = ""
    """Of the log whose records were decided; the rest of what is ``decided`` follows."""
    topic: str = ""
    partition: int = 0
    start: int = 0
    end: int = 0
    messages: tuple[Message, ...] = ()
    ids: tuple[str, ...] = ()
    """Of the messages that were sent, could not be sent, or are to be tried again."""
    answer: str = ""
    """What the receiver said."""

    def record(self) -> Record:
        """As it is in the log; its key is the partition or the message that it is of."""
        key = f"{self.topic}-{self.partition}" if self.kind == "decided" else self.ids[0]
        return Record(key.encode(), msgspec.json.encode(self), self.at)


def write_notifications(c: Connection, records: Sequence[tuple[int, Record]]) -> None:
    """Make rows of records, in their order."""
    for offset, record in records:
        try:
            entry = msgspec.json.decode(record.value, type=Entry)
        except UNREADABLE as exc:
            log.error("%s, offset %d: left out of the database: %s", topics.NOTIFICATIONS, offset, exc)
            continue
        of = update(notifications).where(_N.id.in_(entry.ids))
        if entry.kind == "decided":
            _write_decided(c, entry, offset)
        elif entry.kind == "retry":
            c.execute(of.where(_N.status == "failed").values(status="waiting", due_at=entry.at, changed_at=entry.at))
        else:
            # What was sent stays so, whatever a process says that did not know it.
            of = of.where(_N.status != "sent")
            c.execute(of.values(status=entry.kind, changed_at=entry.at, answer=entry.answer))


def write_attempt(c: Connection, target: str, ids: Sequence[str], at: float, words: str, tries: int) -> None:
    """Note what came of an attempt after which messages still wait, also for those of the target that wait behind them.

    No record is made of it: soon the next attempt counts, and a rebuild has nothing to tell of it.
    """
    often = "once" if tries == 1 else f"{tries} times"
    waiting = update(notifications).where(_N.status == "waiting", _N.target == target)
    told = {"changed_at": at, "answer": f"{words}; tried {often}, it is tried again"}
    c.execute(waiting.where(_N.id.in_(ids)).values(told))
    behind = waiting.where(_N.due_at <= at, _N.answer == "")
    c.execute(behind.values(answer=f"not tried yet: the target answered {words} to another"))


def _write_decided(c: Connection, entry: Entry, offset: int) -> None:
    # Decided of another log, whose offsets mean other records.
    if entry.epoch != c.execute(select(t.projection_state.c.epoch)).scalar():
        return
    place = {"topic": _DECIDED[entry.topic], "partition": entry.partition}
    # Where there is no row, what came before is no longer kept: then it begins here.
    upsert(c, t.positions, [{**place, "next_offset": entry.start}], replace=False)
    moved = update(t.positions).filter_by(**place, next_offset=entry.start).values(next_offset=entry.end)
    if c.execute(moved).rowcount == 0:
        return
    rows = [
        {
            **{name: getattr(message, name) for name in ("id", "rule", "target", "alert_id", "task", "what")},
            "place": offset * 10_000 + i, "due_at": message.due, "gathered": int(message.gathered), "answer": "",
            "status": "left_out" if message.left_out else "waiting", "changed_at": entry.at,
            "message": msgspec.json.encode(message).decode(),
        }
        for i, message in enumerate(entry.messages)
    ]  # fmt: skip
    # A message that is there keeps its status, also where another process decides it once more.
    upsert(c, notifications, rows, replace=False)


_DECIDED: Final = {topic: f"notified/{topic}" for topic in SOURCES}
"""Under which name ``positions`` holds up to where a topic is decided."""


def written(c: Connection) -> int:
    """Up to where ``notifications`` is in the tables."""
    return c.execute(select(t.positions.c.next_offset).filter_by(topic=topics.NOTIFICATIONS, partition=0)).scalar() or 0


def places(c: Connection) -> tuple[dict[Place, int], dict[Place, int]]:
    """Up to where each partition is in the tables, alerts first; and up to where it is decided."""
    held = {(row.topic, row.partition): row.next_offset for row in c.execute(select(t.positions))}
    ends = {(topic, p): held[topic, p] for topic in SOURCES for name, p in held if name == topic}
    return ends, {(topic, p): held[name, p] for topic in SOURCES for name, p in held if name == _DECIDED[topic]}


def happened(
    c: Connection, place: Place, start: int, end: int, most: int, budgets: Mapping[str, float], now: float
) -> tuple[list[Happening], Told, int]:
    """What is in the tables of a partition from ``start`` on, what was told of its alerts, and where the rest begins.

    Parameters
    ----------
    budgets : alerts a day of each task that has such a budget.
    """
    h = t.alert_changes.c
    shown = and_(*AlertFilter(held="exclude", snoozed="exclude").where(c, now)).label("shown")
    columns = (h.offset, h.at, h.kind, h.by, h.case_event_id, h.details, shown)
    of = (h.topic == place[0], h.partition == place[1], h.offset >= start, h.offset < end, h.refused.is_(None))
    joined = select(*columns, t.alerts).join(t.alerts, t.alerts.c.alert_id == h.alert_id)
    rows = c.execute(joined.where(*of).order_by(h.offset).limit(most)).mappings().all()
    found = [each for row in rows for each in _happening(c, row, budgets)]
    known = select(_N.id, _N.status).where(_N.alert_id.in_({happening.alert.alert_id for happening in found}))
    upto = end if len(rows) < most else rows[-1]["offset"] + 1
    return found, {row.id: row.status == "left_out" for row in c.execute(known)}, upto


_WHATS: Final[Mapping[str, Any]] = {
    "open": "open", "acknowledged": "open", "escalated": "escalated", "resolved": "resolved",
    "verdict": "judged", "undo": "reopened", "escalate": "escalated",
}  # fmt: skip
"""By the status of the stream, or by what a person did."""


def _happening(c: Connection, row: RowMapping, budgets: Mapping[str, float]) -> Iterator[Happening]:
    said = msgspec.json.decode(row["details"], type=dict[str, Any])
    alert = AlertRow(**{column.name: row[column.name] for column in t.alerts.c})
    what = _WHATS.get(said["status"] if row["kind"] == "status" else row["kind"])
    if what is None:
        return
    at = row["at"]
    if row["kind"] == "status":  # event time: an alert of a history that is loaded now is no news
        at, alert.severity, alert.score = said["updated_at"], SEVERITIES.index(said["severity"]), said["score"]
    over = False
    if alert.task in budgets and what in ("open", "escalated"):
        a, day = t.alerts.c, alert.opened_at // _DAY_S * _DAY_S
        before = select(func.count()).where(a.task == alert.task, a.opened_at >= day, a.opened_at < alert.opened_at)
        over = c.execute(before).scalar_one() >= budgets[alert.task]
    by, verdict, hidden = row["by"], said.get("verdict"), not row["shown"]
    yield Happening(what, alert, at, row["case_event_id"], by, verdict, hidden, over)


def waiting(c: Connection) -> dict[str, tuple[int, float]]:
    """How many messages wait for each target, and when the first of them is due."""
    query = select(_N.target, func.count(), func.min(_N.due_at)).where(_N.status == "waiting").group_by(_N.target)
    return {target: (count, due_at) for target, count, due_at in c.execute(query)}


def due_deliveries(c: Connection, target: str, now: float, most: int) -> list[Delivery]:
    """What is to go out to a target, the oldest first; what was gathered for one time is one delivery.

    One of more than ``most`` messages is several, each of the oldest ``most`` that wait. It is cut at the same places
    whatever else waits: its id, under which it is sent again, follows from its messages.
    """
    query = select(_N.message, _N.due_at, _N.gathered).where(_N.status == "waiting", _N.target == target)
    query = query.where(_N.due_at <= now).order_by(_N.due_at, _N.place).limit(most)
    groups: dict[tuple[float, str], list[Message]] = {}
    gathered: set[tuple[float, str]] = set()
    for row in c.execute(query):
        message = msgspec.json.decode(row.message, type=Message)
        group = (row.due_at, message.rule if row.gathered else message.id)
        groups.setdefault(group, []).append(message)
        gathered |= {group} if row.gathered else set()
    last = max((due_at for due_at, _ in groups), default=now)
    for due_at, rule in gathered:
        if due_at == last:  # of those of the last time, some may lie behind the cut
            rest = query.where(_N.due_at == due_at, _N.rule == rule, _N.gathered == 1)
            groups[due_at, rule] = [msgspec.json.decode(text, type=Message) for text, *_ in c.execute(rest)]
    return [Delivery(tuple(each), due_at, _left_out(c, each[0])) for (due_at, _), each in groups.items()]


def _left_out(c: Connection, one: Message) -> int:
    same = (_N.status == "left_out", _N.target == one.target, _N.due_at == one.due, _N.rule == one.rule)
    return c.execute(select(func.count()).where(*same)).scalar_one() if one.gathered else 0


def standing(c: Connection, target: str) -> list[Message]:
    """The newest message of each alert of which a target was told and that is not resolved."""
    sent = (_N.target == target, _N.status == "sent", _N.what.in_(("opened", "escalated")))
    joined = notifications.join(t.alerts, t.alerts.c.alert_id == _N.alert_id)
    newest_of = select(func.max(_N.place)).select_from(joined).where(t.alerts.c.state != "resolved", *sent)
    wanted = select(_N.message).where(_N.place.in_(newest_of.group_by(_N.alert_id, _N.rule).limit(_STANDING)))
    return [msgspec.json.decode(row, type=Message) for row in c.execute(wanted).scalars()]


def newest(
    c: Connection, tasks: frozenset[str] | None, status: str | None, limit: int, message_id: str | None = None
) -> list[dict[str, Any]]:
    """The newest messages that a caller may see, and what became of each."""
    query = select(_N.message, *(_N[name] for name in _OUTCOME)).order_by(_N.place.desc()).limit(limit)
    query = query if tasks is None else query.where(_N.task.in_(sorted(tasks)))
    query = query if message_id is None else query.where(_N.id == message_id)
    rows = c.execute(query if status is None else query.where(_N.status == status)).mappings()
    return [msgspec.json.decode(row["message"], type=dict[str, Any]) | {k: row[k] for k in _OUTCOME} for row in rows]
