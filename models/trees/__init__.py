"""Boosted trees as a full model: LightGBM to train, one ONNX graph to serve."""
