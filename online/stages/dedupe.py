"""Drop events that were seen before. Knows identifiers and event times, not where the events come from.

Of each id a digest of 16 bytes is remembered, keyed so that nobody who does not know the key can make two that are
equal, and a time of 4 bytes. With a journal, what was kept can be persisted bit by bit, and the very same memory
rebuilt from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatVector
from weir.online.digests import Digests, pair_digests
from weir.online.errors import StateError
from weir.online.jit import njit, plain
from weir.online.stages.digest_table import LEAST_LOAD, NUMBER, ROW_BYTES, DigestTable, Rows, by_digest

FIXED_KEY: Final = b"Weir dedupe, v 2"
"""Of memories that are not told one: replays are the same bit for bit."""
MOST_BYTES: Final = 128 << 20
"""Five million ids, unless told otherwise."""
_FORMAT: Final = 2
_OLD: Final = b"\x95\x01"
"""How a snapshot of format 1 begins: an array of five, the first a 1."""
_LARGEST: Final = 2**32 - 1


class _State(msgspec.Struct, array_like=True):
    format: int
    window_s: float
    forced: int
    rows: bytes
    nameless: bytes
    """Of ids that an earlier version wrote, which did not note whose they are."""


class Deduper:
    """Remembers ids, of whom they are, and their times.

    An event is a repeat when its id is remembered for the same entity with a time within ``window_s`` of its own; times
    count in whole seconds. What is below the floor that a call gives is forgotten: where no event comes any more that
    is so old that it could repeat it, that changes no verdict, so verdicts depend neither on when memory is freed nor
    on how batches are cut. Where memory does not suffice, the oldest times go first; ``short`` says so.

    Parameters
    ----------
    window_s : event seconds.
    key : 16 bytes; part of what is remembered.
    most_bytes : of memory, for 24 to 31 bytes an id.
    journal : whether to note what is kept, for ``take_journal``; take it regularly, it is not bounded.

    Examples
    --------
    >>> dedupe = Deduper(window_s=3_600.0)
    >>> dedupe.keep(["a", "b", "a"], np.array([0.0, 1.0, 2.0])).tolist()
    [True, True, False]
    >>> dedupe.keep(["b", "a"], np.array([1.0, 9_000.0])).tolist()
    [False, True]
    >>> dedupe.keep(["b"], np.array([1.0]), ["another"]).tolist()
    [True]
    """

    def __init__(
        self,
        window_s: float = 7 * 86_400.0,
        *,
        key: bytes = FIXED_KEY,
        most_bytes: int = MOST_BYTES,
        journal: bool = False,
    ) -> None:
        if not window_s >= 0:
            raise ValueError(f"window_s is {window_s}, give 0 or more seconds")
        if len(key) != 16:
            raise ValueError(f"the key has {len(key)} bytes; give 16")
        self.window_s, self.key = window_s, key
        self._key = np.frombuffer(key, "<u8")
        self._window = int(min(np.ceil(window_s), _LARGEST))
        self._table = DigestTable(most_bytes)
        self._nameless: DigestTable | None = None
        self._nameless_until = 0
        self._journal: list[Rows] | None = [] if journal else None

    def __len__(self) -> int:
        """Ids in memory; forgotten ones count until their place is used again."""
        return len(self._table)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self._table.nbytes + (self._nameless.nbytes if self._nameless is not None else 0)

    @property
    def most_bytes(self) -> int:
        """What it may take."""
        return self._table.most_bytes

    def limit(self, most_bytes: int) -> None:
        """Set what it may take, from the next time on that it grows."""
        self._table.most_bytes = most_bytes

    @property
    def forced(self) -> float:
        """Times before this one had to be forgotten for lack of memory, in seconds; minus infinity where none had."""
        return float(self._table.forced - 1) if self._table.forced else -np.inf

    def keep(
        self,
        event_ids: Sequence[str],
        ts: FloatVector,
        entities: Sequence[str | None] | None = None,
        floor: float = -np.inf,
    ) -> BoolVector:
        """Tell repeats from new events and remember the new ones.

        Parameters
        ----------
        event_ids : n ids in arrival order.
        ts : ``(n,) float64``, event times in epoch seconds.
        entities : whose they are, where that is known.
        floor : no event comes any more that could repeat one of before this time.

        Returns
        -------
        ``(n,) bool``, False for a repeat.
        """
        if len(event_ids) != len(ts):
            raise ValueError(f"{len(event_ids)} event_ids and {len(ts)} ts; give one time for each id")
        low, rows = floor_of(floor), self._rows(event_ids, ts, entities)
        if self._nameless is not None:
            return self._keep_beside_nameless(event_ids, rows, low)
        fresh = self._table.keep(rows, self._window, low)
        self._note(rows, fresh)
        return fresh

    def absent(
        self, event_ids: Sequence[str], ts: FloatVector, entities: Sequence[str | None] | None = None
    ) -> BoolVector:
        """What ``keep`` would say, but that ids in memory without an entity count as new; nothing is remembered."""
        rows = self._rows(event_ids, ts, entities)
        fresh = self._table.absent(rows, self._window, 0)
        first = np.unique(np.ascontiguousarray(rows[:, :NUMBER]).view("V16"), return_index=True)[1]
        # Of rows of one call the second is a repeat of the first, which `keep` would have entered in between.
        again = np.ones(len(rows), np.bool_)
        again[first] = False
        return fresh & ~again

    def _rows(self, event_ids: Sequence[str], ts: FloatVector, entities: Sequence[str | None] | None) -> Rows:
        rows = np.empty((len(ts), 5), np.uint32)
        _fill(pair_digests(entities, event_ids, self._key), plain(ts), rows)
        return rows

    def _keep_beside_nameless(self, event_ids: Sequence[str], rows: Rows, low: int) -> BoolVector:
        """As long as ids are remembered of which it is not known whose they are."""
        assert self._nameless is not None
        alone = rows.copy()
        alone[:, :NUMBER] = pair_digests(None, event_ids, self._key).view(np.uint32).reshape(-1, NUMBER)
        fresh = self._nameless.absent(alone, self._window, low)
        left = rows[fresh]
        kept = self._table.keep(left, self._window, low)
        self._note(left, kept)
        fresh[fresh] = kept
        # All of them are below the floor: this path, which looks ids up twice, is over.
        if self._nameless_until < low:
            self._nameless = None
        return fresh

    def _note(self, rows: Rows, fresh: BoolVector) -> None:
        """Put what was kept into the journal."""
        if self._journal is not None and fresh.any():
            self._journal.append(rows if fresh.all() else rows[fresh])

    def take_journal(self) -> Rows:
        """What was kept since the journal was last taken, in order.

        Raises ``ValueError`` on a deduper built without ``journal``.
        """
        if self._journal is None:
            raise ValueError("this Deduper keeps no journal; build it with journal=True")
        taken, self._journal = self._journal, []
        return taken[0] if len(taken) == 1 else np.concatenate([np.empty((0, 5), np.uint32), *taken])

    def rebuild(self, kept: Sequence[Rows], old: Iterable[OldIds] = (), floor: float = -np.inf) -> None:
        """Replace the memory by what a journal says: verdicts are as those of the deduper that wrote it.

        Parameters
        ----------
        kept : what was taken of the journal, in that order, since ``floor``.
        old : what an earlier version wrote; this is remembered as long, whoever an id is of.
        """
        table, low = DigestTable(self.most_bytes), floor_of(floor)
        table.reserve(sum(map(len, kept)))
        for rows in kept:
            table.load(rows, low)
        self._table, self._nameless, self._nameless_until = table, None, 0
        for ids, ts in old:
            self._remember_nameless(ids, ts, low)
        if self._journal is not None:
            self._journal = []

    def _remember_nameless(self, ids: Sequence[str], ts: FloatVector, low: int) -> None:
        if len(ids) == 0:
            return
        rows = self._rows(ids, ts, None)
        if self._nameless is None:
            self._nameless = DigestTable(self.most_bytes)
        self._nameless.load(rows, low)
        self._nameless_until = max(self._nameless_until, int(rows[:, NUMBER].max()))

    def snapshot(self, floor: float = -np.inf) -> bytes:
        """The whole memory from ``floor`` on; equal memories give equal bytes."""
        return self.capture(floor)()

    def capture(self, floor: float = -np.inf) -> Callable[[], bytes]:
        """Copy the memory; the call of what it returns makes a ``snapshot`` of the copy, in any thread."""
        low, forced = floor_of(floor), self._table.forced
        rows = self._table.copy(low)
        nameless = self._nameless.copy(low) if self._nameless is not None else rows[:0]

        def encode() -> bytes:
            # Sorted, as places in a table depend on its history: equal memories are to give equal bytes. Here and not
            # in the copy, as another thread has the time.
            of = by_digest(rows).tobytes(), by_digest(nameless).tobytes()
            return msgspec.msgpack.encode(_State(_FORMAT, self.window_s, forced, *of))

        return encode

    def restore(self, state: bytes) -> None:
        """Replace the memory by a ``snapshot``; raises ``StateError`` where it is not one of a deduper built alike.

        Snapshots of the version before, which hold ids as text, are read too.
        """
        try:
            if is_old(state):
                self.rebuild([], old_state(state))
                return
            held = msgspec.msgpack.decode(state, type=_State)
            if held.format != _FORMAT:
                raise ValueError(f"it has format {held.format}, this program reads {_FORMAT}")
            rows, nameless = rows_of(held.rows), rows_of(held.nameless)
        except ValueError as error:  # msgspec's errors are among them
            raise StateError(f"not a snapshot of a Deduper ({error}); start with an empty one") from error
        if held.window_s != self.window_s:
            raise StateError(
                f"a snapshot of window_s {held.window_s} does not fit window_s {self.window_s}; restore it with the "
                "settings it was taken with"
            )
        self.rebuild([rows])
        self._table.forced = max(self._table.forced, held.forced)
        if len(nameless):
            self._nameless, self._nameless_until = DigestTable(self.most_bytes), int(nameless[:, NUMBER].max())
            self._nameless.load(nameless, 0)


class OldIds(NamedTuple):
    """Ids as journals held them before they held digests: ids alone, not whose they are."""

    ids: list[str]
    ts: FloatVector
    """``(n,) float64``, epoch seconds."""


def is_old(state: bytes) -> bool:
    """Whether a snapshot is of the version that remembered ids as text."""
    return state[:2] == _OLD


def old_state(state: bytes) -> list[OldIds]:
    """The ids of such a snapshot; raises ``ValueError`` where it is none."""
    kind: Any = tuple[int, int, float, dict[str, float], dict[str, float]]
    _, _, _, old, new = msgspec.msgpack.decode(state, type=kind)
    return [OldIds(list(ids), np.array(list(ids.values()), np.float64)) for ids in (old, new) if ids]


def old_ids(packed: bytes) -> OldIds:
    """Read a part of an old journal; raises ``StateError`` where it is something else.

    >>> old_ids(msgspec.msgpack.encode((3, ["a"], np.array([1.7e9]).tobytes())))
    OldIds(ids=['a'], ts=array([1.7e+09]))
    """
    try:
        _, ids, ts = msgspec.msgpack.decode(packed, type=tuple[int, list[str], bytes])
        if len(ts) != 8 * len(ids):
            raise ValueError(f"{len(ids)} ids and {len(ts)} bytes of times")
    except ValueError as error:  # msgspec's errors are among them
        raise StateError(f"not a part of a Deduper's journal ({error}); start with an empty memory") from error
    return OldIds(ids, np.frombuffer(ts, "<f8").astype(np.float64))


def rows_of(packed: bytes) -> Rows:
    """Journal rows from their bytes; raises ``ValueError`` where they do not come out even."""
    if len(packed) % ROW_BYTES:
        raise ValueError(f"{len(packed)} bytes of ids do not come out even at {ROW_BYTES} an id")
    return np.frombuffer(packed, "<u4").reshape(-1, 5)


def newest_of(rows: Rows) -> int:
    """The largest of the rows' times, as `floor_of` counts; 0 without any."""
    return int(rows[:, NUMBER].max()) if len(rows) else 0


def floor_of(time: float) -> int:
    """The number of a time among those of rows: whole seconds, from 1 on."""
    return min(math.floor(min(max(time, 0.0), _LARGEST)) + 1, _LARGEST) if time > -math.inf else 0


def bytes_for(ids: int) -> int:
    """What a memory needs to hold the newest so many ids in any case."""
    return int(ids / LEAST_LOAD) * ROW_BYTES


@njit(cache=True, nogil=True)
def _fill(digests: Digests, ts: FloatVector, rows: Rows) -> None:
    """Put digests ``(n, 2)`` and the numbers of times ``(n,)`` into ``rows (n, 5)``."""
    for i in range(len(ts)):
        for k in range(2):
            rows[i, 2 * k] = digests[i, k] & np.uint64(_LARGEST)
            rows[i, 2 * k + 1] = digests[i, k] >> np.uint64(32)
        rows[i, NUMBER] = np.uint32(max(min(np.floor(ts[i]) + 1.0, float(_LARGEST)), 1.0))
