"""ONNX graphs: made, checked, blended, made smaller."""
