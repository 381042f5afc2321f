"""Labels that a backtest holds back come out as plain lists of them say, however they came in and time moves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from weir.online.batch import FloatVector, LabelBatch
from weir.streams.backtest.held_labels import _LabelQueue

Told = list[tuple[str, float]]


class Piece(NamedTuple):
    """Labels that were added together and are held, by when they become known."""

    number: int
    labels: Told


class PlainQueue:
    """The same by plain lists, whose rest is copied each time that something leaves."""

    def __init__(self, timed: bool) -> None:
        self.timed, self.pieces, self.latest, self.added = timed, list[Piece](), -np.inf, 0

    def add(self, told: Told) -> None:
        if self.timed:
            told = sorted(told, key=lambda label: label[1])
        else:
            told = [(name, self._moved(known)) for name, known in told]
        self.added += 1
        self.pieces += [Piece(self.added, told)] if told else []

    def _moved(self, known: float) -> float:
        self.latest = max(self.latest, known)
        return self.latest

    def known(self, at: float, now: float) -> bool:
        return at < now or (at == now and not self.timed)

    def due(self, now: float) -> Told:
        out: Told = []
        while self.pieces:
            first = min(self.pieces, key=lambda piece: (piece.labels[0][1], piece.number))
            if not self.known(first.labels[0][1], now):
                break
            self.pieces.remove(first)
            out += [label for label in first.labels if self.known(label[1], now)]
            rest = [label for label in first.labels if not self.known(label[1], now)]
            self.pieces += [Piece(first.number, rest)] if rest else []
        return sorted(out, key=lambda label: label[1]) if self.timed else out

    def turns(self, times: list[float]) -> list[int]:
        rows, newest = set[int](), max(times)
        for _, known in (label for piece in self.pieces for label in piece.labels):
            if known <= newest:
                reached = [i for i, ts in enumerate(times) if self.known(known, ts)]
                rows.add(reached[0] if reached else len(times))
        return sorted(rows)


def labels_of(told: Told) -> tuple[FloatVector, LabelBatch]:
    names, n = [name for name, _ in told], len(told)
    batch = LabelBatch(names, ["u"] * n, list(names), np.zeros(n), np.ones(n, np.bool_), np.ones(n))
    return np.array([known for _, known in told], np.float64), batch


Moves = st.lists(st.one_of(st.lists(st.integers(0, 12), max_size=5), st.integers(-1, 13)), max_size=12)
"""Labels that are added, or the time that it is; few times, so that many are equal, and clocks that step back."""


@given(Moves, st.booleans())
def test_labels_come_out_as_of_plain_lists(moves: list[list[int] | int], timed: bool) -> None:
    queue, plain, made = _LabelQueue(timed=timed), PlainQueue(timed), 0
    for move in moves:
        if isinstance(move, list):
            told = [(f"l{made + i}", float(known)) for i, known in enumerate(move)]
            made += len(told)
            queue.add(*labels_of(told))
            plain.add(told)
        else:
            now = float(move)
            times = [now, now + 2.0, now + 1.0, now + 3.0]
            assert queue.turns(np.array(times)).tolist() == plain.turns(times)
            expected = plain.due(now)
            found = queue.due(now)
            assert [name for labels, _ in found for name in labels.label_id] == [name for name, _ in expected]
            times_known = [t for _, known_at in found if known_at is not None for t in known_at.tolist()]
            assert times_known == ([known for _, known in expected] if timed else [])
        left = sorted(name for labels in queue.left() for name in labels.label_id)
        assert left == sorted(name for piece in plain.pieces for name, _ in piece.labels)


@given(Moves, st.booleans())
def test_what_is_left_comes_between_rows_as_if_nothing_had_left_before(
    moves: list[list[int] | int], timed: bool
) -> None:
    """A queue of which some have left is one that never held them."""
    queue, fresh = _LabelQueue(timed=timed), _LabelQueue(timed=timed)
    told = [
        (f"l{n}", float(known)) for n, known in enumerate(sorted(k for m in moves if isinstance(m, list) for k in m))
    ]
    if told:
        queue.add(*labels_of(told))
        queue.due(5.0)
        left = [label for label in told if not (label[1] < 5.0 or (label[1] == 5.0 and not timed))]
        fresh.add(*labels_of(left))
    ts, (none, no_labels) = np.array([6.0, 8.0, 7.0, 11.0]), labels_of([])
    after = np.empty(0, np.int64)
    found, expected = (q.between(ts, none, no_labels, after) for q in (queue, fresh))
    assert found.labels.label_id == expected.labels.label_id
    assert found.before.tolist() == expected.before.tolist()
