"""Labels of verdicts that are on their way: a verdict that counts gets its labels, whatever fails in between.

They are noted before the case event goes out, and sent once it is known to count. Whoever dies, or finds brokers or
the database away, leaves them here, and the process that writes the tables sends them. They may go out twice, under the
same ids, which makes them one label. Times are of the database's clock: those of replicas may be hours apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, select

from weir.streams.records import Record
from weir.streams.service.store.alert_queries import outcomes_of
from weir.streams.service.store.database import database_time
from weir.streams.service.store.tables import owed_labels as table
from weir.streams.service.store.tables import upsert

log = logging.getLogger(__name__)
WAIT_S: Final = 30.0
"""So long whoever gave the verdict may take to send its labels; then another process does."""
GIVE_UP_S: Final = 900.0
"""A case event that is so old, and not in tables that hold all of the log, never got there: its caller was told so."""


class LabelDebt(NamedTuple):
    """What is to be sent now, and the case events that are then settled."""

    labels: list[Record]
    settled: list[str]


def note(c: Connection, labels: Mapping[str, tuple[str, Sequence[Record]]]) -> None:
    """Note labels by case event, each with the alert that they are of."""
    now = database_time(c)
    rows: list[dict[str, Any]] = [
        {"case_event_id": case_event_id, "alert_id": alert_id, "at": now, "labels": [_text(r) for r in records]}
        for case_event_id, (alert_id, records) in labels.items()
    ]
    upsert(c, table, rows)


def owed_of(c: Connection, alert_ids: Sequence[str]) -> LabelDebt:
    """Of some alerts, all that is owed and known to count: in the order of the verdicts, the newest of which wins."""
    # Nothing is given up here: what this process was told is in the log may not be in the tables yet.
    return _owed(c, select(table).where(table.c.alert_id.in_(alert_ids)), database_time(c), give_up=False)


def left_behind(c: Connection) -> LabelDebt:
    """What somebody left: of each such alert all, as above. Only where all of the log is in the tables."""
    now = database_time(c)
    late = select(table.c.alert_id).where(table.c.at < now - WAIT_S)
    return _owed(c, select(table).where(table.c.alert_id.in_(late)), now, give_up=True)


def _owed(c: Connection, query: Any, now: float, give_up: bool) -> LabelDebt:
    rows = c.execute(query.order_by(table.c.at, table.c.case_event_id)).all()
    outcomes = outcomes_of(c, [row.case_event_id for row in rows])
    found = LabelDebt([], [])
    for row in rows:
        if row.case_event_id in outcomes:
            found.settled.append(row.case_event_id)
            if outcomes[row.case_event_id] is None:
                found.labels.extend(_record(label, now) for label in row.labels)
        elif give_up and row.at < now - GIVE_UP_S:
            log.warning("alert %s: a verdict never got into the log; its labels are not sent", row.alert_id)
            found.settled.append(row.case_event_id)
    return found


def forget(c: Connection, case_event_ids: Sequence[str]) -> None:
    """They are sent, or did not count."""
    c.execute(delete(table).where(table.c.case_event_id.in_(case_event_ids)))


def _text(record: Record) -> list[str]:
    return [record.key.decode(), record.value.decode()]


def _record(label: Sequence[str], now: float) -> Record:
    key, value = label
    return Record(key.encode(), value.encode(), now)
