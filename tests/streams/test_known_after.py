"""Numbers of an event that say when both of its outcomes are known are found, and nothing is taken for such."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streams.awkward_tables import csv
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.workbench.profile.draft import draft_task
from weir.streams.workbench.profile.task_plan import known_after

N = 600
START = datetime(2024, 1, 1, tzinfo=UTC)


@given(st.sampled_from([1.0, 60.0, 3_600.0, 86_400.0]), st.integers(1, 3), st.integers(0, 3), st.integers(0, 1_000))
def test_a_sum_is_found_among_other_numbers(unit_s: float, summed: int, others: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = {f"n{k}": rng.integers(0, 50 * (k + 1), N).astype(np.float64) for k in range(summed + others)}
    names = {f"n{k}" for k in range(summed)}
    due = np.sum([numbers[name] for name in names], axis=0) * unit_s
    slow = rng.random(N) < 0.5
    late = np.where(slow, due, rng.random(N) * due)
    found = known_after(numbers, late, slow)
    assert found is not None
    assert (set(found.names), found.unit_s, found.more_s) == (names, unit_s, 0.0)


def bookings(seed: int = 0) -> dict[str, list[object]]:
    """Stays are known when the guest has left, cancellations before."""
    rng = np.random.default_rng(seed)
    lead, nights, gone = rng.integers(1, 120, N), rng.integers(1, 9, N), rng.random(N) < 0.4
    made = [START + timedelta(hours=3 * k) for k in range(N)]
    known = [t + timedelta(days=float((a + b) * (r if g else 1.0)))
             for t, a, b, g, r in zip(made, lead, nights, gone, rng.random(N), strict=True)]  # fmt: skip
    return {
        "booking_id": [f"b{k}" for k in range(N)], "time": [t.isoformat() for t in made], "lead_days": lead.tolist(),
        "nights": nights.tolist(), "rate": rng.normal(100, 20, N).round(2).tolist(),
        "cancelled": gone.astype(int).tolist(), "known_at": [t.isoformat() for t in known],
    }  # fmt: skip


def draft(folder: Path, table: dict[str, list[object]]) -> tuple[str, TaskSpec, Path]:
    (path := folder / "bookings.csv").write_text(csv(table))
    text = draft_task([path], "bookings").text
    return text, TaskSpec.from_toml(text.replace('kind = "auto"', 'kind = "logistic"')), path


def test_bookings_wait_until_the_guest_has_left(tmp_path: Path) -> None:
    text, task, path = draft(tmp_path, table := bookings())
    assert task.values["known_after"] == "(lead_days + nights) * 86400"
    assert task.labels.maturity == "known_after"
    assert "so late is a 0 known" in text
    done = run_backtest(task, [path], keep=Keep(outcomes=True))
    assert (done.rejected, done.outcomes is not None and len(done.outcomes)) == (0, len(table["time"]))


def test_days_alone_are_known_to_the_day(tmp_path: Path) -> None:
    table = bookings()
    table["known_at"] = [str(known)[:10] for known in table["known_at"]]
    _, task, _ = draft(tmp_path, table)
    assert task.values["known_after"] == "(lead_days + nights) * 86400"


@pytest.mark.parametrize("spoil", ["any delay", "the others are known later", "numbers are missing", "one delay"])
def test_where_no_number_says_it_none_is_taken(tmp_path: Path, spoil: str) -> None:
    table, rng = bookings(), np.random.default_rng(1)
    made = [datetime.fromisoformat(str(t)) for t in table["time"]]
    if spoil == "any delay":
        table["known_at"] = [
            (t + timedelta(days=float(d))).isoformat() for t, d in zip(made, rng.random(N) * 99, strict=True)
        ]
    elif spoil == "the others are known later":
        late = [timedelta(days=150.0 + float(d)) for d in rng.random(N) * 90]
        here = zip(made, table["known_at"], table["cancelled"], late, strict=True)
        table["known_at"] = [(t + d).isoformat() if gone else known for t, known, gone, d in here]
    elif spoil == "one delay":
        table["known_at"] = [(t + timedelta(days=20)).isoformat() for t in made]
    else:
        table["lead_days"][::7] = [""] * len(table["lead_days"][::7])
    _, task, _ = draft(tmp_path, table)
    assert "known_after" not in task.values
    assert isinstance(task.labels.maturity, float) or not task.labels.matures
