"""The alert book against a slow one that looks at every alert on every row; and what verdicts do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import FloatVector, IntVector, LabelBatch, PredictionBatch
from weir.online.codec.wire import Alert
from weir.online.decisions.alert_cap import DAY_S as DAY
from weir.online.decisions.alert_cap import AlertCap
from weir.online.decisions.alert_policy import AlertPolicy
from weir.online.decisions.alert_state import AlertState, Reason
from weir.online.decisions.alerts import AlertBook
from weir.online.decisions.threshold import Decide
from weir.online.errors import StateError

Row = tuple[str, str, float, float]
"""Event id, entity id, time, score."""


def batch(rows: list[Row]) -> PredictionBatch:
    return PredictionBatch(
        event_id=[r[0] for r in rows],
        entity_id=[r[1] for r in rows],
        ts=np.array([r[2] for r in rows], dtype=np.float64),
        score=np.array([r[3] for r in rows], dtype=np.float64),
        model_version=np.zeros(len(rows), dtype=np.int64),
        features=np.zeros((len(rows), 1)),
    )


def labels(*rows: tuple[str | None, str, float, bool]) -> LabelBatch:
    return LabelBatch(
        label_id=[f"l{i}" for i in range(len(rows))],
        entity_id=[r[1] for r in rows],
        event_id=[r[0] for r in rows],
        ts=np.array([r[2] for r in rows], dtype=np.float64),
        value=np.array([r[3] for r in rows], dtype=np.bool_),
        weight=np.ones(len(rows)),
    )


def above(thresholds: FloatVector) -> Callable[[Decide], object]:
    """These lines for all rows, whatever opens."""
    return lambda take: take(0, len(thresholds), thresholds)


def decide(book: AlertBook, rows: list[Row], threshold: float = 0.5) -> list[AlertState]:
    def reasons(at: IntVector) -> list[list[Reason]]:
        return [[Reason("x", rows[i][3], 1.0, f"because of {rows[i][0]}")] for i in at.tolist()]

    return book.decide_by(batch(rows), above(np.full(len(rows), threshold)), reasons).alerts


def slow(rows: list[Row], policy: AlertPolicy) -> list[tuple[Any, ...]]:
    """Every alert looked at on every row."""
    alerts: dict[str, dict[str, Any]] = {}
    out: list[tuple[Any, ...]] = []
    seen: set[tuple[str, str]] = set()
    mark, number = -math.inf, 0

    def tell(a: dict[str, Any]) -> None:
        out.append((a["id"], a["open"], a["level"], a["score"], a["why"], a["at"], tuple(a["events"][:3])))

    def tidy() -> None:
        def quiet(a: dict[str, Any]) -> float:
            return float(a["at"] + policy.resolve_after_s)

        for a in sorted(alerts.values(), key=lambda a: (quiet(a), a["number"])):
            if a["open"] and quiet(a) <= mark:
                a.update(open=False, at=quiet(a))
                tell(a)
        for entity in [e for e, a in alerts.items() if not a["open"] and a["at"] + policy.cooldown_s <= mark]:
            del alerts[entity]

    for event, entity, ts, score in rows:
        mark = max(mark, ts)
        tidy()
        if score < 0.5 or (entity, event) in seen:
            continue
        seen.add((entity, event))
        if entity not in alerts:
            fresh = {
                "id": f"t:{entity}:{event}",
                "open": True,
                "score": 0.0,
                "events": [],
                "at": -math.inf,
                "level": -1,
            }
            alerts[entity] = {**fresh, "number": number, "told": 0, "told_at": -math.inf}
            number += 1
        a = alerts[entity]
        if not a["open"]:
            continue
        if score > a["score"]:
            a.update(score=score, why=event)
        a["events"].append(event)
        a["at"] = max(a["at"], ts)
        count = sum(len(a["events"]) >= at for at in policy.escalate_at)
        level = max(a["level"], count, int(math.log(score / (1 - score)) / policy.margin_step))
        more = len(a["events"]) - a["told"] >= min(a["told"], policy.told_every_events) or len(a["events"]) == 3
        if level > a["level"] or more or a["at"] - a["told_at"] >= policy.told_every_s:
            a.update(level=level, told=len(a["events"]), told_at=a["at"])
            tell(a)
    tidy()
    return out


def told(alert: AlertState) -> tuple[Any, ...]:
    level = ["low", "medium", "high", "critical"].index(alert.severity)
    why = alert.reasons[0].text.removeprefix("because of ")
    return (alert.alert_id, alert.status != "resolved", level, alert.score, why, alert.updated_at, alert.event_ids)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 20).map(lambda i: f"e{i}"),
        st.sampled_from("abc"),
        st.integers(0, 60).map(float),
        st.sampled_from([0.1, 0.4, 0.5, 0.6, 0.9, 0.99]),
    ),
    max_size=30,
)
POLICIES = st.builds(
    AlertPolicy,
    resolve_after_s=st.integers(1, 20),
    cooldown_s=st.integers(0, 15),
    escalate_at=st.sampled_from([(2, 4, 6), (3, 10, 30)]),
    max_event_ids=st.just(3),
    told_every_events=st.sampled_from([1, 2, 100]),
    told_every_s=st.sampled_from([4, 3600]),
)
CUTS = st.sets(st.integers(1, 29))


def cut(rows: list[Row], cuts: set[int]) -> list[list[Row]]:
    edges = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=80, deadline=None)
@given(ROWS, POLICIES, CUTS, st.booleans())
def test_alerts_are_those_of_the_slow_book(rows: list[Row], policy: AlertPolicy, cuts: set[int], ordered: bool) -> None:
    rows = sorted(rows, key=lambda r: r[2]) if ordered else rows
    book = AlertBook(policy, "t")
    out = [told(alert) for part in cut(rows, cuts) for alert in decide(book, part)]
    assert out == slow(rows, policy)
    still_open = {row[0]: row[1] for row in out}
    assert [a.alert_id for a in book.open_alerts()] == [name for name, is_open in still_open.items() if is_open]
    assert len(book) == len(book.open_alerts())


@settings(max_examples=80, deadline=None)
@given(ROWS, POLICIES, CUTS, st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=8))
def test_tight_bounds_and_labels_do_not_depend_on_cuts_or_snapshots(
    rows: list[Row], policy: AlertPolicy, cuts: set[int], verdicts: list[tuple[str, bool]]
) -> None:
    policy = policy.model_copy(update={"max_open": 2, "remember_events": 4})
    half = len(rows) // 2

    def run(cuts: set[int], snapshots: bool) -> list[AlertState]:
        book, out = AlertBook(policy, "t"), list[AlertState]()
        for side in (rows[:half], rows[half:]):
            for part in cut(side, cuts):
                out += decide(book, part)
                if snapshots:
                    state, book = book.snapshot(), AlertBook(policy, "t")
                    book.restore(state)
            events = [(r[0], r[1], r[2], r[3] > 0.5) for r in side]
            out += book.resolve_labels(labels(*[(None, e, 30.0, v) for e, v in verdicts], *events))
            assert len(book) <= 2
        return out

    assert run(set(), False) == run(cuts, False) == run(cuts, True)


def test_an_alert_tells_the_amount_of_its_highest_score() -> None:
    rows: list[Row] = [("e1", "u", 1e9, 0.6), ("e2", "u", 1e9, 0.8), ("e3", "u", 1e9, 0.7), ("e4", "v", 1e9, 0.9)]
    seen = replace(batch(rows), features=np.array([[60.0], [80.0], [70.0], [0.0]]))
    told = AlertBook(AlertPolicy(), "t", amount=0).decide_by(seen, above(np.full(4, 0.5))).alerts
    assert [alert.amount for alert in told] == [60.0, 80.0, 80.0, None], "what is missing is 0 among the features"
    assert Alert.model_validate(told[1].to_wire_dict()).amount == 80.0


def test_states_are_the_wires_alerts() -> None:
    opened, repeated = decide(AlertBook(AlertPolicy(), "t"), [("e1", "u", 1e9, 0.6), ("e2", "u", 1e9, 0.7)])
    wire = Alert.model_validate(opened.to_wire_dict())
    assert (wire.alert_id, wire.status, wire.event_ids) == ("t:u:e1", "open", ("e1",))
    assert Alert.model_validate(repeated.to_wire_dict()).reasons[0].text == "because of e2"


def test_a_replay_changes_nothing() -> None:
    book = AlertBook(AlertPolicy(), "t")
    rows: list[Row] = [("e1", "u", 1.0, 0.6), ("e2", "u", 2.0, 0.7), ("e3", "v", 3.0, 0.8)]
    assert len(decide(book, rows)) == 3
    before = book.open_alerts()
    assert decide(book, rows) == []
    assert book.open_alerts() == before


def test_one_positive_event_confirms_and_all_negative_ones_clear() -> None:
    book = AlertBook(AlertPolicy(cooldown_s=100), "t")
    decide(book, [("e1", "u", 1.0, 0.6), ("e2", "u", 2.0, 0.7), ("f1", "v", 3.0, 0.8), ("f2", "v", 9.0, 0.8)])
    (confirmed,) = book.resolve_labels(labels(("e1", "u", 1.0, False), ("f1", "v", 3.0, True)))
    assert (confirmed.status, confirmed.verdict, confirmed.alert_id) == ("resolved", "confirmed", "t:v:f1")
    (cleared,) = book.resolve_labels(labels(("e2", "u", 2.0, False)))
    assert (cleared.status, cleared.verdict, cleared.alert_id) == ("resolved", "false_alarm", "t:u:e1")
    assert decide(book, [("e5", "u", 50.0, 0.9)]) == [], "the cooldown counts from the verdict"
    assert [a.alert_id for a in decide(book, [("e6", "u", 109.0, 0.9)])] == ["t:u:e6"]


def test_a_label_of_an_earlier_time_does_not_resolve_an_entitys_alert() -> None:
    book = AlertBook(AlertPolicy(), "t")
    decide(book, [("e1", "u", 100.0, 0.6)])
    assert book.resolve_labels(labels((None, "u", 99.0, False))) == []
    assert [a.verdict for a in book.resolve_labels(labels((None, "u", 100.0, True)))] == ["confirmed"]


def test_the_stalest_alert_makes_room() -> None:
    book = AlertBook(AlertPolicy(max_open=2), "t")
    rows: list[Row] = [("a1", "a", 1.0, 0.6), ("b1", "b", 2.0, 0.6), ("a2", "a", 3.0, 0.6), ("c1", "c", 4.0, 0.6)]
    out = decide(book, rows)
    assert [(a.entity_id, a.verdict) for a in out[-2:]] == [("b", "displaced"), ("c", None)]
    many: list[Row] = [(f"x{i}", f"x{i}", 5.0, 0.9) for i in range(500)]
    decide(book, many)
    assert len(book._entries) <= 4


def test_time_alone_resolves() -> None:
    book = AlertBook(AlertPolicy(resolve_after_s=10), "t")
    decide(book, [("e1", "u", 1.0, 0.6)])
    assert book.advance(10.9) == []
    assert [(a.updated_at, a.verdict) for a in book.advance(11.0)] == [(11.0, "quiet")]


def test_a_foreign_snapshot_is_refused() -> None:
    with pytest.raises(StateError, match="task 'other'"):
        AlertBook(AlertPolicy(), "t").restore(AlertBook(AlertPolicy(), "other").snapshot())
    with pytest.raises(StateError, match="not a snapshot"):
        AlertBook(AlertPolicy(), "t").restore(b"{}")


# -- records, severity and the cap -------------------------------------------------------------------------------------


def test_an_alert_of_thousands_of_events_is_a_few_records() -> None:
    rows: list[Row] = [(f"e{i}", "u", 1e9 + i, 0.6) for i in range(2_000)]
    told = decide(AlertBook(AlertPolicy(escalate_at=(3, 10, 300)), "t"), rows)
    assert [a.events for a in told[:8]] == [1, 2, 3, 6, 10, 20, 40, 80]
    assert len(told) < 8 + 2_000 / 100 + 4, "the last of the steps of severity, and every 100 events"
    assert [a.severity for a in told if a.events in (1, 3, 10, 300)] == ["low", "medium", "high", "critical"]
    assert Alert.model_validate(told[-1].to_wire_dict()).events == told[-1].events
    slow: list[Row] = [(f"e{i}", "u", 1_000.0 * i, 0.6) for i in range(40)]
    assert len(decide(AlertBook(AlertPolicy(escalate_at=(90, 91, 92)), "t"), slow)) == 3 + 9, "and every hour"


def test_no_improbable_alert_is_critical_by_its_distance_to_a_line_of_0() -> None:
    book = AlertBook(AlertPolicy(), "t")
    found = decide(book, [("e1", "u", 1.0, 0.19), ("e2", "v", 1.0, 0.21)], threshold=0.0)
    assert [a.severity for a in found] == ["high", "critical"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"severity_by": "probability"}, ["low", "medium", "critical"]),
        ({"severity_by": "probability", "severity_at": (0.01, 0.02, 0.95)}, ["high", "high", "high"]),
        ({"severity_by": "expected_loss", "severity_at": (1.0, 50.0, 90.0)}, ["critical", "medium", "low"]),
    ],
)
def test_severity_by_probability_or_expected_loss(policy: dict[str, Any], expected: list[str]) -> None:
    rows: list[Row] = [("e1", "u", 1e9, 0.1), ("e2", "v", 1e9, 0.3), ("e3", "w", 1e9, 0.9)]
    seen = replace(batch(rows), features=np.array([[1_000.0], [10.0], [0.0]]))
    told = AlertBook(AlertPolicy(**policy), "t", amount=0).decide_by(seen, above(np.full(3, 0.05))).alerts
    assert [alert.severity for alert in told] == expected
    with pytest.raises(ValueError, match="needs severity_at"):
        AlertPolicy(severity_by="expected_loss")


def test_the_cap_refuses_new_alerts_and_lets_open_ones_go_on() -> None:
    cap = AlertCap([(2, DAY)])
    book = AlertBook(AlertPolicy(cooldown_s=0), "t", admit=lambda mark, ts, _: cap.admit(mark, ts))
    rows: list[Row] = [("a1", "a", 1.0, 0.9), ("b1", "b", 2.0, 0.9), ("c1", "c", 3.0, 0.9), ("a2", "a", 4.0, 0.9)]
    thresholds = np.full(4, 0.5)
    made = book.decide_by(batch(rows), above(thresholds))
    assert [(a.entity_id, a.events) for a in made.alerts] == [("a", 1), ("b", 1), ("a", 2)]
    assert sorted(made.of_rows) == [0, 1, 3]
    assert thresholds.tolist() == [0.5, 0.5, math.inf, 0.5], "nothing was to alert at the row that was refused"
    assert (book.stats.opened, book.stats.refused) == (2, 1)
    assert [a.entity_id for a in decide(book, [("c2", "c", 1.0 + DAY, 0.9)]) if a.events == 1][-1] == "c"


# -- times from outside ------------------------------------------------------------------------------------------------

YEARS = 70 * 365 * 86_400.0


@pytest.mark.parametrize("event_id", ["e1", None])
@pytest.mark.parametrize("value", [True, False])
def test_a_label_of_a_time_to_come_mutes_nobody_until_then(event_id: str | None, value: bool) -> None:
    book = AlertBook(AlertPolicy(resolve_after_s=100.0, cooldown_s=10.0), "t")
    decide(book, [("e1", "a", 5.0, 0.9)])
    (closed,) = book.resolve_labels(labels((event_id, "a", YEARS, value)))
    assert (closed.status, closed.updated_at) == ("resolved", 5.0)
    opened = decide(book, [("e2", "b", 16.0, 0.1), ("e3", "a", 17.0, 0.9)])
    assert [(a.alert_id, a.status) for a in opened] == [("t:a:e3", "open")]


def test_a_row_of_a_clock_ahead_mutes_nobody_until_then() -> None:
    """Its event time is ahead of the watermark that comes with it."""
    book = AlertBook(AlertPolicy(resolve_after_s=100.0, cooldown_s=10.0), "t")
    rows = [("e1", "a", 5.0, 0.9), ("e2", "a", YEARS, 0.9), ("e3", "b", YEARS, 0.9)]
    book.decide_by(batch(rows), above(np.full(3, 0.5)), None, np.full(3, 5.0))
    closed = book.advance(106.0)
    assert [(a.entity_id, a.status, a.verdict) for a in closed] == [
        ("a", "resolved", "quiet"),
        ("b", "resolved", "quiet"),
    ]
    later = book.decide_by(batch([("e4", "a", 120.0, 0.9)]), above(np.full(1, 0.5)), None, np.full(1, 120.0)).alerts
    assert [a.alert_id for a in later] == ["t:a:e4"]


def test_what_a_snapshot_holds_as_muted_for_years_wakes_up() -> None:
    """A snapshot of 12015ac after such a label."""
    policy = AlertPolicy(resolve_after_s=100.0, cooldown_s=10.0)
    book, restored = AlertBook(policy, "t"), AlertBook(policy, "t")
    decide(book, [("e1", "a", 5.0, 0.9), ("e2", "b", 5.0, 0.9)])
    book.resolve_labels(labels(("e1", "a", 5.0, True)))
    book._entries["a"].wake_at = book._entries["b"].wake_at = YEARS
    restored.restore(book.snapshot())
    decide(restored, [("e3", "c", 106.0, 0.1)])
    assert len(restored) == 0
    assert [a.alert_id for a in decide(restored, [("e4", "a", 107.0, 0.9)])] == ["t:a:e4"]


def test_an_id_that_two_entities_use_is_two_events() -> None:
    """Whoever sent an id first kept the other's alert from opening; a label then spoke of both, or of none."""
    book = AlertBook(AlertPolicy(), "t")
    opened = decide(book, [("1", "a", 1.0, 0.9), ("1", "b", 2.0, 0.9)])
    assert [alert.entity_id for alert in opened] == ["a", "b"]
    (closed,) = book.resolve_labels(labels(("1", "b", 3.0, True)))
    assert (closed.entity_id, closed.verdict) == ("b", "confirmed")
    (closed,) = book.resolve_labels(labels(("1", "a", 4.0, False)))
    assert (closed.entity_id, closed.verdict) == ("a", "false_alarm")


def test_an_alert_that_another_book_opened_goes_on_as_its_own() -> None:
    other, book = AlertBook(AlertPolicy(resolve_after_s=50.0), "t"), AlertBook(AlertPolicy(resolve_after_s=50.0), "t")
    told = {state.entity_id: state for state in decide(other, [("e1", "u1", 10.0, 0.9), ("e2", "u2", 10.0, 0.9)])}
    theirs = [AlertState.of_wire_dict(told[entity].to_wire_dict()) for entity in ("u1", "u2")]
    assert theirs == [*told.values()]
    decide(book, [("e1", "u1", 10.0, 0.1), ("e3", "u2", 12.0, 0.9)])
    assert [book.adopt(alert) for alert in theirs] == [True, False], "its entity has another one here"
    assert [(a.alert_id, a.events) for a in decide(book, [("e4", "u1", 30.0, 0.95)])] == [("t:u1:e1", 2)]
    ended = decide(book, [("e5", "u3", 80.0, 0.1)])
    assert [(a.alert_id, a.status, a.updated_at) for a in ended] == [
        ("t:u2:e3", "resolved", 62.0), ("t:u1:e1", "resolved", 80.0),
    ]  # fmt: skip
    assert len(book) == 0
