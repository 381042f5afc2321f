"""The port to where packed entity rows are kept. The engine loads the rows of a batch, runs it, and saves them.

What an entity has forgotten is the engine's to say (`weir.online.features.lives`). Stores free memory, later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector

SPARE: Final = 1.125
"""So many times ``kept_s`` a store keeps a row that nothing changes: events may come late, and workers lag behind."""


class FeatureStore(Protocol):
    """Keeps one packed row an entity, in named tables of one row width each."""

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Declare a table; raises ``StateError`` when it holds rows of another width or schema.

        ``row_bytes`` is a multiple of 8: rows are numbers, and are stored word by word. A row is there for ``SPARE``
        times ``kept_s`` seconds after its last change, at least.
        """

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Rows ``(len(keys), row_bytes)``, C-contiguous, the caller's to change; zeros for a key not seen."""

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        """Event time of the last change of each row, ``(len(keys),)``, the caller's; -inf for a key not seen."""

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        """Keep the rows; ``seen`` is event time, epoch seconds, of each key or of all. An older one does not count."""
