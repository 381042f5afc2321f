"""Which detector watches what, and how strictly."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from weir.online.frozen import FrozenModel

Detector = Literal["adwin", "page_hinkley", "kswin", "psi"]
StreamKind = Literal["feature", "score", "rate"]
"""A raw or derived input, a model's output, or a stream of 0 and 1 such as labels."""

DETECTORS: tuple[Detector, ...] = ("adwin", "page_hinkley", "kswin", "psi")


class DriftPolicy(FrozenModel):
    """Parameters of a ``DriftMonitor``.

    Rows are taken in blocks of ``block_events``; that is the resolution of every detection. ADWIN and Page-Hinkley see
    the mean of each block in standard deviations of the reference's block means, KSWIN and PSI see every
    ``sample_every``-th value as a histogram over quantile bins of the reference. For the first ``reference_days`` of a
    stream its usual course is learned; the reference is the ``reference_blocks`` blocks after them. Both are learned
    anew after each detection and its cooldown, and meanwhile nothing is found.

    With these defaults, measured on seeded streams (tests/online/test_drift.py holds a part of it): no false alarm in
    160,000 blocks (42 million values) of independent normal, lognormal, Pareto, exponential, count, uniform, beta and
    0/1 values with rates of .001 to .5 (so below one in 50,000 blocks at 95 %), and one in 20,000 blocks of values that
    are correlated over some 300 rows. Rows until a change is found: mean by 3 / 1 / .5 / .25 / .1 standard deviations
    450 / 700 / 1,500 / 1,900 / 6,100; spread doubled or halved 1,700, times 1.5 about 7,000 and not always, less not at
    all; a rate of .02 times 4 / 2 / 1.5 after 1,500 / 3,400 / 8,100.
    """

    block_events: int = Field(256, ge=8)
    """Rows that are looked at together: the resolution of detections."""
    sample_every: int = Field(4, ge=1)
    """KSWIN and PSI see every so many-th value; it divides ``block_events``."""
    reference_blocks: int = Field(32, ge=8, le=512)
    """Blocks that others are compared with."""

    reference_days: float = Field(7.0, ge=0.0, le=60.0)
    """Event time in which a stream's usual course is learned before its reference: by the hour of the week where these
    are whole weeks, else by the hour of the day. What is usual at an hour is taken off before anything is compared, so
    that the rhythm of days is no drift. A gap counts for a day at most. 0 knows no hours: for streams that have no
    rhythm, or end within days."""

    feature_detectors: tuple[Detector, ...] = ("adwin", "page_hinkley", "kswin", "psi")
    """What watches columns, the first one first."""
    score_detectors: tuple[Detector, ...] = ("adwin", "page_hinkley", "kswin", "psi")
    """What watches the score."""
    rate_detectors: tuple[Detector, ...] = ("adwin", "page_hinkley")
    """What watches the share of positive labels."""

    adwin_delta: float = Field(0.002, gt=0.0, lt=1.0)
    """Significance of a cut (Bifet and Gavalda, 2007)."""
    adwin_clock: int = Field(4, ge=1)
    """Blocks between two searches for a cut."""

    page_hinkley_delta: float = Field(0.5, ge=0.0)
    """Change of a block mean that is tolerated, in standard deviations of block means."""
    page_hinkley_threshold: float = Field(20.0, gt=0.0)
    """Cumulated deviation that is an alarm, in the same unit."""

    kswin_alpha: float = Field(1e-6, gt=0.0, lt=1.0)
    """Significance of one test; a test is made at every block."""
    kswin_window_blocks: int = Field(32, ge=2)
    """Newest blocks that KSWIN looks at."""
    kswin_recent_blocks: int = Field(8, ge=1)
    """Newest of these, which it compares with the older ones."""
    kswin_min_statistic: float = Field(0.1, ge=0.0, le=1.0)
    """A smaller distance is never an alarm, however significant; River's KSWIN has the same floor."""

    psi_threshold: float = Field(0.25, gt=0.0)
    """Published reading (Siddiqi, 2006): below .1 no change, to .25 moderate, above .25 major."""
    psi_window_blocks: int = Field(16, ge=1)
    """Newest blocks that PSI compares with the reference."""

    cooldown_s: float = Field(3600.0, ge=0.0)
    """Event time after a detection during which the stream is not watched, so that one drift is one alarm."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.block_events % self.sample_every:
            raise ValueError(
                f"sample_every {self.sample_every} does not divide block_events {self.block_events}; use a divisor"
            )
        if self.kswin_recent_blocks >= self.kswin_window_blocks:
            raise ValueError(
                f"kswin_recent_blocks {self.kswin_recent_blocks} must be less than kswin_window_blocks "
                f"{self.kswin_window_blocks}; the older part is what the recent one is compared with"
            )
        if 0.0 < self.reference_days < 1.0:
            raise ValueError(f"reference_days {self.reference_days:g} holds no whole day; use 1 or more, or 0 for none")
        return self

    @property
    def season_hours(self) -> int:
        """After so many hours a stream's course repeats itself."""
        # Days that are no whole weeks would say of some weekdays less than of others.
        return 168 if self.reference_days and self.reference_days % 7 == 0 else 24

    @property
    def samples_per_block(self) -> int:
        """Values a block adds to the histograms."""
        return self.block_events // self.sample_every

    @property
    def history_blocks(self) -> int:
        """Blocks whose histogram is kept."""
        return max(self.kswin_window_blocks, self.psi_window_blocks)

    def detectors(self, kind: StreamKind) -> tuple[Detector, ...]:
        """The detectors that watch streams of this kind, in order of precedence."""
        chosen: tuple[Detector, ...] = getattr(self, f"{kind}_detectors")
        return chosen
