"""Predictions that wait for labels, as an index: which there are, which are live, and which one a label speaks of.

It knows times and digests, not what was logged with a row nor what a label says.
"""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector, all_of
from weir.online.digests import Digests
from weir.online.jit import njit, plain
from weir.online.labels.join_policy import JoinPolicy, JoinStats
from weir.online.labels.row_tables import FirstRows, RowChains
from weir.online.rows import NumberedRows

NEVER_FULL: Final = 1 << 62

UNLABELLED: Final = 2
"""Value of a row: 0, 1, or this."""

WAITS: Final = 1 << 31
"""Bit of a row whose label came before the row was mature, and is not learned yet."""
COUNTED: Final = WAITS - 1

States = NDArray[np.uint32]
"""Of each row, its value, from bit 2 on how many labels it has had, and `WAITS`."""


class PredictionIndex(NumberedRows):
    """Some 60 bytes a prediction; rows are in order of arrival, and their watermarks ascend.

    A row is *live* while it is among the newest ``most``, and its time, or its own watermark if that is less, is at
    most ``keep_s`` behind the watermark.

    Parameters
    ----------
    policy : what joins what, and for how long.
    unlogged : numbers of a row that are kept here, because they cannot be read back.
    matures : whether each row says after what event time it is learned at the earliest.
    """

    def __init__(self, policy: JoinPolicy, unlogged: int, matures: bool) -> None:
        self.policy, self.ranged = policy, policy.match == "entity_range"
        self._unlogged, self._matures = unlogged, matures
        super().__init__(columns_of(unlogged, self.ranged, matures))
        self.stats = JoinStats()
        self.watermark = self.last_mark = self.cut_mark = -np.inf
        """That of now, of the newest row, and of the last row that had to leave early."""
        self.cap: int | None = None
        self._by_event = FirstRows(self)
        self._by_entity = RowChains(self, "entity") if self.ranged else None

    @property
    def most(self) -> int:
        """Of the rows, only the last so many are live."""
        rows, cap = self.policy.max_rows, self.cap
        return min(NEVER_FULL if rows is None else rows, NEVER_FULL if cap is None else cap)

    @property
    def matures(self) -> bool:
        """Whether rows may wait for their maturity; those of a snapshot may where the new ones do not."""
        return "ripens_s" in self.buffers

    @property
    def row_bytes(self) -> int:
        """What one row takes in memory, more or less: columns with their slack, and tables."""
        width = sum(buffer[:1].nbytes for buffer in self.buffers.values())
        return width + width // 8 + (24 if self.ranged else 12)

    @property
    def nbytes(self) -> int:
        """What columns and tables take in memory."""
        return super().nbytes + self._by_event.nbytes + (self._by_entity.nbytes if self._by_entity is not None else 0)

    def move(self, marks: FloatVector) -> FloatVector:
        """Move the watermark over a batch; the watermark at each row, the first known one where it was not known."""
        before, marks = self.watermark, np.maximum(np.maximum.accumulate(marks), self.watermark)
        if len(marks):
            self.watermark = float(marks[-1])
        if before == -np.inf < self.watermark:
            began = float(marks[marks > -np.inf][0])
            marks, held = np.maximum(marks, began), self["mark"]
            if len(held) and held[0] == -np.inf:
                self.buffers["mark"] = self.buffers["mark"].copy()  # a snapshot may hold the old one
                held = self["mark"]
                held[held == -np.inf] = began
        return marks

    def claim(self, events: Digests, ts: FloatVector, marks: FloatVector) -> IntVector:
        """Add the predictions that are neither late nor repeats, ``(k,)``; `fill` has to follow."""
        if self._by_entity is not None:
            self._by_entity.reserve(len(ts))
        rows, late = self._by_event.claim(events, ts, marks, self.policy.keep_s, self.most)
        self.stats.late_predictions += late
        self.stats.repeated_predictions += len(ts) - late - len(rows)
        self.stats.logged += len(rows)
        return rows

    def fill(
        self, first: int, offsets: IntVector | None, unlogged: FloatMatrix, owners: Digests | None,
        ripens_s: FloatVector | None,
    ) -> None:  # fmt: skip
        """Fill in what is not known of rows that were claimed, from ``first`` on, of which there is one at least."""
        at, held = slice(first - self.base, self.stop - self.base), self.buffers
        held["state"][at] = UNLABELLED
        held["offset"][at] = -1 if offsets is None else offsets
        if "unlogged" in held:
            held["unlogged"][at] = unlogged
        if self.matures:
            held["weight"][at] = 1.0
            # A row is not kept for longer: later its label would find nothing to be learned.
            held["ripens_s"][at] = 0.0 if ripens_s is None else np.minimum(ripens_s, self.policy.keep_s)
        if self._by_entity is not None:
            held["entity"][at] = owners
            self._by_entity.enter(first)
        self.last_mark = float(held["mark"][at.stop - 1])

    def find(
        self, ts: FloatVector, events: Digests, owners: Digests, named: BoolVector | None, marks: FloatVector
    ) -> tuple[IntVector, IntVector]:
        """The rows that labels speak of, live at ``marks (n,)``, and of which label each is, in the order of labels.

        Without ``named`` each names its event.
        """
        rows, of = self._by_event.find(events), np.arange(len(ts))
        if named is not None:
            rows[~named] = -1
        if self._by_entity is not None and named is not None:
            found = [(rows[i : i + 1] if named[i] else self._in_range(owners[i : i + 1], float(ts[i])))
                     for i in range(len(ts))]  # fmt: skip
            of = np.repeat(of, [len(some) for some in found])
            rows, marks = np.concatenate(found), marks[of]
        live, oldest, held = np.empty(len(rows), np.bool_), max(self.first, self.stop - self.most), self.buffers
        find_live(rows, plain(marks), held["ts"], held["mark"], self.base, oldest, self.policy.keep_s, live)
        return (rows, of) if all_of(live) else (rows[live], of[live])

    def _in_range(self, owner: Digests, ts: float) -> IntVector:
        """Rows of an entity in the range of a label, ordered by time, then by arrival."""
        table = cast("RowChains", self._by_entity)
        rows = table.between(owner, self.first, ts - self.policy.range_s, ts)
        return rows[np.argsort(self.at("ts", rows), kind="stable")]

    def expire(self) -> bool:
        """Let rows leave that are too old, or too many; whether there were some."""
        # Not the watermark: a repeat may have moved it past negatives that fall due at the next kept row.
        old = self.first + int(self["mark"].searchsorted(self.last_mark - self.policy.keep_s))
        until = max(old, self.stop - self.most)
        if until <= self.first:
            return False
        gone = self["state"][: until - self.first] & 3
        self.stats.expired_unlabelled += int(np.count_nonzero(gone == UNLABELLED))
        marks, most = self["mark"], min(self.most, len(self))
        # By the row that took its place, not by the newest one: how rows were cut into calls changes no count.
        early = np.flatnonzero(marks[: len(self) - most] >= marks[most:] - self.policy.keep_s)
        self.stats.evicted += len(early)
        if len(early):
            self.cut_mark = float(marks[early[-1]])
        self.leave(until)
        return True

    def packed(self) -> dict[str, bytes]:
        """The columns as they are now, for a snapshot."""
        columns = self.frozen("state", "weight").items()
        return {name: cast("bytes", column.data) for name, column in columns if name != "before"}

    def unpack(self, first: int, packed: dict[str, bytes]) -> None:
        """Replace all rows by those of a snapshot, numbered from ``first``."""
        # What waits is learned when it is mature, also where the task waits no more: nothing else would learn it.
        waits = bool((np.frombuffer(packed["state"], np.uint32) & WAITS).any())
        super().__init__(columns_of(self._unlogged, self.ranged, self._matures or waits))
        columns = self.unpacked(packed)
        if self.matures and "weight" not in columns:  # of a task that did not wait: what was labelled is learned
            columns |= {"weight": np.ones(len(columns["ts"])), "ripens_s": np.zeros(len(columns["ts"]))}
        self.restore(first, columns)
        self._by_event.rebuild()
        if self._by_entity is not None:
            self._by_entity.rebuild()


