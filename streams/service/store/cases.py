"""What people do with alerts: a case event, its effect, and the labels that follow from a verdict."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ID_CHARS, VERSION, CaseEvent, Label
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.errors import WeirError
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.records import Record
from weir.streams.service.parts import Problem, set_within
from weir.streams.service.ports import ServiceLog
from weir.streams.service.store import owed_labels
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import find_rows, list_alerts, outcomes_of, standing_values
from weir.streams.service.store.case_rules import VALUES, AlertRow
from weir.streams.service.store.database import in_thread
from weir.streams.service.store.owed_labels import LabelDebt
from weir.streams.service.store.projector import Projector

log = logging.getLogger(__name__)
_T = TypeVar("_T")
PATIENCE_S: Final = 1.0
"""So long an answer waits for its own effect."""
_LOOK_FOR_OWED_S: Final = 10.0
_CANDIDATES: Final = 20
_LOOK_EVERY_S: Final = 0.05
"""Where another process writes the database, it cannot wake this one."""


class Cases:
    """See the module.

    Parameters
    ----------
    log : takes case events and labels.
    engine : the database; what follows from records is only read here, and written by the projector.
    projector : tells when something was written.
    tasks : those whose labels are wanted.
    """

    def __init__(self, log: ServiceLog, engine: Engine, projector: Projector, tasks: Sequence[TaskSpec]) -> None:
        self._log, self._engine, self._projector = log, engine, projector
        self._tasks = {task.name: task for task in tasks}

    async def ask(self, what: Callable[..., _T], *given: Any) -> _T:
        """What a function of a connection gives, in a thread."""

        def run() -> _T:
            with self._engine.begin() as connection:
                return what(connection, *given)

        return await in_thread(run)

    async def judge(
        self,
        rows: Sequence[AlertRow],
        by: str,
        verdict: str,
        reason: str = "",
        note: str = "",
        expects: int | None = None,
    ) -> dict[str, str | None]:
        """Give alerts a verdict: by id, why it did not count, ``None`` where it did. An id may be absent for now.

        The case event goes out first, and labels only of what counted (``owed_labels``).
        """
        value, now = VALUES.get(verdict), time.time()
        for row in rows:
            # All are looked at before anything goes out: one that can not be judged refuses the whole request.
            self._check_reason(row, reason)
            if value is not None:
                self._task_of(row)
        # Looked up before the verdict is out: an example before the mark cannot have been learned from it.
        ends = await self._log.spans(topics.EXAMPLES)
        mark = max((span.end for span in ends.values()), default=0)
        made = [
            self._event(row, "verdict", by, now, expects, verdict=verdict, state=row.state, examples_before=mark,
                        reason=reason or None, note=note or None)
            for row in rows
        ]  # fmt: skip
        labels = [[] if value is None else self._labels_of(row, verdict, value, by, now) for row in rows]
        return await self._happen_with(made, labels)

    def _labels_of(self, row: AlertRow, verdict: str, value: int, by: str, now: float) -> list[Record]:
        # The same verdict again changes nothing, so it has the labels of the one that stands.
        generation = row.generation + (row.verdict != verdict)
        return verdict_labels(row, self._task_of(row), value, generation, f"case:{by}", now)

    async def undo(self, rows: Sequence[AlertRow], by: str, expects: int | None = None) -> dict[str, str | None]:
        """Take the newest verdict of each alert back; answers as ``judge`` does."""
        standing, now = await self.ask(standing_values, [row.alert_id for row in rows]), time.time()
        labels = [
            undone_labels(row, self._task_of(row), values, by, now) if (values := standing.get(row.alert_id)) else []
            for row in rows
        ]
        return await self._happen_with([self._event(row, "undo", by, now, expects) for row in rows], labels)

    async def _happen_with(self, made: Sequence[CaseEvent], labels: Sequence[list[Record]]) -> dict[str, str | None]:
        """Let case events happen, and send the labels of each that counts."""
        paired = zip(made, labels, strict=True)
        owed = {event.case_event_id: (event.alert_id, records) for event, records in paired if records}
        await self.ask(owed_labels.note, owed)
        outcomes = await self.happen(made)
        await self._send(await self.ask(owed_labels.owed_of, [event.alert_id for event in made]))
        return outcomes

    async def send_what_is_owed(self) -> None:
        """Send, until cancelled, the labels that somebody left behind, where this process writes the tables."""
        failures = RepeatedTrouble(log, "labels of verdicts are not sent", (SQLAlchemyError, WeirError))
        while True:
            await asyncio.sleep(_LOOK_FOR_OWED_S)
            try:
                # What is not in the tables yet is not known to count.
                if self._projector.up_to_date:
                    await self._send(await self.ask(owed_labels.left_behind))
                    failures.over()
            except (SQLAlchemyError, WeirError) as exc:
                failures.failed(exc)

    async def _send(self, owed: LabelDebt) -> None:
        await self._say(owed.labels)
        if owed.settled:
            await self.ask(owed_labels.forget, owed.settled)

    async def claim_next(self, of: AlertFilter, by: str, for_s: float) -> str | None:
        """Claim the first alert of the queue that nobody has, the largest expected loss first; its id.

        Of two people who ask at once one is refused, by the rule of case events, and takes the alert after it. So does
        one person who asks twice: the claim expects the version that was read.
        """
        cursor, free = None, replace(of, waits_for=by, assignee="")
        while True:
            page = await self.ask(list_alerts, free, "expected_loss", cursor, _CANDIDATES, time.time())
            for row in page.rows:
                if row.reopened == "escalated" and row.changed_by == by:
                    continue  # who escalates an alert wants another person to look at it
                whose = {"assignee": by, "until": time.time() + for_s}
                if (await self.act([row], "assign", by, row.version, **whose))[row.alert_id] is None:
                    return row.alert_id
            if (cursor := page.next) is None:
                return None

    async def act(
        self, rows: Sequence[AlertRow], action: str, by: str, expects: int | None = None, **said: Any
    ) -> dict[str, str | None]:
        """Do anything else with alerts; answers as ``judge`` does."""
        return await self.happen([self._event(row, action, by, time.time(), expects, **said) for row in rows])

    async def happen(self, made: Sequence[CaseEvent]) -> dict[str, str | None]:
        """Append case events, and wait for what became of them; those that are not written in time are absent.

        Raises ``Problem`` (503) for one with ``expects``, as it is not known whether it counts.
        """
        records = [Record(event.alert_id.encode(), encode_model(event), event.at) for event in made]
        await self._log.append(topics.CASE_EVENTS, records)
        alert_of = {event.case_event_id: event.alert_id for event in made}
        found = await self.became(list(alert_of))
        if any(event.expects is not None and event.case_event_id not in found for event in made):
            raise Problem(
                503, "Not known yet", "the database is behind; look at the alert before you try again",
                headers={"Retry-After": "2"},
            )  # fmt: skip
        return {alert_of[case_event_id]: refused for case_event_id, refused in found.items()}

    async def became(self, case_event_ids: list[str]) -> dict[str, str | None]:
        """Wait for what becomes of case events, as ``happen`` does; by their ids."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            # Before the look: what is written between the look and the wait has set it, and is not slept through.
            wrote = self._projector.wrote
            found = await self.ask(outcomes_of, case_event_ids)
            left = deadline - time.monotonic()
            if len(found) == len(set(case_event_ids)) or left <= 0:
                return found
            await set_within(wrote, min(left, _LOOK_EVERY_S))

    async def rows(self, ids: Sequence[str], tasks: frozenset[str] | None) -> dict[str, AlertRow]:
        """Alerts by id that a caller may see."""
        return await self.ask(find_rows, [i for i in ids if "\0" not in i], tasks)  # no id has one, nor a database

    async def row(self, alert_id: str, tasks: frozenset[str] | None) -> AlertRow:
        """One of them; raises ``Problem`` (404; 503 where it may only not be there yet)."""
        if row := (await self.rows([alert_id], tasks)).get(alert_id):
            return row
        if (trouble := self._projector.trouble) is not None:
            detail = f"no alert {alert_id} yet: {trouble}"
            raise Problem(503, "Not known yet", detail, value=alert_id, headers={"Retry-After": "2"})
        raise Problem(404, "Not found", f"no alert {alert_id}; GET /v1/alerts lists them", value=alert_id)

    def _check_reason(self, row: AlertRow, reason: str) -> None:
        allowed = task.alerts.verdict_reasons if (task := self._tasks.get(row.task)) is not None else ()
        if reason and allowed and reason not in allowed:
            raise Problem(
                422, "Not valid", f"reason {reason!r}: [alerts] verdict_reasons of task {row.task} does not have it; "
                f"give one of {', '.join(allowed)}, or none", parameter="reason", value=reason, limit=list(allowed),
            )  # fmt: skip

    def _task_of(self, row: AlertRow) -> TaskSpec:
        if (task := self._tasks.get(row.task)) is None:
            known = ", ".join(self._tasks)
            raise Problem(
                409, "No labels", f"alert {row.alert_id} is of task {row.task}, which does not run here: nobody would "
                f"learn from the verdict; tasks are {known}", value=row.task,
            )  # fmt: skip
        return task

    def _event(self, row: AlertRow, action: str, by: str, at: float, expects: int | None, **said: Any) -> CaseEvent:
        about = {"alert_id": row.alert_id, "task": row.task, "entity_id": row.entity_id}
        known = {"case_event_id": secrets.token_hex(16), "action": action, "by": by, "at": at, "expects": expects}
        return CaseEvent.model_validate(about | known | said)

    async def _say(self, labels: Sequence[Record]) -> None:
        if labels:
            await self._log.append(topics.LABELS, labels)


