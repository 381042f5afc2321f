"""Learners of River, by name."""
