"""What a detector found, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

from weir.online.drift.drift_policy import Detector

TITLES: dict[Detector, str] = {"adwin": "ADWIN", "page_hinkley": "Page-Hinkley", "kswin": "KSWIN", "psi": "PSI"}


@dataclass(frozen=True, slots=True)
class Detection:
    """One drift of one stream."""

    ts: float
    """Event time at which it was found: the end of the block that gave it away."""
    stream: str
    detector: Detector
    statistic: float
    """In the detector's unit: standard deviations of a block mean (ADWIN, Page-Hinkley), distance between
    distribution functions (KSWIN), index (PSI)."""
    threshold: float
    """What the statistic exceeded, same unit."""
    before: float
    """Mean before the change point, since the reference began (at most the newest 512 blocks)."""
    after: float
    """Mean from the change point to ``ts``."""
    before_std: float
    after_std: float
    how_much: float
    """(after - before) / before_std; where nothing varied before, divided by max(1, |before|) instead."""

    @property
    def words(self) -> str:
        """One line for a person.

        >>> Detection(9.0, "amount", "adwin", 3.9, 0.6, 31.2, 58.9, 10.0, 11.0, 2.77).words
        'amount: mean moved from 31.2 to 58.9, +2.77 standard deviations (ADWIN 3.9 > 0.6)'
        """
        proof = f"({TITLES[self.detector]} {self.statistic:.3g} > {self.threshold:.3g})"
        spread = self.after_std / self.before_std if self.before_std > 0.0 else 1.0
        shape = self.detector in ("kswin", "psi")  # the other two only ever see means
        if shape and abs(self.how_much) < 0.2 and not 0.8 < spread < 1.25:
            what = f"spread moved from {self.before_std:.4g} to {self.after_std:.4g}, mean stayed at {self.after:.4g}"
        elif shape and abs(self.how_much) < 0.02:
            what = f"distribution changed shape, mean stayed at {self.after:.4g}"
        else:
            what = f"mean moved from {self.before:.4g} to {self.after:.4g}, {self.how_much:+.3g} standard deviations"
        return f"{self.stream}: {what} {proof}"
