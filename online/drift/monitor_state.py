"""Everything a monitor remembers, as arrays of one row per stream. It knows shapes, not decisions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.drift import adwin, page_hinkley
from weir.online.drift.drift_policy import DriftPolicy
from weir.online.drift.histograms import BINS, EDGES, PSI_BINS

RING = 512  # blocks kept to find the change point and to describe either side

# Phases of a stream.
LEARNING, WATCHING, QUIET, SEASON = range(4)

# Slots of ``sums``.
N, TOTAL, SQUARES = range(3)


class DriftState(NamedTuple):
    """Rows for ``C`` streams, which the kernel changes in place; ``fresh`` gives the shapes."""

    clock: NDArray[np.float64]
    """(2,): newest event time, rows in the open block."""
    anchor: NDArray[np.float64]
    """(C,): the first value; sums are of differences from it, so squares keep their digits."""
    sums: NDArray[np.float64]
    """(C, 3): of the open block."""
    samples: NDArray[np.float64]
    """(C, samples_per_block): sampled values of the open block."""
    sampled: NDArray[np.int64]
    """(C,): how many."""
    phase: NDArray[np.int64]
    quiet_until: NDArray[np.float64]
    blocks: NDArray[np.int64]
    """(C,): blocks since the reference began; block b lies in slot b % RING (or % history_blocks)."""
    ring: NDArray[np.float64]
    """(C, RING, 4): ``sums`` and end time of each block."""
    reference: NDArray[np.float64]
    """(C, reference_blocks * samples_per_block): values of the reference, and
    ``reference_held`` (C, reference_blocks), how many each block brought."""
    reference_held: NDArray[np.int64]
    centre: NDArray[np.float64]
    """(C,): mean of the reference's block means, and ``spread`` (C,), their standard deviation."""
    spread: NDArray[np.float64]
    inflation: NDArray[np.float64]
    """(C,): how many neighbouring values are worth one independent value, >= 1."""
    edges: NDArray[np.float64]
    psi_bin: NDArray[np.int64]
    psi_reference: NDArray[np.int64]
    history: NDArray[np.int64]
    """(C, history_blocks, BINS): histogram of each block."""
    usual: NDArray[np.float64]
    """(C, H): how far above its mean a stream is at the middle of each hour of its season, the day or the week, and
    ``doubt`` (C,), the standard error of that."""
    doubt: NDArray[np.float64]
    season: NDArray[np.float64]
    """(C, H, 3): count, sum and sum of squares by hour, of streams whose season is learned, and ``lived`` (C, 2), the
    seconds that this has lasted and the newest time in them."""
    lived: NDArray[np.float64]
    adwin_sums: NDArray[np.float64]
    adwin_totals: NDArray[np.float64]
    adwin_held: NDArray[np.int64]
    page_hinkley: NDArray[np.float64]

    @classmethod
    def fresh(cls, streams: int, policy: DriftPolicy) -> DriftState:
        """Nothing seen yet."""
        c, per_block = streams, policy.samples_per_block
        return cls(
            clock=np.array([-np.inf, 0.0]),
            anchor=np.full(c, np.nan),
            sums=np.zeros((c, 3)),
            samples=np.zeros((c, per_block)),
            sampled=np.zeros(c, dtype=np.int64),
            phase=np.full(c, SEASON if policy.reference_days else LEARNING, dtype=np.int64),
            quiet_until=np.full(c, -np.inf),
            blocks=np.zeros(c, dtype=np.int64),
            ring=np.zeros((c, RING, 4)),
            reference=np.zeros((c, policy.reference_blocks * per_block)),
            reference_held=np.zeros((c, policy.reference_blocks), dtype=np.int64),
            centre=np.zeros(c),
            spread=np.ones(c),
            inflation=np.ones(c),
            edges=np.full((c, EDGES), np.inf),
            psi_bin=np.zeros((c, BINS), dtype=np.int64),
            psi_reference=np.zeros((c, PSI_BINS), dtype=np.int64),
            history=np.zeros((c, policy.history_blocks, BINS), dtype=np.int64),
            usual=np.zeros((c, policy.season_hours)),
            doubt=np.zeros(c),
            season=np.zeros((c, policy.season_hours, 3)),
            lived=np.column_stack([np.zeros(c), np.full(c, -np.inf)]),
            adwin_sums=np.zeros((c, adwin.SUMS)),
            adwin_totals=np.zeros((c, adwin.LEVELS, adwin.PER_LEVEL + 1)),
            adwin_held=np.zeros((c, adwin.LEVELS), dtype=np.int64),
            page_hinkley=np.zeros((c, page_hinkley.SLOTS)),
        )

    def forget(self, stream: int) -> None:
        """Begin this stream's reference and its detectors anew."""
        self.blocks[stream] = 0
        self.season[stream] = 0.0
        self.lived[stream] = 0.0, -np.inf
        for array in (self.adwin_sums, self.adwin_totals, self.adwin_held, self.page_hinkley, self.history):
            array[stream] = 0
