"""The tasks of the embedded service, as they are now."""

from __future__ import annotations

from collections.abc import Mapping

from weir.streams.embedded.embedded_host import EmbeddedHost


class EmbeddedServing:
    """What runs in this process.

    Parameters
    ----------
    host : runs the tasks.
    """

    def __init__(self, host: EmbeddedHost) -> None:
        self._host = host

    def ready(self) -> list[str]:
        """Nothing is in the way once the log is open."""
        return []

    def describe(self) -> Mapping[str, object]:
        """The tasks, and how much they have seen."""
        return {"mode": "embedded", "tasks": sorted(self._host.pipelines), "events": self._host.stats.events}
