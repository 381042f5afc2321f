"""The tables by which the kernel knows a task: their columns, what a row's offsets mean, and the operations."""

from __future__ import annotations

LAYOUT = 2
"""Part of every row's schema; raised when the same tables give a row another layout. 1: panes were float32."""

# Columns of the ring table (int64); -1 = absent. COUNT, BITS and BINS index the uint32 view of a row, M2 the float32
# view, other offsets the float64 view. With M2, SUM is where the means of the panes are; MEAN_EVER is where mean and
# squared deviations of ``ever`` are. GAP is the scalar whose newest event a value is the time since; TREND is 1 where
# halves are compared. MORE is 1 where a ring has MEAN_EVER, FIRST, TREND or BINS: most have none.
(R_VALUE, R_MASK, R_PANES, R_HEAD, R_COUNT, R_SUM, R_M2, R_MIN, R_MAX, R_BITS, R_BIT_WORDS, R_BEFORE,
 R_MORE, R_MEAN_EVER, R_FIRST, R_GAP, R_TREND, R_BINS, R_SCALE) = range(19)  # fmt: skip
RING_COLUMNS = 19
RING_WORDS = (R_COUNT, R_M2, R_BITS, R_BINS)
"""The columns that index 32-bit words."""

# What ``rings.totals`` finds of a ring; T_QUANTILES is that of the first of ``QUANTILES``.
T_COUNT, T_SUM, T_M2, T_MIN, T_MAX, T_DISTINCT, T_TREND, T_QUANTILES = range(8)
QUANTILES = (0.5, 0.9, 0.99)
TOTALS = T_QUANTILES + len(QUANTILES)

# Columns of the scalar table (int64); every offset indexes the float64 view of a row.
# S_RUN_TS and S_RUN_VALUE are value columns: when a label's event was, and what ``run_min`` is the smallest of.
(S_VALUE, S_MASK, S_LAST_TS, S_FIRST_TS, S_LAST, S_EW, S_POSITIVE_TS, S_FIRST_POSITIVE_TS, S_RUN, S_RUN_TS,
 S_RUN_VALUE, S_GAP) = range(12)  # fmt: skip
SCALAR_COLUMNS = 12

# A label run, offsets from S_RUN: time of the newest known negative; of the run's first positive; how many positives,
# and their smallest value.
RUN_NEGATIVE, RUN_FIRST, RUN_SIZE, RUN_LEAST = range(4)
RUN_WORDS = 4

# Exponentially weighted gaps, offsets from S_GAP: weight, mean and squared deviations by ``half_life``; weight and mean
# by a quarter of it.
GAP_WEIGHT, GAP_MEAN_AT, GAP_M2, GAP_FAST_WEIGHT, GAP_FAST = range(5)
GAP_WORDS = 5

# Columns of the feature table (int64): which operation, on which ring or scalar, into which output column.
F_OP, F_SOURCE, F_OUT = range(3)
FEATURE_COLUMNS = 3

# Operations: first those of rings, from LAST on those of scalars, from RUN_COUNT on those of label runs.
(COUNT, SUM, MEAN, STD, MIN, MAX, DISTINCT, OVER_MEAN, SHARE, POSITIVES, RATE, TREND, Q50, Q90, Q99, LAST, SINCE_LAST,
 SINCE_FIRST, EWMEAN, OVER_EWMEAN, GAP_MEAN, GAP_STD, GAP_TREND, SINCE_POSITIVE, SINCE_FIRST_POSITIVE, RUN_COUNT,
 RUN_MIN, RUN_SINCE_FIRST, RUN_SINCE_NEGATIVE) = range(29)  # fmt: skip
