"""Faust on Kafka in record batches: agents receive batches, completed offsets are committed, output is acknowledged."""
