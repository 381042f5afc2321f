"""Hostile records among good traffic while workers are killed: ``python -m benchmarks.torture``, ``tests/hostile``."""
