"""The label join where predictions wait in the log alone, and are read back when their labels come."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.test_labels import (
    CUTS,
    Label,
    Prediction,
    joiner,
    labels,
    log,
    predictions,
    rows_of,
    shuffled,
    streams,
)
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy, JoinResult
from weir.online.labels.logged_predictions import RowsToRead


class Log:
    """The topic of predictions."""

    def __init__(self) -> None:
        self.rows: list[Prediction] = []

    def append(self, rows: list[Prediction]) -> np.ndarray[Any, np.dtype[np.int64]]:
        self.rows += rows
        return 2 * np.arange(len(self.rows) - len(rows), len(self.rows))

    def lend(self, to: LabelJoiner, wanted: RowsToRead, deleted: int = 0) -> None:
        """Bring what is wanted, but for what retention deleted: the first so many."""
        there = wanted.offsets >= 2 * deleted
        rows = [self.rows[offset // 2] for offset in wanted.offsets[there].tolist()]
        batch = predictions(rows)
        extra, ids = np.column_stack([batch.ts * 5.0]), [f"m{row[0]}" for row in rows]
        if len(rows):
            to.lend(wanted.rows[there], batch, extra, {"merchant_id": list(ids)})


def reading_back(**policy: Any) -> LabelJoiner:
    to = LabelJoiner(JoinPolicy(**policy), n_features=2, n_extra=2, entities=("merchant_id",), unlogged=1)
    to.cache_bytes = 0
    return to


def log_placed(to: LabelJoiner, topic: Log, rows: list[Prediction]) -> JoinResult:
    batch = predictions(rows)
    extra = np.column_stack([batch.ts * 7.0, batch.ts * 5.0])
    offsets = topic.append(rows)
    topic.lend(to, to.wanted_due(np.maximum.accumulate(batch.ts)))
    return to.log(batch, extra, {"merchant_id": [f"m{row[0]}" for row in rows]}, offsets=offsets)


@settings(max_examples=60, deadline=None)
@given(streams(), CUTS, st.data())
def test_what_is_read_back_gives_the_same_examples_as_what_was_kept(
    stream: tuple[list[Prediction], list[Label]], cuts: set[int], data: st.DataObject
) -> None:
    made, known = stream
    steps = shuffled(data, made, known)
    policy = {"match": "entity_range", "range_s": 9.0, "keep_s": 30.0, "wait_s": 7.0, "chunk_rows": 1}
    policy["negative_after_s"] = data.draw(st.sampled_from([None, 4.0]))
    kept, back, topic = joiner(**policy), reading_back(**policy), Log()
    for kind, row in steps:
        if kind == "p":
            expected, found = log(kept, [row]), log_placed(back, topic, [row])
        else:
            topic.lend(back, back.wanted(labels([row])))
            expected, found = kept.label(labels([row])), back.label(labels([row]))
        assert np.array_equal(found.extra[:, 0], found.examples.ts * 7.0), "what no record carries was kept"
        assert rows_of(replace(found, extra=found.extra[:, 1:])) == rows_of(expected)
        assert found.examples.n.tolist() == expected.examples.n.tolist()
        state, back = back.snapshot(), reading_back(**policy)
        back.restore(state)


def test_a_prediction_that_cannot_be_read_back_is_lost_and_counted() -> None:
    to, topic = reading_back(chunk_rows=1), Log()
    log_placed(to, topic, [(f"e{i}", "a", float(i)) for i in range(4)])
    some = labels([(f"l{i}", "a", f"e{i}", 9.0, True) for i in range(4)])
    topic.lend(to, to.wanted(some), deleted=2)
    found = to.label(some)
    assert found.examples.event_id == ["e2", "e3"]
    assert to.stats.lost == 2


def test_an_offset_that_holds_another_event_now_is_not_believed() -> None:
    to, topic = reading_back(chunk_rows=1), Log()
    log_placed(to, topic, [("e1", "a", 1.0), ("e2", "a", 2.0), ("e3", "a", 3.0)])
    topic.rows[0] = ("x", "a", 1.0)
    some = labels([("l1", "a", "e1", 9.0, True), ("l2", "a", "e2", 9.0, True)])
    topic.lend(to, to.wanted(some))
    assert to.label(some).examples.event_id == ["e2"]


def test_nothing_is_cut_in_silence() -> None:
    """12015ac kept 2,000,000 rows of a partition, whatever keep_s said, and its examples were those of quick labels."""
    assert JoinPolicy().max_rows is None
    to = joiner(keep_s=1000.0, max_rows=10, chunk_rows=4)
    log(to, [(f"e{i}", "a", float(i)) for i in range(100)])
    assert (len(to), to.stats.evicted, to.horizon_s) == (10, 90, 99.0 - 89.0)
    log(to, [("late", "a", 5000.0)])
    assert to.horizon_s == 1000.0, "what came since was kept for as long as was asked"


def test_a_waiting_prediction_costs_less_than_a_hundred_bytes() -> None:
    to, n = reading_back(), 100_000
    for start in range(0, n, 2_000):
        rows = [(f"event-{i:032d}", f"user-{i}", float(i)) for i in range(start, start + 2_000)]
        batch = predictions(rows)
        extra = np.column_stack([batch.ts, batch.ts])
        to.log(batch, extra, offsets=np.arange(start, start + 2_000))
    assert to.nbytes / n < 100
    assert len(to.snapshot()) / n < 60


def test_labels_that_match_nothing_are_bounded_and_cost_little() -> None:
    to, n = joiner(max_waiting=20_000), 50_000
    for start in range(0, n, 1_000):
        to.label(labels([(f"l{i}", "a", f"x{i}", 1.0, True) for i in range(start, start + 1_000)]))
    assert to.waiting == 20_000
    assert to.nbytes < 20_000 * 100 + n * 50


OLD_JOIN = (
    b"c-osWg^6k6>fF?#<c!3;lK9LNrqd1_3=lAz8At#zBO?RD<V87#i*k$><rp(hntG%FqTqx5pOqgk`6dO}!}w604iJh1O3OfL5eJw&L|+1$dI2ac"
    b"0i|`Iw2H$KCI+TSi&702r5a6In7A-$;-tm7sfGup9<hMg^s6pwPs!vAdsLfYCMiK_Qz)(HaD<U*;-XaJi3<}aP6V1|JeiSU;tYmGsg?_qPCE!dR"
    b"2@ET{{g~+2g)G;=;A=n"
)
"""Of 12015ac, zlib and base 85: e1, e2 and e3 logged with the first column of extra times 7, the second times 5; e1
labelled 1 by l1, then 0 by l2; l3 waits for e9."""


OLD_NUMBERS = b"c-otM+JS=s3>q32r5Z8<03xgd;Q"
"""What counted corrections then: e1 has one."""


def test_a_snapshot_with_features_in_it_goes_on_where_it_was() -> None:
    to = reading_back(keep_s=1000.0)
    join, numbers = (zlib.decompress(base64.b85decode(raw)) for raw in (OLD_JOIN, OLD_NUMBERS))
    to.restore(to.upgraded(join, numbers))
    assert (len(to), to.waiting, to.stats.logged, to.stats.corrections) == (3, 1, 3, 1)
    topic = Log()
    assert topic.append([]).tolist() == []
    found = to.label(labels([("l2", "a", "e1", 1.0, True), ("l4", "a", "e1", 1.0, True), ("l5", "b", "e2", 2.0, True)]))
    assert [row[:2] for row in rows_of(found)] == [("e1", "a"), ("e2", "b")], "l2 is remembered"
    assert found.examples.n.tolist() == [2, 0]
    assert found.examples.x.tolist() == [[2.0, 3.0], [4.0, 6.0]]
    assert found.extra.tolist() == [[7.0, 5.0], [14.0, 10.0]]
    assert found.entities == {"merchant_id": ["me1", None]}
    assert log_placed(to, topic, [("e9", "b", 4.0)]).examples.event_id == ["e9"], "l3 waited for it"
    assert log_placed(to, topic, [("e3", "a", 5.0)]).examples.event_id == []
    assert to.stats.repeated_predictions == 1
    state, again = to.snapshot(), reading_back(keep_s=1000.0)
    again.restore(state)
    assert again.label(labels([("l6", "a", "e3", 1.0, True)])).examples.x.tolist() == [[6.0, 9.0]], "held until it goes"
