"""Who is told of what, and when: quiet hours across changes of clocks, digests, and every message once."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weir.online.decisions.alert_state import SEVERITIES
from weir.streams.config.notify_settings import NotifyRule
from weir.streams.service.notify.messages import Happening, Told, decide, due_at
from weir.streams.service.store.case_rules import AlertRow

NOW = 1_700_000_000.0
BERLIN = "Europe/Berlin"


def rule(**said: Any) -> NotifyRule:
    return NotifyRule.model_validate({"name": "desk", "targets": ["slack"], **said})


def happening(what: str = "open", **more: Any) -> Happening:
    severity = SEVERITIES.index(more.pop("severity", "high"))
    facts = {name: more.pop(name) for name in ("score", "expected_loss", "task", "entity_id") if name in more}
    alert = AlertRow(
        more.pop("alert_id", "a1"), **{"task": "fraud", "entity_id": "u1", "score": 0.9, **facts}, severity=severity
    )
    return Happening(what, alert, NOW, **more)  # type: ignore[arg-type]


def whats(rules: NotifyRule, *happenings: Happening, told: Told | None = None) -> list[str]:
    told = {} if told is None else told
    return [m.what for each in happenings for m in decide(each, [rules], told, NOW) if not m.left_out]


def judged(verdict: str = "confirmed", number: int = 1) -> Happening:
    return happening("judged", case_event_id=f"c{number}", by="ana", verdict=verdict)


@pytest.mark.parametrize(
    ("said", "facts", "tells"),
    [
        ({}, {}, True),
        ({"tasks": ["churn"]}, {}, False),
        ({"tasks": ["churn", "fraud"]}, {}, True),
        ({"severity": "critical"}, {}, False),
        ({"severity": "high"}, {}, True),
        ({"min_score": 0.91}, {}, False),
        ({"min_loss": 100}, {"expected_loss": 99.0}, False),
        ({"min_loss": 100}, {"expected_loss": 100.0}, True),
        ({"budget": "within"}, {"over": True}, False),
        ({"budget": "within"}, {"over": False}, True),
        ({"budget": "over"}, {"over": True}, True),
        ({"budget": "over"}, {"over": False}, False),
        ({"paused": True}, {}, False),
        ({"states": ["resolved"]}, {}, False),
    ],
)
def test_a_rule_tells_of_what_it_says(said: dict[str, Any], facts: dict[str, Any], tells: bool) -> None:
    assert whats(rule(**said), happening(**facts)) == ["opened"] * tells


def test_an_alert_is_told_once_and_its_end_to_those_who_were_told() -> None:
    everything = rule(states=["opened", "escalated", "resolved", "verdict"])
    opened, escalated, resolved = happening(), happening("escalated"), happening("resolved")
    assert whats(everything, opened, opened, escalated, opened, escalated, judged(), resolved, resolved) == [
        "opened", "escalated", "judged", "resolved",
    ]  # fmt: skip
    assert whats(everything, judged(), resolved) == [], "nobody knows the alert"
    assert whats(rule(states=["verdict"]), opened, judged()) == ["judged"], "they want to know nothing else"
    assert whats(rule(states=["opened"]), escalated, escalated) == ["opened"], "it opened as an escalated one"
    assert whats(everything, escalated, opened) == ["escalated"]
    reopened = happening("reopened", case_event_id="c2", by="ben")
    assert whats(everything, opened, judged(), judged(), reopened, judged(number=3)) == [
        "opened", "judged", "reopened", "judged",
    ]  # fmt: skip


def test_an_alert_that_comes_to_match_is_told_then() -> None:
    assert whats(rule(severity="high"), happening(severity="low"), happening(severity="high")) == ["opened"]


def test_a_follow_up_names_the_first_message() -> None:
    told: Told = {}
    (first,) = decide(happening(), [rule()], told, NOW)
    (follow_up,) = decide(judged(), [rule()], told, NOW)
    assert first.thread == first.id == follow_up.thread != follow_up.id


def test_what_is_snoozed_is_left_out_and_counted() -> None:
    told: Told = {}
    (counted,) = decide(happening(hidden=True), [rule()], told, NOW)
    assert counted.left_out
    assert whats(rule(), happening(), judged(), told=told) == []
    assert whats(rule(), happening("escalated"), judged(), told=told) == ["escalated", "judged"]


@given(
    st.lists(st.tuples(st.sampled_from(["open", "escalated", "resolved", "judged"]), st.integers(0, 3)), max_size=20),
    st.data(),
)
def test_what_is_decided_again_after_a_crash_is_what_was_lost(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    rules = [rule(targets=["slack", "mail"]), rule(name="night", states=["opened", "resolved", "verdict"])]
    happenings = [happening(what, alert_id=f"a{n}", case_event_id=f"c{n}") for what, n in steps]
    told: Told = {}
    whole = [m for each in happenings for m in decide(each, rules, told, NOW)]
    crash = data.draw(st.integers(0, len(happenings)))
    kept: Told = {}
    made = [decide(each, rules, kept, NOW) for each in happenings[:crash]]
    before = [message for messages in made for message in messages]
    # A place is written down with the messages that follow from it, or later: nothing was told after it.
    again = data.draw(st.integers(max((n + 1 for n, messages in enumerate(made) if messages), default=0), crash))
    after = [m for each in happenings[again:] for m in decide(each, rules, kept, NOW)]
    assert before + after == whole
    assert len({message.id for message in whole}) == len(whole)


def quiet(at: float, hours: str, zone: str) -> bool:
    local = datetime.fromtimestamp(at, ZoneInfo(zone)).time()
    start, end = (datetime.strptime(text, "%H:%M").time() for text in hours.split("-"))
    return start <= local < end if start < end else not end <= local < start


@given(
    st.datetimes(datetime(2026, 3, 27), datetime(2026, 3, 31))
    | st.datetimes(datetime(2026, 10, 23), datetime(2026, 10, 27)),
    st.sampled_from(["22:00-07:00", "00:30-02:30", "02:30-03:30", "09:00-17:00", "01:00-00:59"]),
    st.sampled_from([BERLIN, "UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
@example(datetime(2026, 3, 29, 0, 45), "00:30-02:30", BERLIN)  # 02:30 does not exist: the hours end at 03:00
@example(datetime(2026, 10, 25, 1, 5), "00:30-02:30", BERLIN)  # 02:30 comes twice
def test_quiet_hours_end_at_the_first_minute_that_is_not_quiet(day: datetime, hours: str, zone: str) -> None:
    now = day.replace(tzinfo=ZoneInfo("UTC")).timestamp()
    due = due_at(rule(quiet=hours, time_zone=zone), "high", now)
    assert due == now if not quiet(now, hours, zone) else due > now
    assert not quiet(due, hours, zone)
    minutes = range(int(now // 60) + 1, int(due // 60))
    assert all(quiet(60.0 * minute, hours, zone) for minute in minutes), "it waited for longer than it had to"
    assert due_at(rule(quiet=hours, time_zone=zone, urgent="critical"), "critical", now) == now
    assert due_at(rule(quiet=hours, time_zone=zone, urgent="critical"), "high", now) == due


@given(st.floats(1.6e9, 1.9e9), st.sampled_from(["60s", "15m", "1h", "1d"]))
def test_a_digest_goes_out_at_the_end_of_its_period_or_of_quiet_hours(now: float, period: str) -> None:
    gathering = rule(digest=period)
    assert gathering.digest is not None
    due = due_at(gathering, "high", now)
    assert now < due <= now + gathering.digest
    assert due % gathering.digest == 0
    assert not quiet(due_at(rule(digest=period, quiet="22:00-07:00"), "high", now), "22:00-07:00", "UTC")


def test_the_page_names_every_key_of_a_rule() -> None:
    page = (Path(__file__).parents[3] / "docs" / "NOTIFY.md").read_text()
    assert [name for name in NotifyRule.model_fields if f"`{name}`" not in page] == []
