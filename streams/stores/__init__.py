"""Adapters of the feature-store port."""

from streams.stores.memory import MemoryFeatureStore

__all__ = ["MemoryFeatureStore"]
