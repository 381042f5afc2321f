"""Where each part keeps its numbers in one series' state row. It knows offsets and sizes, not what they are used for.

A row is float64, so that the feature store can keep it as bytes; the two large blocks (remembered windows and tree
masses) are read through a float32 view of the same row, which halves them. Values are kept relative to the first
value of the series, so that float32 also resolves a small movement on a large offset. A row of zeros is a series
not seen yet: every part treats ``COUNT == 0`` as its start.
"""

from __future__ import annotations

from typing import Final

COMPONENTS: Final = ("level", "change", "spread", "seasonal", "pattern", "context", "density")
"""In the order of the columns of every components matrix."""
LEVEL, CHANGE, SPREAD, SEASONAL, PATTERN, CONTEXT, DENSITY = range(7)
N_COMPONENTS: Final = 7

RECENT: Final = 10
"""Errors in the short window of the anomaly likelihood."""
BINS_PER_DAY: Final = 24
DAY_TYPES: Final = 2
"""Working days and weekends."""
MEMORY: Final = 128
"""Windows each nearest-neighbour memory holds."""
PATTERN_DIM: Final = 3
"""The last three values."""
CONTEXT_DIM: Final = 5
"""The value and its running means over about 3, 10, 30 and 100 values."""
N_MEANS: Final = 4
TREES: Final = 6
TREE_DEPTH: Final = 5
TREE_NODES: Final = 2 ** (TREE_DEPTH + 1) - 1

# Offsets in float64 units.
COUNT: Final = 0
"""Values learned so far."""
ANCHOR: Final = 1
"""The first value; all others are kept relative to it."""
LAST: Final = 2
"""The five values before the present one, newest first."""
RAISED_AT: Final = 7
"""``COUNT`` at the last raised episode; 0 = never."""
HABITUATION: Final = 8
ROUGHNESS: Final = 9
"""Fast and slow running means of the absolute step (2 cells)."""
TRACKERS: Final = 11
"""(level, scale) of value, step, log roughness and each context dimension."""
N_TRACKERS: Final = 3 + CONTEXT_DIM
MEANS: Final = TRACKERS + 2 * N_TRACKERS
SEASON: Final = MEANS + N_MEANS
"""Residual scale, residual count, then (level, count) per day type and bin."""
LIKELIHOOD: Final = SEASON + 2 + 2 * DAY_TYPES * BINS_PER_DAY
"""Per component: mean, variance and the recent errors."""
LIKELIHOOD_SIZE: Final = 2 + RECENT
FLOAT32: Final = LIKELIHOOD + N_COMPONENTS * LIKELIHOOD_SIZE

# Offsets in float32 units, inside the view of the same row.
PATTERNS: Final = 2 * FLOAT32
CONTEXTS: Final = PATTERNS + MEMORY * PATTERN_DIM
REFERENCE_MASS: Final = CONTEXTS + MEMORY * CONTEXT_DIM
LATEST_MASS: Final = REFERENCE_MASS + TREES * TREE_NODES
_END: Final = LATEST_MASS + TREES * TREE_NODES

STATE_WIDTH: Final = (_END + 1) // 2
"""float64 cells of a row; times 8 for bytes."""
