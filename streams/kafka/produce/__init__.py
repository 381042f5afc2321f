"""Producing record batches: encoded whole, acks=all, in order within a partition."""
