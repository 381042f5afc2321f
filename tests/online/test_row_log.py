"""Rows that wait to be logged together: whoever asks the joiner cannot tell, whatever falls due meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weir.online.batch import LabelBatch, PredictionBatch, ScoredBatch, side_by_side
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy, JoinResult
from weir.online.labels.row_log import TOGETHER, RowLog

APART_S = 10.0
ROWS = 700


def joiner(policy: dict[str, Any], *, matures: bool = False) -> LabelJoiner:
    return LabelJoiner(JoinPolicy(**policy), 2, 2, ("shop",), unlogged=1, matures=matures)


def scored(first: int, n: int, *, read_back: bool = False) -> ScoredBatch:
    at = np.arange(first, first + n)
    ids, owners, number = [f"e{i}" for i in at], [f"u{i % 7}" for i in at], at.astype(np.float64)
    x = side_by_side(number, 2.0 * number)
    p = PredictionBatch(ids, owners, APART_S * number, number % 10.0 / 10.0, np.full(n, 3), x)
    shops: dict[str, list[str | None]] = {"shop": [f"s{i % 5}" for i in at]}
    return ScoredBatch(p, side_by_side(3.0 * number), np.empty((n, 0)), shops, at if read_back else None)


def label(row: int, told_at: int, *, by_entity: bool) -> LabelBatch:
    event = None if by_entity else f"e{row}"
    return LabelBatch(
        [f"l{told_at}"], [f"u{row % 7}"], [event], np.array([APART_S * row]), np.array([row % 3 == 0]), np.ones(1)
    )


def said(joined: JoinResult) -> list[Any]:
    e = joined.examples
    return [e.event_id, e.x.tolist(), e.y.tolist(), e.n.tolist(), joined.extra.tolist(), joined.entities]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({}, id="kept for long"),
        pytest.param({"keep_s": 300.0, "wait_s": 300.0}, id="rows leave by age"),
        pytest.param({"max_rows": 40}, id="rows leave by number"),
        pytest.param({"negative_after_s": 95.0}, id="negatives fall due"),
        pytest.param({"match": "entity_range", "range_s": 200.0}, id="labels of entities"),
    ],
)
@pytest.mark.parametrize("matures", [False, True])
@pytest.mark.parametrize("read_back", [False, True])
def test_nobody_can_tell_that_rows_wait(policy: dict[str, Any], matures: bool, read_back: bool) -> None:
    at_once, together = joiner(policy, matures=matures), RowLog(joiner(policy, matures=matures))
    rng, row = np.random.default_rng(5), 0
    while row < ROWS:
        n = int(rng.choice([1, 2, 40, TOGETHER + 3], p=[0.6, 0.3, 0.09, 0.01]))
        batch, met = scored(row, n, read_back=read_back), rng.uniform(size=n)
        marks, ripens = batch.predictions.ts, np.full(n, 55.0) if matures else None
        p, noted = batch.predictions, side_by_side(met, batch.masks)
        expected = at_once.log(p, noted, batch.entities, marks, batch.offsets, ripens)
        assert said(together.log(batch, met, marks, ripens, between=False)) == said(expected)
        row += n
        if rng.random() < 0.1:  # of a row that was there, or that comes later
            about = label(max(row + int(rng.integers(-30, 6)), 0), row, by_entity="match" in policy)
            assert said(together.joiner.label(about)) == said(at_once.label(about))
        if rng.random() < 0.02:
            assert together.joiner.snapshot() == at_once.snapshot()
    assert together.joiner.stats == at_once.stats
    assert together.joiner.snapshot() == at_once.snapshot()


def test_rows_that_come_one_by_one_are_logged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    to, sizes = joiner({}), list[int]()
    log = to.log

    def counted(p: PredictionBatch, *rest: Any, **named: Any) -> JoinResult:
        sizes.append(len(p))
        return log(p, *rest, **named)

    monkeypatch.setattr(to, "log", counted)
    rows = RowLog(to)
    for row in range(TOGETHER + 5):
        one = scored(row, 1)
        rows.log(one, np.ones(1), one.predictions.ts, None, between=False)
    assert sizes == [TOGETHER]
    assert len(rows.joiner) == TOGETHER + 5
    assert sizes == [TOGETHER, 5]
    read_back = scored(TOGETHER + 5, 1, read_back=True)
    rows.log(read_back, np.ones(1), read_back.predictions.ts, None, between=False)
    assert sizes == [TOGETHER, 5, 1]
