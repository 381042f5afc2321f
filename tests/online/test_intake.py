from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import EventBatch
from weir.online.errors import StateError
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission
from weir.online.stages.dedupe import floor_of, newest_of

T0 = 1.7e9
POLICY = IntakePolicy(dedupe_window="1m", allowed_lateness="20s", max_ahead="10s")
rows = st.lists(st.tuples(st.integers(0, 12).map(str), st.integers(0, 90).map(float)), max_size=12)
stream = st.lists(rows, min_size=1, max_size=6)

LATE = "; correct the clock that gave its ts, or raise allowed_lateness"


def admit(intake: Admission, events: list[tuple[str, float]], arrived: float) -> tuple[object, ...]:
    ts = T0 + np.array([row[1] for row in events], np.float64)
    batch = EventBatch([row[0] for row in events], ts, ["view"] * len(events))
    admitted = intake.admit(batch, np.full(len(events), T0 + arrived))
    return admitted.batch.event_id, admitted.rows.tolist(), admitted.duplicates, admitted.refused


@given(stream, stream)
@settings(max_examples=80)
def test_an_intake_resumed_from_mark_and_journal_goes_on_the_same(
    before: list[list[tuple[str, float]]], after: list[list[tuple[str, float]]]
) -> None:
    straight, journalled = Admission(POLICY), Admission(POLICY, journal=True)
    stored = []
    for k, batch in enumerate(before):
        assert admit(straight, batch, 10.0 * k) == admit(journalled, batch, 10.0 * k)
        stored.append(journalled.take_journal())
    resumed = Admission(POLICY, journal=True)
    resumed.resume(journalled.mark())
    resumed.rebuild([part for part in stored if newest_of(part) >= floor_of(journalled.remembered_from)])
    assert resumed.snapshot() == straight.snapshot()
    for k, batch in enumerate(after, len(before)):
        assert admit(straight, batch, 10.0 * k) == admit(resumed, batch, 10.0 * k)
    assert resumed.snapshot() == straight.snapshot()
    assert resumed.mark() == straight.mark()


def test_a_mark_is_small_and_another_bytes_are_refused() -> None:
    intake = Admission(IntakePolicy(), journal=True)
    assert np.isinf(intake.watermark)
    fresh = Admission(IntakePolicy())
    fresh.resume(intake.mark())
    assert fresh.watermark == -np.inf
    admit(intake, [(f"e{i}", float(i)) for i in range(1_000)], 1_000.0)
    assert len(intake.mark()) < 80
    for wrong in (b"", b"hello", b"\x80"):
        with pytest.raises(StateError, match="not a snapshot of an Intake"):
            intake.resume(wrong)


# -- broken clocks -----------------------------------------------------------------------------------------------------

DAY = 86_400.0


def sent(intake: Admission, rows: list[tuple[str, float]], arrived: float) -> list[str]:
    """Admit events of ``(user, seconds)``; the reasons of those refused."""
    ts = T0 + np.array([at for _, at in rows])
    ids = [f"{user}-{at}" for user, at in rows]
    batch = EventBatch(ids, ts, ["view"] * len(rows), {"user_id": [user for user, _ in rows]})
    return [refused.reason for refused in intake.admit(batch, T0 + arrived).refused]


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_one_clock_of_another_year_makes_nobody_late(cut: int) -> None:
    """Neither as the first of all nor later, and wherever the batch is cut; records bring no bound, as in a file."""
    good = [(f"u{i % 7}", 60.0 * i) for i in range(200)]
    rows = [("ahead", 99 * 365 * DAY), *good[:100], *[("ahead", 30 * DAY + 4_000.0 * i) for i in range(9)], *good[100:]]
    rows.insert(40, ("behind", -26 * 365 * DAY))
    intake, reasons = Admission(IntakePolicy()), list[str]()
    for start in range(0, len(rows), cut):
        reasons += sent(intake, rows[start : start + cut], np.inf)
    assert reasons == ["late: 819938280 s behind the newest event, allowed 1d" + LATE]
    assert intake.watermark == T0 + 60.0 * 199


def test_the_year_2000_first_is_forgotten_by_the_third_who_disagrees() -> None:
    intake = Admission(IntakePolicy())
    assert sent(intake, [("old", -26 * 365 * DAY), *[(f"u{i}", 10.0 * i) for i in range(5)]], 1e9) == []
    assert intake.watermark == T0 + 40.0


def test_a_clock_ahead_of_the_arrival_is_refused_and_moves_nothing() -> None:
    intake = Admission(IntakePolicy())
    assert sent(intake, [("a", 0.0), ("b", 1.0), ("c", 2.0)], 3.0) == []
    reasons = sent(intake, [(f"u{i}", 30 * DAY) for i in range(50)], 4.0)
    assert set(reasons) == {
        "ahead: 2591996 s after its arrival, allowed 1h; correct the clock that gave its ts, or raise max_ahead"
    }
    assert (intake.watermark, intake.ahead) == (T0 + 2.0, 50)
    assert sent(intake, [("a", 5.0)], 5.0) == []


def test_a_person_may_set_the_watermark_back() -> None:
    intake = Admission(IntakePolicy())
    sent(intake, [(f"u{i}", 9 * DAY) for i in range(5)], np.inf)
    assert sent(intake, [("a", 0.0)], np.inf) == ["late: 777600 s behind the newest event, allowed 1d" + LATE]
    intake.set_watermark(T0 + 60.0)
    assert sent(intake, [("a", 1.0)], np.inf) == []
    resumed = Admission(IntakePolicy())
    resumed.resume(intake.mark())
    assert resumed.watermark == T0 + 60.0


def test_a_mark_of_the_version_before_is_readable_and_resumes_its_watermark() -> None:
    """What 12015ac wrote: a map of four."""
    mark = msgspec.msgpack.encode({"watermark": T0, "duplicates": 3, "late": 2, "ahead": 1})
    intake = Admission(IntakePolicy())
    intake.resume(mark)
    assert (intake.watermark, intake.duplicates, intake.late, intake.ahead) == (T0, 3, 2, 1)
    assert sent(intake, [("a", -2 * DAY)], 0.0) == ["late: 172800 s behind the newest event, allowed 1d" + LATE]
    assert intake.mark() == mark.replace(b"\xa4late\x02", b"\xa4late\x03")
