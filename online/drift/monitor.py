"""Watches named streams for drift. It knows rows and event time, not where they come from or what an alarm leads to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.drift import kernel
from weir.online.drift.change_point import find_change
from weir.online.drift.detection import Detection
from weir.online.drift.drift_policy import DETECTORS, Detector, DriftPolicy, StreamKind
from weir.online.drift.monitor_state import LEARNING, QUIET, RING, SEASON, SQUARES, TOTAL, WATCHING, DriftState, N
from weir.online.drift.reference import fit_reference
from weir.online.errors import StateError
from weir.online.metrics.arrays import pack, unpack

SHRINK = 8.0
"""Values that speak for an hour being like all others: an hour with few of them tells little."""
GAP_S = 86_400.0
"""What a gap in a stream counts for at most: no course is learned in it."""


def hours_of(ts: FloatVector) -> FloatVector:
    """Hours of event time, ``(n,)``, such that whole numbers are the middles of hours; NaN where time is not known."""
    hours: FloatVector = np.where(np.isfinite(ts), ts / 3600.0 - 0.5, np.nan)
    return hours


def live_on(state: DriftState, streams: NDArray[np.int64], now: float) -> None:
    """Count the time up to ``now`` for streams whose season is learned."""
    if not np.isfinite(now):
        return
    lived, newest = state.lived[streams, 0], state.lived[streams, 1]
    gap = np.where(np.isfinite(newest), np.clip(now - newest, 0.0, GAP_S), 0.0)
    state.lived[streams, 0] = lived + gap
    state.lived[streams, 1] = np.maximum(newest, now)


def fit_season(state: DriftState, stream: int) -> None:
    """Set the stream's usual course from what was seen, as differences from its mean, and the doubt that is left."""
    n, total, squares = (state.season[stream, :, k] for k in (N, TOTAL, SQUARES))
    count = float(n.sum())
    mean = float(total.sum()) / count
    some = np.maximum(n, 1.0)
    state.usual[stream] = (total / some - mean) * (n / (n + SHRINK))
    within = max(float((squares - total**2 / some).sum()) / count, 0.0)
    state.doubt[stream] = np.sqrt(within * float(np.average(1.0 / (n + SHRINK), weights=n)))


_NOW, _BEGUN = range(2)
DAY_S = 86_400.0


