"""The full model at work: ONNX Runtime sessions, states in a store, and models that are swapped while events flow."""

from __future__ import annotations

from models.inference.buckets import BUCKETS
from models.inference.layout import StateLayout
from models.inference.ort import OrtModel
from models.inference.runner import FullRunner, RunnerCounts
from models.inference.slots import ModelSlots, Pair
from models.inference.steps import as_inputs, replay

__all__ = [
    "BUCKETS",
    "FullRunner",
    "ModelSlots",
    "OrtModel",
    "Pair",
    "RunnerCounts",
    "StateLayout",
    "as_inputs",
    "replay",
]
