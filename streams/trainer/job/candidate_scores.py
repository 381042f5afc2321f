"""What a candidate would have said of rows of a history, by ONNX Runtime as in serving."""

from __future__ import annotations

import numpy as np

from weir.models.dataset.cut import take
from weir.models.serving.entity_steps import replay
from weir.models.serving.ort_model import OrtModel
from weir.models.types import Built, Float32Vector, IntVector, TrainingSet


def score(built: Built, data: TrainingSet, rows: IntVector) -> Float32Vector:
    """Logits ``(k,)`` of ``rows`` of the history; with a state every event before them is stepped through.

    Raises ``ModelError`` for a model that takes columns the history does not have, or gives no finite numbers.
    """
    model = OrtModel.load(built.onnx, 1, built.inputs, provider="cpu", buckets=(1, 32, 512))
    if model.state:
        return replay(model, data.history)[rows]
    wanted, back = np.unique(rows, return_inverse=True)
    return replay(model, take(data.history, wanted))[back]
