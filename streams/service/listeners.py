"""Who is told of new batches of the log."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from weir.streams.records import RecordBatch
from weir.streams.service.ports import Listener

log = logging.getLogger(__name__)


class Listeners:
    """The listeners of each topic."""

    def __init__(self) -> None:
        self._of: dict[str, list[Listener]] = defaultdict(list)

    def topics(self) -> set[str]:
        """Those that somebody listens to."""
        return {topic for topic, listeners in self._of.items() if listeners}

    def add(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of these topics from now on; returns how to end that."""
        for topic in topics:
            self._of[topic].append(listener)

        def end() -> None:
            for topic in topics:
                self._of[topic].remove(listener)

        return end

    def tell(self, batch: RecordBatch) -> None:
        """Call the listeners of a new batch's topic."""
        # A copy, as a listener may end itself while it is called.
        for listener in tuple(self._of[batch.topic]):
            try:
                listener(batch)
            except Exception:  # one part's mistake must not keep the others, or callers, from their batches
                log.exception("a listener of %s failed", batch.topic)
