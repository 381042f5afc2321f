"""When the model learned a verdict: the first example of its events that comes after it, and the version it made."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, select, update

from weir.online.codec.wire import CaseEvent
from weir.online.errors import UNREADABLE
from weir.streams.records import Record
from weir.streams.service.store.case_rules import VALUES
from weir.streams.service.store.tables import alert_changes, alert_events, alerts, examples, upsert, verdicts

REMEMBERED: Final = 5_000
"""A label lane that starts again publishes its last examples again, and models learn them once: so many records before
one are looked through for it. A bound by records, not by time, so that a rebuild counts as was counted before."""
_UNKNOWN: Final = ""
"""Stands for every task where the first examples are not kept, so that no version is known."""


class _Example(msgspec.Struct):
    task: str
    event_id: str = ""
    n: int = 0
    value: int = 0
    entity_id: str | None = None
    quarantine: list[int] | None = None


_DECODER: Final = msgspec.json.Decoder(_Example)


class RecentExamples:
    """Which examples the newest records held."""

    def __init__(self) -> None:
        self._order: deque[bytes] = deque()
        self._count: dict[bytes, int] = {}

    def fresh(self, records: Sequence[tuple[int, Record]]) -> list[tuple[int, Record, _Example]]:
        """Of the records, in order, those that models count."""
        found = []
        for offset, record in records:
            try:
                example = _DECODER.decode(record.value)
            except UNREADABLE:
                continue  # no model learns it
            if example.quarantine is not None or not self._repeated(example):
                found.append((offset, record, example))
        return found

    def _repeated(self, example: _Example) -> bool:
        name = f"{example.task}\0{example.event_id}\0{example.n}".encode()
        # Eight bytes: among 5,000 names two are alike about once in a trillion times.
        digest = hashlib.blake2b(name, digest_size=8).digest()
        seen = self._count.get(digest, 0)
        self._count[digest] = seen + 1
        self._order.append(digest)
        if len(self._order) > REMEMBERED:
            oldest = self._order.popleft()
            self._count[oldest] -= 1
            if not self._count[oldest]:
                del self._count[oldest]
        return seen > 0


def read_examples(c: Connection, recent: RecentExamples, records: Sequence[tuple[int, Record]]) -> list[CaseEvent]:
    """Count examples, and note in ``verdicts`` what is learned by them; none at all stand for some that are lost.

    Returns what is to be told of that, as case events: what was told before (the tables are made anew) is left out.
    """
    found = recent.fresh(records)
    versions: dict[str, int | None] = {row.task: row.version for row in c.execute(select(examples))}
    if not records:
        versions = dict.fromkeys([*versions, _UNKNOWN])
    pending = _pending(c, [example.event_id for _, _, example in found])
    learned: list[dict[str, Any]] = []
    for offset, record, example in found:
        # A task that is new to the tables has learned nothing, unless the first examples are lost.
        version = versions.get(example.task, None if _UNKNOWN in versions else 0)
        versions[example.task] = version = None if version is None else version + 1
        learned += [
            {"id": verdict.case_event_id, "learned_at": record.ts, "learned_version": version, "of": verdict}
            for verdict in pending.get((example.task, example.event_id, example.value), [])
            if offset >= verdict.examples_before and example.entity_id in (None, verdict.entity_id)
        ]
    upsert(c, examples, [{"task": task, "version": version} for task, version in versions.items()])
    first = {each["id"]: each for each in reversed(learned)}  # of an alert with several events the first counts
    told = [_told(each["of"], each["learned_at"], each["learned_version"]) for each in first.values()]
    if learned:
        v, changes = verdicts.c, alert_changes.c
        rows = [{name: value for name, value in each.items() if name != "of"} for each in first.values()]
        c.execute(update(verdicts).where(v.case_event_id == bindparam("id")), rows)
        ids = [event.case_event_id for event in told]
        known = set(c.execute(select(changes.case_event_id).where(changes.case_event_id.in_(ids))).scalars())
        told = [event for event in told if event.case_event_id not in known]
    return told


def _told(verdict: Any, at: float, version: int | None) -> CaseEvent:
    return CaseEvent(
        case_event_id=f"learned-{verdict.case_event_id}", alert_id=verdict.alert_id, task=verdict.task,
        entity_id=verdict.entity_id, action="learned", by="weir", at=at, verdict=verdict.verdict, version=version,
    )  # fmt: skip


def _pending(c: Connection, event_ids: Sequence[str]) -> dict[tuple[str, str, int], list[Any]]:
    """Verdicts that were not learned yet, by task, event and label."""
    v, e, a = verdicts.c, alert_events.c, alerts.c
    chosen = (v.case_event_id, v.alert_id, v.verdict, v.examples_before, e.event_id, a.task, a.entity_id)
    joined = verdicts.join(alert_events, e.alert_id == v.alert_id).join(alerts, a.alert_id == v.alert_id)
    open_ = v.learned_at.is_(None) & v.examples_before.is_not(None) & v.verdict.in_(VALUES)
    found: dict[tuple[str, str, int], list[Any]] = {}
    for row in c.execute(select(*chosen).select_from(joined).where(e.event_id.in_(event_ids), open_)):
        found.setdefault((row.task, row.event_id, VALUES[row.verdict]), []).append(row)
    return found