class DriftMonitor:
    """ADWIN, Page-Hinkley, KSWIN and PSI over the columns of a stream of rows.

    Resolution: rows are taken in blocks of ``policy.block_events`` rows (256), counted from the first row ever fed and
    not by call; an alarm can only be raised at the end of a block, so at 80,000 rows a second every 3 ms and at 10,000
    rows a day every 37 minutes. A stream that comes at another rhythm, such as the label rate, deserves its own
    monitor. Missing values (NaN) are left out of their block; a block without a value is skipped for that stream.

    One drift is one alarm: the first detector to find it (in the order of the policy) reports it, the stream is not
    watched for ``cooldown_s`` of event time, and then learns a new reference. A rhythm that fits into the
    reference (``reference_blocks * block_events`` rows, 8,192) widens the scale and costs sensitivity. A slower one
    would be drift to all of these tests; that of days and weeks is learned first, for ``reference_days``, and taken
    off. Only the mean of an hour is: where the spread has a rhythm, choose blocks that make the reference hold days.

    Parameters
    ----------
    streams
        Kind of each stream by name, in the order of the columns.
    policy
        Detectors and their parameters.

    Examples
    --------
    >>> rng = np.random.default_rng(7)
    >>> monitor = DriftMonitor({"amount": "feature"}, DriftPolicy(reference_days=0))
    >>> amount = np.concatenate((rng.normal(31.0, 5.0, 40_000), rng.normal(35.0, 5.0, 10_000)))
    >>> for found in monitor.update(np.arange(50_000.0), amount[:, None]):
    ...     print(found.words)
    amount: mean moved from 30.96 to 34.79, +0.77 standard deviations (KSWIN 0.19 > 0.141)
    """

    def __init__(self, streams: Mapping[str, StreamKind], policy: DriftPolicy | None = None) -> None:
        if not streams:
            raise ValueError("streams is empty; name at least one stream and its kind")
        self.streams = dict(streams)
        self.policy = policy or DriftPolicy()
        self._names = tuple(self.streams)
        self._kind = f"DriftMonitor v2 {self.streams} {self.policy!r}"
        self._by_hours = self.policy.reference_days > 0.0
        self._order = [self.policy.detectors(kind) for kind in self.streams.values()]
        self._uses = np.array([[name in order for name in DETECTORS] for order in self._order])
        p = self.policy
        page_hinkley, kswin = (p.page_hinkley_delta, p.page_hinkley_threshold), (p.kswin_alpha, p.kswin_min_statistic)
        self._limits = np.array([p.adwin_delta, *page_hinkley, *kswin, p.psi_threshold])
        self._spans = np.array([p.adwin_clock, p.kswin_window_blocks, p.kswin_recent_blocks, p.psi_window_blocks])
        self._verdicts = np.zeros((len(self._names), len(DETECTORS), 2))
        self._state = DriftState.fresh(len(self._names), self.policy)
        self._held: list[tuple[FloatVector, FloatMatrix]] = []  # of the open block: a row alone pays for each array
        self._rows_held = 0

    @property
    def room(self) -> int:
        """Rows until a block is full, and an alarm possible."""
        return self.policy.block_events - int(self._state.clock[_BEGUN]) - self._rows_held

    def update(self, ts: ArrayLike, columns: ArrayLike) -> list[Detection]:
        """Add rows in order; whatever drift their blocks give away, oldest first.

        Parameters
        ----------
        ts : (n,) event time, epoch seconds; may step back a little.
        columns : (n, C) float64, one column a stream; NaN where missing.
        """
        times = np.asarray(ts, dtype=np.float64)
        values = np.ascontiguousarray(columns, dtype=np.float64)
        if times.ndim != 1 or values.shape != (len(times), len(self._names)):
            raise ValueError(
                f"columns has shape {values.shape} for {times.shape} times; "
                f"pass (n, {len(self._names)}) for {', '.join(self._names)}"
            )
        if len(times) == 0:
            return []  # calls without rows would pile up until a block is full
        # Copies: what a caller does with its arrays until the block is full must not change it.
        self._held.append((times.copy(), values.copy()))
        self._rows_held += len(times)
        full = self._rows_held >= self.policy.block_events - self._state.clock[_BEGUN]
        return self._take_in() if full else []

    def _take_in(self) -> list[Detection]:
        """Gather the rows that are held; the drift that blocks give away which they fill."""
        found: list[Detection] = []
        if not self._held:
            return found
        times, values = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        self._held, self._rows_held = [], 0
        hours = hours_of(times) if self._by_hours else np.full(len(times), np.nan)
        state, size = self._state, self.policy.block_events
        done = 0
        while done < len(times):
            begun = int(state.clock[_BEGUN])
            end = min(done + size - begun, len(times))
            kernel.gather(values[done:end], begun, self.policy.sample_every, hours[done:end], state)
            state.clock[_NOW] = max(state.clock[_NOW], times[done:end].max())
            state.clock[_BEGUN] = begun + end - done
            done = end
            if state.clock[_BEGUN] == size:
                found += self._close()
        return found

    def _close(self) -> list[Detection]:
        """The open block is full: remember it, show it to the detectors, and open the next."""
        state, now = self._state, float(self._state.clock[_NOW])
        ended = (state.phase == QUIET) & (state.quiet_until <= now)
        seen = state.sums[:, N] > 0.0
        seasonal = np.flatnonzero(seen & (state.phase == SEASON))
        state.phase[ended] = SEASON if self._by_hours else LEARNING
        live = np.flatnonzero(seen & (state.phase != QUIET) & (state.phase != SEASON))
        self._learn_seasons(seasonal, now)
        slots = state.blocks[live] % RING
        state.ring[live, slots, :3] = state.sums[live]
        state.ring[live, slots, 3] = now
        state.blocks[live] += 1
        watched = live[state.phase[live] == WATCHING]
        for stream in live[state.phase[live] == LEARNING].tolist():
            self._learn(stream)
        found = self._judge(watched, now) if self._examine(watched) else []
        state.sums[:] = 0.0
        state.sampled[:] = 0
        state.clock[_BEGUN] = 0.0
        return found

    def _learn_seasons(self, streams: NDArray[np.int64], now: float) -> None:
        """A block of streams whose usual course is learned is over; their reference comes next once they have it."""
        if len(streams) == 0:
            return
        live_on(self._state, streams, now)
        for stream in streams[self._state.lived[streams, 0] >= self.policy.reference_days * DAY_S].tolist():
            fit_season(self._state, stream)
            self._state.phase[stream] = LEARNING

    def _learn(self, stream: int) -> None:
        state, block = self._state, int(self._state.blocks[stream]) - 1
        held, new = state.reference_held[stream], int(state.sampled[stream])
        start = int(held[:block].sum())
        state.reference[stream, start : start + new] = state.samples[stream, :new]
        held[block] = new
        if block + 1 == len(held):
            fit_reference(state, stream)
            state.phase[stream] = WATCHING

    def _examine(self, watched: NDArray[np.int64]) -> bool:
        given = (watched, self._uses, self._limits, self._spans, self._state, self._verdicts)
        return len(watched) > 0 and bool(kernel.examine(*given))

    def _judge(self, watched: NDArray[np.int64], now: float) -> list[Detection]:
        found = []
        for stream in watched.tolist():
            for detector in self._order[stream]:
                statistic, threshold = self._verdicts[stream, DETECTORS.index(detector)].tolist()
                if statistic > threshold:
                    found.append(self._detection(stream, detector, statistic, threshold, now))
                    self._state.forget(stream)
                    self._state.phase[stream] = QUIET
                    self._state.quiet_until[stream] = now + self.policy.cooldown_s
                    break
        return found

    def _detection(self, stream: int, detector: Detector, statistic: float, threshold: float, now: float) -> Detection:
        state = self._state
        blocks = int(state.blocks[stream])
        ring = state.ring[stream, np.arange(max(0, blocks - RING), blocks) % RING]
        # Only these two can be set off by the spread alone.
        change = find_change(ring[:, N], ring[:, TOTAL], ring[:, SQUARES], detector in ("kswin", "psi"))
        anchor = float(state.anchor[stream])
        before, after = anchor + change.before, anchor + change.after
        unit = change.before_std if change.before_std > 0.0 else max(1.0, abs(before))
        return Detection(
            ts=now,
            stream=self._names[stream],
            detector=detector,
            statistic=statistic,
            threshold=threshold,
            before=before,
            after=after,
            before_std=change.before_std,
            after_std=change.after_std,
            how_much=(after - before) / unit,
        )

    def snapshot(self) -> bytes:
        """The whole state, about 80 KB a stream with the default policy."""
        self._take_in()
        return pack(self._kind, self._state._asdict())

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when streams or policy differ."""
        try:
            arrays, _ = unpack(self._kind, state)
        except StateError:
            if f"DriftMonitor v1 {self.streams} ".encode() not in state:
                raise
            self._state = DriftState.fresh(len(self._names), self.policy)  # of 12015ac, which knew no hours
            self._held, self._rows_held = [], 0
            return
        if missing := set(DriftState._fields) ^ arrays.keys():
            raise StateError(f"snapshot and monitor differ in {sorted(missing)}; it was written by another version")
        self._held, self._rows_held = [], 0
        self._state = DriftState(**arrays)
