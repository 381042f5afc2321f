"""Lists of alerts as their addresses name them, and what a page shows of each alert."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, Connection, exists, func, or_, select

from weir.online.codec.wire import PRINTABLE
from weir.online.decisions.alert_state import Severity
from weir.streams.config import topics
from weir.streams.service.feed.feed_routes import time_said
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import Sort, shown
from weir.streams.service.store.alert_requests import Verdict
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.tables import alert_changes, alerts, positions, presence

Word = Annotated[str, Field(max_length=256, pattern=PRINTABLE)]
Show = Literal["queue", "any", "open", "escalated", "resolved", "held", "snoozed"]
ME, NOBODY = "me", "nobody"
_PART: Final = r"\d{1,9}\.\d{1,18}"
"""Of no more digits than a column of the database has."""
COUNTED: Final = 2_000
"""Changes that are looked at for "12 new": a number that nobody reads on has a bounded cost."""


class ListSaid(BaseModel):
    """What the address of a list says; what it leaves out, or leaves empty as a form does, is open.

    Parameters
    ----------
    show : the queue is what is not resolved, on hold, snoozed, or claimed by somebody else.
    assignee : ``me`` is who looks, so that a list can be shared; ``nobody`` for alerts of nobody.
    since, until : RFC 3339, epoch seconds, or a duration before now.
    cursor, rows : of a later part of the list: where it begins, and how many rows there are before it.
    mark : up to where the page that asks has alerts, as ``mark_of`` tells it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    show: Show = "queue"
    task: Word | None = None
    severity: Severity | None = None
    assignee: Word | None = None
    verdict: Verdict | Literal["none"] | None = None
    entity: Word | None = None
    since: Word | None = None
    until: Word | None = None
    min_score: float | None = Field(None, ge=0, le=1)
    q: Word | None = None
    sort: Sort = "expected_loss"
    cursor: str | None = Field(None, max_length=4_096)
    rows: int = Field(0, ge=0, le=1_000_000)
    mark: str = Field("", max_length=4_096, pattern=rf"^({_PART}(-{_PART})*)?$")

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, said: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in said.items() if not (isinstance(value, str) and not value.strip())}

    def address(self, path: str = "/console/alerts", **changes: Any) -> str:
        """The address of a list that differs in some things; without a place in it, unless ``changes`` have one."""
        said = self.model_dump(exclude_defaults=True, exclude={"cursor", "rows", "mark"}) | changes
        given = {name: value for name, value in said.items() if value not in (None, "")}
        return f"{path}?{urlencode(given)}" if given else path

    @property
    def query(self) -> str:
        """What a saved view keeps of it."""
        return self.address().partition("?")[2]

    def turned(self, name: str, value: str) -> str:
        """The address of a list with this choice, or without it where it is chosen."""
        changes: dict[str, Any] = {name: None if getattr(self, name) == value else value}
        return self.address(**changes)

    def filter(self, tasks: frozenset[str] | None, by: str, now: float) -> AlertFilter:
        """The same for the database; raises ``Problem`` (422) for a time that is none.

        Parameters
        ----------
        tasks : what the caller may see.
        by : who looks.
        """
        times = {name: time_said(at, now, name) for name in ("since", "until") if (at := getattr(self, name))}
        usual: Literal["exclude", "include"] = "exclude" if self.show == "queue" else "include"
        return AlertFilter(
            tasks, self.task, self.show if self.show in ("open", "escalated", "resolved") else None, self.severity,
            self.entity, {ME: by, NOBODY: ""}.get(self.assignee or "", self.assignee), times.get("since"),
            times.get("until"), self.min_score, self.verdict, self.q and self.q.strip(),
            by if self.show == "queue" else None, "only" if self.show == "held" else usual,
            "only" if self.show == "snoozed" else usual,
        )  # fmt: skip


class ShownAlert(msgspec.Struct):
    """An alert as a page shows it."""

    facts: dict[str, Any]
    reasons: list[dict[str, Any]]
    people: list[str]
    """Who else has it open."""
    snoozed: bool

    @property
    def key(self) -> str:
        """Names its row in the page; an id of an alert may hold anything."""
        return hashlib.blake2b(self.facts["alert_id"].encode(), digest_size=8).hexdigest()


def shown_alerts(c: Connection, rows: list[AlertRow], by: str, now: float) -> list[ShownAlert]:
    """Rows of a list as the page shows them to ``by``."""
    p, looking = presence.c, dict[str, list[str]]()
    ids = [row.alert_id for row in rows]
    there = select(p.alert_id, p.person).where(p.alert_id.in_(ids), p.until > now, p.person != by)
    for alert_id, person in c.execute(there):
        looking.setdefault(alert_id, []).append(person)
    aside = AlertFilter(snoozed="only").where(c, now)
    snoozed = set(c.execute(select(alerts.c.alert_id).where(alerts.c.alert_id.in_(ids), *aside)).scalars())
    return [
        ShownAlert(
            shown(row, now), msgspec.json.decode(row.reasons), looking.get(row.alert_id, []), row.alert_id in snoozed
        )
        for row in rows
    ]


def mark_of(c: Connection) -> str:
    """Up to where alerts are in the tables, ``partition.offset-...``: what comes after it is new to a page."""
    p = positions.c
    found = select(p.partition, p.next_offset).where(p.topic == topics.ALERTS).order_by(p.partition)
    return "-".join(f"{row.partition}.{row.next_offset}" for row in c.execute(found))


def new_since(c: Connection, of: AlertFilter, mark: str, now: float) -> tuple[int, bool]:
    """How many alerts of a list came after ``mark``, and whether there may be more of them.

    An alert is new where none of its changes is before the mark. At most ``COUNTED`` changes are looked at.
    """
    h = alert_changes.c
    ends = {int(p): int(at) for p, _, at in (part.partition(".") for part in mark.split("-") if part)}
    # A partition that the mark does not name has had nothing when the page was made.
    after = or_(h.partition.not_in(ends), *((h.partition == p) & (h.offset >= at) for p, at in ends.items()))
    changes = c.execute(select(h.alert_id).where(h.topic == topics.ALERTS, after).limit(COUNTED)).scalars().all()
    before = exists().where(h.alert_id == alerts.c.alert_id, h.topic == topics.ALERTS, ~after)
    where: list[ColumnElement[bool]] = [*of.where(c, now), alerts.c.alert_id.in_(set(changes)), ~before]
    count = c.execute(select(func.count()).select_from(alerts).where(*where)).scalar_one()
    return count, len(changes) == COUNTED
