"""What a worker tells about itself: the web endpoints ask it, the worker answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Status(Protocol):
    """Answers at once, without waiting for anything."""

    def ready(self) -> list[str]:
        """Why the worker does not do its work yet, a sentence each; empty when it does."""
        ...

    def describe(self) -> Mapping[str, object]:
        """What it is and does, as JSON can hold it: lanes, models, partitions."""
        ...
