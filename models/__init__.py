"""The full model: training, export and inference (arrives with the encoder; see docs/ARCHITECTURE.md)."""
