"""The page of a backtest in a real browser: light and dark, wide and narrow, with no alert, one, and a million."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from tests.console.browser import Browser, Theme
from tests.streams.payment_runs import TASK, columns, write
from weir.online.decisions.alert_state import SEVERITIES, AlertState, Reason
from weir.online.stages.pipeline import StepOutput
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep, Outcomes
from weir.streams.backtest.runner import run_backtest
from weir.streams.workbench.report.page import RunWatcher, write_report

pytestmark = pytest.mark.integration

_DAY_S, _START, _STEP = 86_400.0, 1_700_000_000.0, 20_000
_MOST_BYTES, _MOST_MS = 3_000_000, 1_000.0
_WORDS_APART = """
    const wrong = [];
    for (const svg of document.querySelectorAll("svg.chart-plot")) {
        const room = svg.closest(".card").getBoundingClientRect();
        const boxes = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
        boxes.forEach(([a, p], i) => {
            if (p.left < room.left - 1 || p.right > room.right + 1) wrong.push(`${a} leaves its card`);
            for (const [b, q] of boxes.slice(i + 1)) {
                const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
                const tall = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
                if (wide > 1 && tall > 3) wrong.push(`${a} lies on ${b}: ${svg.getAttribute("aria-label")}`);
            }
        });
    }
    return wrong;
"""

_TORN_IDS = """
    return [...document.querySelectorAll("td > bdi")].filter((id) => {
        const words = document.createRange();
        words.selectNodeContents(id);
        return id.textContent.length <= 8 && words.getClientRects().length > 1;
    }).map((id) => id.textContent);
"""


def outcomes_of(rows: int, alerts: int) -> Outcomes:
    """So many rows over 200 days, of which the first are alerts; the labels of the last tenth are still to come."""
    rng = np.random.default_rng(5)
    ids = pa.chunked_array([pa.array([f"e{i}" for i in range(rows)])])
    none, y = pa.chunked_array([pa.nulls(rows, pa.string())]), rng.random(rows) < 0.05
    score = 1.0 / (1.0 + np.exp(-rng.normal(3.0 * y - 4.0, 1.2)))
    ts = _START + np.sort(rng.random(rows)) * 200 * _DAY_S
    known = np.arange(rows) < 0.9 * rows
    reasons = pa.chunked_array([pa.nulls(rows, pa.list_(pa.string()))])
    return Outcomes(
        event_ids=ids, entity_ids=ids, alert_ids=none, reasons=reasons, values=none, ts=ts, score=score,
        threshold=np.where(np.arange(rows) < alerts, 0.0, np.inf), alerted=np.arange(rows) < alerts,
        label=np.where(known, y, np.nan), known_at=np.where(known, ts + 3 * _DAY_S, np.nan),
        version=np.zeros(rows, np.int64), amount=np.full(rows, np.nan), matures_at=ts,
    )  # fmt: skip


def alert(number: int, outcomes: Outcomes, score: float) -> AlertState:
    at = float(outcomes.ts[number])
    reasons = tuple(
        Reason("amount", 9.0, 2.0 / (k + 1), f"reason {k} of a high score, said at length") for k in range(3)
    )
    event = f"e{number}"
    return AlertState(
        f"t:{number}", "t", f"{number:08d}", "open", SEVERITIES[number % 4], score, 0.2, reasons, at, at, (event,)
    )  # fmt: skip


def page(folder: Path, rows: int, alerts: int) -> Path:
    """The page of a run that came to so much."""
    watched = RunWatcher()
    task = TASK + "[drift]\n"
    result = run_backtest(
        TaskSpec.from_toml(task), [write(folder / "rows.csv", columns(400))], keep=Keep(outcomes=True), watcher=watched
    )
    result.outcomes = result.judged = outcomes_of(rows, alerts)
    result.detections = [{"ts": _START + 40 * _DAY_S, "what": "it moved"}]
    result.pipeline.book.stats.opened = alerts
    for count in (watched.sample.opened, watched.sample.ended):
        count.clear()
    for start in range(0, alerts, _STEP):
        some = [alert(i, result.outcomes, 0.5) for i in range(start, min(start + _STEP, alerts))]
        watched.sample.add(StepOutput(alerts=some))
    path = folder / f"report-{alerts}.html"
    write_report(result, watched, task, path)
    return path


@pytest.fixture
def window(_chromium: Browser) -> Iterator[Browser]:
    """The browser without the service: the page is a file. It fails the test for what the browser's console says."""
    _chromium.errors()
    yield _chromium
    assert _chromium.errors() == []


@pytest.mark.parametrize(("rows", "alerts"), [(500, 0), (5_000, 1), (1_750_000, 1_000_000)])
def test_the_report_opens_at_once_and_everyone_can_read_it(
    window: Browser, tmp_path: Path, rows: int, alerts: int
) -> None:
    file = page(tmp_path, rows, alerts)
    assert file.stat().st_size <= _MOST_BYTES
    window.base = file.as_uri()
    for theme in get_args(Theme):
        window.prefer(theme)
        for width in (1280, 390):
            window.size(width)
            window.open("")
            where = f"{theme}, {width} pixels"
            assert window.violations() == [], where
            assert window.too_wide() == [], where
            assert window.run(_WORDS_APART) == [], where
            assert window.run(_TORN_IDS) == [], where
    took = [window.run("location.reload(); return 0") or _load_ms(window) for _ in range(3)]
    assert min(took) <= _MOST_MS, took
    assert list(window.loaded()) == [file.as_uri()]
    said = window.text("#alerts")
    assert (f"{alerts:,}" if alerts else "No alert was opened") in said


def _load_ms(window: Browser) -> float:
    """From the call for the page until it is whole, as the browser measured it."""
    window.settle()
    took: float = window.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    return took