@njit(cache=True, nogil=True)
def find_live(
    rows: IntVector, marks: FloatVector, ts: FloatVector, mark: FloatVector, base: int, oldest: int, keep_s: float,
    live: BoolVector,
) -> None:  # fmt: skip
    """Which of ``rows (n,)``, from ``oldest`` on, may still be joined at watermarks ``marks``.

    ``ts`` and ``mark`` are columns of rows from number ``base`` on; ``live (n,)`` is written.
    """
    for i in range(len(rows)):
        at = rows[i] - base
        live[i] = rows[i] >= oldest and min(ts[at], mark[at]) >= marks[i] - keep_s


def columns_of(unlogged: int, ranged: bool, matures: bool) -> dict[str, tuple[Any, int]]:
    """The index: digest of entity and event id, time, the watermark at arrival, label state, where it was logged."""
    columns: dict[str, tuple[Any, int]] = {
        "digest": (np.uint64, 2),
        "ts": (np.float64, 0),
        "mark": (np.float64, 0),
        "state": (np.uint32, 0),
        "offset": (np.int64, 0),
    }
    if unlogged:
        columns["unlogged"] = (np.float64, unlogged)
    if matures:
        columns |= {"weight": (np.float64, 0), "ripens_s": (np.float64, 0)}
    if ranged:
        columns |= {"entity": (np.uint64, 2), "before": (np.int64, 0)}
    return columns
