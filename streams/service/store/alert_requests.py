"""What requests about alerts say: their bodies, and what their paths and queries mean."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from weir.online.codec.wire import ID_CHARS, PRINTABLE, WORD_CHARS, Id, MadeId, Note
from weir.online.decisions.alert_state import Severity
from weir.online.durations import Seconds
from weir.streams.service.access.scopes import caller_of, tell_audit
from weir.streams.service.store.alert_filter import AlertFilter, Aside
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.cases import Cases

BULK: Final = 500
CLAIM_S: Final = 1800.0
State = Literal["open", "escalated", "resolved"]
Verdict = Literal["confirmed", "false_alarm", "unsure"]
Asks = Annotated[str | None, Query(max_length=256, pattern=PRINTABLE)]
Version = Annotated[str | None, Header(alias="If-Match", pattern=r'^"?\d+"?$')]
"""The ``ETag`` of the alert that the caller looked at: where somebody has changed it since, the answer is 409."""


class Said(BaseModel):
    """What a person sends."""

    model_config = ConfigDict(extra="forbid")


class VerdictSaid(Said):
    """A verdict on an alert."""

    verdict: Verdict = Field(examples=["confirmed"])
    reason: str = Field("", max_length=WORD_CHARS, pattern=PRINTABLE, examples=["stolen card"])
    note: Note = Field("", examples=["called the customer"])


class ManySaid(Said):
    """Several alerts."""

    alert_ids: list[MadeId] = Field(min_length=1, max_length=BULK, examples=[["fraud:user-7:pay-1"]])


class VerdictsSaid(VerdictSaid, ManySaid):
    """The same verdict on several alerts."""


class NextSaid(Said):
    """For how long the next alert is the caller's."""

    for_s: Seconds = Field(CLAIM_S, gt=0, le=30 * 86_400.0, examples=["30m"])
    """When the claim ends."""


class AssignSaid(NextSaid):
    """Whose an alert is."""

    assignee: Id | None = Field(None, examples=["ben"])
    """To whom it is handed over; the caller claims it without."""
    release: bool = False
    """Nobody's any more."""


class NoteSaid(Said):
    """A note on an alert."""

    note: Note = Field(min_length=1, examples=["waits for the bank"])


class EscalateSaid(Said):
    """Why others should look at an alert."""

    note: Note = Field("", examples=["two more accounts with this device"])


class HoldSaid(Said):
    """Puts an alert aside for a while; 0 ends that."""

    for_s: Seconds = Field(ge=0, le=365 * 86_400.0, examples=["4h"])


async def sees_of(request: Request) -> frozenset[str] | None:
    """The only tasks that who asks may see; ``None`` for all."""
    return caller_of(request).tasks


async def name_of(request: Request) -> str:
    """Who asks, as an id of a record."""
    # What a case event allows: a name from a provider or of a key may hold more, and be longer.
    return "".join(filter(str.isprintable, caller_of(request).name))[:ID_CHARS] or "unknown"


async def alert_of(alert_id: str, request: Request) -> AlertRow:
    """The alert of a path, which the audit then tells; a problem (404) where there is none that the caller may see."""
    cases: Cases = request.app.state.service.store.cases
    row = await cases.row(alert_id, await sees_of(request))
    tell_audit(request, task=row.task, subject=row.entity_id)
    return row


By: Any = Depends(name_of)
Sees: Any = Depends(sees_of)
Asked: Any = Depends(alert_of)


async def filter_of(
    task: Asks = None,
    state: State | None = None,
    severity: Annotated[Severity | None, Query(description="At least.")] = None,
    entity: Asks = None,
    assignee: Annotated[Asks, Query(description="Empty for alerts that nobody has claimed.")] = None,
    since: Annotated[float | None, Query(allow_inf_nan=False, description="Opened then or later, in epoch s.")] = None,
    until: Annotated[float | None, Query(allow_inf_nan=False, description="Opened before.")] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    verdict: Verdict | Literal["none"] | None = None,
    q: Annotated[Asks, Query(description="A whole id, or a part of a reason.")] = None,
    queue: Annotated[bool, Query(description="Only what waits for the caller.")] = False,
    held: Annotated[Aside | None, Query(description="Alerts on hold; the queue excludes them.")] = None,
    snoozed: Annotated[Aside | None, Query(description="Alerts that are snoozed; the queue excludes them.")] = None,
    sees: frozenset[str] | None = Sees,
    by: str = By,
) -> AlertFilter:
    """The filters of a list, by its query.

    The queue is what is not resolved, on hold, snoozed, or claimed by somebody else.
    """
    usual: Aside = "exclude" if queue else "include"
    return AlertFilter(
        sees, task, state, severity, entity, assignee, since, until, min_score, verdict, q and q.strip(),
        by if queue else None, held or usual, snoozed or usual,
    )  # fmt: skip


Filtered: Any = Depends(filter_of)
