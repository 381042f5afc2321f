"""Scoring: partitions of event streams."""
