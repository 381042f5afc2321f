"""Labelling: partitions of predictions and labels."""
