"""The snapshot of a label join, as it is written."""

from __future__ import annotations

import msgspec

from weir.online.labels.logged_rows import StoredPiece
from weir.online.labels.waiting import StoredWaiting


class StoredJoin(msgspec.Struct):
    """All that a `LabelJoiner` holds but what can be read back; columns are as `NumberedRows` packs them."""

    shape: tuple[int, int, int, tuple[str, ...], bool]
    """Features, extra numbers, those of them that cannot be read back, entities, and whether labels join by range."""
    watermark: float
    last_mark: float
    cut_mark: float
    next_negative: int
    stats: list[int]
    first: int
    columns: dict[str, bytes]
    pieces: list[StoredPiece]
    label_ids: bytes
    waiting: StoredWaiting
