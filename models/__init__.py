"""The full model: data sets, training, ONNX graphs, the registry, and inference. It knows neither topics nor tasks."""