def verdict_labels(row: AlertRow, task: TaskSpec, value: int, generation: int, source: str, now: float) -> list[Record]:
    """What a verdict says of an alert: of each of its events, or of its entity at the time of the last one.

    Ids follow from the alert, the value and how often the verdict had changed, so that the same verdict given twice is
    one label, and the same one given again after another is a new one.

    Where labels are of events, a false alarm comes with one more, of the entity, which no prediction joins: it resolves
    the alert in the stream, where otherwise each event of it would have to be cleared, also those that are not listed.
    """
    events = _events(row, task)
    resolving = [None] if not value and None not in events else []
    return _labels(row, [*resolving, *events], value, generation, source, now)


def _events(row: AlertRow, task: TaskSpec) -> list[str | None]:
    """What labels name; ``None`` where they are of entities."""
    ranged = task.labels.join.match == "entity_range"
    return [None] if ranged else msgspec.json.decode(row.event_ids, type=list[str | None])


def _labels(
    row: AlertRow, events: Sequence[str | None], value: int, generation: int, source: str, now: float
) -> list[Record]:
    made, about = [], {"task": row.task, "entity_id": row.entity_id, "ts": row.updated_at, "value": value}
    for event_id in events:
        said = f"{row.alert_id}\0{generation}\0{value}\0{event_id or ''}"
        ids = {"label_id": f"case:{hashlib.sha256(said.encode()).hexdigest()[:32]}", "event_id": event_id}
        label = Label.model_validate(about | ids | {"v": VERSION, "source": source[:ID_CHARS]})
        made.append(Record(row.entity_id.encode(), encode_model(label), now))
    return made


def undone_labels(row: AlertRow, task: TaskSpec, standing: Sequence[str], by: str, now: float) -> list[Record]:
    """What taking the newest verdict back says: the value that an earlier one gave, else the opposite value.

    A label cannot be withdrawn: the model has learned it. The correction of the same events with the other value is
    what the join knows, and what every replica learns alike. Where nobody said anything before, the opposite is the
    nearest to "we do not know": it takes back what was learned, and the next label corrects it again.

    Parameters
    ----------
    standing : verdicts that count, the newest first.
    """
    undone, *before = standing
    if undone not in VALUES:
        return []
    value = next((VALUES[verdict] for verdict in before if verdict in VALUES), 1 - VALUES[undone])
    if value == VALUES[undone]:
        return []
    return _labels(row, _events(row, task), value, row.generation + 1, f"undo:{by}", now)
