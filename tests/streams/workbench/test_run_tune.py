"""``benchmarks.run_tune``: both sides are judged on the same rows, by the measure of the protocol, and on no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.protocol_list import PROTOCOLS
from benchmarks.run_tune import PROBLEMS, Bench, Problem, judged
from weir.streams.workbench.measures import average_precision

N, SINCE = 400, 300.0


def bench(folder: Path, marked: np.ndarray | None, since: float | None = SINCE) -> Bench:
    columns = {"row": np.arange(N), "ts": np.arange(N, dtype=np.float64)}
    pq.write_table(pa.table(columns | ({} if marked is None else {"judged": marked})), folder / "rows.parquet")
    (folder / "out").mkdir()
    return Bench(Problem("rows", PROTOCOLS[0].name, since), PROTOCOLS[0], folder / "rows.parquet", folder / "out")


def scores(entity: str, share: float, seed: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (np.random.default_rng(1).random(N) < share).astype(np.float64)
    score = 1 / (1 + np.exp(-(2 * label + rng.normal(size=N))))
    ids = [str(k) for k in range(N)]
    told = {"event_id": ids, "entity_id": [f"{entity}{k % 40}" for k in range(N)], "ts": np.arange(N, dtype=np.float64)}
    return pa.table({**told, "score": score, "label": pa.array(label, mask=np.arange(N) == N - 1)}), label == 1.0, score


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_the_same_rows_are_judged_whatever_their_order_and_whatever_entities_are_called(
    tmp_path: Path, share: float
) -> None:
    marked = np.arange(N) % 3 != 0
    one = bench(tmp_path, marked)
    assert "judged" not in pq.read_schema(one.data).names  # a stranger's table has no such column
    hand, y, own = scores("guest", share, 2)
    tuned, _, other = scores("all", share, 3)
    found = judged(one, [hand, tuned.take(pa.array(np.random.default_rng(4).permutation(N)))], 0.25)
    at = np.flatnonzero(marked & (np.arange(N) >= SINCE) & (np.arange(N) < N - 1))
    rare = y if share < 0.5 else ~y  # what is to be found is the rarer value
    sign = 1 if share < 0.5 else -1
    assert (found["rows"], found["positives"]) == (len(at), int(rare[at].sum()))
    for side, s in (("hand", own), ("tuned", other)):
        assert found[side]["ap"] == pytest.approx(average_precision(rare[at], 0.5 + sign * (s[at] - 0.5)))
    ratio = found["tuned"]
    assert ratio["ratio"] == pytest.approx(ratio["ap"] / found["hand"]["ap"])
    assert ratio["low"] < ratio["ratio"] < ratio["high"]


def test_the_last_fifth_is_judged_where_no_time_is_named(tmp_path: Path) -> None:
    one = bench(tmp_path, None, since=None)
    hand, y, _ = scores("a", 0.3, 2)
    found = judged(one, [hand, hand], 0.2)
    assert found["rows"] == pytest.approx(0.2 * N, abs=1)
    assert found["positives"] == int(y[-found["rows"] - 1 : -1].sum())
    assert found["tuned"]["ratio"] == 1.0


def test_each_set_names_a_protocol() -> None:
    assert {p.protocol for p in PROBLEMS} <= {p.name for p in PROTOCOLS}
