"""The worker: lanes on Kafka partitions, their rows in Redis. `run` puts one together."""
