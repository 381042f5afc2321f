"""The port to where packed entity rows are kept. The engine loads the rows of a batch, runs it, and saves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class FeatureStore(Protocol):
    """Keeps one packed row an entity, in named tables of one row width each."""

    def create(self, table: str, row_bytes: int, schema: int, ttl_s: float) -> None:
        """Declare a table; raises ``StateError`` when it holds rows of another width or schema.

        ``row_bytes`` is a multiple of 8: rows are numbers, and are stored word by word.
        """
        ...

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Rows ``(len(keys), row_bytes)``, C-contiguous, the caller's to change; zeros for a key not seen."""
        ...

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], now: float) -> None:
        """Keep the rows; ``now`` is event time in epoch seconds, and starts the keys' time to live anew."""
        ...
