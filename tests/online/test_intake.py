from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.batch import EventBatch
from online.dedupe import Kept, pack, unpack
from online.errors import StateError
from online.intake import Intake, IntakePolicy

T0 = 1.7e9
POLICY = IntakePolicy(dedupe_window="1m", dedupe_capacity=8, allowed_lateness="20s", max_ahead="10s")
rows = st.lists(st.tuples(st.integers(0, 12).map(str), st.integers(0, 90).map(float)), max_size=12)
stream = st.lists(rows, min_size=1, max_size=6)


def admit(intake: Intake, events: list[tuple[str, float]], arrived: float) -> tuple[object, ...]:
    ts = T0 + np.array([row[1] for row in events], np.float64)
    batch = EventBatch([row[0] for row in events], ts, ["view"] * len(events))
    admitted = intake.admit(batch, np.full(len(events), T0 + arrived))
    return admitted.batch.event_id, admitted.rows.tolist(), admitted.duplicates, admitted.refused


@given(stream, stream)
@settings(max_examples=200)
def test_an_intake_resumed_from_mark_and_journal_goes_on_the_same(
    before: list[list[tuple[str, float]]], after: list[list[tuple[str, float]]]
) -> None:
    straight, journalled = Intake(POLICY), Intake(POLICY, journal=True)
    stored: list[bytes] = []
    for k, batch in enumerate(before):
        assert admit(straight, batch, 10.0 * k) == admit(journalled, batch, 10.0 * k)
        stored += [pack(part) for part in journalled.take_journal()]
    resumed = Intake(POLICY, journal=True)
    resumed.resume(journalled.mark())
    kept: list[Kept] = [unpack(part) for part in stored]
    resumed.rebuild(part for part in kept if part.generation >= journalled.generation - 1)
    assert resumed.snapshot() == straight.snapshot()
    for k, batch in enumerate(after, len(before)):
        assert admit(straight, batch, 10.0 * k) == admit(resumed, batch, 10.0 * k)
    assert resumed.snapshot() == straight.snapshot()
    assert resumed.mark() == straight.mark()


def test_a_mark_is_small_and_another_bytes_are_refused() -> None:
    intake = Intake(IntakePolicy(), journal=True)
    assert np.isinf(intake.watermark)
    fresh = Intake(IntakePolicy())
    fresh.resume(intake.mark())
    assert fresh.watermark == -np.inf
    admit(intake, [(f"e{i}", float(i)) for i in range(1_000)], 1_000.0)
    assert len(intake.mark()) < 80
    for wrong in (b"", b"hello", b"\x80"):
        with pytest.raises(StateError, match="not a mark of an Intake"):
            intake.resume(wrong)
