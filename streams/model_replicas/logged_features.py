"""Features as a prediction logs them, as a model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weir.online.batch import FloatMatrix
from weir.streams.errors import UsageError


def row_of(logged: Mapping[str, float], features: Sequence[str], task: str) -> FloatMatrix:
    """The logged features in the order of the model's, ``(1, F)``.

    Raises ``UsageError`` where the task file has other features than the score was made from.
    """
    missing, extra = sorted({*features} - {*logged}), sorted({*logged} - {*features})
    if missing or extra:
        raise UsageError(
            f"task {task}: the task file has other features than the score was made from: it lacks "
            f"{', '.join(extra[:3]) or 'none'} and adds {', '.join(missing[:3]) or 'none'}; give the task file of then"
        )
    return np.array([[logged[name] for name in features]])
