"""Adapters of the feature-store port."""
