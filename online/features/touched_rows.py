"""The rows of one table that a batch touches: which record belongs to which row, and the kernel run over them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import cast

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix, FloatVector, IntVector
from weir.online.features import kernel
from weir.online.features.lives import LivingRows
from weir.online.features.plan import WindowPass
from weir.online.features.store import FeatureStore
from weir.online.frozen import dataclass

Modes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Records grouped by the entity they name.

    >>> grouping = group(["a", None, "b", "a"])
    >>> grouping.keys, grouping.slots.tolist()
    (['a', 'b'], [0, -1, 1, 0])
    """

    keys: list[str]
    """Distinct identifiers, in order of appearance."""
    slots: IntVector
    """``(n,) int64``, each record's place among ``keys``; -1 where it names no entity."""

    @classmethod
    def concat(cls, parts: Sequence[Grouping]) -> Grouping:
        """That of the records of all parts, one part behind the other; most cheaply where no entity is in two."""
        keys = list(chain.from_iterable(part.keys for part in parts))
        merged = cls(keys, np.arange(len(keys))) if len(set(keys)) == len(keys) else group(keys)
        places, slots, start = np.append(merged.slots, -1), list[IntVector](), 0
        for part in parts:
            slots.append(np.where(part.slots < 0, -1, places[part.slots + start]))
            start += len(part.keys)
        return cls(merged.keys, np.concatenate(slots))


def group(ids: Sequence[str | None]) -> Grouping:
    """Group records by their identifiers, ``None`` for no entity."""
    # No entity has a slot like any other key: then one look-up a record is enough.
    slot_of: dict[str | None, int] = {None: -1}
    slots: IntVector = np.array([slot_of.setdefault(key, len(slot_of) - 1) for key in ids], dtype=np.int64)
    del slot_of[None]
    return Grouping(cast("list[str]", [*slot_of]), slots)


class LoadedRows:
    """Rows of one table, loaded; changed in memory until they are saved.

    Parameters
    ----------
    store : where the rows live.
    table : its name.
    grouping : whose rows, and which record belongs to which.
    ts, kept_s, touches : see `LivingRows`.
    """

    def __init__(
        self,
        store: FeatureStore,
        table: str,
        grouping: Grouping,
        ts: FloatVector,
        kept_s: float,
        *,
        touches: bool = True,
    ) -> None:
        self._living = LivingRows(store, table, grouping.keys, grouping.slots, ts, kept_s, touches=touches)

    def run(
        self,
        p: WindowPass,
        ts: FloatVector,
        modes: Modes,
        values: FloatMatrix,
        y: FloatVector,
        unit: FloatVector,
        out: FloatMatrix | None,
    ) -> None:
        """One kernel call: ``values (V, n)``; features go to ``out (n, C)``, and are not computed without one."""
        features = p.table if out is not None else p.table[:0]
        kernel.run_rows(
            self._living.rows, self._living.slots, ts, modes, p.fed_by, values, y, unit,
            p.rings, p.widths, p.priors, p.scalars, p.decays, features, np.empty((0, 0)) if out is None else out,
        )  # fmt: skip

    def save(self) -> None:
        """Write the rows back."""
        self._living.save()
