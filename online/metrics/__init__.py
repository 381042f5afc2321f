"""Prequential evaluation of binary scores whose labels arrive late."""
