"""What a loop that tries again says of its trouble: at once, then each minute how often, and that it is over.

Brokers or a database that are away for an hour would else fill a log with thousands of lines that say the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from weir.streams.errors import WeirError, in_words

TOLD_EVERY_S: Final = 60.0


class RepeatedTrouble:
    """The trouble of one thing that is tried again and again; what can fail by itself has one of its own.

    Parameters
    ----------
    log : of the module whose loop it is.
    what : what does not happen meanwhile, as a sentence.
    expected : errors of others; any other is ours, and is told with its traceback.
    clock : monotonic seconds.
    """

    def __init__(
        self,
        log: logging.Logger,
        what: str,
        expected: tuple[type[BaseException], ...] = (WeirError,),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._what, self._expected, self._clock = log, what, expected, clock
        self._tries = 0
        self._began = self._told_at = 0.0

    def failed(self, error: BaseException | str) -> None:
        """A try failed; ``error`` may be the words for it."""
        now, first = self._clock(), not self._tries
        self._tries += 1
        if first:
            self._began = now
        elif now - self._told_at < TOLD_EVERY_S:
            return
        self._told_at = now
        words, trace = error if isinstance(error, str) else in_words(error).splitlines()[0], None
        if isinstance(error, BaseException) and not isinstance(error, self._expected):
            trace = error
        so_far = "" if first else f" (tried {self._tries} times in {self._lasted(now)})"
        self._log.log(
            logging.WARNING if trace is None else logging.ERROR, "%s: %s; trying again%s",
            self._what, words, so_far, exc_info=trace,
        )  # fmt: skip

    def over(self) -> None:
        """A try succeeded."""
        if self._tries:
            lasted, tries, self._tries = self._lasted(self._clock()), self._tries, 0
            times = "once" if tries == 1 else f"{tries} times"
            self._log.warning("%s: that is over; it failed %s in %s", self._what, times, lasted)

    def _lasted(self, now: float) -> str:
        lasted_s = now - self._began
        return f"{lasted_s:.0f} s" if lasted_s < 120.0 else f"{lasted_s / 60.0:.0f} minutes"
