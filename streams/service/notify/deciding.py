"""Decides who is told of what happened to an alert, and when. Pure: time and state are arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.config.notify_settings import NotifyRule
from weir.streams.service.notify.messages import Message, What, id_of
from weir.streams.service.store.case_rules import AlertRow


@dataclass(frozen=True, slots=True)
class Happening:
    """What happened to an alert."""

    what: Literal["open", "escalated", "resolved", "judged", "reopened"]
    alert: AlertRow
    """As it was then."""
    at: float
    """When, epoch seconds; event time of what the stream says."""
    case_event_id: str | None = None
    """Of what a person did."""
    by: str | None = None
    verdict: str | None = None
    hidden: bool = False
    """Whether somebody has snoozed the alert, or holds it."""
    over: bool = False
    """Whether its task has a number of alerts a day, and had them before this one."""


Told = dict[str, bool]
"""Ids of the messages about some alerts, and whether each was left out."""


def decide(happening: Happening, rules: Sequence[NotifyRule], told: Told, now: float) -> list[Message]:
    """The messages that follow from a happening; each is added to ``told``, and is never made again."""
    found = []
    for rule in rules:
        if rule.paused or (rule.tasks and happening.alert.task not in rule.tasks):
            continue
        for message in _messages(happening, rule, told, now):
            if message.id not in told:
                told[message.id] = message.left_out
                found.append(message)
    return found


def _messages(happening: Happening, rule: NotifyRule, told: Told, now: float) -> Iterator[Message]:
    a = happening.alert
    severity: Severity = SEVERITIES[a.severity]
    reasons: list[dict[str, Any]] = msgspec.json.decode(a.reasons)
    # Cut: a record holds up to 200 messages, and brokers take a MiB.
    texts = tuple(reason["text"][:300] for reason in reasons[:3])
    for target in rule.targets:
        known = [i for what in ("escalated", "opened") if (i := id_of(rule.name, target, a.alert_id, what)) in told]
        thread = next((i for i in known if not told[i]), None)
        if (what := _what(happening, rule, known, thread)) is None:
            continue
        opens, due = what in ("opened", "escalated"), due_at(rule, severity, now)
        # Opened or escalated it is told once; each verdict is news.
        own = id_of(rule.name, target, a.alert_id, what, *([] if opens else [happening.case_event_id or ""]))
        yield Message(
            own, rule.name, target, what, a.alert_id, a.task, a.entity_id, severity, a.score, a.threshold,
            a.expected_loss, a.opened_at, happening.at, due, thread or own, texts, happening.by, happening.verdict,
            due > now, happening.hidden and opens,
        )  # fmt: skip


def _what(happening: Happening, rule: NotifyRule, known: Sequence[str], thread: str | None) -> What | None:
    """What a receiver is to be told; ``None`` for nothing.

    An alert may come to match a rule later, when its score rises: it is told then, once.
    """
    opens = {"opened", "escalated"} & {*rule.states}
    if happening.what == "open" or happening.what == "escalated":
        if not _matches(happening, rule):
            return None
        if happening.what in opens:
            return "escalated"
        return "opened" if "opened" in opens and not known else None
    wanted = "resolved" if happening.what == "resolved" else "verdict"
    # Who was not told of an alert is not told how it ended, unless that is all that they want to know.
    silent = thread is None if opens else not _matches(happening, rule)
    return None if wanted not in rule.states or silent else happening.what


def _matches(happening: Happening, rule: NotifyRule) -> bool:
    alert = happening.alert
    return (
        alert.severity >= SEVERITIES.index(rule.severity)
        and alert.score >= rule.min_score
        and alert.expected_loss >= rule.min_loss
        and rule.budget != ("within" if happening.over else "over")
    )


def due_at(rule: NotifyRule, severity: Severity, now: float) -> float:
    """When a message goes out that is decided now: ``now``, the end of its digest, or the end of quiet hours."""
    if rule.urgent is not None and SEVERITIES.index(severity) >= SEVERITIES.index(rule.urgent):
        return now
    # At multiples since 1970, not so long after the first alert: whoever decides, all of a digest have one time.
    at = now if rule.digest is None else (now // rule.digest + 1) * rule.digest
    if rule.quiet is None or not _is_quiet(rule.quiet, rule.time_zone, at):
        return at
    return _end_of_quiet(rule.quiet, rule.time_zone, int(at // 60))


@lru_cache(maxsize=1024)
def _end_of_quiet(quiet: str, time_zone: str, minute: int) -> float:
    """The first minute that is not quiet. Looked for one by one, so that no change of clocks needs a rule."""
    # 50 hours, which are longer than any day, also one on which the clocks are changed.
    return next(60.0 * at for at in range(minute + 1, minute + 3000) if not _is_quiet(quiet, time_zone, 60.0 * at))


def _is_quiet(quiet: str, time_zone: str, at: float) -> bool:
    local = datetime.fromtimestamp(at, ZoneInfo(time_zone)).strftime("%H:%M")
    start, end = quiet.split("-")
    return start <= local < end if start < end else local >= start or local < end
