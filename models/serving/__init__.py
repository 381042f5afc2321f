"""The full model at work: ONNX Runtime sessions, states in a store, and models that are swapped while events flow."""
