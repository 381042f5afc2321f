"""The cap of alerts against a slow one that looks at every span; no span of either clock has more."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.online.decisions.alert_cap import DAY_S, AlertCap
from weir.online.errors import StateError

ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 600.0, 3_599.0, 3_600.0, 30_000.0, DAY_S, 9 * DAY_S]),
        st.sampled_from([0.0, 0.0, 0.0, 5.0, 3_600.0, 70_000.0, DAY_S, 5 * DAY_S, -900.0, -60_000.0, -9 * DAY_S]),
    ),
    max_size=60,
)
"""How far the watermark moves, and how late the row is."""


def fits(times: list[float], alerts: float, seconds: float) -> bool:
    span, most = seconds / min(alerts, 1.0), max(int(alerts), 1)
    return all(sum(first <= at < first + span for at in times) <= most for first in times)


@given(ROWS, st.sampled_from([0.4, 1.0, 2.5, 7.0]), st.sampled_from([0.5, 1.0, 3.0]), st.sets(st.integers(0, 59)))
def test_it_admits_what_no_span_forbids(
    rows: list[tuple[float, float]], daily: float, hourly: float, stops: set[int]
) -> None:
    limits, now = [(daily, DAY_S), (hourly, 3_600.0)], 1.7e9
    cap, marks, times = AlertCap(limits), list[float](), list[float]()
    for i, (step, late) in enumerate(rows):
        now += step
        ts = min(max(now - late, now - DAY_S), now + DAY_S)
        fit = all(fits([*held, at], *each) for each in limits for held, at in ((marks, now), (times, ts)))
        assert cap.admit(now, now - late) == fit
        if fit:
            marks.append(now)
            times.append(ts)
        if i in stops:
            state, cap = cap.snapshot(), AlertCap(limits)
            cap.restore(state)
    assert 0.0 <= cap.used(now) <= 1.0


def test_it_remembers_few_of_many_and_never_admits_too_many() -> None:
    cap = AlertCap([(25_000, DAY_S), (25_000, 3_600.0)])
    at = [i * 2.5 for i in range(80_000)]
    opened = [t for t in at if cap.admit(t, t)]
    last = [sum(t - DAY_S < each <= t for each in opened) for t in at[::20_000]]
    assert 24_900 < max(last) <= 25_000
    assert len(cap.snapshot()) < 400_000


@pytest.mark.parametrize(("before", "after"), [(25_000, 9_000), (25_000, 12_000), (9_000, 25_000), (25_000, 3)])
def test_a_limit_that_is_changed_holds_from_the_change_on(before: int, after: int) -> None:
    """Of a large limit some openings are remembered only: each of these counts for those between."""
    old, new = AlertCap([(before, DAY_S)]), AlertCap([(after, DAY_S)])
    day = [i * DAY_S / before / 2 for i in range(before)]
    opened = [t for t in day if old.admit(t, t)]
    new.restore(old.snapshot())
    later = [day[-1] + i * 2.0 for i in range(30_000)]
    admitted = [t for t in later if new.admit(t, t)]
    for t in [*later[::1_500], later[-1]]:
        span = sum(t - DAY_S < each <= t for each in (*opened, *admitted))
        among = sum(t - DAY_S < each <= t for each in admitted)
        assert span <= max(after, len(opened)) or not among
        assert among <= max(after - sum(t - DAY_S < each <= t for each in opened), 0)
    assert admitted or after < len(opened)


def test_a_state_without_its_step_is_read() -> None:
    held = [[1.0, 2.0], [1.0, 2.0], 2]
    cap = AlertCap([(3, DAY_S)])
    cap.restore(msgspec.msgpack.encode(held))
    assert [cap.admit(t, t) for t in (3.0, 4.0)] == [True, False]


def test_a_clock_that_is_set_back_does_not_end_all_alerts() -> None:
    cap = AlertCap([(3, DAY_S)])
    assert [cap.admit(1e12, 1e12) for _ in range(4)] == [True, True, True, False]
    assert not cap.admit(1e9, 1e9)
    assert cap.admit(1e9 + DAY_S, 1e9 + DAY_S)
    assert not cap.admit(float("-inf"), 0.0), "no time is known yet"


def test_another_state_is_refused() -> None:
    with pytest.raises(StateError, match="not a snapshot of a cap"):
        AlertCap([(3, DAY_S)]).restore(b"{}")
