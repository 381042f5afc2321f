"""Boosted trees as a full model: LightGBM to train, one ONNX graph to serve."""

from models.trees.builder import TreesBuilder
from models.trees.convert import to_onnx
from models.trees.params import TreeParams

__all__ = ["TreeParams", "TreesBuilder", "to_onnx"]
