"""The log of outputs, which also hands out what was appended: nobody has to read that back from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.records import Record


class OutputLog(EmbeddedLog):
    """See the module; only the appending thread takes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._made: list[LoggedBatch] = []

    def append(self, topic: str, records: Sequence[Record]) -> list[LoggedBatch]:
        """See ``EmbeddedLog``."""
        made = super().append(topic, records)
        self._made += made
        return made

    def take(self) -> list[LoggedBatch]:
        """What was appended since the last call, in memory."""
        made, self._made = self._made, []
        return made
