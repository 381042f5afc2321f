"""Benchmarks of the parts, and the published protocols; each is run as ``python -m benchmarks.<name>``."""
