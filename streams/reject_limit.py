"""Finds input that is mostly bad: a broken producer should be seen, not buried in dead letters."""

from __future__ import annotations

from collections import deque

from pydantic import Field

from weir.online.frozen import FrozenModel
from weir.streams.errors import TooManyRejects


class RejectPolicy(FrozenModel):
    """``[worker.reject]``: when to pause a partition; more than ``share`` of its last ``window`` records are bad."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Of bad records, from which a partition pauses; 1 never pauses."""
    window: int = Field(default=10_000, ge=1)
    """Of how many of the newest records the share is taken."""


class RejectLimit:
    """Policy plus a sliding count.

    >>> limit = RejectLimit(RejectPolicy(share=0.5, window=10))
    >>> limit.update(10, 5, "schema")
    >>> limit.update(10, 9, "amount: got -1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    weir.streams.errors.TooManyRejects: 9 of the last 10 records were rejected, the limit is 50%; ...
    """

    def __init__(self, policy: RejectPolicy) -> None:
        self.policy = policy
        self._batches: deque[tuple[int, int]] = deque()
        self._records = self._rejected = 0
        self._reason = ""
        """The last that there was: the batch that passes the limit may be a good one."""

    def update(self, records: int, rejected: int, last_reason: str) -> None:
        """Take in one batch; raises ``TooManyRejects`` when the share passes the limit."""
        self._batches.append((records, rejected))
        self._reason = last_reason or self._reason
        self._records += records
        self._rejected += rejected
        # Whole batches fall out, so the window is a batch longer at most; the newest always stays.
        while len(self._batches) > 1 and self._records - self._batches[0][0] >= self.policy.window:
            old_records, old_rejected = self._batches.popleft()
            self._records -= old_records
            self._rejected -= old_rejected
        # Not before the window is full: the first record of a partition may be the bad one.
        if self._records >= self.policy.window and self._rejected > self.policy.share * self._records:
            raise TooManyRejects(
                f"{self._rejected} of the last {self._records} records were rejected, the limit is "
                f"{self.policy.share:.0%}; the last reason: {self._reason}. Correct the producer, or raise the limit"
            )
