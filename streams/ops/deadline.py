"""Ends a process that does not manage to stop: after a crash of a library's thread, say, or while brokers are away."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

EXIT_STATUS: Final = 75
"""EX_TEMPFAIL of sysexits.h: start it again."""


class Deadline:
    """Once begun, the process ends after ``limit_s``, stopped or not; nothing is lost, batches in work are repeated.

    Parameters
    ----------
    limit_s : seconds.
    why : why it ends at all, if there is a reason: the last line says that.
    """

    def __init__(self, limit_s: float, why: Callable[[], object] = lambda: None) -> None:
        self._limit_s, self._why = limit_s, why
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Start the clock, unless it runs."""
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._end)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """The process has stopped by itself."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        why = self._why()
        after = "" if why is None else f" after {type(why).__name__}: {why}"
        log.critical("stopping took longer than %g s; ending with status %d%s", self._limit_s, EXIT_STATUS, after)
        os._exit(EXIT_STATUS)
