"""The packed row of one entity: two models' states with their versions, and the newest inputs.

Fixed bytes, little endian: ``version i8[2]``, ``count i8``, ``state f4[2, S]``, ``ring f4[K, D]``, padded to 8. Place 0
is the champion's, 1 the shadow's; version 0 is no state. ``count`` is of all inputs ever seen, so the next one goes to
``count % K``. A row of zeros is an entity never seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weir.models.serving.packed_rows import PackedSequence
from weir.models.types import Float32Matrix, IntVector

CHAMPION, SHADOW = 0, 1
BoolMatrix = NDArray[np.bool_]
Record = NDArray[np.void]
"""``(U,)`` rows with the fields above, a view of the store's bytes."""


class StateLayout:
    """Where what is, for S floats of state, K inputs remembered and D columns.

    Parameters
    ----------
    state : S, the most a model may carry; without, nothing is kept and ``row_bytes`` is 0.
    history : K.
    inputs : D names.

    Examples
    --------
    >>> layout = StateLayout(2, 3, ("a", "b"))
    >>> layout.row_bytes
    64
    >>> record = layout.view(np.zeros((1, layout.row_bytes), np.uint8))
    >>> layout.push(record, PackedSequence.of(np.zeros(4, np.int64), 1), np.arange(8, dtype=np.float32).reshape(4, 2))
    >>> record["count"].tolist(), record["ring"].tolist()
    ([4], [[[6.0, 7.0], [2.0, 3.0], [4.0, 5.0]]])
    >>> [inputs.tolist() for inputs, _ in layout.remembered(record)]
    [[[2.0, 3.0]], [[4.0, 5.0]], [[6.0, 7.0]]]
    """

    def __init__(self, state: int, history: int, inputs: Sequence[str]) -> None:
        self.state, self.history, self.inputs = state, history if state else 0, tuple(inputs)
        formats = ["(2,)i8", "<i8", f"(2,{state})f4", f"({self.history},{len(inputs)})f4"]
        ring_at = 24 + 8 * state
        size = ring_at + 4 * self.history * len(inputs)
        # Rows lie one after the other in the store; floats of 8 bytes stay aligned.
        self.row_bytes = -(-size // 8) * 8 if state else 0
        """Bytes of a row in the store; 0 where nothing is kept."""
        # Rows of another layout are told by it, and begin anew.
        # The 1 is of the layout itself.
        self.schema = zlib.crc32(repr((1, self.state, self.history, self.inputs)).encode())
        self.dtype = np.dtype(
            {
                "names": ["version", "count", "state", "ring"],
                "formats": formats,
                "offsets": [0, 16, 24, ring_at],
                # Without a state no row is ever viewed, but a dtype has to hold its fields.
                "itemsize": max(self.row_bytes, size),
            }
        )

    def view(self, rows: NDArray[np.uint8]) -> Record:
        """The fields of ``rows (U, row_bytes)``, in place."""
        return rows.view(self.dtype)[:, 0]

    def adopt(self, record: Record, versions: tuple[int, int]) -> BoolMatrix:
        """Make the rows those of ``versions``; ``(U, 2)``, true where a state is not at hand and must be rebuilt.

        A state that is held in the other place (a shadow that became champion, or the reverse) is taken from there.
        """
        held, wanted = record["version"], np.array(versions)
        own = held == wanted
        stale: BoolMatrix = ~own & (wanted != 0)
        if not own.all():
            moved = ~own & (held[:, ::-1] == wanted) & (wanted != 0)
            if moved.any():
                state = record["state"]
                # From a copy, which `where` makes: champion and shadow may have changed places.
                state[...] = np.where(moved[:, :, None], state[:, ::-1], state)
            stale &= ~moved
            record["state"][stale] = 0.0  # a state of another version means nothing to this one
            held[...] = wanted
        return stale

    def remembered(self, record: Record) -> list[tuple[Float32Matrix, int]]:
        """The inputs held, oldest first, aligned at the oldest: of each step ``(m, D)`` of the first m rows, and m.

        Rows must be ordered by falling number of inputs held (see ``held``).
        """
        count, length = record["count"], self.held(record)
        steps: list[tuple[Float32Matrix, int]] = []
        for j in range(int(length.max(initial=0))):
            m = int(np.count_nonzero(length > j))
            at = (count[:m] - length[:m] + j) % self.history
            steps.append((record["ring"][np.arange(m), at], m))
        return steps

    def held(self, record: Record) -> IntVector:
        """How many inputs each row holds, at most K."""
        count: IntVector = np.minimum(record["count"], self.history)
        return count

    def push(self, record: Record, order: PackedSequence, x: Float32Matrix) -> None:
        """Remember the inputs ``x (n, D)`` of the rows of ``order``."""
        if self.history:
            kept: slice | IntVector = slice(None)
            # Of more rows than places only the newest: of two that are assigned to one place NumPy does not say which
            # stays.
            if len(order.sizes) > self.history:
                kept = np.flatnonzero(order.ranks >= order.counts[order.slots] - self.history)
            slots = order.slots[kept]
            record["ring"][slots, (record["count"][slots] + order.ranks[kept]) % self.history] = x[kept]
        record["count"] += order.counts
